"""The one denoising run, for every family."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from itertools import groupby

import torch
from torch import Tensor

from ..loaders.denoiser import Run
from ..loaders.devices import explained
from ..loaders.messages import InputError, about, message
from ..loaders.request import Conditioning, Request
from ..loaders.video_model import VideoModel
from ..loaders.weights.lora import applied
from .caches.runner import cached, phase
from .guidance import guide
from .plan import SamplingPlan
from .solvers import solver, without_waiting
from .speed import accelerated

LESS_MEMORY = message("less_memory")
COLLAPSED = 0.02  # spread of normalised latents, which is about 1
OnStep = Callable[[int, int, Run], None]  # (steps done, steps in all, the run so far)


def sample(
    model: VideoModel,
    conditioning: Conditioning,
    plan: SamplingPlan,
    on_step: OnStep = lambda *_: None,
    prepared: Callable[[Run], None] = lambda _: None,
) -> Tensor:
    """Latents [1, C, t, h, w], normalised as the model sees them, for one plan.

    on_step is called after every step and may raise to stop; prepared sees the run before the first. Raises InputError,
    before any weights are read, for a prompt that this model cannot read.
    """
    request = plan.request
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
        predict, total, room = guide(model, run), len(run.timesteps), plan.room
        with cached(model, run, plan.policy):
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
