"""What caches count with: where a forward pass is, what a branch remembers, and the forecast of what is stored."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from .course import Course

Values = tuple[Tensor, ...]
Slopes = dict[int, float]  # skipped step -> by how much of the last change its values lie further on


@dataclass(frozen=True)
class StepContext:
    """Where a forward pass is.

    part, branch: its network and its branch of guidance.
    step, steps: of the whole run.
    index, count: of the steps of its expert.
    slopes: the skipped steps that the policy has chosen before the first one.
    level: the noise level, counted as steps are: Heun asks twice at most of them.
    course: that chooses them as the run goes, in place of `slopes`.
    number: of the forward pass among those of its branch in this step.
    """

    part: str
    branch: str
    step: int
    steps: int
    index: int
    count: int
    slopes: Slopes = field(default_factory=dict)
    level: int = 0
    course: Course | None = None
    number: int = 0

    @property
    def slope(self) -> float:
        """Of this step's forecast."""
        return self.slopes[self.step] if self.course is None else self.course.slope(self.step)


@dataclass
class BranchState:
    """What one branch of one expert remembers.

    history: (noise level, values) of the computed steps, the newest last.
    reuses: how many steps in a row were reused.
    total: what a policy has added up since the last computed step.
    signal: what the next step's signal is compared with.
    distance: how far the signal has moved, still on the card.
    pending: other numbers that the policy will look at, still on the card.
    numbers: those that were read.
    memory: what one policy or mechanism alone needs.
    """

    history: list[tuple[float, Values]] = field(default_factory=list)
    reuses: int = 0
    total: float = 0.0
    signal: Tensor | None = None
    distance: Tensor | None = None
    pending: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    @property
    def bytes(self) -> int:
        """Of all tensors that the branch stores."""
        tensors = [tensor for _, values in self.history for tensor in values]
        tensors += [value for value in (self.signal, *self.memory.values()) if isinstance(value, Tensor)]
        return sum(tensor.nbytes for tensor in tensors)


def excess(alpha: float, sigma: float) -> float:
    """How many times as large latents alpha * x0 + sigma * noise are as those of variance one, where they grow with the
    noise (EDM); else 1."""
    return max(math.hypot(alpha, sigma), 1.0)


def forecast(history: list[tuple[float, Values]], level: float, order: int) -> Values:
    """The stored values at another noise level: the newest, or the polynomial through the newest order + 1.

    Of two predictions at one level the newer counts: they tell nothing of the change between levels.
    """
    points = list({at: (at, values) for at, values in history[-(order + 1) :]}.values())
    if len(points) == 1:
        return points[-1][1]
    levels = [at for at, _ in points]
    weights = [_lagrange(levels, i, level) for i in range(len(points))]
    return tuple(_weighted(weights, values) for values in zip(*(v for _, v in points), strict=True))


def _weighted(weights: list[float], values: Values) -> Tensor:
    """The weighted sum of one tensor's stored values."""
    return weights[0] * values[0] + sum(w * v for w, v in zip(weights[1:], values[1:], strict=True))


def _lagrange(levels: list[float], i: int, level: float) -> float:
    """The weight of point i in Lagrange's polynomial at a noise level."""
    weight = 1.0
    for j, other in enumerate(levels):
        if j != i:
            weight *= (level - other) / (levels[i] - other)
    return weight


def extrapolate(history: list[tuple[float, Values]], slope: float) -> Values:
    """The newest values, and `slope` times their change since the ones before."""
    if len(history) < 2 or not slope:
        return history[-1][1]
    return tuple(new + slope * (new - old) for new, old in zip(history[-1][1], history[-2][1], strict=True))


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Relative L1 distance of a from b, mean |a - b| / mean |b| (TeaCache, arXiv 2411.19108, eq. 4), on the card."""
    a, b = a.float(), b.float()
    return (a - b).abs().mean() / b.abs().mean().clamp(min=1e-12)
