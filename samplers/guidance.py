"""How the prompt's pull becomes one prediction: classifier-free guidance here, other methods by diffusers' guiders."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from copy import copy
from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..loaders.denoiser import GUIDED, Denoiser, DenoiserWrapper, Network
from ..loaders.messages import InputError, either, inputs_named, message
from ..loaders.request import Guidance, Request, SpatioTemporal
from ..loaders.spec import titles_with
from ..loaders.video_model import VideoModel
from .parallel.clip.split import ALONE, Ask, Split
from .solvers import MOST_STEPS, noise_schedule, prediction_levels

if TYPE_CHECKING:
    from diffusers.guiders import BaseGuidance

GUIDANCE_NAMES = {"low_noise": "low_noise_guidance"}  # fields of Guidance that inputs call otherwise
METHODS = ("cfg", "apg", "cfg-zero*", "tcfg", "skip-layer", "stg")
STG_MODES = ("attention_values", "attention_skip", "transformer_block")
Perturb = Callable[[Network, Sequence[int], str], AbstractContextManager[None]]


def check_guidance(model: VideoModel, request: Request) -> None:
    """Raise InputError for a guidance that this model or this request cannot have."""
    check_method(model)
    guidance, embedded = model.guidance, getattr(model.facts, "embedded", False)
    scale, name = (guidance.true_scale, "true_guidance") if embedded else (request.guidance, "guidance")
    if guidance.switch_step and guidance.switch_step >= request.steps:
        rule, remedy = message("switch_step_rule", steps=request.steps), message("use_switch_step")
        raise InputError("switch_step", guidance.switch_step, rule, remedy)
    if guidance.method not in ("cfg", "stg") and scale <= 1:
        rule = message("needs_two_branches", method=guidance.method)
        raise InputError(name, scale, rule, message("set_above_1", name=inputs_named(name)))


def check_method(model: VideoModel) -> None:
    """Raise InputError for a guidance that this model cannot have, whatever the request."""
    guidance = model.guidance
    if guidance.method not in model.methods:
        rule = message("works_with", title=model.title, methods=", ".join(model.methods))
        raise InputError("method", guidance.method, rule, message("choose_method"))
    check_span(guidance.start, guidance.end)
    own = message("use_sampler_guidance")
    if guidance.true_scale and not getattr(model.facts, "embedded", False):
        raise InputError("true_guidance", guidance.true_scale, message("not_embedded", variant=model.variant), own)
    _check_experts(model, guidance)
    if guidance.dynamic and "dynamic_guidance" not in model.checkpoint.spec.features:
        rule = message("dynamic_guidance_rule", models=either(*titles_with("dynamic_guidance")))
        raise InputError("dynamic", message("on"), rule, message("switch_off"))
    if guidance.method == "skip-layer":
        _check_layers(model, guidance)
    if guidance.method == "stg":
        _check_stg(model, guidance.stg or SpatioTemporal())


def _check_experts(model: VideoModel, guidance: Guidance) -> None:
    """Raise InputError for what only a model of two experts has, and for a change of experts that cannot be."""
    check_switch(guidance.boundary, guidance.switch_step)
    if getattr(model.facts, "boundary", None) is not None:
        return
    own = {"low_noise_guidance": message("use_sampler_guidance")}
    for name in ("low_noise", "boundary", "switch_step"):
        shown = GUIDANCE_NAMES.get(name, name)
        if value := getattr(guidance, name):
            rule = message("one_expert", variant=model.variant)
            raise InputError(shown, value, rule, own.get(shown, message("use_0")))


def check_switch(boundary: float, switch_step: int) -> None:
    """Raise InputError for a change of experts that no model can have."""
    if not 0 <= boundary <= 1:
        raise InputError("boundary", boundary, message("boundary_rule"), message("use_boundary"))
    if not 0 <= switch_step <= MOST_STEPS:
        rule = message("switch_range", most=MOST_STEPS)
        raise InputError("switch_step", switch_step, rule, message("use_switch_step"))
    if boundary and switch_step:
        value = f"{boundary}, {switch_step}"
        raise InputError("boundary, switch_step", value, message("one_switch"), message("set_one_to_0"))


def check_span(start: float, end: float) -> None:
    """Raise InputError for shares of the steps between which guidance cannot be on."""
    if not 0 <= start < end <= 1:
        raise InputError("start, end", f"{start}, {end}", message("guidance_span_rule"), message("use_span"))


def _check_layers(model: VideoModel, guidance: Guidance) -> None:
    wrong = [layer for layer in guidance.layers if not 0 <= layer < model.facts.layers]
    if wrong or not guidance.layers:
        rule = message("blocks_rule", variant=model.variant, last=model.facts.layers - 1)
        last = model.facts.layers - 1
        value = ", ".join(map(str, wrong)) or message("none")
        raise InputError("layers", value, rule, message("name_blocks", one=max(last - 1, 0), other=last))
    if not 0 <= guidance.layer_start < guidance.layer_end <= 1:
        value = f"{guidance.layer_start}, {guidance.layer_end}"
        raise InputError("layer_start, layer_end", value, message("layer_span_rule"), message("use_layer_span"))


def _check_stg(model: VideoModel, stg: SpatioTemporal) -> None:
    """Raise InputError for lists that do not belong together, numbers out of range, or blocks that are not there."""
    _check_lists(stg)
    last = model.facts.layers - 1
    remedy = message("name_blocks", one=max(last - 1, 0), other=last)
    if not any(stg.blocks) and any(stg.stg_scales):
        raise InputError("layers", message("none"), message("stg_blocks_rule"), remedy)
    strange = [block for entry in stg.blocks for block in entry if not 0 <= block <= last]
    if strange:
        rule = message("blocks_rule", variant=model.variant, last=last)
        raise InputError("layers", ", ".join(map(str, strange)), rule, remedy)
    if stg.mode not in model.stg_modes:
        rule = message("works_with", title=model.title, methods=", ".join(model.stg_modes))
        raise InputError("stg_mode", stg.mode, rule, message("choose_method"))


def _check_lists(stg: SpatioTemporal) -> None:
    """Raise InputError unless the lists are as long as the timesteps, or of one entry, and hold sound numbers."""
    numbers = {"scales": (stg.scales, 100.0), "stg_scales": (stg.stg_scales, 100.0), "rescales": (stg.rescales, 1.0)}
    lengths = {"layers": len(stg.blocks), **{name: len(values) for name, (values, _) in numbers.items()}}
    for name, length in lengths.items():
        if length > 1 and length != len(stg.timesteps):
            value, rule = message("count_entries", count=length), message("stg_lists_rule", count=len(stg.timesteps))
            raise InputError(name, value, rule, message("stg_lists_remedy"))
    falling = all(one > other for one, other in pairwise(stg.timesteps))
    if not (falling and all(0 <= timestep <= 1 for timestep in stg.timesteps)):
        wanted = ", ".join(f"{timestep:g}" for timestep in stg.timesteps)
        raise InputError("timesteps", wanted, message("stg_timesteps_rule"), message("stg_timesteps_remedy"))
    for name, (values, most) in numbers.items():
        if wrong := [f"{value:g}" for value in values if not 0 <= value <= most]:
            rule = message("stg_number_rule", most=f"{most:g}")
            raise InputError(name, ", ".join(wrong), rule, message("stg_number_remedy"))


def guided_model(model: VideoModel, request: Request) -> VideoModel:
    """The model with the guidance of a complete request: its preset's, where no node has chosen a method."""
    stg = request.program.stg if request.program is not None else None
    if stg is None or model.guidance.method != "cfg":
        return model
    return replace(model, guidance=replace(model.guidance, method="stg", stg=stg))


