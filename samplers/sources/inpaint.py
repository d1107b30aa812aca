"""Video-to-video under a mask: what lies outside is the source's, to the last bit, and what lies inside is made anew.

At each prediction the network sees the source outside, with as much noise as the latents have, and of the video that it
points to the outside is the source again: what ComfyUI's KSampler does with a noise mask. Solvers, caches and guidance
know nothing of it. A mask between 0 and 1 is the share of what is made anew.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...loaders.common.flow import draw
from ...loaders.common.images import is_frames, middle
from ...loaders.denoiser import Denoiser
from ...loaders.facts import Facts
from ...loaders.messages import InputError, Message, message
from ...loaders.request import Request

BLACK, WHITE = 0.02, 0.98  # beyond these a mask is as good as one or the other
EDGES = 0.25  # of what is not black: so much of a mask may be soft edges


@dataclass(frozen=True)
class Inpainting:
    """A source of latents [1, C, t, h, w], and the mask [1, 1, t, h, w] of what of it is made anew."""

    source: Tensor
    mask: Tensor

    def restored(self, video: Tensor) -> Tensor:
        """A video of this size with the source where nothing of it is made anew."""
        return torch.where(self.mask.to(video.device) > 0, video, self.source.to(video))

    @property
    def keeps_all(self) -> bool:
        """Whether nothing is made anew."""
        return not self.mask.any()

    @property
    def is_part(self) -> bool:
        """Whether some of the source is kept and some is made anew."""
        return not self.keeps_all and not bool((self.mask > 0).all())

    def is_kept_in(self, video: Tensor) -> bool:
        """Whether a video is of this size, and the source where nothing of it is made anew."""
        source, mask = self.source, self.mask
        if source.shape != video.shape or mask.shape != (1, 1, *video.shape[2:]):
            return False
        return torch.equal(torch.where(mask > 0, 0, source), torch.where(mask > 0, 0, video))


class MaskedSource:
    """An `Inpainting` in one run, in the layout of its denoiser."""

    def __init__(self, inpainting: Inpainting, denoiser: Denoiser, seed: int) -> None:
        latents = denoiser.latents.float()
        mask = inpainting.mask.to(latents.device).expand(inpainting.source.shape)
        self._denoiser = denoiser
        self._mask = denoiser.arranged(mask, torch.ones_like(latents))
        self._source = denoiser.arranged(inpainting.source.to(latents), torch.zeros_like(latents))
        self._noise = draw(tuple(latents.shape), torch.Generator("cpu").manual_seed(seed), latents.device)

    def noised(self, latents: Tensor, step: int) -> Tensor:
        """The latents of a prediction with the source outside of the mask, as noisy as they are."""
        source = self._denoiser.add_noise(self._source, self._noise, step)
        return self._inside(latents, torch.lerp(source, latents.float(), self._mask))

    def blended(self, prediction: Tensor, seen: Tensor, latents: Tensor, step: int) -> Tensor:
        """A prediction for latents that points to the source outside of the mask. seen: those that it was made from."""
        x0 = torch.lerp(self._source, self._denoiser.x0(prediction, seen, step), self._mask)
        return self._inside(prediction, self._denoiser.from_x0(x0, latents, step))

    def _inside(self, inside: Tensor, outside: Tensor) -> Tensor:
        return torch.where(self._mask == 1, inside, outside.to(inside))


def latent_mask(facts: Facts, request: Request) -> Tensor:
    """The mask of a complete request at the size of its latents, [1, 1, t, h, w].

    Its rows and columns are scaled as ComfyUI scales noise masks, cut as the frames of the source are. A latent frame
    is as free as the freest of the frames that it stands for. Raises InputError for a mask of another length.
    """
    assert request.mask is not None
    mask, count = request.mask, len(request.mask)
    _, _, t, h, w = facts.latent_shape(request.width, request.height, request.frames)
    of_latents = not is_frames(request.source) and count == t
    if 1 < count < request.frames and not of_latents:
        rule, remedy = message("are_asked_for", frames=request.frames), message("one_mask_or_each")
        raise InputError("mask", message("count_masks", count=count), rule, remedy)
    if is_frames(request.source):
        width, height = middle(mask, request.width, request.height)
        top, left = (mask.shape[1] - height) // 2, (mask.shape[2] - width) // 2
        mask = mask[:, top : top + height, left : left + width]
    mask = F.interpolate(mask[: request.frames, None], (h, w), mode="bilinear")[:, 0]
    if count == 1:
        mask = mask.expand(t, -1, -1)
    elif not of_latents:
        front = mask[:1].expand(facts.discarded_frames + facts.temporal_ratio - 1, -1, -1)
        mask = rearrange(torch.cat([front, mask]), "(t r) h w -> t r h w", t=t).amax(1)
    return mask[None, None]


def gray_notes(mask: Tensor) -> tuple[Message, ...]:
    """What to say of a mask [T, H, W] much of which is neither black nor white; of soft edges nothing."""
    free = mask > BLACK
    share = ((mask < WHITE) & free).sum().item() / max(free.sum().item(), 1)
    return (message("mask_gray", percent=round(100 * share)),) if share > EDGES else ()


def hidden_keyframes(facts: Facts, request: Request, mask: Tensor) -> tuple[Message, ...]:
    """What to say of keyframes where a mask [1, 1, t, h, w] keeps the whole source."""
    free = mask[0, 0].amax((1, 2)) > 0
    spans = ((number, k.frame, k.frame + len(k.images) - 1) for number, k in enumerate(request.keyframes, 1))
    return tuple(
        message("keyframe_masked", name=message("keyframe_name", number=number), frame=first)
        for number, first, last in spans
        if not free[facts.latent_frame(first) : facts.latent_frame(last) + 1].any()
    )
