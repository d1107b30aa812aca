"""Caches: nodes that let a model skip steps, and the one that measures a checkpoint for them."""

from __future__ import annotations

import logging
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ..loaders.messages import CheckpointError, Message, message, message_of
from ..loaders.request import Conditioning
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from ..samplers.caches.policies import choices
from . import host
from .effect import Conditions, counted, idle
from .live import Status
from .origin import from_model, untouched_in
from .sampling.inputs import sampler_inputs
from .sampling.request import check_ahead, negative_notes, noise_mask_of, picture_notes, request_of
from .sampling.sampler import SamplerNode, latent_note
from .types import InputValue, model_input, model_output, node_schema, number_input, share_input, whole_input
from .words import models_with

if TYPE_CHECKING:
    from ..samplers.caches.calibration import Calibration
    from ..samplers.caches.policy import Policy
    from ..samplers.denoise import RunSoFar

AUTO, KEEP, FOLLOW = "auto", "0: keep", "1: follow"
ORDERS = {KEEP: 0, FOLLOW: 1}
COEFFICIENTS = (AUTO, "calibrated", "published")
# inputs of the node Cache that are options of a policy
OPTIONS = ("speed", "threshold", "interval", "start", "end", "longest", "order")


def _span_inputs() -> list[io.Input]:
    """In which part of the run a cache works."""
    more = {"advanced": True, "optional": True}
    return [
        share_input("start", 0.0, "Share of the run before which all is computed", **more),
        share_input("end", 1.0, "Share of the run from which all is computed", **more),
    ]


def _order_input(choices: tuple[str, ...], default: str) -> io.Input:
    """The order of the forecast of what a reused prediction takes."""
    return io.Combo.Input(
        "order",
        options=list(choices),
        default=default,
        advanced=True,
        optional=True,
        tooltip="What a reused prediction takes: what was kept (0), or its change followed on (1: one more tensor, "
        "mostly nearer)",
    )


def _longest_input() -> io.Input:
    """How many predictions in a row may be reused."""
    return whole_input(
        "longest", 0, (0, 1000), "Most predictions reused in a row; 0: any number", advanced=True, optional=True
    )


def _cached(
    cls: type[io.ComfyNode], model: VideoModel, policy: Policy, lines: tuple[Message, ...] = ()
) -> io.NodeOutput:
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


class PolicyNode(io.ComfyNode):
    """What the nodes share that give a model a policy."""

    @classmethod
    def validate_inputs(cls, start: float | None = None, end: float | None = 1.0) -> bool | str:
        from ..samplers.caches.policy import check_span

        return host.valid((check_span, start, end))

    @classmethod
    def fingerprint_inputs(cls, **_: object) -> float:
        """Anew when a checkpoint was calibrated."""
        return host.last_calibration()


def _schema(node: str, title: str, description: str, aliases: list[str], inputs: list[io.Input]) -> io.Schema:
    """The schema of a node that gives a model a policy."""
    return node_schema(
        node,
        title,
        "caches",
        description,
        ["cache", "speed", "faster", "缓存", "加速", *aliases],
        inputs,
        [model_output("The model with the cache; the one that came in stays as it is")],
    )


class TeaCacheNode(PolicyNode):
    """TeaCache (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "ReelwireTeaCache",
            "TeaCache (Video)",
            "Skips steps in which little would change, as TeaCache foretells it from what goes into the network. For "
            "the best picture at the same speed see Cache, policy plan.",
            ["tea cache"],
            counted(
                [
                    model_input(),
                    number_input(
                        "threshold",
                        0.0,
                        (0.0, 10.0, 0.005),
                        "Change that may add up before a prediction is computed: more is faster. 0: the published one, "
                        "about twice as fast",
                    ),
                    io.Combo.Input(
                        "coefficients",
                        options=list(COEFFICIENTS),
                        default=AUTO,
                        advanced=True,
                        optional=True,
                        tooltip="auto: of Calibrate Cache where this checkpoint has them, else the published ones, "
                        "else none",
                    ),
                    io.Boolean.Input(
                        "retention",
                        default=False,
                        advanced=True,
                        optional=True,
                        tooltip=f"{models_with('cache_retention')}: the published mode use_ret_steps, which computes "
                        "the first steps",
                    ),
                    *_span_inputs(),
                    _longest_input(),
                    _order_input((KEEP, FOLLOW), KEEP),
                ],
                {"retention": {"family": with_feature("cache_retention")}},
            ),
        )

    @classmethod
    def execute(
        cls,
        model: VideoModel,
        coefficients: str = AUTO,
        retention: bool = False,
        order: str = KEEP,
        **options: InputValue,
    ) -> io.NodeOutput:
        from ..samplers.caches.policies.teacache import TeaCache

        number = ORDERS[order]
        policy = TeaCache(source=coefficients, retention=retention, order=number, warmup=number + 1, **options)
        return _cached(cls, model, policy, idle(cls, {"retention": retention}, model))


class FORANode(PolicyNode):
    """FORA Cache (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "ReelwireFORA",
            "FORA Cache (Video)",
            "Computes every N-th prediction (a step has one, with heun two) and reuses it in between. Works on every "
            "family.",
            ["fora", "interval"],
            [
                model_input(),
                whole_input("interval", 2, (1, 1000), "1 computes all predictions, 2 every second, 3 every third"),
                io.Combo.Input(
                    "granularity",
                    options=["stack", "module"],
                    default="stack",
                    advanced=True,
                    optional=True,
                    tooltip="stack: keeps what all blocks do together. module: each attention and MLP, as published: "
                    "takes tens of GB on large models",
                ),
                *_span_inputs(),
                _order_input((KEEP, FOLLOW), FOLLOW),
            ],
        )

    @classmethod
    def execute(cls, model: VideoModel, order: str = FOLLOW, **options: InputValue) -> io.NodeOutput:
        from ..samplers.caches.policies.fora import FORA

        number = ORDERS[order]
        return _cached(cls, model, FORA(order=number, warmup=number + 1, **options))


