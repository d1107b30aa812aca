"""What a long video begins with or is made of: its source under its mask, and the clip that it goes on from."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...loaders.common.images import is_frames
from ...loaders.messages import InputError, message
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from ..early import check_strength
from ..plan import check_computes, check_source, checked_mask
from ..sources.awaited import Names, with_stand_ins
from ..sources.clip import clip_frames, goes_on, sized_as_clip
from ..sources.opened import lengthened, source_notes, sourceless, through_door
from .windows import Spans, Window


@dataclass(frozen=True)
class Media:
    """The clip [N, H, W, 3] of a long video, how many of its last frames are the video's first, and notes."""

    clip: Tensor | None
    shared: int
    notes: tuple[str, ...]


def whole_media(
    model: VideoModel, request: Request, spans: Spans, awaited: Names = (), least: int = 0
) -> tuple[Request, Media]:
    """(a complete request for a whole long video, its images opened and checked; what it begins with).

    awaited: as of `plan`; least: frames that the video has at least. Raises InputError for what cannot work, as `plan`
    does for a clip.
    """
    request, door_notes = through_door(request)
    request = with_stand_ins(model, request, awaited, spans.step, spans.length - 1, least)
    request, idle_notes = sourceless(request)
    request, length_notes = lengthened(model, request, spans.step)
    request = model.complete(sized_as_clip(model, request))
    clip, shared = request.clip, clip_frames(model, request, spans.overlap)
    check_strength(request.strength)
    if request.source is not None:
        check_source(model, request, request.source)
        check_computes(request)
    mask, mask_notes = checked_mask(model, request)
    notes = (*door_notes, *idle_notes, *length_notes, *source_notes(request), *mask_notes)
    request, clip_notes = goes_on(model, replace(request, mask=None if mask is None else request.mask), shared)
    return request, Media(clip, shared, (*notes, *clip_notes))


def outlined(request: Request) -> Request:
    """A request of a whole long video without what only its windows have."""
    return replace(request, source=None, mask=None, strength=1.0, clip=None, past=None)


def with_a_source(model: VideoModel, request: Request, outline: Request) -> Request:
    """An `outlined` request with a source of its length in place of that which its window will have."""
    if request.source is None:
        return outline
    shape = model.facts.latent_shape(outline.width, outline.height, outline.frames)
    return replace(outline, source=torch.zeros(1).expand(shape), strength=request.strength)


def check_windows_of(request: Request, mode: str, windows: tuple[Window, ...]) -> None:
    """Raise InputError for latents whose parts do not begin as a window does."""
    if request.source is None or is_frames(request.source) or mode != "last_frames" or len(windows) == 1:
        return
    value = message("latents_shape", shape=list(request.source.shape))
    raise InputError("source", value, message("windows_of_frames"), message("decode_and_connect_frames"))


def window_frames(request: Request, window: Window) -> Request:
    """A request of a whole long video with the frames of its source and its mask that a window makes."""
    span = slice(window.start, window.end + 1)
    source, mask = request.source, request.mask
    if source is None or not is_frames(source):
        return request
    return replace(request, source=source[span], mask=mask if mask is None or len(mask) == 1 else mask[span])
