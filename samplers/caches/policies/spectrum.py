"""Spectrum (Han et al. 2026, arXiv 2603.01623): what the last block gives, as Chebyshev polynomials of the step.

Settings: https://github.com/hanjq17/Spectrum at f7b7841, the same for HunyuanVideo and Wan2.1-14B at 50 steps, of which
14 are computed. There the polynomials span 50 steps whatever the run has; here they span the run's own, which is the
same at 50. Two numbers are theirs and not the paper's: half of a forecast is the line through the last two computed
steps, and each gap grows by the threshold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..mechanisms.base import item_bytes
from ..mechanisms.features import Features
from ..policy import Policy
from ..state import BranchState, StepContext, Values


@dataclass(frozen=True, kw_only=True)
class Spectrum(Policy):
    """threshold: by how much the distance between computed steps grows with each of them; 3 is published too, for 10 of
        50 steps.
    window: the first distance; 1 computes all, while nothing grows.
    degree, ridge: of the polynomials, and how much large coefficients cost.
    share: of the polynomials in a forecast; the rest is the forecast of `order` from the last computed steps.
    """

    threshold: float = 0.75
    window: float = 2.0
    degree: int = 4
    ridge: float = 0.1
    share: float = 0.5
    warmup: int = 5
    order: int = 1

    title: ClassVar[str] = "Spectrum"
    position: ClassVar[int | None] = 9
    tooltip: ClassVar[str] = "polynomials of all computed steps, for high speeds"
    mechanism = Features
    computes_last_step: ClassVar[bool] = False

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        return context.index not in computed_steps(context.count, self.warmup, self.window, self.threshold)

    def on_computed(
        self, state: BranchState, context: StepContext, values: Values, observed: Mapping[str, Tensor]
    ) -> None:
        """Add a step to the normal equations of the regression, so that no step has to be kept."""
        (features,), row, memory = values, self._basis(context), state.memory
        if "moments" not in memory:
            memory["moments"] = torch.zeros(len(row), *features.shape, dtype=torch.float32, device=features.device)
            memory["products"] = self.ridge * np.eye(len(row))
        for moment, value in zip(memory["moments"], row.tolist(), strict=True):
            moment.add_(features, alpha=value)
        memory["products"] = memory["products"] + np.outer(row, row)

    def forecast(self, state: BranchState, context: StepContext) -> Values:
        (near,) = super().forecast(state, context)
        weights = np.linalg.solve(state.memory["products"], self.share * self._basis(context))
        total = near.float() * (1 - self.share)
        for weight, moment in zip(weights.tolist(), state.memory["moments"], strict=True):
            total.add_(moment, alpha=weight)
        return (total.to(near.dtype),)

    def _basis(self, context: StepContext) -> np.ndarray:
        """The polynomials at a step, the whole run being -1 to 1."""
        return chebyshev(2 * context.level / context.steps - 1, self.degree)

    def estimate(self, model: VideoModel, request: Request) -> int:
        moments = math.ceil((self.degree + 1) * torch.float32.itemsize / item_bytes(model))
        return self.mechanism_on(model.stacks).stored_bytes(model, request, self.order + 1 + moments, 0)


def chebyshev(x: float, degree: int) -> np.ndarray:
    """The Chebyshev polynomials of the first kind T_0 to T_degree at x in -1..1, as [degree + 1]."""
    return np.cos(np.arange(degree + 1) * math.acos(min(max(x, -1.0), 1.0)))


@lru_cache(maxsize=64)
def computed_steps(count: int, warmup: int, window: float, growth: float) -> frozenset[int]:
    """The steps of `count` that are computed: the first `warmup` ones, then each that lies the window's whole part
    behind the last one, the window growing with each (appendix B.1 of the paper)."""
    steps, last = [*range(min(warmup, count))], warmup - 1
    for step in range(warmup, count):
        if step - last >= math.floor(window):
            steps.append(step)
            last, window = step, round(window + growth, 3)
    return frozenset(steps)