def guide(
    denoiser: Denoiser,
    guidance: Guidance,
    batched: bool,
    blocks: str = "",
    perturb: Perturb = lambda *_: nullcontext(),
    split: Split = ALONE,
) -> GuidedDenoiser:
    """A denoiser with its branches put together; one forward where guidance is off.

    batched: both branches go in one forward. blocks: the network's attribute that holds them, for skip-layer guidance.
    perturb: `VideoModel.perturb`, for spatio-temporal guidance. split: over ranks.
    """
    if guidance.method == "cfg":
        return ClassifierFree(denoiser, guidance, split, batched)
    if guidance.stg is not None and guidance.method == "stg":
        return SpatioTemporalGuide(denoiser, guidance, split, guidance.stg, perturb)
    return ByGuider(denoiser, guidance, split, _make_guider(guidance, blocks))


def forwards(model: VideoModel, request: Request, levels: Sequence[int]) -> list[int]:
    """How many branches the network has in each prediction of a complete request. levels: their noise levels."""
    guidance, embedded = model.guidance, getattr(model.facts, "embedded", False)
    if guidance.stg is not None and guidance.method == "stg":
        return _stg_forwards(model, guidance, guidance.stg, request)[: len(levels)]
    scale = (guidance.true_scale or 1.0) if embedded else request.guidance
    total, count = len(levels), max(levels, default=-1) + 1
    first, last = int(guidance.start * count), int(guidance.end * count)
    on = [scale > 1 and first <= level < last for level in levels]
    if guidance.method == "cfg" or not any(on):
        return [1 + guided for guided in on]
    guider = _make_guider(guidance, model.blocks)
    guider.guidance_scale = scale

    def conditions(step: int) -> int:
        guider.set_state(step=step, num_inference_steps=total, timestep=torch.zeros(()))
        return int(guider.num_conditions)

    return [conditions(step) if guided else 1 for step, guided in enumerate(on)]