def cache_counts() -> Conditions:
    """Which inputs of the node Cache count under which policies."""
    readers: dict[str, list[str]] = {name: [] for name in OPTIONS}
    for title, policy in choices().items():
        for name in {each.name for each in fields(policy)} - {*policy.unused}:
            if name in readers:
                readers[name].append(title)
    return {name: {"policy": tuple(titles)} for name, titles in readers.items()}


class CacheNode(PolicyNode):
    """Cache (Video): offers all policies of samplers/caches/policies that have no node of their own."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return _schema(
            "ReelwireCache",
            "Cache (Video)",
            "Makes a model about so many times faster. plan computes the steps that matter most and forecasts the "
            "others, corrected plan corrects them afterwards; Calibrate Cache tells which. The other policies are "
            "there to compare.",
            ["magcache", "easycache", "taylorseer", "seacache", "first block", "dbcache", "plan"],
            counted(
                [
                    model_input(),
                    *_policy_inputs(),
                    *_span_inputs(),
                    _longest_input(),
                    _order_input((AUTO, KEEP, FOLLOW), AUTO),
                ],
                cache_counts(),
            ),
        )

    @classmethod
    def execute(
        cls,
        model: VideoModel,
        policy: str,
        speed: float,
        threshold: float = 0.0,
        interval: int = 3,
        start: float = 0.0,
        end: float = 1.0,
        longest: int = 0,
        order: str = AUTO,
    ) -> io.NodeOutput:
        values: dict[str, InputValue] = {
            "speed": speed,
            "threshold": threshold,
            "interval": interval,
            "start": start,
            "end": end,
            "longest": longest,
        }
        usual = {"threshold": 0.0, "start": 0.0, "end": 1.0, "longest": 0}  # mean: the policy's own
        options = {name: value for name, value in values.items() if value != usual.get(name)}
        if order != AUTO:
            options["order"] = ORDERS[order]
        kind = choices()[policy]
        names = {each.name for each in fields(kind)}
        chosen = kind(**{name: value for name, value in options.items() if name in names})
        return _cached(cls, model, chosen, idle(cls, {**values, "policy": policy, "order": order}))


def _policy_inputs() -> list[io.Input]:
    """The policy, and what only some of them read."""
    policies = choices()
    return [
        io.Combo.Input(
            "policy",
            options=[*policies],
            default=next(iter(policies)),
            tooltip=". ".join(f"{name}: {policy.tooltip}" for name, policy in policies.items() if policy.tooltip),
        ),
        number_input(
            "speed", 2.0, (1.0, 10.0, 0.1), "Both plans: about how many times faster; the other policies do not read it"
        ),
        number_input(
            "threshold",
            0.0,
            (0.0, 10.0, 0.005),
            "All policies but the plans and taylorseer: change that is let go by, more is faster. spectrum: by how "
            "much the distance between computed predictions grows with each. 0: the usual one",
            optional=True,
        ),
        whole_input("interval", 3, (1, 1000), "taylorseer: every N-th prediction is computed", optional=True),
    ]


class CalibrateCache(SamplerNode):
    """Calibrate Cache (Video)."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return node_schema(
            "ReelwireCalibrateCache",
            "Calibrate Cache (Video)",
            "caches",
            "Runs every step once with your checkpoint, steps and size, and writes beside the checkpoint what the "
            "caches need to know. Run it again with other prompts to make it surer.",
            ["teacache coefficients", "mag ratios", "calibrate", "校准", "校准缓存"],
            [
                *sampler_inputs(),
                io.Boolean.Input(
                    "sensitivity",
                    default=False,
                    advanced=True,
                    optional=True,
                    tooltip="Also measures how sensitive the network is, for Cache's policy sencache: takes twice as "
                    "long",
                ),
            ],
            [
                model_output("The model as it came in"),
                io.Latent.Output(display_name="latent", tooltip="The video of this run, for the two decode nodes"),
            ],
            is_output_node=True,
        )

    @classmethod
    def check_lazy_status(cls, model: VideoModel, sensitivity: bool = False, **inputs: InputValue) -> list[str]:
        """Refuse what cannot work before anything that the video is made of is made."""
        _check_file(model.recipe.files["checkpoint"])
        return check_ahead(cls, replace(model, cache=None), inputs)

    @classmethod
    def execute(
        cls, model: VideoModel, conditioning: Conditioning, sensitivity: bool = False, **inputs: InputValue
    ) -> io.NodeOutput:
        from ..samplers.caches import store
        from ..samplers.caches.calibration import calibrate
        from ..samplers.caches.policy import FEWEST
        from ..samplers.denoise import with_source_latents
        from ..samplers.plan import plan
        from ..samplers.solvers import run_predictions

        view, checkpoint = host.LiveView(), model.recipe.files["checkpoint"]
        _check_file(checkpoint)
        weights = store.fingerprint(checkpoint)
        request, report = request_of(model, **inputs), host.Report(cls)
        prepared, source = plan(replace(model, cache=None), request), inputs.get("source")
        heard = host.heard_in(source)
        host.forget_video()
        report.tell(*picture_notes(inputs))
        report.tell(*prepared.notes, *negative_notes(model, prepared.request, conditioning.negative))
        if model.parallel is not None:
            report.tell(message("calibrated_here"))
        if sensitivity and model.stacks is None:
            report.tell(message("sensitivity_unet", title=model.title))
        elif sensitivity and run_predictions(model, prepared.request) < FEWEST:
            report.tell(message("sensitivity_short", least=FEWEST))
        status, fps = Status(report, model), prepared.request.fps

        def on_step(done: int, total: int, run: RunSoFar) -> None:
            status.step(done, total, None)
            view.latents(done, total, model, run.preview, fps)

        untouched = untouched_in(model, with_source_latents(model, conditioning, prepared), source)
        calibration, latents = calibrate(model, conditioning, request, on_step, sensitivity)
        try:
            calibration = store.add(checkpoint, calibration, weights)
        except (OSError, CheckpointError) as error:  # after the run: its latents are not lost with it
            report.tell(message("calibration_unkept", error=message_of(error)))
        else:
            report.tell(*_calibrated(calibration, store.file_of(checkpoint).name), level=logging.INFO)
        latent = from_model(model, model.to_host(latents.cpu()), latent_note(model, prepared, source), heard)
        return io.NodeOutput(model, {**latent, **noise_mask_of(source), **untouched}, ui=report.ui())


