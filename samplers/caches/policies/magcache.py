"""MagCache (Ma et al. 2025, arXiv 2506.09045): residuals shrink from step to step by ratios that a calibration tells."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..policy import At, Policy, State
from ..store import key_of, match, read


@dataclass(frozen=True, kw_only=True)
class MagCache(Policy):
    """ratios: (expert, branch, one number for each of its steps: the mean of |residual| / |residual of the step before|,
    the first 1), the calibrated ones where there are none; threshold: how much the sizes may be off, added up. Published: 4
    reused steps in a row at most, and none in the first fifth."""

    ratios: tuple[tuple[str, str, tuple[float, ...]], ...] = ()
    threshold: float = 0.12
    longest: int = 4
    start: float = 0.2

    title: ClassVar[str] = "MagCache"

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        if not state.reused:
            state.memory["size"] = 1.0
        state.memory["size"] *= self._ratio(at)
        state.total += abs(1 - state.memory["size"])
        return state.total < self.threshold

    def suits(self, model: VideoModel) -> None:
        if model.stacks is None:
            raise InputError(
                "policy", "magcache", message("unet_no_stack", title=model.title), message("use_plan_or_fora")
            )

    def fit(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        self.suits(model)
        if self.ratios:
            return self, ()
        record, differs = match(read(model.recipe.files["checkpoint"]), key_of(model, request))
        if record is None:
            raise InputError(
                "policy",
                "magcache",
                message("no_calibration_sizes", variant=model.variant, steps=request.steps),
                message("calibrate_or_plan"),
            )
        notes = (message("calibration_differs", names=", ".join(differs)),) if differs else ()
        return replace(self, ratios=tuple((b.part, b.name, (1.0, *b.ratios)) for b in record.branches)), notes

    def computed(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        return super().computed(part, steps, total, next((b for p, b, _ in self.ratios if p == part), branch))

    def _ratio(self, at: At) -> float:
        """Of the nearest calibrated step, where the run has another number of them (nearest_interp of MagCache's code)."""
        ratios = next(r for part, branch, r in self.ratios if (part, branch) == (at.part, at.branch))
        return ratios[round(at.index * (len(ratios) - 1) / max(at.count - 1, 1))]
