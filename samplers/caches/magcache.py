"""MagCache (Ma et al. 2025, arXiv 2506.09045): residuals shrink from step to step by ratios that a calibration tells."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from .policy import At, Policy, State


@dataclass(frozen=True, kw_only=True)
class MagCache(Policy):
    """ratios: (expert, branch, one number for each of its steps: the mean of |residual| / |residual of the step before|,
    the first 1); threshold: how much the sizes may be off, added up; longest and warmup as published: 4, and a fifth."""

    ratios: tuple[tuple[str, str, tuple[float, ...]], ...] = ()
    threshold: float = 0.12

    title: ClassVar[str] = "MagCache"

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        if not state.reused:
            state.memory["size"] = 1.0
        state.memory["size"] *= self._ratio(at)
        state.total += abs(1 - state.memory["size"])
        return state.total < self.threshold

    def _ratio(self, at: At) -> float:
        """Of the nearest calibrated step, where the run has another number of them (nearest_interp of MagCache's code)."""
        ratios = next(r for part, branch, r in self.ratios if (part, branch) == (at.part, at.branch))
        return ratios[round(at.index * (len(ratios) - 1) / max(at.count - 1, 1))]