def _check_file(checkpoint: Path) -> None:
    """Raise OSError or CheckpointError where the file beside a checkpoint cannot be written, or is damaged."""
    from ..samplers.caches import store

    store.check_place(checkpoint)
    store.read(checkpoint)


def _calibrated(calibration: Calibration, file: str) -> list[Message]:
    """What a calibration showed, and where it is now."""
    from ..samplers.caches.course import NEAR
    from ..samplers.caches.policy import FEWEST
    from ..samplers.caches.report import in_words

    several = len({branch.part for branch in calibration.branches}) > 1
    branches = [
        message(
            "calibrated_teacache",
            branch=in_words(branch.part, branch.name, several),
            low=f"{branch.low:.3g}",
            high=f"{branch.high:.3g}",
            quality=f"{branch.quality:.2f}",
        )
        for branch in calibration.branches
    ]
    measured = max((branch.measured for branch in calibration.branches), default=0)
    if measured:
        branches.append(message("calibrated_sensitivity", runs=measured))
    count = sum(len(runs[0]) for runs in calibration.grams.values())
    if count < FEWEST:
        branches.append(message("calibrated_short", least=FEWEST, near=round(NEAR)))
    return [message("calibrated_runs", file=file, count=count, runs=calibration.runs), *branches]


NODES = [TeaCacheNode, FORANode, CacheNode, CalibrateCache]
