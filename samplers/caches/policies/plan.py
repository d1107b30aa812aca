"""A fixed plan of the steps that are computed, and between them a forecast of the x0 prediction.

What is forecast is the x0 that the guided prediction points to: it moves least from step to step, and a skipped step
runs no forward pass at all. How far it moves on from the last two computed ones is known from the calibration, by least
squares; without one it is that of a smooth curve over the log-SNR, in which DPM-Solver++ forecasts too (Lu et al. 2022,
arXiv 2211.01095). That a plan can be optimised beforehand is LeMiCa's idea (2025, arXiv 2511.00090).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import ClassVar

import numpy as np

from ....loaders.denoiser import Denoiser
from ....loaders.messages import InputError, inputs_named, message
from ....loaders.notices import stop_if_asked
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ...solvers import prediction_count
from ..course import longest_gap
from ..mechanisms.guided import Guided
from ..policy import Policy
from ..state import BranchState, Slopes, StepContext, excess
from ..store import Gram, key_of, match, read, stale

Grams = tuple[tuple[str, tuple[Gram, ...]], ...]  # (expert, scalar products of its steps' x0, for each run)
STEEPEST = 3.0  # slope that a forecast follows
REACH = 4.0  # of the log-SNR over which x0 predictions are alike where nothing is calibrated
GROWTH = 2.0  # of errors at pure noise, as an exponent; of 0, 2 and 4 the best on tiny_ltx and tiny_wan
MANY = 60  # steps above which a gap has a longest one: the time to plan grows with the third power of gaps
EDGE = 1e-3  # keeps the log-SNR finite at pure noise and at none


@dataclass(frozen=True, kw_only=True)
class Plan(Policy):
    """speed: steps over computed steps, about.

    grams: from a calibration; an expert without one gets a plan for x0 predictions that differ by the distance of their
        log-SNR alone.
    """

    speed: float = 2.0
    order: int = 1
    grams: Grams = ()

    title: ClassVar[str] = "plan"
    position: ClassVar[int | None] = 1
    tooltip: ClassVar[str] = "the best picture at the same speed"
    mechanism = Guided

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        return context.step in context.slopes

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        count = prediction_count(model, request)
        if not 1 <= self.speed <= count:
            rule = message("run_has_predictions", count=count)
            raise InputError("speed", self.speed, rule, message("use_speed", most=min(count, 4)))
        if self.grams or self.speed == 1:
            return self, ()
        checkpoint = model.recipe.files["checkpoint"]
        record, differs = match(read(checkpoint), key_of(model, request))
        if record is None:
            values = {"variant": model.variant, "steps": request.steps, "sampler": request.sampler}
            if stale(checkpoint):
                return self, (message("planned_by_noise_other", **values),)
            return self, (message("planned_by_noise", **values),)
        notes = (message("calibration_differs_plan", names=inputs_named(*differs)),) if differs else ()
        return replace(self, grams=tuple(record.grams.items())), notes

    def count_cached(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        """As many as the plan has; more where its range, warm-up or longest row does not let it skip what it would."""
        planned = min(len(steps), max(budget(len(steps), self.speed), self.order + 2))
        return planned, planned if self.is_free else len(steps)

    @property
    def is_free(self) -> bool:
        """Whether its options let it skip whatever it would."""
        return (self.start, self.end, self.longest) == (0.0, 1.0, 0) and self.warmup <= self.order + 1

    def grams_of(self, part: str, count: int) -> tuple[Gram, ...]:
        """What a calibration knows of an expert with so many steps; nothing, where there is none of it."""
        return next((runs for name, runs in self.grams if name == part and len(runs[0]) == count), ())

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> Slopes:
        grams = self.grams_of(part, len(steps))
        places = tuple(place(denoiser, i) for i in steps)
        weights = tuple(weight(denoiser, i) for i in steps)
        pairs = _planned(grams, places, weights, budget(len(steps), self.speed), self.order)
        return {steps.start + i: slope for i, slope in pairs}


@lru_cache(maxsize=64)
def _planned(
    grams: tuple[Gram, ...], places: tuple[float, ...], weights: tuple[float, ...], computed: int, order: int
) -> tuple[tuple[int, float], ...]:
    """(skipped step, its slope) of a plan."""
    products = gram_matrices(grams, places)
    return tuple(slopes(products, best_steps(products, list(weights), computed, order), order).items())


def gram_matrices(grams: tuple[Gram, ...], places: tuple[float, ...]) -> np.ndarray:
    """Scalar products [runs, n, n] of x0 predictions; without a calibration of some that are alike over REACH."""
    apart = np.subtract.outer(places, places) / REACH
    return np.array(grams) if grams else np.exp(-0.5 * apart**2)[None]


def budget(count: int, speed: float) -> int:
    """How many of `count` steps are computed at this speed."""
    return min(count, max(2, round(count / speed)))


def level(denoiser: Denoiser, step: int) -> tuple[float, float]:
    """(alpha_t, sigma_t) of a step's latents; where they grow with the noise, of them scaled to variance one."""
    alpha, sigma = denoiser.alpha_sigma(step)
    scale = excess(alpha, sigma)
    return alpha / scale, sigma / scale


