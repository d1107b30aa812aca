"""Caches: nodes that let a model skip steps, and the one that measures a checkpoint for them."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from typing import Any

from comfy_api.latest import io

from ..loaders.messages import Message, message
from ..loaders.request import Conditioning
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from ..samplers.caches.policies import choices
from . import host
from .effect import Conditions, counted, idle
from .origin import from_model
from .sampling import SamplerNode, request_of, sampler_inputs
from .types import model_input, model_output

AUTO, KEEP, FOLLOW = "auto", "0: keep", "1: follow"
ORDERS = {KEEP: 0, FOLLOW: 1}
COEFFICIENTS = (AUTO, "calibrated", "published")
# inputs of the node Cache that are options of a policy
OPTIONS = ("speed", "threshold", "interval", "start", "end", "longest", "order")


def _start(default: float) -> Any:
    return io.Float.Input("start", default=default, min=0.0, max=1.0, step=0.01, advanced=True, optional=True, tooltip="Share of the steps before which all are computed")  # fmt: skip


def _end() -> Any:
    return io.Float.Input("end", default=1.0, min=0.0, max=1.0, step=0.01, advanced=True, optional=True, tooltip="Share of the steps from which all are computed")  # fmt: skip


def _order(choices: tuple[str, ...], default: str) -> Any:
    return io.Combo.Input("order", options=list(choices), default=default, advanced=True, optional=True,
                          tooltip="What a reused step takes: what was kept (0), or its change followed on (1: one more tensor, mostly nearer)")  # fmt: skip


def _longest(default: int) -> Any:
    return io.Int.Input("longest", default=default, min=0, max=1000, advanced=True, optional=True, tooltip="Most reused steps in a row; 0: any number")  # fmt: skip


def _cached(cls: Any, model: VideoModel, policy: Any, lines: tuple[Message, ...] = ()) -> io.NodeOutput:
    """The model with a policy; what can be told before a run is told now."""
    from ..samplers.caches.policy import check_policy
    from ..samplers.caches.report import size_in_words

    check_policy(policy)
    policy.check_model(model)
    default = model.complete(request_of(model))
    notes = [message("cache_holds", size=size_in_words(policy.estimate(model, default)))]
    if model.cache is not None:
        notes.append(message("cache_replaced", cache=model.cache.title))
    report = host.Report(cls)
    report.tell(*notes, *lines, level=logging.INFO)
    return io.NodeOutput(replace(model, cache=policy), ui=report.ui())


class _CacheNode(io.ComfyNode):
    @classmethod
    def validate_inputs(cls, start: float | None = None, end: float | None = 1.0) -> bool | str:
        from ..samplers.caches.policy import check_span

        return host.valid((check_span, start, end))

    @classmethod
    def schema(
        cls,
        node_id: str,
        title: str,
        description: str,
        aliases: list[str],
        inputs: list[Any],
        conditions: Conditions | None = None,
    ) -> io.Schema:
        return io.Schema(
            node_id=node_id, display_name=title, category="Reelwire/caches", description=description,
            search_aliases=["cache", "speed", "faster", "缓存", "加速", *aliases],
            inputs=counted([model_input(), *inputs], conditions or {}),
            outputs=[model_output("The model with the cache; the one that came in stays as it is")], hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def fingerprint_inputs(cls, **_: Any) -> float:
        """Anew when a checkpoint was calibrated."""
        return host.calibrated()


class TeaCacheNode(_CacheNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireTeaCache", "TeaCache (Video)", "Skips steps in which little would change, as TeaCache foretells it from what goes into the network. For the best picture at the same speed see Cache, policy plan.", ["tea cache"], [
            io.Float.Input("threshold", default=0.0, min=0.0, max=10.0, step=0.005, tooltip="Change that may add up before a step is computed: more is faster. 0: the published one, about twice as fast"),
            io.Combo.Input("coefficients", options=list(COEFFICIENTS), default=AUTO, advanced=True, optional=True, tooltip="auto: of Calibrate Cache where this checkpoint has them, else the published ones, else none"),
            io.Boolean.Input("retention", default=False, advanced=True, optional=True, tooltip="Wan: the published mode use_ret_steps, which computes the first steps"),
            _start(0.0), _end(), _longest(0), _order((KEEP, FOLLOW), KEEP),
        ], {"retention": {"family": with_feature("cache_retention")}})  # fmt: skip

    @classmethod
    def execute(cls, model: VideoModel, threshold: float, coefficients: str = AUTO, retention: bool = False, start: float = 0.0,
                end: float = 1.0, longest: int = 0, order: str = KEEP) -> io.NodeOutput:  # fmt: skip
        from ..samplers.caches.policies.teacache import TeaCache

        policy = TeaCache(threshold=threshold, source=coefficients, retention=retention, start=start, end=end, longest=longest,
                          order=ORDERS[order], warmup=ORDERS[order] + 1)  # fmt: skip
        return _cached(cls, model, policy, idle(cls, {"retention": retention}, model))


class FORANode(_CacheNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireFORA", "FORA Cache (Video)", "Computes every how many-eth step and reuses it in between. Works on every family, Stable Video Diffusion too.", ["fora", "interval"], [
            io.Int.Input("interval", default=2, min=1, max=1000, tooltip="1 computes all, 2 every second step, 3 every third"),
            io.Combo.Input("granularity", options=["stack", "module"], default="stack", advanced=True, optional=True, tooltip="stack: keeps what all blocks do together. module: each attention and MLP, as published: takes tens of GB on large models"),
            _start(0.0), _end(), _order((KEEP, FOLLOW), FOLLOW),
        ])  # fmt: skip

    @classmethod
    def execute(cls, model: VideoModel, interval: int, granularity: str = "stack", start: float = 0.0, end: float = 1.0, order: str = FOLLOW) -> io.NodeOutput:  # fmt: skip
        from ..samplers.caches.policies.fora import FORA

        policy = FORA(interval=interval, granularity=granularity, start=start, end=end, order=ORDERS[order], warmup=ORDERS[order] + 1)  # fmt: skip
        return _cached(cls, model, policy)


def _reads(policy: Any) -> set[str]:
    """The options that a policy reads."""
    return {each.name for each in fields(policy)} - {*policy.unused}


def cache_counts() -> Conditions:
    """Which inputs of the node Cache count under which policies."""
    readers = {name: tuple(title for title, policy in choices().items() if name in _reads(policy)) for name in OPTIONS}
    return {name: {"policy": titles} for name, titles in readers.items()}


class CacheNode(_CacheNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        policies = choices()
        told = ". ".join(f"{name}: {policy.tooltip}" for name, policy in policies.items() if policy.tooltip)
        return cls.schema("ReelwireCache", "Cache (Video)", "Makes a model about so many times faster. plan computes the steps that matter most and forecasts the others; Calibrate Cache tells it which. The other policies are there to compare.", ["magcache", "easycache", "taylorseer", "seacache", "first block", "dbcache", "plan"], [
            io.Combo.Input("policy", options=[*policies], default=next(iter(policies)), tooltip=told),
            io.Float.Input("speed", default=2.0, min=1.0, max=10.0, step=0.1, tooltip="plan: about how many times faster; the other policies do not read it"),
            io.Float.Input("threshold", default=0.0, min=0.0, max=10.0, step=0.005, optional=True, tooltip="All policies but plan and taylorseer: change that is let go by, more is faster. 0: the usual one"),
            io.Int.Input("interval", default=3, min=1, max=1000, optional=True, tooltip="taylorseer: every how many-eth step is computed"),
            _start(0.0), _end(), _longest(0), _order((AUTO, KEEP, FOLLOW), AUTO),
        ], cache_counts())  # fmt: skip

    @classmethod
    def execute(cls, model: VideoModel, policy: str, speed: float, threshold: float = 0.0, interval: int = 3, start: float = 0.0,
                end: float = 1.0, longest: int = 0, order: str = AUTO) -> io.NodeOutput:  # fmt: skip
        values = {
            "speed": speed,
            "threshold": threshold,
            "interval": interval,
            "start": start,
            "end": end,
            "longest": longest,
        }
        usual = {"threshold": 0.0, "start": 0.0, "end": 1.0, "longest": 0}
        options = {name: value for name, value in values.items() if value != usual.get(name)}
        if order != AUTO:
            options["order"] = ORDERS[order]
        kind = choices()[policy]
        names = {each.name for each in fields(kind)}
        chosen = kind(**{name: value for name, value in options.items() if name in names})
        return _cached(cls, model, chosen, idle(cls, {**values, "policy": policy, "order": order}))


class CalibrateCache(SamplerNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireCalibrateCache", display_name="Calibrate Cache (Video)", category="Reelwire/caches", is_output_node=True,
            description="Runs every step once with your checkpoint, steps and size, and writes beside the checkpoint what the caches need to know. Run it again with other prompts to make it surer.",
            search_aliases=["teacache coefficients", "mag ratios", "calibrate", "校准", "校准缓存"],
            inputs=sampler_inputs(),
            outputs=[model_output("The model as it came in"), io.Latent.Output(display_name="latent", tooltip="The video of this run, for the two decode nodes")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def check_lazy_status(cls, model: VideoModel, conditioning: Conditioning | None = None, **inputs: Any) -> list[str]:
        from ..samplers.plan import plan

        plan(replace(model, cache=None), request_of(model, **inputs))
        return ["conditioning"] if conditioning is None else []

    @classmethod
    def execute(cls, model: VideoModel, conditioning: Conditioning, **inputs: Any) -> io.NodeOutput:
        from ..samplers.caches import store
        from ..samplers.caches.calibration import calibrate

        update, checkpoint = host.progress(), model.recipe.files["checkpoint"]
        store.check_place(checkpoint)
        on_step = lambda done, total, run: update(done, total, lambda: host.latent_picture(model, run.preview()))
        made, latents = calibrate(model, conditioning, request_of(model, **inputs), on_step)
        made = store.add(checkpoint, made)
        words = [message("calibrated_runs", file=store.file_of(checkpoint).name, steps=made.key.steps, runs=made.runs)]
        words += [
            message(
                "calibrated_teacache",
                part=b.part,
                branch=b.name,
                low=f"{b.low:.3g}",
                high=f"{b.high:.3g}",
                quality=f"{b.quality:.2f}",
            )
            for b in made.branches
        ]
        report = host.Report(cls)
        report.tell(*words, level=logging.INFO)
        note = {"family": model.name, "variant": model.variant, "fps": model.facts.fps}
        return io.NodeOutput(model, from_model(model, model.to_host(latents.cpu()), note), ui=report.ui())


NODES = [TeaCacheNode, FORANode, CacheNode, CalibrateCache]
