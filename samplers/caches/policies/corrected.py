"""A fixed plan whose skipped steps are taken again, their x0 interpolated, once the next one is computed.

The plan is the one whose interpolations miss least. What the forecast misses counts too, but only by what the network's
answer to slightly wrong latents carries on of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ....loaders.denoiser import Denoiser
from ..state import Between, Slopes
from .plan import Gram, Plan, budget, cheapest, gram_matrices, missed, place, slopes, weight

SHARE = 0.1  # of a forecast's squared error that counts beside that of the interpolation
RIDGE = 1e-9  # of the squared length of the last x0


@dataclass(frozen=True, kw_only=True)
class Corrected(Plan):
    """A plan with a corrector."""

    title: ClassVar[str] = "corrected plan"
    position: ClassVar[int | None] = 0
    tooltip: ClassVar[str] = "a plan that takes skipped steps again once the next one is computed"

    @property
    def stored_values(self) -> int:
        """Two computed steps before a gap and the one behind it."""
        return 3

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> Slopes:
        places, weights = _along(denoiser, steps)
        count = budget(len(steps), self.speed)
        computed = _best(self.grams_of(part, len(steps)), places, weights, count, self.order)
        products = gram_matrices(self.grams_of(part, len(steps)), places)
        return {steps.start + i: slope for i, slope in slopes(products, computed, self.order).items()}

    def between(self, denoiser: Denoiser, part: str, steps: range) -> Between:
        products = gram_matrices(self.grams_of(part, len(steps)), _along(denoiser, steps)[0]).mean(0)
        return lambda of, basis: interpolation(products, of - steps.start, tuple(i - steps.start for i in basis))


def _along(denoiser: Denoiser, steps: range) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(place(denoiser, i) for i in steps), tuple(weight(denoiser, i) for i in steps)


def interpolation(gram: np.ndarray, of: int, basis: tuple[int, ...]) -> tuple[float, ...]:
    """Weights of the x0 of computed steps that come closest to that of step `of`: least squares by scalar products
    [n, n] under a sum of 1, which is kriging with them as its kernel."""
    k = len(basis)
    system, right = np.ones((k + 1, k + 1)), np.ones(k + 1)
    system[:k, :k] = gram[np.ix_(basis, basis)] + RIDGE * np.eye(k)
    system[k, k], right[:k] = 0, gram[list(basis), of]
    return tuple(np.linalg.solve(system, right)[:k].tolist())


def missed_between(grams: np.ndarray, of: int, basis: tuple[int, ...]) -> float:
    """Squared error of the interpolation of step `of`, the median of the runs [runs, n, n]."""
    weights = np.zeros(grams.shape[1])
    weights[of] = 1.0
    weights[list(basis)] -= interpolation(grams.mean(0), of, basis)
    return max(float(np.median(grams @ weights @ weights)), 0.0)


@lru_cache(maxsize=64)
def _best(
    grams: tuple[Gram, ...], places: tuple[float, ...], weights: tuple[float, ...], computed: int, order: int
) -> tuple[int, ...]:
    """The `computed` steps between which the others are missed least. Dynamic programming over the last two."""
    products, count, head = gram_matrices(grams, places), len(places), order + 1
    if computed >= count or count <= head:
        return tuple(range(count))

    def price(before: int, at: int, to: int) -> float:
        known = (before, at) if before >= 0 else (at,)
        earlier = before if order and before >= 0 else None
        return sum(
            weights[of] ** 2 * (missed_between(products, of, (*known, to)) + SHARE * missed(products, earlier, at, of))
            for of in range(at + 1, to)
        )

    return cheapest(lru_cache(maxsize=None)(price), count, max(computed, head + 1), head)