def reads_negative(model: VideoModel, request: Request) -> bool:
    """Whether any prediction of a complete request rests on the negative prompt."""
    model, levels = guided_model(model, request), prediction_levels(model, request)
    guidance = model.guidance
    if guidance.stg is None or guidance.method != "stg":
        return max(forwards(model, request, levels), default=1) > 1
    without = replace(guidance.stg, stg_scales=(0.0,))
    return max(_stg_forwards(model, guidance, without, request), default=1) > 1


def _stg_forwards(model: VideoModel, guidance: Guidance, stg: SpatioTemporal, request: Request) -> list[int]:
    """As `forwards`, of spatio-temporal guidance."""
    schedule = noise_schedule(model, request, torch.device("cpu"))
    first, last = int(guidance.start * schedule.level_count), int(guidance.end * schedule.level_count)
    values = [stg_values(stg, sigma, request.guidance) for sigma in schedule.sigmas[: len(schedule)]]
    levels = zip(schedule.levels, values, strict=True)
    on = lambda cfg, scale, blocks: (cfg > 1) + (scale > 0 and bool(blocks))
    return [1 + (first <= level < last) * on(cfg, scale, blocks) for level, (cfg, scale, _, blocks) in levels]


# ---------------------------------------------------------------- denoisers with guidance


