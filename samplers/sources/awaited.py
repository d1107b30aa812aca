"""Stand-ins for inputs that are connected and still to come: all else of a request is checked before they are made."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import torch
from torch import Tensor

from ...loaders.request import Control, Keyframe, Request
from ...loaders.video_model import VideoModel
from .clip import sized_as_clip
from .opened import lengthened

SIDE = 8  # pixels of a stand-in's pictures, of which only the number counts
Names = Collection[str]


def with_stand_ins(
    model: VideoModel, request: Request, awaited: Names, step: int = 0, every: int = 0, least: int = 0
) -> Request:
    """A request that is refused for what cannot work whatever its awaited inputs bring.

    awaited: names of inputs, of which keyframes, control, mask, extend and source count. step: of a long video's
    frames; every: how far apart pictures lie where its windows need both ends; least: frames that it has at least.
    """
    if not {"keyframes", "control", "mask", "extend", "source"} & {*awaited}:
        return request
    is_open = _length_is_open(request, awaited)
    if is_open:
        request = replace(request, frames=_open_length(model, request, step, least), as_long=False)
    sized = model.complete(sized_as_clip(model, lengthened(model, request, step)[0]))
    frames, width, height = (max(value, 1) for value in (sized.frames, sized.width, sized.height))
    if "source" in awaited:
        request = replace(request, source=_zeros(frames, SIDE, SIDE, 3))
    if "extend" in awaited:
        request = replace(request, clip=_zeros(1, height, width, 3))
    if "control" in awaited or (is_open and request.control is not None):
        request = replace(request, control=_control(request.control, frames))
    of_latents = "source" in awaited and _latent_count(model, sized) == len(
        () if request.mask is None else request.mask
    )
    if "mask" in awaited or (request.mask is not None and (is_open or of_latents)):
        request = replace(request, mask=torch.ones(1, SIDE, SIDE))
    if "keyframes" in awaited:
        request = replace(request, keyframes=_keyframes(model, request, frames, every))
    return request


def _zeros(*shape: int) -> Tensor:
    """Zeros that take no memory."""
    return torch.zeros(1).expand(shape)


def blank(width: int, height: int) -> Tensor:
    """A picture [1, H, W, 3] of this size that takes no memory."""
    return _zeros(1, height, width, 3)


def _latent_count(model: VideoModel, request: Request) -> int:
    """Latent frames of a complete request."""
    return model.facts.latent_shape(1, 1, max(request.frames, 1))[2]


def _length_is_open(request: Request, awaited: Names) -> bool:
    """Whether only an awaited input says how long the video is; latents say it where no number does."""
    if request.as_long:
        return request.source is None and ("source" in awaited or "control" in awaited)
    return not request.frames and "source" in awaited


def _open_length(model: VideoModel, request: Request, step: int, least: int) -> int:
    """The shortest length that holds all keyframes, or the usual one where they fit into any."""
    facts = model.facts
    ends = (k.frame + len(k.images) if k.frame >= 0 else -k.frame for k in request.keyframes)
    end, counts = max(least, *ends, 1), () if step else facts.frame_counts
    if end == 1:
        return model.complete(replace(request, frames=0)).frames
    step = step or facts.frame_step or facts.temporal_ratio
    return min((c for c in counts if c >= end), default=max(counts, default=-(-(end - 1) // step) * step + 1))


def _control(control: Control | None, frames: int) -> Control:
    """A control for a video of this length, with what is known of it."""
    video = _zeros(frames, SIDE, SIDE, 3)
    if control is None:
        return Control(video)
    mask = None if control.mask is None else torch.ones(1, SIDE, SIDE)
    return replace(control, frames=None if control.frames is None else video, mask=mask)


def _keyframes(model: VideoModel, request: Request, frames: int, every: int) -> tuple[Keyframe, ...]:
    """The fewest keyframes that a model takes; those that are there already where it takes any."""
    sets = model.capabilities().sets
    if sets is None and not request.loop:
        return request.keyframes
    places = min(filter(None, sets or ()), key=len, default=("first",))
    at = [0] if "first" in places or request.loop else []
    if "last" in places and not request.loop:
        at += [*range(every, frames - 1, every)] if every else []
        at.append(frames - 1)
    return tuple(Keyframe(_zeros(1, SIDE, SIDE, 3), frame) for frame in at if frame or request.clip is None)
