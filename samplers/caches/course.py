"""The course of a corrected run: which steps are computed, and how far its forecasts miss.

Prices are squared errors of the video at the end, in units of its squared length. Of a gap it is what the interpolation
of its steps misses, and what the network answers to the latents that the forecasts have moved.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

RIDGE = 1e-9  # of the squared length of the last x0
EDGE = 1e-3  # keeps shares finite at pure noise and at none
STEEPEST = 3.0  # slope that a forecast follows
LONGEST = 12  # skipped steps in a row that every course may have
MISS = "miss"  # name of a number that is read from the card
FAR = 2.5  # surprise in a gap of usual price, from which it is gone through again with one more step computed
ALL = 5.0  # such a surprise, from which all of its steps are
LOST = 4  # gaps that missed so far, after which all steps are computed
SEEN = 55.0  # dB: a gap that moves the video by less alone is not gone through again
# PSNR of the frames over the signal to error of a course, in dB: the median of bench/caches.json is 0.8 more
FRAMES = 25.0
SMALL = 0.1  # surprise, under which it is not believed
NEAR = 45.0  # dB that a calibration must expect of a short run; what such runs have is in docs/caches.md

Level = tuple[float, float, float]  # weight, alpha_t, sigma_t
Gram = tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Known:
    """What is known of an expert's steps before a run.

    grams: scalar products of x0, for each run [n, n].
    levels: of each step.
    reach: how far x0 moves with the latents, |dx0| / |dx|, at each step.
    order: of the forecast.
    longest: most skipped steps in a row.
    measured: whether a calibration tells it.
    """

    grams: tuple[Gram, ...]
    levels: tuple[Level, ...]
    reach: tuple[float, ...]
    order: int
    longest: int
    measured: bool = True


def typical(grams: np.ndarray) -> np.ndarray:
    """The mean of the runs' scalar products [n, n], each counted by how smooth its x0 is from step to step: that of a
    run that went astray jumps to and fro, and would decide every weight."""
    bend = np.array([1.0, -2.0, 1.0])
    bends = [bend @ grams[:, i - 1 : i + 2, i - 1 : i + 2] @ bend for i in range(1, grams.shape[1] - 1)]
    return (
        np.average(grams, axis=0, weights=1 / np.maximum(np.median(bends, axis=0), RIDGE)) if bends else grams.mean(0)
    )


def interpolations(gram: np.ndarray, of: Sequence[int], bases: np.ndarray) -> np.ndarray:
    """Weights [..., k, len(of)] of the x0 of computed steps `bases` [..., k] that come closest to those of the steps
    `of`: least squares by scalar products [n, n] under a sum of 1, which is kriging with them as its kernel."""
    k = bases.shape[-1]
    system, right = np.ones((*bases.shape[:-1], k + 1, k + 1)), np.ones((*bases.shape[:-1], k + 1, len(of)))
    system[..., :k, :k] = gram[bases[..., :, None], bases[..., None, :]] + RIDGE * np.eye(k)
    system[..., k, k] = 0
    right[..., :k, :] = gram[bases[..., :, None], list(of)]
    return np.linalg.solve(system, right)[..., :k, :]


def _missed(grams: np.ndarray, of: Sequence[int], bases: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Squared errors [..., len(of)] of weighted sums of x0: the median of the runs [runs, n, n]."""
    square = grams[:, bases[..., :, None], bases[..., None, :]]
    cross = grams[:, bases[..., :, None], list(of)]
    own = grams[:, list(of), list(of)].reshape(len(grams), *[1] * (bases.ndim - 1), len(of))
    between = np.einsum("...kf,r...kl,...lf->r...f", weights, square, weights)
    errors = own - 2 * np.einsum("...kf,r...kf->r...f", weights, cross) + between
    return np.maximum(np.median(errors, axis=0), 0.0)


def steepness(grams: np.ndarray, before: int, at: int, of: np.ndarray) -> np.ndarray:
    """By how much of the change from `before` to `at` the x0 of the steps `of` lie further on [len(of)]: the median of
    the runs' least squares."""
    along = grams[:, of, at] - grams[:, of, [before]] - grams[:, [at], at] + grams[:, [at], before]
    length = grams[:, at, at] + grams[:, before, before] - 2 * grams[:, at, before]
    return np.median(np.clip(along / np.maximum(length, 1e-12)[:, None], 0.0, STEEPEST), axis=0)


