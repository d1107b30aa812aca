"""MagCache (Ma et al. 2025, arXiv 2506.09045): residuals shrink from step to step by calibrated ratios."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ....loaders.messages import InputError, inputs_named, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..policy import Policy
from ..state import BranchState, StepContext
from ..store import key_of, match, read


@dataclass(frozen=True, kw_only=True)
class MagCache(Policy):
    """ratios: (expert, branch, a number for each of its steps: the mean of |residual| / |residual of the step before|,
        the first 1); the calibrated ones where there are none.
    threshold: how much the sizes may be off, added up.

    Published: 4 reused steps in a row at most, and none in the first fifth.
    """

    ratios: tuple[tuple[str, str, tuple[float, ...]], ...] = ()
    threshold: float = 0.12
    longest: int = 4
    start: float = 0.2

    title: ClassVar[str] = "MagCache"
    position: ClassVar[int | None] = 2
    tooltip: ClassVar[str] = "needs Calibrate Cache"

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        if not any(part == context.part for part, *_ in self.ratios):  # an expert of a few steps
            return False
        if not state.reuses:
            state.memory["size"] = 1.0
        state.memory["size"] *= self._ratio(context)
        state.total += abs(1 - state.memory["size"])
        return state.total < self.threshold

    def check_model(self, model: VideoModel) -> None:
        if model.stacks is None:
            rule = message("unet_no_stack", title=model.title)
            raise InputError("policy", "magcache", rule, message("use_plan_or_fora"))

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        if self.ratios:
            return self, ()
        record, differs = match(read(model.recipe.files["checkpoint"]), key_of(model, request))
        if record is None:
            rule = message("no_calibration_sizes", variant=model.variant, steps=request.steps, sampler=request.sampler)
            raise InputError("policy", "magcache", rule, message("calibrate_or_plan"))
        notes = (message("calibration_differs", names=inputs_named(*differs)),) if differs else ()
        return replace(self, ratios=tuple((b.part, b.name, (1.0, *b.ratios)) for b in record.branches)), notes

    def count_cached(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        calibrated = next((name for expert, name, _ in self.ratios if expert == part), branch)
        return super().count_cached(part, steps, total, calibrated)

    def _ratio(self, context: StepContext) -> float:
        """The ratio of the nearest calibrated step (nearest_interp of MagCache's code); a branch that was not
        calibrated, as where guidance has one more, goes by another of its expert."""
        same = [(branch, ratios) for part, branch, ratios in self.ratios if part == context.part]
        ratios = dict(same).get(context.branch, same[0][1])
        return ratios[round(context.index * (len(ratios) - 1) / max(context.count - 1, 1))]
