"""SenCache (Haghighi and Alahi 2026, arXiv 2602.24208): how far the latents and the time have moved since the last
computed step, times how sensitive the network's output is to each, says how far the output has.

Limits: https://github.com/vita-epfl/SenCache at 4bf419b, in the families' spec.json. They are for numbers of unit size,
so that they do not depend on the video's size. Its sensitivities are of real videos with noise; here they come from
Calibrate Cache, from the path that the solver takes on the person's own checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ....loaders.common.peaks import branches
from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.spec import CacheLimits
from ....loaders.video_model import VideoModel
from ..mechanisms.base import input_bytes
from ..mechanisms.blocks import LATENTS
from ..mechanisms.moved import Moved
from ..policy import Policy
from ..state import BranchState, StepContext, Values
from ..store import key_of, match, read

EARLY = 0.2  # share of the steps in which the tighter limit holds
# where nothing is published for a family: the paper's limits for 3 reused steps in a row, its code's early one
USUAL = CacheLimits(early=0.005, threshold=0.07, longest=3, source="")
Sensitivities = tuple[tuple[str, str, tuple[float, ...], tuple[float, ...]], ...]


@dataclass(frozen=True, kw_only=True)
class SenCache(Policy):
    """threshold: of the estimated change of the output, as the root of its mean square, under which a step is reused.
    early: the same in the first fifth of the run.
    sensitivities: (expert, branch, of each of its steps to the latents, and to the time); the calibrated ones where
        there are none.
    last: whether the last step is computed in any case.

    0 as threshold, early or longest means the published one.
    """

    threshold: float = 0.0
    early: float = 0.0
    sensitivities: Sensitivities = ()
    last: bool = True

    title: ClassVar[str] = "SenCache"
    position: ClassVar[int | None] = 10
    tooltip: ClassVar[str] = "needs Calibrate Cache with sensitivity on"
    mechanism = Moved
    signal: ClassVar[str] = LATENTS
    compare_to_previous_step: ClassVar[bool] = False
    decides_once: ClassVar[bool] = True

    @property
    def computes_last_step(self) -> bool:  # type: ignore[override]
        """As it is published."""
        return self.last

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        if "moved" not in state.numbers or all(part != context.part for part, *_ in self.sensitivities):
            return False  # of an expert of a few steps nothing was measured
        by_latents, by_time = self._sensitivity(context, state.memory["index"])
        change = by_latents * state.numbers["moved"] + by_time * state.numbers["time"]
        return change < (self.early if context.step < round(EARLY * context.steps) else self.threshold)

    def on_computed(
        self, state: BranchState, context: StepContext, values: Values, observed: Mapping[str, Tensor]
    ) -> None:
        state.memory |= {"time": state.memory["now"], "index": context.index}

    def check_model(self, model: VideoModel) -> None:
        if model.stacks is None:
            rule = message("unet_no_stack", title=model.title)
            raise InputError("policy", "sencache", rule, message("use_plan_or_fora"))

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        limits = model.checkpoint.spec.cache_limits
        notes = () if limits else (message("sencache_unpublished", variant=model.variant),)
        known = self._with(limits or USUAL)
        if self.sensitivities:
            return known, notes
        record, differs = match(read(model.recipe.files["checkpoint"]), key_of(model, request))
        measured = [b for b in record.branches if b.by_latents and b.by_time] if record else []
        if not measured:
            values = {"variant": model.variant, "steps": request.steps, "sampler": request.sampler}
            rule = message("no_sensitivities", **values)
            raise InputError("policy", "sencache", rule, message("calibrate_sensitivity"))
        if differs:
            notes = (*notes, message("calibration_differs", names=", ".join(differs)))
        return replace(known, sensitivities=tuple((b.part, b.name, b.by_latents, b.by_time) for b in measured)), notes

    def _with(self, limits: CacheLimits) -> SenCache:
        """The policy with these limits where none were set."""
        return replace(
            self,
            threshold=self.threshold or limits.threshold,
            early=self.early or limits.early,
            longest=self.longest or limits.longest,
            last=limits.last,
        )

    def _sensitivity(self, context: StepContext, index: int) -> tuple[float, float]:
        """To the latents and to the time, of the calibrated step nearest to step `index` of its expert; a branch that
        was not calibrated goes by another of its expert."""
        same = [(branch, values) for part, branch, *values in self.sensitivities if part == context.part]
        by_latents, by_time = dict(same).get(context.branch, same[0][1])
        place = index / max(context.count - 1, 1)
        return by_latents[round(place * (len(by_latents) - 1))], by_time[round(place * (len(by_time) - 1))]

    def estimate(self, model: VideoModel, request: Request) -> int:
        given = input_bytes(model, request) * branches(model, request)
        return self.mechanism.stored_bytes(model, request, self.order + 1, 0) + given
