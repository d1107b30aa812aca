"""A fixed plan of the steps that are computed, and between them a forecast of the clean video, straight in the log-SNR.

What is forecast is the guided prediction, turned into the clean video that it points to: that moves least from step to
step, and a step that is not computed costs no forward at all. The data prediction in the log-SNR is DPM-Solver++'s (Lu et
al. 2022, arXiv 2211.01095); that a plan can be optimised beforehand is LeMiCa's idea (2025, arXiv 2511.00090).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from torch import Tensor

from ...loaders.video_model import InputError, Request, Run, VideoModel
from .policy import At, Policy, State
from .store import key_of, match, read, stale

Grams = tuple[tuple[str, tuple[tuple[float, ...], ...]], ...]  # (expert, scalar products of its steps' clean videos)
REACH = 4.0  # of the log-SNR over which clean videos are alike where nothing is calibrated
GROWTH = 2.0  # of errors at pure noise, as an exponent; of 0, 2 and 4 the best on both models of bench/caches.py
EDGE = 1e-3  # keeps the log-SNR finite at pure noise and at none


@dataclass(frozen=True, kw_only=True)
class Plan(Policy):
    """speed: steps over computed steps, about. grams: from a calibration; an expert without one gets a plan for clean
    videos that differ by the distance of their log-SNR alone."""

    speed: float = 2.0
    order: int = 1
    grams: Grams = ()

    title: ClassVar[str] = "plan"
    level: ClassVar[str] = "guided"

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        return at.step not in at.plan

    def fit(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        if not 1 <= self.speed <= request.steps:
            raise InputError("speed", self.speed, f"The run has {request.steps} steps.", f"Use 1 (computes all) to {min(request.steps, 4)}; 2 is usual.")  # fmt: skip
        if self.grams or self.speed == 1:
            return self, ()
        checkpoint = model.recipe.files["checkpoint"]
        record, differs = match(read(checkpoint), key_of(model, request))
        if record is None:
            other = " The calibration beside it was made for other weights." if stale(checkpoint) else ""
            return self, (f"{model.variant} is not calibrated for {request.steps} steps: they are planned by their noise alone.{other} Calibrate Cache finds better ones.",)  # fmt: skip
        notes = (f"The calibration differs in {', '.join(differs)}: Calibrate Cache makes one for these.",) if differs else ()  # fmt: skip
        return replace(self, grams=tuple(record.grams.items())), notes

    def choose(self, run: Run, part: str, steps: range) -> frozenset[int]:
        """Which steps of an expert are computed."""
        computed = budget(len(steps), self.speed)
        places, weights = [place(run, i) for i in steps], [weight(run, i) for i in steps]
        gram = next((np.array(rows) for name, rows in self.grams if name == part and len(rows) == len(steps)), None)
        if gram is None:
            apart = np.subtract.outer(places, places) / REACH
            gram = np.exp(-0.5 * apart**2)
        return frozenset(steps.start + i for i in best_steps(gram, places, weights, computed, self.order))


def budget(count: int, speed: float) -> int:
    """How many of `count` steps are computed at this speed."""
    return min(count, max(2, round(count / speed)))


def place(run: Run, step: int) -> float:
    """The log-SNR of a step's latents, half of it, as DPM-Solver counts."""
    alpha, sigma = run.mixture(step)
    return math.log((alpha + EDGE) / (sigma + EDGE))


def weight(run: Run, step: int) -> float:
    """How much an error of a step's clean video counts: how far it moves the next latents, x' = a' x0 + s' (x - a x0) / s,
    times how much it grows on the way to the end, the more the more noise is left."""
    (alpha, sigma), (after, left) = run.mixture(step), run.mixture(step + 1)
    return abs(after - left * alpha / max(sigma, EDGE)) * math.exp(GROWTH * sigma)


def missed(gram: np.ndarray, places: list[float], points: tuple[int, ...], at: int) -> float:
    """Squared error of the forecast of step `at` from computed steps: |x_at - sum w_i x_i|^2, by scalar products."""
    weights = np.zeros(len(gram))
    weights[at] = 1.0
    for i in points:
        weights[i] -= math.prod((places[at] - places[j]) / (places[i] - places[j]) for j in points if j != i)
    return max(float(weights @ gram @ weights), 0.0)


def best_steps(gram: np.ndarray, places: list[float], weights: list[float], computed: int, order: int) -> tuple[int, ...]:  # fmt: skip
    """The `computed` steps whose forecasts of the others have the least weighted squared error.

    The first ones, which a forecast needs, and the last are among them. Dynamic programming over the last two.
    """
    count, head = len(places), order + 1
    if computed >= count or count <= head:
        return tuple(range(count))
    computed = max(computed, head + 1)
    memory: dict[tuple[int, int, int], float] = {}

    def error(before: int, at: int, of: int) -> float:
        key = (before if order else -1, at, of)
        if key not in memory:
            points = (before, at) if order and before >= 0 else (at,)
            memory[key] = weights[of] ** 2 * missed(gram, places, points, of)
        return memory[key]

    return _cheapest(lambda before, at, to: sum(error(before, at, of) for of in range(at + 1, to)), count, computed, head)  # fmt: skip


def _cheapest(price: Callable[[int, int, int], float], count: int, computed: int, head: int) -> tuple[int, ...]:
    start = (head - 2, head - 1)
    reached: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {start: (0.0, tuple(range(head)))}
    for left in range(computed - head, 0, -1):
        following: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (before, at), (total, steps) in reached.items():
            for to in range(at + 1, count - left + 1) if left > 1 else (count - 1,):
                cost = total + price(before, at, to)
                if (at, to) not in following or cost < following[at, to][0]:
                    following[at, to] = cost, (*steps, to)
        reached = following
    return min(reached.values(), key=lambda found: found[0])[1]