class GuidedDenoiser(DenoiserWrapper):
    """A denoiser with one branch more, GUIDED: its others put together, in the steps where guidance is on."""

    def __init__(self, inner: Denoiser, guidance: Guidance, split: Split = ALONE) -> None:
        super().__init__(inner)
        count = self.schedule.level_count
        self.split = split
        self._first, self._last = int(guidance.start * count), int(guidance.end * count)
        self._off = self.guidance <= 1 and guidance.method != "stg"

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        if branch != GUIDED:
            return self.inner.predict(network, latents, step, branch)
        if not self.is_on(step):
            return self.split.predictions([self.ask(network, latents, step, "cond")])[0]
        return self.combined(network, latents, step)

    def is_on(self, step: int) -> bool:
        """Whether more than one branch goes into this prediction."""
        return not self._off and self._first <= self.schedule.levels[step] < self._last

    def ask(
        self,
        network: Network,
        latents: Tensor,
        step: int,
        branch: str,
        around: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> Ask:
        """What the ranks are asked for to have the prediction of one branch."""
        return Ask(partial(self.inner.predict, network, latents, step, branch), around)

    @abstractmethod
    def combined(self, network: Network, latents: Tensor, step: int) -> Tensor:
        """The prediction of all branches."""

    def begin(self) -> None:
        """Forget what it remembers of earlier predictions: another expert begins."""

    @property
    def memory(self) -> object:
        """What it remembers of earlier predictions, to go back to."""
        return None

    @memory.setter
    def memory(self, remembered: object) -> None:
        assert remembered is None


class ClassifierFree(GuidedDenoiser):
    """Classifier-free guidance (Ho & Salimans 2022), as one batch or two forwards as the reference pipeline does it."""

    def __init__(self, inner: Denoiser, guidance: Guidance, split: Split, batched: bool) -> None:
        super().__init__(inner, guidance, split)
        self._batched = batched

    def combined(self, network: Network, latents: Tensor, step: int) -> Tensor:
        if self._batched and not self.split.divides_branches:
            uncond, cond = self.inner.predict(network, latents, step, "cond_uncond").chunk(2)
        else:
            asks = [self.ask(network, latents, step, branch) for branch in ("cond", "uncond")]
            cond, uncond = self.split.predictions(asks, self._batched)
        return uncond + self.scale(step) * (cond - uncond)


class SpatioTemporalGuide(GuidedDenoiser):
    """Classifier-free guidance, and away from what the network predicts without some blocks (LTXVideoPipeline of
    Lightricks' ltx-video, guidance_scale, stg_scale, rescaling_scale, cfg_star_rescale)."""

    def __init__(
        self, inner: Denoiser, guidance: Guidance, split: Split, stg: SpatioTemporal, perturb: Perturb
    ) -> None:
        super().__init__(inner, guidance, split)
        self._stg, self._perturb = stg, perturb

    def combined(self, network: Network, latents: Tensor, step: int) -> Tensor:
        stg = self._stg
        scale, stg_scale, rescale, blocks = stg_values(stg, self.schedule.sigmas[step], self.guidance)
        ask = partial(self.ask, network, latents, step)
        asks = {"cond": ask("cond")}
        if scale > 1:
            asks["uncond"] = ask("uncond")
        if stg_scale > 0 and blocks:
            asks["perturbed"] = ask("perturbed", lambda: self._perturb(network, blocks, stg.mode))
        predictions = dict(zip(asks, self.split.predictions([*asks.values()]), strict=True))
        cond = prediction = predictions["cond"]
        if scale > 1:
            uncond = predictions["uncond"]
            if stg.star:
                uncond = uncond * ((cond * uncond).sum() / (uncond.square().sum() + 1e-8))
            prediction = uncond + scale * (cond - uncond)
        if stg_scale > 0:
            prediction = prediction + stg_scale * (cond - predictions.get("perturbed", cond))
            if rescale != 1:
                prediction = prediction * (rescale * (cond.std() / prediction.std()) + 1 - rescale)
        return prediction


class ByGuider(GuidedDenoiser):
    """A forward for each of a guider's branches; of scales that differ between frames it takes the largest.

    Momentum begins with guidance and anew with each expert, which has a guider of its own in diffusers
    (modular_pipelines/wan, guider and guider_2).
    """

    def __init__(self, inner: Denoiser, guidance: Guidance, split: Split, guider: BaseGuidance) -> None:
        super().__init__(inner, guidance, split)
        self._guider, self._momentum = guider, guidance.momentum if guidance.method == "apg" else 0.0

    def begin(self) -> None:
        from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer

        if self._momentum:
            self._guider.momentum_buffer = MomentumBuffer(self._momentum)

    def combined(self, network: Network, latents: Tensor, step: int) -> Tensor:
        guider, schedule = self._guider, self.schedule
        guider.guidance_scale = self.strength(step)
        guider.set_state(step=step, num_inference_steps=len(schedule), timestep=schedule.timesteps[step])
        batches = guider.prepare_inputs({"branch": ("cond", "uncond")})
        around = lambda: _prepared(guider, network)
        asks = [self.ask(network, latents, step, batch.branch, around) for batch in batches]
        for batch, result in zip(batches, self.split.predictions(asks), strict=True):
            batch.noise_pred = result
        prediction: Tensor = guider(batches).pred
        return prediction

    def points(self, step: int) -> bool:
        return not self.is_on(step) or step >= getattr(self._guider, "zero_init_steps", 0)

    @property
    def memory(self) -> object:
        return copy(getattr(self._guider, "momentum_buffer", None))  # which takes a new tensor for each average

    @memory.setter
    def memory(self, remembered: object) -> None:
        if remembered is not None:
            self._guider.momentum_buffer = remembered


def stg_values(stg: SpatioTemporal, sigma: float, guidance: float) -> tuple[float, float, float, tuple[int, ...]]:
    """(guidance scale, STG scale, rescaling, blocks) at a noise level. guidance: of the request, where STG has no
    scales of its own."""
    at, one = stg.entry(sigma), lambda values, i: values[i if len(values) > 1 else 0]
    blocks = one(stg.blocks, at) if stg.blocks else ()
    return one(stg.scales or (guidance,), at), one(stg.stg_scales, at), one(stg.rescales, at), blocks


@contextmanager
def _prepared(guider: BaseGuidance, network: Network) -> Iterator[None]:
    guider.prepare_models(network)
    try:
        yield
    finally:
        guider.cleanup_models(network)


def _make_guider(g: Guidance, blocks: str) -> BaseGuidance:
    import diffusers
    from diffusers.hooks import LayerSkipConfig

    skipped = LayerSkipConfig(indices=list(g.layers), fqn=blocks) if g.method == "skip-layer" else None
    name, options = {
        "apg": (
            "AdaptiveProjectedGuidance",
            dict(
                eta=g.eta,
                adaptive_projected_guidance_momentum=g.momentum or None,
                adaptive_projected_guidance_rescale=g.threshold,
            ),
        ),
        "cfg-zero*": ("ClassifierFreeZeroStarGuidance", {}),
        "tcfg": ("TangentialClassifierFreeGuidance", {}),
        "skip-layer": (
            "SkipLayerGuidance",
            dict(
                skip_layer_guidance_scale=g.layer_scale,
                skip_layer_config=skipped,
                skip_layer_guidance_start=g.layer_start,
                skip_layer_guidance_stop=g.layer_end,
            ),
        ),
    }[g.method]
    return getattr(diffusers, name)(**options)
