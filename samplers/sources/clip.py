"""Going on from the last frames of a clip, in the way that a model makes long videos."""

from __future__ import annotations

from dataclasses import replace

import torch

from ...loaders.messages import InputError, about, either, message
from ...loaders.request import ContinuationLatents, Keyframe, Request
from ...loaders.spec import titles_with
from ...loaders.video_model import VideoModel
from ..early import check_clip
from .opened import Notes, fit_notes


def sized_as_clip(model: VideoModel, request: Request) -> Request:
    """A request without a size of its own with that of its clip, as near as the model can."""
    if request.clip is None or request.clip.ndim < 3 or request.width or request.height:
        return request
    height, width = request.clip.shape[-3:-1]
    multiple = model.facts.size_multiple
    return replace(request, width=max(width // multiple, 1) * multiple, height=max(height // multiple, 1) * multiple)


def clip_frames(model: VideoModel, request: Request, most: int = 0) -> int:
    """How many last frames of its clip a complete request begins with, 0 without one.

    most: frames that it may share with it; 0: a quarter of the video. Raises InputError for a model that has no way to
    go on from frames, and for keyframes or a source in their place.
    """
    if request.clip is None:
        return 0
    facts, extension = model.facts, model.extension()
    if extension.mode == "context_windows":
        rule = message("no_way_on", title=f"{model.title} ({model.variant})")
        pictures, latents = model.image_models, either(*titles_with("latent_windows"))
        raise InputError("extend", message("connected"), rule, message("load_or", models=pictures, others=latents))
    check_clip(True, request.source is not None)
    if request.loop:
        raise InputError("loop", "true", message("loop_with_clip"), message("loop_off"))
    step = facts.frame_step or facts.temporal_ratio
    quarter = max((request.frames - 1) // step // 4, min(1, (request.frames - 1) // step - 1)) * step + 1
    room = min(most or extension.overlap or quarter, len(request.clip))
    shared = (room - 1) // step * step + 1
    if shared >= request.frames:
        rule, remedy = message("clip_fills", shared=shared), message("use_at_least", least=shared + step)
        raise InputError("frames", request.frames, rule, remedy)
    return shared


def goes_on(model: VideoModel, request: Request, shared: int) -> tuple[Request, Notes]:
    """(a complete request that begins with the last `shared` frames of its clip as its model does it, notes).

    By latents: a past of the right shape, whose latents `sampled` are encoded when the run begins; else a keyframe.
    """
    if request.clip is None:
        return request, ()
    counts = {"count": len(request.clip), "shared": shared, "new": request.frames - shared}
    size = f"{request.width}x{request.height}"
    notes = (message("goes_on", **counts, size=size), *fit_notes(message("the_clip"), request.clip, request))
    for number, keyframe in enumerate(request.keyframes, 1):
        if 0 <= keyframe.frame + (request.frames if keyframe.frame < 0 else 0) < shared:
            name = message("keyframe_at", name=message("keyframe_name", number=number), frame=keyframe.frame)
            rule = message("clip_is_there", shared=shared)
            with about(keyframe):
                raise InputError("keyframes", name, rule, message("move_behind_clip"))
    last = request.clip[-shared:]
    if model.extension().mode == "last_frames":
        return replace(request, clip=None, keyframes=(*request.keyframes, Keyframe(last, 0, of_clip=True))), notes
    shape = model.facts.latent_shape(request.width, request.height, shared)
    return replace(request, clip=last, past=ContinuationLatents(torch.zeros(shape))), notes


def with_clip_latents(model: VideoModel, request: Request) -> Request:
    """A request that `goes_on` by latents, with those of its clip."""
    if request.clip is None or request.past is None:
        return request
    size = request.width, request.height
    with model.use("vae", model.encoding(*size, len(request.clip))) as vae:
        latents = model.encode_video(vae, request.clip, None, size)
    return replace(request, clip=None, past=replace(request.past, latents=latents.float()))
