"""A fixed plan of computed steps, from a calibration of the checkpoint; without one, steps at even distances.

That a fixed plan can be optimised beforehand is LeMiCa's idea (2025, arXiv 2511.00090).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ...loaders.video_model import InputError, VideoModel
from .policy import At, Policy, State

Masks = tuple[tuple[str, int, tuple[int, ...]], ...]  # (expert, its number of steps, which of them are computed)


@dataclass(frozen=True, kw_only=True)
class Plan(Policy):
    """speed: steps over computed steps, about. masks: from a calibration; experts without one get an even plan."""

    speed: float = 2.0
    order: int = 1
    masks: Masks = ()
    calibrated: str = ""  # what the masks were made for, to be told

    title: ClassVar[str] = "plan"

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        return at.index not in self._computed(at.part, at.count)

    def _computed(self, part: str, count: int) -> tuple[int, ...]:
        exact = next((steps for p, n, steps in self.masks if (p, n) == (part, count)), None)
        return even(count, budget(count, self.speed), self.order) if exact is None else exact

    def fit(self, model: VideoModel, steps: int) -> tuple[Policy, tuple[str, ...]]:
        if not 1 <= self.speed <= steps:
            raise InputError("speed", self.speed, f"The run has {steps} steps.", f"Use 1 (computes all) to {min(steps, 4)}; 2 is usual.")  # fmt: skip
        if self.masks:
            return self, ()
        return self, (f"{model.variant} is not calibrated: steps are computed at even distances. Calibrate Cache finds better ones.",)  # fmt: skip


def budget(count: int, speed: float) -> int:
    """How many of `count` steps are computed at this speed."""
    return min(count, max(2, round(count / speed)))


def even(count: int, computed: int, order: int) -> tuple[int, ...]:
    """Computed steps at even distances: the first ones, so that a forecast has what it needs, and the last."""
    head = min(order + 1, computed - 1, count)
    if computed >= count or count < 2:
        return tuple(range(count))
    rest = computed - head  # at least the last step
    span = count - head
    return (*range(head), *sorted({head - 1 + round((i + 1) * span / rest) for i in range(rest)}))
