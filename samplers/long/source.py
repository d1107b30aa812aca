"""The source of a long video, window after window."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch import Tensor

from ...loaders.common.flow import encoded_source
from ...loaders.request import ContinuationLatents, Request
from ...loaders.video_model import VideoModel
from ..sources.clip import with_clip_latents
from ..sources.inpaint import Inpainting, latent_mask
from .media import window_frames
from .plan import LongPlan
from .windows import Window


@dataclass
class WindowSources:
    """Gives each window its part of the source, of the mask, and of the clip.

    Where windows hand over latents, or are seen by one sampling, the source is encoded once as a whole: a part that is
    encoded alone begins otherwise.
    """

    model: VideoModel
    whole: LongPlan
    _alone: dict[int, Inpainting] = field(default_factory=dict, init=False)  # by where their windows start

    @cached_property
    def latents(self) -> Tensor:
        """The whole source [1, C, t, h, w]."""
        with torch.no_grad():
            return encoded_source(self.model, self.whole.request).float().cpu()

    @cached_property
    def mask(self) -> Tensor | None:
        """The whole mask [1, 1, t, h, w]."""
        request = self.whole.request
        return None if request.mask is None else latent_mask(self.model.facts, request)

    @cached_property
    def past(self) -> ContinuationLatents | None:
        """What the first window goes on from, where it does so by latents."""
        with torch.no_grad():
            return with_clip_latents(self.model, self.whole.request).past

    def of(self, window: Window) -> Request:
        """The request of the whole video with the source and the mask of a window, and without a past."""
        request = replace(self.whole.request, clip=None, past=None, loop=self.whole.turns)
        untouched = self.untouched(window)
        if untouched is not None:
            return replace(request, source=untouched.source, mask=untouched.mask[0, 0])
        if request.source is None or self.whole.mode == "last_frames":
            return window_frames(request, window)
        return replace(request, source=self.latents[:, :, self._part(window)])

    def untouched(self, window: Window) -> Inpainting | None:
        """The latents of a window's source, and what of them is made anew; None without a mask."""
        if self.mask is None:
            return None
        if self.whole.mode != "last_frames":
            part = self._part(window)
            return Inpainting(self.latents[:, :, part], self.mask[:, :, part])
        if window.start not in self._alone:
            request = replace(window_frames(self.whole.request, window), frames=window.frames)
            with torch.no_grad():
                source = encoded_source(self.model, request).float().cpu()
            self._alone[window.start] = Inpainting(source, latent_mask(self.model.facts, request))
        return self._alone[window.start]

    @property
    def all_untouched(self) -> Inpainting | None:
        """The same of the whole video, where its source is encoded as a whole."""
        return None if self.mask is None else Inpainting(self.latents, self.mask)

    def restored(self, latents: Tensor, window: Window) -> Tensor:
        """The latents of a window that were changed, with the source where the mask keeps it."""
        untouched = self.untouched(window)
        return latents if untouched is None else untouched.restored(latents)

    def _part(self, window: Window) -> slice:
        """The latent frames of a window in the whole video."""
        start = window.start // self.model.facts.temporal_ratio
        return slice(start, start + self.model.facts.latent_shape(1, 1, window.frames)[2])
