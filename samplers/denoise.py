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

from ..loaders.devices import explained
from ..loaders.lora import applied
from ..loaders.run import Run
from ..loaders.video_model import Conditioning, Control, InputError, Request, VideoModel
from .caches.runner import cached, phase, planned
from .guidance import check_guidance, guide
from .keyframes import plan
from .room import step_bytes
from .schedules import TABLES, solver, without_waiting
from .speed import accelerated, check_speed

MOST_TOKENS = 2**20  # ten times HunyuanVideo at 720p and 129 frames
LESS_MEMORY = (
    "Use fewer frames (in Long Video a smaller window) or a smaller size, "
    "or hold the network in fp8 or int8, or with less of it on the card (Memory node)."
)
COLLAPSED = 0.02  # spread of normalised latents, which is about 1
OnStep = Callable[[int, int, Run], None]  # (steps done, steps in all, the run so far)


def checked(model: VideoModel, request: Request) -> Request:
    """The request with the model's defaults in place, its size, length, guidance and cache checked; raises InputError."""
    request = model.complete(request)
    offered = TABLES[model.family.solvers]
    if request.sampler not in offered:
        remedy = f"Use one of {', '.join(offered)}, or default."
        raise InputError("sampler", request.sampler, f"{model.family.title} has no such sampler.", remedy)
    if not (math.isfinite(request.guidance) and request.guidance >= 0):
        raise InputError(
            "guidance", request.guidance, "It must be a number from 0 on.", "Use 1 for none, 3 to 5 for most models."
        )
    model.family.check(model, request)
    tokens = model.facts.tokens(request.width, request.height, request.frames)
    if tokens > MOST_TOKENS:
        rule = (
            f"The network would attend to {tokens} tokens at once; beyond {MOST_TOKENS} a step takes hours on any card."
        )
        raise InputError("width, height, frames", f"{request.width}, {request.height}, {request.frames}", rule, "Ask for a smaller size or fewer frames.")  # fmt: skip
    check_guidance(model, request)
    planned(model, request)
    check_speed(model)
    return request


def ready(model: VideoModel, request: Request) -> Request:
    """A checked request with keyframes counted from the start and all that it comes with checked; raises InputError."""
    request = checked(model, request)
    model.family.check_pictures(model, request)
    keyframes, notes = plan(request.keyframes, model.family.capabilities(model), request.frames)
    request = replace(request, keyframes=keyframes, notes=notes)
    if request.source is None and request.strength != 1:
        rule = "It is the strength of a source, and none is connected."
        raise InputError("strength", request.strength, rule, "Connect a source, or set it to 1.")
    if request.source is not None:
        _check_source(model, request, request.source)
    if request.control is not None:
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
    family = model.family
    if (conditioning.family, conditioning.width) != (family.name, model.facts.text_width):
        what = f"a prompt for {conditioning.family}, {conditioning.width} wide"
        rule = f"The model is {family.name} and reads text {model.facts.text_width} wide."
        raise InputError("conditioning", what, rule, "Encode the prompt with the same model.")
    if model.facts.reads_pictures:
        _check_picture(model, conditioning.picture, request)
    with torch.no_grad(), explained(_activity(request), LESS_MEMORY):
        device = model.memory.device("transformer")
        scheduler = solver(family.solvers, request.sampler, family.schedule(model, request), device)
        run = family.prepare(model, conditioning, request, scheduler)
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
    return f"{request.frames} frames of {request.width}x{request.height} were sampled"


def _check_picture(model: VideoModel, seen: Tensor | None, request: Request) -> None:
    """The prompt must have been read along with the picture that the video begins with."""
    if seen is None or not torch.equal(seen, request.keyframes[0].images[:1]):
        told = "without a picture" if seen is None else "with another picture"
        rule = f"{model.variant} reads the first frame along with the prompt."
        raise InputError("conditioning", told, rule, "Connect the same keyframes to Encode Prompt and Video Sampler.")


def _predicted(run: Run, step: int, compute: Callable[[], Tensor]) -> Tensor:
    return compute() if run.cache is None else run.cache.predict(run, step, compute)


def _check_source(model: VideoModel, request: Request, source: Tensor) -> None:
    if not 0 < request.strength <= 1:
        remedy = "Use .3 to stay close to the source, .8 to go far."
        raise InputError("strength", request.strength, "It must be above 0 and at most 1.", remedy)
    frames = source.ndim == 4 and source.shape[-1] == 3
    shape = model.facts.latent_shape(request.width, request.height, request.frames)
    if not frames and (source.ndim != 5 or source.shape[1] != shape[1]):
        rule, remedy = (
            f"{model.variant} has latents of {shape[1]} channels: another model made these.",
            "Decode them with their own model and connect the frames.",
        )
        raise InputError("source", f"latents {list(source.shape)}", rule, remedy)
    if not frames and tuple(source.shape) != shape:
        rule = f"This size and length need latents of shape {list(shape)}."
        raise InputError(
            "source", f"latents {list(source.shape)}", rule, "Give the source's own width, height and frames."
        )
    if frames and len(source) < request.frames:
        rule, remedy = f"{request.frames} are asked for.", "Ask for fewer frames, or give a longer source."
        raise InputError("source", f"{len(source)} frames", rule, remedy)
    if not torch.isfinite(source).all():
        raise InputError("source", "not finite", "It holds NaN or infinite values.", "Check the node that made it.")


def _check_control(request: Request, control: Control) -> None:
    """Its range and strength must be sound, and its frames and masks last as long as the video."""
    if not 0 <= control.start < control.end <= 1:
        told = f"start {control.start}, end {control.end}"
        raise InputError("control", told, "It counts from start to end, shares of the steps.", "Use 0 <= start < end <= 1.")  # fmt: skip
    if not (math.isfinite(control.strength) and control.strength >= 0):
        told, remedy = f"strength {control.strength}", "Use 1, or less where the video may go its own way."
        raise InputError("control", told, "Its strength must be a number from 0 on.", remedy)
    for name, part in (("frames", control.frames), ("masks", control.mask)):
        count = request.frames if part is None else len(part)
        if count < request.frames and (name, count) != ("masks", 1):
            rule, remedy = f"{request.frames} are asked for.", "Ask for fewer frames, or give a longer control video."
            raise InputError("control", f"{count} {name}", rule, remedy)
    for part in (control.frames, control.mask, control.references):
        if part is not None and not torch.isfinite(part).all():
            raise InputError(
                "control", "not finite", "It holds NaN or infinite values.", "Check the node that made it."
            )


def _alive(latents: Tensor, model: VideoModel) -> Tensor:
    """Latents of a cached run that are not all one colour: those of a sound one spread as far as noise does."""
    if model.cache is not None and latents.float().std() < COLLAPSED:
        raise ValueError(f"{model.cache.title} skipped so much that the video collapsed. Lower its speed or threshold, or let it begin later (start).")  # fmt: skip
    return latents


def _finite(latents: Tensor, model: VideoModel) -> Tensor:
    if not torch.isfinite(latents).all():
        cause = (
            "half precision overflowed"
            if model.recipe.dtype == "float16"
            else "the checkpoint is damaged or the precision does not suit it"
        )
        raise ValueError(
            f"The latents are not finite (NaN or infinite): {cause}. Load the model with precision bfloat16 or float32."
        )
    return latents