def place(denoiser: Denoiser, step: int) -> float:
    """The log-SNR of a step's latents, half of it, as DPM-Solver counts."""
    alpha, sigma = level(denoiser, step)
    return math.log((alpha + EDGE) / (sigma + EDGE))


def weight(denoiser: Denoiser, step: int, growth: float = GROWTH) -> float:
    """How much an error of a prediction's x0 counts. growth: of errors at pure noise, as an exponent.

    How far it moves the latents of the next noise level, x' = a' x0 + s' (x - a x0) / s, times how much it grows until
    the end, the more the more noise is left. A solver may ask for two predictions at one level.
    """
    levels = denoiser.schedule.sigmas
    last = len(levels) - 1
    following = next((i for i in range(step + 1, last) if levels[i] != levels[step]), last)
    (alpha, sigma), (after, left) = level(denoiser, step), level(denoiser, following)
    return abs(after - left * alpha / max(sigma, EDGE)) * math.exp(growth * sigma)


def slope(grams: np.ndarray, before: int, at: int, of: int) -> float:
    """By how much of the change from `before` to `at` the x0 of step `of` lies further on.

    The least squares, (x_of - x_at) . (x_at - x_before) / |x_at - x_before|^2, by scalar products [runs, n, n]; the
    median of the runs.
    """
    along = grams[:, of, at] - grams[:, of, before] - grams[:, at, at] + grams[:, at, before]
    length = grams[:, at, at] + grams[:, before, before] - 2 * grams[:, at, before]
    return float(np.median(np.clip(along / np.maximum(length, 1e-12), 0.0, STEEPEST)))


def missed(grams: np.ndarray, before: int | None, at: int, of: int) -> float:
    """Squared error of the forecast of step `of` from computed steps, |x_of - x_at - slope (x_at - x_before)|^2.

    The median of the runs, so that one that went astray counts for nothing.
    """
    weights = np.zeros(grams.shape[1])
    weights[of], weights[at] = 1.0, -1.0
    if before is not None:
        ratio = slope(grams, before, at, of)
        weights[at] -= ratio
        weights[before] += ratio
    return max(float(np.median(grams @ weights @ weights)), 0.0)


def slopes(grams: np.ndarray, computed: tuple[int, ...], order: int) -> Slopes:
    """The steps that are not computed, each with its slope."""
    result: Slopes = {}
    for of in sorted({*range(grams.shape[1])} - {*computed}):
        earlier = [i for i in computed if i < of]
        follow = order > 0 and len(earlier) > 1
        result[of] = slope(grams, earlier[-2], earlier[-1], of) if follow else 0.0
    return result


def best_steps(grams: np.ndarray, weights: list[float], computed: int, order: int) -> tuple[int, ...]:
    """The `computed` steps whose forecasts of the others have the least weighted squared error.

    The first ones, which a forecast needs, and the last are among them. Dynamic programming over the last two.
    """
    count, head = grams.shape[1], order + 1
    if computed >= count or count <= head:
        return tuple(range(count))
    computed = max(computed, head + 1)
    errors: dict[tuple[int | None, int, int], float] = {}

    def error(before: int | None, at: int, of: int) -> float:
        if (before, at, of) not in errors:
            errors[before, at, of] = weights[of] ** 2 * missed(grams, before, at, of)
        return errors[before, at, of]

    def price(before: int, at: int, to: int) -> float:
        known = before if order and before >= 0 else None
        return sum(error(known, at, of) for of in range(at + 1, to))

    return cheapest(price, count, computed, head, count if count <= MANY else longest_gap(count, computed))


def cheapest(
    price: Callable[[int, int, int], float], count: int, computed: int, head: int, longest: int
) -> tuple[int, ...]:
    """The cheapest steps, by (price, steps) of the best choice that ends in each pair of steps.

    longest: the most skipped steps between two of them.
    """
    best: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {(head - 2, head - 1): (0.0, tuple(range(head)))}
    for left in range(computed - head, 0, -1):
        longer: dict[tuple[int, int], tuple[float, tuple[int, ...]]] = {}
        for (before, at), (total, steps) in best.items():
            stop_if_asked()
            farthest = min(count - left, at + longest + 1)
            for to in range(at + 1 if left > 1 else count - 1, farthest + 1):
                cost = total + price(before, at, to)
                if (at, to) not in longer or cost < longer[at, to][0]:
                    longer[at, to] = cost, (*steps, to)
        best = longer
    return min(best.values(), key=lambda each: each[0])[1]
