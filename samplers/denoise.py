"""The one denoising run, for every family: check the prompt, prepare, let the solver ask for predictions, finish."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import torch
from torch import Tensor

from ..loaders.common.flow import encoded_source
from ..loaders.denoiser import GUIDED, Denoiser, DenoiserWrapper, Network
from ..loaders.devices import explained
from ..loaders.messages import InputError, about, message
from ..loaders.request import Conditioning, Request
from ..loaders.video_model import VideoModel
from ..loaders.weights.lora import Switch, applied
from .caches.corrector import follows
from .caches.runner import Forecasting, Runner, ThroughCache, cached
from .guidance import guide, guided_model
from .loop import circling
from .parallel.clip.split import ALONE, Split
from .plan import SamplingPlan
from .solvers import TABLES, Solver, Turn, Walk, noise_schedule
from .sources.clip import with_clip_latents
from .sources.inpaint import Inpainting, MaskedSource
from .speed import accelerated

LESS_MEMORY = message("less_memory")
COLLAPSED = 0.02  # spread of normalised latents, which is about 1
Wrap = Callable[[Denoiser], Denoiser]


class RunSoFar(Protocol):
    """What those who look on see of a run, be it in this process or in others. cache: of the run."""

    cache: Runner | None

    def preview(self) -> Tensor:
        """The video [B, C, T, h, w] that the last prediction points to."""

    def finish(self) -> Tensor:
        """The latents as they are now, as [B, C, T, h, w]."""


OnStep = Callable[[int, int, RunSoFar], None]  # (predictions done, predictions in all, the run so far)


def sample(
    model: VideoModel,
    conditioning: Conditioning,
    plan: SamplingPlan,
    on_step: OnStep = lambda *_: None,
    wrap: Wrap = lambda denoiser: denoiser,
    inpainting: Inpainting | None = None,
    split: Split = ALONE,
    computed: Wrap = lambda guided: guided,
) -> Tensor:
    """Latents [1, C, t, h, w], normalised as the model sees them, of one plan.

    on_step is called after every prediction was stepped with, and may raise to stop. wrap: around the denoiser, before
    its first prediction. inpainting: of a video that is longer than the plan's, else as the plan says. split: over the
    ranks that this process is one of. computed: around the guided denoiser, inside of a cache. Raises InputError,
    before any weights are read, for a prompt that this model cannot read.
    """
    request = plan.request
    model = guided_model(model, request)
    _check_conditioning(model, conditioning, request, plan.shared > 0)
    with torch.no_grad(), explained(_activity(request), LESS_MEMORY):
        request = with_clip_latents(model, request)
        if plan.mask is not None:
            request = replace(request, source=encoded_source(model, request).float())
            assert request.source is not None
            inpainting = Inpainting(request.source, plan.mask)
        if inpainting is not None and inpainting.keeps_all:
            return inpainting.source.clone()
        schedule = noise_schedule(model, request, model.memory.device("transformer"))
        denoiser = wrap(circling(model.prepare(conditioning, request, schedule), request, model.facts))
        solver = TABLES[model.solvers][request.sampler]
        with cached(model, schedule, plan.policy, plan.kept, split) as cache, ExitStack() as stack:
            run = Sampling(model, plan.room, denoiser, cache, stack, on_step, split, computed)
            run.masked = MaskedSource(inpainting, denoiser, request.seed) if inpainting is not None else None
            latents = solver.solve(run, denoiser.latents, schedule)
        video = _alive(_finite(denoiser.finish(latents), model), model)
        return video if inpainting is None else inpainting.restored(video)


def with_source_latents(model: VideoModel, conditioning: Conditioning, plan: SamplingPlan) -> SamplingPlan:
    """The same plan with its source as latents where a mask keeps some of it: who decodes the video needs them too.

    Raises InputError, before any weights are read, for a prompt that this model cannot read.
    """
    if plan.mask is None:
        return plan
    _check_conditioning(model, conditioning, plan.request, plan.shared > 0)
    with torch.no_grad(), explained(_activity(plan.request), LESS_MEMORY):
        source = encoded_source(model, plan.request).float().cpu()
    return replace(plan, request=replace(plan.request, source=source))


class Sampling:
    """A run under way: what its solver asks for predictions, and what callbacks look at.

    denoiser, cache: of the run.
    latents: those that were stepped to last, or that the prediction under way is made from.
    masked: the source that stays outside of a mask.
    """

    def __init__(
        self,
        model: VideoModel,
        room: int,
        denoiser: Denoiser,
        cache: Runner | None,
        stack: ExitStack,
        on_step: OnStep,
        split: Split = ALONE,
        computed: Wrap = lambda guided: guided,
    ) -> None:
        self.denoiser, self.cache, self.latents = denoiser, cache, denoiser.latents
        self.masked: MaskedSource | None = None
        self._model, self._room, self._stack, self._on_step, self._split = model, room, stack, on_step, split
        options = (model.guidance, model.batched_guidance, model.blocks, model.perturb, split)
        inside = ThroughCache(denoiser, cache) if cache is not None and cache.sees_passes else denoiser
        self._guide = guide(inside, *options)
        guided = computed(Shared(self._guide, split))
        self._guided = guided if cache is None else Forecasting(guided, cache)
        groups = (list(group) for _, group in groupby(range(len(denoiser.schedule)), denoiser.part))
        self._phases = {steps[0]: range(steps[0], steps[-1] + 1) for steps in groups}
        self._network: Network = None
        self._before: object = None  # what guidance remembered before the last prediction
        self._done = 0
        self._switch_loras: Switch = lambda level, count: None
        self._begin_prediction: Callable[[int, int], None] = lambda number, count: None
        self._last: tuple[Tensor, Tensor, int] | None = (
            None  # prediction, the latents that it was made from, its number
        )

    def predict(self, latents: Tensor, step: int) -> Tensor:
        """The guided prediction number `step`, as the network makes it."""
        if step in self._phases:
            self._stack.close()  # the expert before
            self._network = self._begin(self._phases[step])
        self.latents, schedule = latents, self.denoiser.schedule
        self._switch_loras(schedule.levels[step], schedule.level_count)
        self._begin_prediction(step, len(schedule))
        seen, self._before = self._seen(latents, step), self._guide.memory
        prediction = self._guided.predict(self._network, seen, step, GUIDED)
        if self.masked is not None:
            prediction = self.masked.blended(prediction, seen, latents, step)
        self._last = prediction, latents, step
        return prediction

    def correct(self, solver: Solver, walk: Walk, latents: Tensor, step: int) -> Turn | None:
        """Where the run goes on, where its cache took the steps before this one again."""
        if self.cache is None:
            return None
        before = replace(walk, settle=self.denoiser.settle)  # nobody is told of what is taken again

        def again(x0: Tensor, latents: Tensor, step: int) -> Tensor:
            return solver.advance(before, self._towards(x0, latents, step), latents, step)

        place = self.cache.correct(walk, latents, step, again)
        if place is None:
            return None
        corrected, earlier = place
        if earlier < step:
            self._guide.memory = self._before
            return Turn(corrected, earlier, None)
        x0, moved = self.cache.newest(), self._seen(corrected, step).float() - self._seen(latents, step).float()
        x0.add_(moved, alpha=follows(*self.denoiser.alpha_sigma(step)))
        self.latents, prediction = corrected, self._towards(x0, corrected, step)
        self._last = prediction, corrected, step
        return Turn(corrected, step, prediction)

    def _towards(self, x0: Tensor, latents: Tensor, step: int) -> Tensor:
        """The prediction that points from these latents to a video, and outside of a mask to the source."""
        assert self._last is not None
        seen = self._seen(latents, step)
        prediction = self.denoiser.from_x0(x0, seen, step).to(self._last[0].dtype)
        return prediction if self.masked is None else self.masked.blended(prediction, seen, latents, step)

    def _seen(self, latents: Tensor, step: int) -> Tensor:
        """The latents as the network sees them: outside of a mask, the source as noisy as they are."""
        return latents if self.masked is None else self.masked.noised(latents, step)

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        """The latents after a step, with what is given in them put back; then whoever looks on is told."""
        self.latents = self.denoiser.settle(stepped, latents, step, following)
        count = len(self.denoiser.schedule)
        if following == count:  # the result is there, so it is what there is to see
            self._last = None
        self._done = max(self._done, following)  # a run that goes back has done no less
        self._on_step(self._done, count, self)
        return self.latents

    def finish(self) -> Tensor:
        """The latents as they are now, as [B, C, T, h, w]."""
        return self.denoiser.finish(self.latents)

    def preview(self) -> Tensor:
        """The video [B, C, T, h, w] that the last prediction points to; after the last step, the result."""
        return self.finish() if self._last is None else self.denoiser.finish(self.denoiser.x0(*self._last))

    def _begin(self, steps: range) -> Network:
        """An expert with all that it runs with, until the next one takes over."""
        part, enter = self.denoiser.part(steps.start), self._stack.enter_context
        network: Network = None
        self._guide.begin()
        self._switch_loras = self._begin_prediction = lambda step, count: None
        if self._split.computes(part):
            network = enter(self._model.use(part, activations=self._room))
            enter(_without_hooks(network))
            self._begin_prediction = enter(accelerated(network, self._model))
            enter(self._split.spread(network, self._model))
            self._switch_loras = enter(applied(network, part, self._model.loras, self._model.memory.device(part)))
        if self.cache is not None:
            enter(self.cache.phase(network, self, part, steps))
        return network


class Shared(DenoiserWrapper):
    """A guided denoiser, of which another rank may make the predictions of a part."""

    def __init__(self, inner: Denoiser, split: Split) -> None:
        super().__init__(inner)
        self._split = split

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        return self._split.guided(self.part(step), lambda: self.inner.predict(network, latents, step, branch))


def _check_conditioning(model: VideoModel, conditioning: Conditioning, request: Request, extends: bool) -> None:
    """Raise InputError for a prompt that was read for another model or another first frame. extends: whether that is a
    clip's last one."""
    with about(conditioning):
        if (conditioning.family, conditioning.width) != (model.name, model.facts.text_width):
            what = message("prompt_of_other", family=conditioning.family, width=conditioning.width)
            rule = message("model_reads", family=model.name, width=model.facts.text_width)
            raise InputError("conditioning", what, rule, message("encode_with_same"))
        if model.facts.reads_pictures:
            _check_picture(model, conditioning.picture, request, extends)


def _check_picture(model: VideoModel, picture: Tensor | None, request: Request, extends: bool) -> None:
    """Raise InputError unless the prompt was read along with the picture that the video begins with."""
    if picture is None or not torch.equal(picture, request.keyframes[0].images[:1]):
        value = message("without_picture") if picture is None else message("with_other_picture")
        rule = message("reads_first_frame", variant=model.variant)
        remedy = message("connect_same_clip") if extends else message("connect_same_keyframes")
        raise InputError("conditioning", value, rule, remedy)


def _activity(request: Request) -> str:
    return message("sampling_activity", frames=request.frames, width=request.width, height=request.height)


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


@contextmanager
def _without_hooks(network: Network) -> Iterator[None]:
    """Afterwards no registry of diffusers' hooks is left that holds none: it knows its module, which knows it, so that
    the weights would be freed when garbage is collected, and not before."""
    try:
        yield
    finally:
        for module in network.modules():
            registry = getattr(module, "_diffusers_hook", None)
            if registry is not None and not registry.hooks:
                del module._diffusers_hook
