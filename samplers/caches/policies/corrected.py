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
from .plan import EDGE, Gram, Plan, budget, cheapest, gram_matrices, missed, place, slopes, weight

RIDGE = 1e-9  # of the squared length of the last x0
# How far a network's x0 moves with its latents, |dx0| / |dx|, is near .2 + .25 / alpha_t on both models of
# bench/caches.py; a plan counts on four times as much, since prompts differ
LEAST, AT_NOISE = 0.8, 1.0
COPIED = 0.55  # of alpha_t^2: the share of a move of its latents that x0 makes along with them, measured there too


@dataclass(frozen=True, kw_only=True)
class Corrected(Plan):
    """A plan with a corrector."""

    title: ClassVar[str] = "corrected plan"
    position: ClassVar[int | None] = 2
    tooltip: ClassVar[str] = "a plan that takes skipped steps again once the next one is computed"

    def copied(self, alpha: float) -> float:
        return COPIED * alpha**2

    @property
    def stored_values(self) -> int:
        """Two computed steps before a gap and the one behind it."""
        return 3

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> Slopes:
        levels = _levels(denoiser, steps)
        grams, count = self.grams_of(part, len(steps)), budget(len(steps), self.speed)
        computed = _best(grams, levels, count, self.order)
        return {steps.start + i: s for i, s in slopes(products_of(grams, levels), computed, self.order).items()}

    def between(self, denoiser: Denoiser, part: str, steps: range) -> Between:
        gram = typical(products_of(self.grams_of(part, len(steps)), _levels(denoiser, steps)))
        return lambda of, basis: interpolation(gram, of - steps.start, tuple(i - steps.start for i in basis))


Level = tuple[float, float, float, float]  # place, weight, alpha_t, sigma_t


def _levels(denoiser: Denoiser, steps: range) -> tuple[Level, ...]:
    return tuple((place(denoiser, i), weight(denoiser, i), *denoiser.alpha_sigma(i)) for i in steps)


def products_of(grams: tuple[Gram, ...], levels: tuple[Level, ...]) -> np.ndarray:
    return gram_matrices(grams, tuple(level[0] for level in levels))


def typical(grams: np.ndarray) -> np.ndarray:
    """The mean of the runs' scalar products [n, n], each counted by how smooth its x0 is from step to step: that of a
    run that went astray jumps to and fro, and would decide every weight."""
    bends = [
        np.array([1.0, -2.0, 1.0]) @ grams[:, i - 1 : i + 2, i - 1 : i + 2] @ (1.0, -2.0, 1.0)
        for i in range(1, grams.shape[1] - 1)
    ]
    return np.average(grams, axis=0, weights=1 / np.maximum(np.median(bends, axis=0), RIDGE))


def interpolation(gram: np.ndarray, of: int, basis: tuple[int, ...]) -> tuple[float, ...]:
    """Weights of the x0 of computed steps that come closest to that of step `of`: least squares by scalar products
    [n, n] under a sum of 1, which is kriging with them as its kernel."""
    k = len(basis)
    system, right = np.ones((k + 1, k + 1)), np.ones(k + 1)
    system[:k, :k] = gram[np.ix_(basis, basis)] + RIDGE * np.eye(k)
    system[k, k], right[:k] = 0, gram[list(basis), of]
    return tuple(np.linalg.solve(system, right)[:k].tolist())


def missed_between(grams: np.ndarray, gram: np.ndarray, of: int, basis: tuple[int, ...]) -> float:
    """Squared error of the interpolation of step `of`, the median of the runs [runs, n, n]."""
    weights = np.zeros(grams.shape[1])
    weights[of] = 1.0
    weights[list(basis)] -= interpolation(gram, of, basis)
    return max(float(np.median(grams @ weights @ weights)), 0.0)


@lru_cache(maxsize=64)
def _best(grams: tuple[Gram, ...], levels: tuple[Level, ...], computed: int, order: int) -> tuple[int, ...]:
    """The `computed` steps between which the others are missed least. Dynamic programming over the last two."""
    products, count, head = products_of(grams, levels), len(levels), order + 1
    if computed >= count or count <= head:
        return tuple(range(count))

    gram = typical(products)

    def price(before: int, at: int, to: int) -> float:
        gap, known = range(at + 1, to), (before, at) if before >= 0 else (at,)
        between = sum(levels[of][1] ** 2 * missed_between(products, gram, of, (*known, to)) for of in gap)
        earlier = before if order and before >= 0 else None
        moved = sum(_reach(levels, of, to) * missed(products, earlier, at, of) ** 0.5 for of in gap)
        _, important, alpha, _ = levels[to]
        return between + (important * (LEAST + AT_NOISE / max(alpha, EDGE)) * moved) ** 2

    return cheapest(lru_cache(maxsize=None)(price), count, max(computed, head + 1), head)


def _reach(levels: tuple[Level, ...], of: int, to: int) -> float:
    """By how much an error of the x0 of step `of` moves the latents of step `to`, as Euler and DDIM step."""
    (_, _, alpha, sigma), (_, _, alpha_next, sigma_next), (*_, sigma_to) = levels[of], levels[of + 1], levels[to]
    return abs(alpha_next - sigma_next * alpha / max(sigma, EDGE)) * sigma_to / max(sigma_next, EDGE)