def moved(levels: Sequence[Level], of: int, to: int) -> float:
    """By how much an error of the x0 of step `of` moves the latents of step `to`, as Euler and DDIM step."""
    (_, alpha, sigma), (_, alpha_next, sigma_next), (*_, sigma_to) = levels[of], levels[of + 1], levels[to]
    return abs(alpha_next - sigma_next * alpha / max(sigma, EDGE)) * sigma_to / max(sigma_next, EDGE)


def longest_gap(count: int, computed: int) -> int:
    """Most skipped steps in a row of a course that computes so many of `count`: twice as many as of an even one."""
    return min(count, max(LONGEST, 2 * -(-count // max(computed - 2, 1))))


class Map:
    """All gaps of an expert's steps with their prices, and the cheapest way on from everywhere.

    A place is (at, back): the newest computed step, and how many steps before it the one before lies, 0 for none.
    """

    def __init__(self, known: Known) -> None:
        self.known, self.grams = known, np.array(known.grams)
        self.gram, self.count, self.span = typical(self.grams), len(known.levels), known.longest + 1
        places = self.count, self.span + 1, self.span + 1  # at, back, on
        self.prices = np.full(places, np.inf)
        self._expected, self._slopes = np.full(places, np.nan), np.full(places, np.nan)  # nan: not asked for yet
        for at in range(self.count - 1):
            for back in range(min(self.span, at) + 1):
                self._price(at, back)
        self.ahead = self._ways()

    def _price(self, at: int, back: int) -> None:
        """Fill in what the gaps after a place cost."""
        known, levels = self.known, self.known.levels
        ends = np.arange(at + 1, min(at + self.span, self.count - 1) + 1)
        gap = ends[:-1]
        self.prices[at, back, 1] = 0.0
        if not len(gap):
            return
        basis = [at - back, at] if back else [at]
        bases = np.array([[*basis, end] for end in ends[1:]])
        between = _missed(self.grams, gap.tolist(), bases, interpolations(self.gram, gap.tolist(), bases))
        forecast = self.forecast_missed(at, back, gap) ** 0.5
        importance = np.array([levels[of][0] ** 2 for of in gap])
        for row, end in zip(between, ends[1:], strict=True):
            inside = end - at - 1
            carried = sum(moved(levels, of, end) * miss for of, miss in zip(gap[:inside], forecast, strict=False))
            answered = (levels[end][0] * known.reach[end] * carried) ** 2
            self.prices[at, back, end - at] = float(importance[:inside] @ row[:inside]) + answered

    def forecast_missed(self, at: int, back: int, of: np.ndarray) -> np.ndarray:
        """Squared errors of the forecasts of the steps `of` from a place, the median of the runs."""
        return np.maximum(np.median(self._forecast_errors(at, back, of), axis=0), 0.0)

    def _forecast_errors(self, at: int, back: int, of: np.ndarray) -> np.ndarray:
        """The same of each run [runs, len(of)]."""
        weights = np.zeros((len(of), self.count))
        weights[np.arange(len(of)), of] = 1.0
        weights[:, at] -= 1.0
        if back and self.known.order:
            slopes = steepness(self.grams, at - back, at, of)
            weights[:, at] -= slopes
            weights[:, at - back] += slopes
        return np.einsum("fi,rij,fj->rf", weights, self.grams, weights)

    def expected(self, at: int, back: int, of: int) -> float:
        """How far the forecast of step `of` misses, in lengths of its x0."""
        on = min(of - at, self.span)
        if np.isnan(self._expected[at, back, on]):
            self._expected[at, back, on] = np.median(self.misses(at, back, of))
        return float(self._expected[at, back, on])

    def slope(self, at: int, back: int, of: int) -> float:
        """By how much of the change from the computed step before to `at` the x0 of step `of` lies further on."""
        on = min(of - at, self.span)
        if np.isnan(self._slopes[at, back, on]):
            self._slopes[at, back, on] = steepness(self.grams, at - back, at, np.array([of]))[0]
        return float(self._slopes[at, back, on])

    def misses(self, at: int, back: int, of: int) -> np.ndarray:
        """The same of each run [runs], by the slopes of the others."""
        runs = range(len(self.grams))
        weights = np.zeros((len(runs), self.count))
        weights[:, of] = 1.0
        weights[:, at] -= 1.0
        if back and self.known.order:
            others = lambda run: self.grams[[other for other in runs if other != run] or [run]]
            slopes = [float(steepness(others(run), at - back, at, np.array([of]))[0]) for run in runs]
            weights[:, at] -= slopes
            weights[:, at - back] += slopes
        errors = np.einsum("ri,rij,rj->r", weights, self.grams, weights)
        return np.sqrt(np.maximum(errors, RIDGE) / np.maximum(self.grams[:, of, of], RIDGE))

    def _ways(self) -> np.ndarray:
        """The least price [computed, at, back] of all gaps from a place to the end with so many computed steps to come.
        Dynamic programming from the end."""
        ways = np.full((self.count + 1, self.count, self.span + 1), np.inf)
        ways[0, self.count - 1] = 0.0
        for left in range(1, self.count + 1):
            for at in range(self.count - 1):
                ways[left, at] = self._onwards(ways[left - 1], at).min(axis=1)
        return ways

    def _onwards(self, ways: np.ndarray, at: int) -> np.ndarray:
        """Price [back, on - 1] of all ways from a place, by the next computed step."""
        on = np.arange(1, min(self.span, self.count - 1 - at) + 1)
        return self.prices[at][:, on] + ways[at + on, on]

    def least(self, computed: int) -> float:
        """The price of the cheapest way of so many computed steps, whose first ones a forecast needs."""
        head = self.known.order + 1
        return float(self.ahead[computed - head, head - 1, head - 1]) if head < computed < self.count else 0.0

    def following(self, at: int, back: int, left: int) -> int:
        """The next computed step on the cheapest way with so many to come."""
        return at + 1 + int(self._onwards(self.ahead[left - 1], at)[back].argmin())


@lru_cache(maxsize=32)
def map_of(known: Known) -> Map:
    """The map of what is known."""
    return Map(known)


@dataclass
class Course:
    """The way of one run through an expert's steps.

    left: computed steps to come.
    start: the first of the steps in the run; what is kept here counts from it on.
    computed: the steps behind.
    following: the next one.
    prices, surprises: of the gap before each computed step, and how far its forecast missed over the expected miss;
        None: not known.
    expected: that miss of the newest, in lengths of its x0.
    until: the step up to which all are computed.
    usual: price of a gap of the plan, their mean.
    near: dB that the calibration must expect of it.
    asked, planned: how many steps were to be computed, and how many were planned so that it does.
    rejected: how often a computed step was thrown away because its forecast had missed too far.
    """

    map: Map
    left: int
    start: int = 0
    computed: list[int] = field(default_factory=list)
    following: int = 0
    prices: list[float] = field(default_factory=list)
    surprises: list[float | None] = field(default_factory=list)
    expected: float = 1.0
    rejected: int = 0
    until: int = 0
    usual: float = 0.0
    near: float = -math.inf
    asked: int = 0
    planned: int = 0

    @property
    def place(self) -> tuple[int, int]:
        """(newest computed step, how many steps before it the one before lies)."""
        at = self.computed[-1]
        return at, min(at - self.computed[-2], self.map.span) if len(self.computed) > 1 else 0

    @property
    def error(self) -> float:
        """The price of all gaps behind, at the misses that were seen: where none was, at their geometric mean."""
        known = [surprise for surprise in self.surprises if surprise is not None]
        usual = float(np.exp(np.mean(np.log(known)))) if known else 1.0
        return sum(
            price * (surprise or usual) ** 2 for price, surprise in zip(self.prices, self.surprises, strict=True)
        )

    def skips(self, step: int) -> bool:
        """Whether a step of the run is not computed."""
        return step - self.start != self.following

    def slope(self, step: int) -> float:
        """By how much of the change between the last two computed steps the x0 of a step of the run lies further on."""
        if len(self.computed) < 2 or not self.map.known.order:
            return 0.0
        before, at = self.computed[-2:]
        return self.map.slope(at, at - before, step - self.start)

    def weights(self, step: int, basis: Sequence[int]) -> tuple[float, ...]:
        """How the x0 of a skipped step of the run lies between computed ones."""
        steps = np.array(basis) - self.start
        return tuple(interpolations(self.map.gram, [step - self.start], steps)[:, 0].tolist())

    def arrive(self, step: int) -> None:
        """A step of the run is computed."""
        step -= self.start
        if self.computed:
            at, back = self.place
            self.prices.append(float(self.map.prices[at, back, min(step - at, self.map.span)]))
            self.surprises.append(None)
            self.expected = self.map.expected(at, back, step)
        self.computed.append(step)
        behind = self.map.count - 1 - step
        self.left -= 1
        if step < self.following and len(self.computed) == step + 1:  # before the range in which steps may be skipped
            self.left = max(self.left, round(behind * self.planned / self.map.count))
        if (
            len(self.computed) <= self.map.known.order
            or self.left >= behind
            or not behind
            or self.lost
            or step < self.until
        ):
            self.following = step + 1
        else:
            self.following = self.map.following(*self.place, max(self.left, 1))

    @property
    def missed_far(self) -> bool:
        """Whether the newest gap has to be gone through with one more step computed in it, as it is far from what is
        usual and would be seen. What is far is known where the calibration has runs to compare."""
        surprise = self.surprises[-1] if self.surprises else None
        if surprise is None or self.place[1] == 1 or not self.map.known.measured or len(self.map.grams) < 2:
            return False
        return self.prices[-1] * surprise**2 > max(self.usual * FAR**2, 10 ** ((FRAMES - SEEN) / 10))

    @property
    def missed_all(self) -> bool:
        """Whether it missed so far that one more step will not do."""
        return self.prices[-1] * (self.surprises[-1] or 0.0) ** 2 > self.usual * ALL**2

    @property
    def lost(self) -> bool:
        """Whether so many gaps missed too far that all other steps are computed."""
        return self.rejected >= LOST

    def reject(self) -> int:
        """Forget the newest computed step; returns the step of the run in the gap before it that is computed next."""
        end, whole = self.computed.pop(), self.missed_all
        self.prices.pop()
        self.surprises.pop()
        self.rejected += 1
        self.left += 2  # the one that is thrown away, and the one in the gap
        at, back = self.place
        if whole:
            self.until, self.left = end, self.left + end - at - 2
            self.following = at + 1
            return self.following + self.start
        prices = self.map.prices
        self.following = min(
            range(at + 1, end), key=lambda by: prices[at, back, by - at] + prices[by, by - at, end - by]
        )
        return self.following + self.start

    def hear(self, numbers: dict[str, float]) -> None:
        """Take what was read from the card of the newest computed step's forecast, where it was."""
        if MISS in numbers:
            self.notice(numbers.pop(MISS))

    def notice(self, miss: float) -> None:
        """How far the forecast of the newest computed step missed, in lengths of its x0."""
        self.surprises[-1] = max(miss / self.expected, SMALL)


def decibels(price: float) -> float:
    """PSNR of the frames, where they moved by so much."""
    return FRAMES - 10 * math.log10(max(price, 1e-9))


def course(known: Known, computed: int, steps: range, near: float = -math.inf) -> Course:
    """The course through an expert's steps of which `computed` are computed. near: dB that a calibration must expect of
    it, by as many more as that takes."""
    ways, head = map_of(known), known.order + 1
    asked = min(max(computed, head + 1), ways.count)
    enough = lambda n: near == -math.inf or (known.measured and decibels(ways.least(n)) >= near)
    planned = next(filter(enough, range(asked, ways.count)), ways.count)
    gaps = max(min(ways.count - planned, planned - head), 1)
    return Course(ways, planned, steps.start, usual=ways.least(planned) / gaps, near=near, asked=asked, planned=planned)
