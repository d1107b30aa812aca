"""The one denoising run, for every family."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from ..loaders.common.controls import check_range
from ..loaders.denoiser import Run
from ..loaders.devices import explained
from ..loaders.messages import InputError, about, message
from ..loaders.request import Conditioning, Control, Request
from ..loaders.video_model import VideoModel
from ..loaders.weights.lora import applied
from .caches.runner import cached, phase, planned
from .early import check_strength
from .guidance import check_guidance, guide
from .keyframes import cut_notes, plan
from .room import step_bytes
from .solvers import TABLES, solver, without_waiting
from .speed import accelerated, check_speed

MOST_TOKENS = 2**20  # ten times HunyuanVideo at 720p and 129 frames
LESS_MEMORY = message("less_memory")
COLLAPSED = 0.02  # spread of normalised latents, which is about 1
OnStep = Callable[[int, int, Run], None]  # (steps done, steps in all, the run so far)


def checked(model: VideoModel, request: Request) -> Request:
    """The request with the model's defaults in place, its size, length, guidance and cache checked; raises InputError."""
    request = model.complete(request)
    offered = TABLES[model.solvers]
    if request.sampler not in offered:
        remedy = message("use_one_of_or_default", names=", ".join(offered))
        raise InputError("sampler", request.sampler, message("no_sampler", title=model.title), remedy)
    if not (math.isfinite(request.guidance) and request.guidance >= 0):
        raise InputError("guidance", request.guidance, message("number_from_0"), message("use_guidance"))
    model.check(request)
    tokens = model.facts.tokens(request.width, request.height, request.frames)
    if tokens > MOST_TOKENS:
        rule = message("too_many_tokens", tokens=tokens, most=MOST_TOKENS)
        raise InputError(
            "width, height, frames",
            f"{request.width}, {request.height}, {request.frames}",
            rule,
            message("ask_smaller"),
        )
    with about(model.guidance):
        check_guidance(model, request)
    planned(model, request)
    with about(model.speed):
        check_speed(model)
    return request


def ready(model: VideoModel, request: Request) -> Request:
    """A checked request with keyframes counted from the start and all that it comes with checked; raises InputError."""
    request = checked(model, request)
    with about(request.control):
        model.check_pictures(request)
    keyframes, notes = plan(request.keyframes, model.capabilities(), request.frames)
    request = replace(request, keyframes=keyframes, notes=(*notes, *cut_notes(request)))
    check_strength(request.strength, request.source is not None)
    if request.source is not None:
        _check_source(model, request, request.source)
    if request.control is not None:
        with about(request.control):
            _check_control(request, request.control)
    return request


def sample(
    model: VideoModel,
    conditioning: Conditioning,
    request: Request,
    on_step: OnStep = lambda *_: None,
    prepared: Callable[[Run], None] = lambda _: None,
) -> Tensor:
    """Latents [1, C, t, h, w], normalised as the model sees them, for one request.

    on_step is called after every step and may raise to stop; prepared sees the run before the first. Raises InputError before any weights are read.
    """
    request = ready(model, request)
    if (conditioning.family, conditioning.width) != (model.name, model.facts.text_width):
        what = message("prompt_of_other", family=conditioning.family, width=conditioning.width)
        rule = message("model_reads", family=model.name, width=model.facts.text_width)
        with about(conditioning):
            raise InputError("conditioning", what, rule, message("encode_with_same"))
    if model.facts.reads_pictures:
        with about(conditioning):
            _check_picture(model, conditioning.picture, request)
    with torch.no_grad(), explained(_activity(request), LESS_MEMORY):
        device = model.memory.device("transformer")
        scheduler = solver(model.solvers, request.sampler, model.schedule(request), device)
        run = model.prepare(conditioning, request, scheduler)
        prepared(run)
        predict, total, room = guide(model, run), len(run.timesteps), step_bytes(model, request)
        with cached(model, run, request):
            for part, group in groupby(range(total), run.part):
                first, *rest = group
                steps = range(first, first + len(rest) + 1)
                with model.use(part, activations=room) as network, ExitStack() as stack:
                    for way in (accelerated(network, model), applied(network, part, model.loras), phase(network, run, part, steps)):  # fmt: skip
                        stack.enter_context(way)
                    for step in steps:
                        run.before(step)
                        prediction = _predicted(run, step, partial(predict, network, step))
                        with without_waiting():
                            run.advance(step, prediction)
                        on_step(step + 1, total, run)
        return _alive(_finite(run.finish(), model), model)


def _activity(request: Request) -> str:
    return message("sampling_activity", frames=request.frames, width=request.width, height=request.height)


def _check_picture(model: VideoModel, seen: Tensor | None, request: Request) -> None:
    """The prompt must have been read along with the picture that the video begins with."""
    if seen is None or not torch.equal(seen, request.keyframes[0].images[:1]):
        told = message("without_picture") if seen is None else message("with_other_picture")
        rule = message("reads_first_frame", variant=model.variant)
        raise InputError("conditioning", told, rule, message("connect_same_keyframes"))


def _predicted(run: Run, step: int, compute: Callable[[], Tensor]) -> Tensor:
    return compute() if run.cache is None else run.cache.predict(run, step, compute)


def _check_source(model: VideoModel, request: Request, source: Tensor) -> None:
    frames = source.ndim == 4 and source.shape[-1] == 3
    shape = model.facts.latent_shape(request.width, request.height, request.frames)
    if not frames and (source.ndim != 5 or source.shape[1] != shape[1]):
        rule, remedy = (
            message("other_channels", variant=model.variant, channels=shape[1]),
            message("decode_and_connect"),
        )
        raise InputError("source", message("latents_shape", shape=list(source.shape)), rule, remedy)
    if not frames and tuple(source.shape) != shape:
        rule = message("needs_shape", shape=list(shape))
        raise InputError(
            "source", message("latents_shape", shape=list(source.shape)), rule, message("give_source_size")
        )
    if frames and len(source) < request.frames:
        rule, remedy = message("are_asked_for", frames=request.frames), message("fewer_or_longer_source")
        raise InputError("source", message("count_frames", count=len(source)), rule, remedy)
    if not torch.isfinite(source).all():
        raise InputError("source", message("not_finite_value"), message("holds_nan"), message("check_maker"))


def _check_control(request: Request, control: Control) -> None:
    """Its range and strength must be sound, and its frames and masks last as long as the video."""
    check_range(control.start, control.end, control.strength)
    frames, masks = (request.frames if part is None else len(part) for part in (control.frames, control.mask))
    rule, remedy = message("are_asked_for", frames=request.frames), message("fewer_or_longer_control")
    if frames < request.frames:
        raise InputError("control", message("count_frames", count=frames), rule, remedy)
    if 1 < masks < request.frames or not masks:
        raise InputError("control", message("count_masks", count=masks), rule, remedy)
    for part in (control.frames, control.mask, control.references):
        if part is not None and not torch.isfinite(part).all():
            raise InputError("control", message("not_finite_value"), message("holds_nan"), message("check_maker"))


def _alive(latents: Tensor, model: VideoModel) -> Tensor:
    """Latents of a cached run that are not all one colour: those of a sound one spread as far as noise does."""
    if model.cache is not None and latents.float().std() < COLLAPSED:
        raise ValueError(message("collapsed", cache=model.cache.title))
    return latents


def _finite(latents: Tensor, model: VideoModel) -> Tensor:
    if not torch.isfinite(latents).all():
        cause = message("half_overflow") if model.recipe.dtype == "float16" else message("damaged_or_precision")
        raise ValueError(message("latents_not_finite", cause=cause))
    return latents
