"""The corrector: skipped steps are taken again, whatever the solver remembers and draws, and come out nearer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.request import Guidance, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.calibration import calibrate
from reelwire.samplers.caches.course import (
    ALL,
    FAR,
    FRAMES,
    LOST,
    SEEN,
    Course,
    Known,
    course,
    interpolations,
    longest_gap,
    map_of,
    typical,
)
from reelwire.samplers.caches.policies.corrected import Corrected
from reelwire.samplers.caches.policies.plan import Plan, budget
from reelwire.samplers.caches.report import nearness, report
from reelwire.samplers.caches.state import Slopes
from reelwire.samplers.solvers import TABLES
from reelwire.tests.support.engine.cached_runs import Sampled
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import frames, needed, open_ltx, open_plain
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one
SOLVERS = [
    (name, sampler)
    for name, table in (
        ("tiny-wan2.2-t2v-a14b", "flow"),
        ("tiny-ltx-0.9.5", "distilled flow"),
        ("tiny-mochi", "flow"),
        ("tiny-cogvideox-5b", "zero terminal SNR"),
        ("tiny-svd", "EDM"),
    )
    for sampler in TABLES[table]
    if sampler != "distilled"
]


class EveryThird(Course):
    """Every third step is computed; what is skipped has the x0 of the one before, and again when it is taken again."""

    def skips(self, step: int) -> bool:
        return bool((step - self.start) % 3)

    def slope(self, step: int) -> float:
        return 0.0

    def weights(self, step: int, basis: Sequence[int]) -> tuple[float, ...]:
        before = max(each for each in basis if each < step)
        return tuple(float(each == before) for each in basis)


class OneMoreInEachGap(EveryThird):
    """Every third step, and by going back the one before it too."""

    more: int = -1

    def skips(self, step: int) -> bool:
        return super().skips(step) and step - self.start != self.more

    @property
    def missed_far(self) -> bool:
        end = self.computed[-1]
        return end % 3 == 0 and end - 1 not in self.computed and self.place[1] > 1

    def reject(self) -> int:
        self.more = self.computed.pop() - 1
        return self.more + self.start


@dataclass(frozen=True, kw_only=True)
class Held(Plan):
    """The same without a corrector. computed: which steps, of each three."""

    computed: tuple[int, ...] = (0,)

    title: ClassVar[str] = "held"
    position: ClassVar[int | None] = None

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> Slopes:
        return {i: 0.0 for i in steps if (i - steps.start) % 3 not in self.computed}


@dataclass(frozen=True, kw_only=True)
class HeldAgain(Corrected):
    kind: type[EveryThird] = EveryThird
    title: ClassVar[str] = "held again"
    position: ClassVar[int | None] = None

    def course(self, denoiser: Denoiser, part: str, steps: range) -> Course:
        known = super().course(denoiser, part, steps)
        return self.kind(known.map, known.left, steps.start)


@pytest.mark.parametrize(("name", "sampler"), SOLVERS)
def test_steps_that_are_taken_again_with_the_same_x0_come_out_the_same(
    tiny_models: Path, name: str, sampler: str
) -> None:
    """But for rounding: the solver, its scheduler and its noise are where they were, and so is what is given."""
    model = open_plain(tiny_models, name)
    more: dict[str, Any] = {}
    if name == "tiny-ltx-0.9.5":  # noise is drawn on given tokens in every step
        more = {"keyframes": (Keyframe(frames(1), 0), Keyframe(frames(1), -1, 0.5))}
    for held, again in ((Held(), HeldAgain()), (Held(computed=(0, 2)), HeldAgain(kind=OneMoreInEachGap))):
        once, twice = (Sampled(replace(model, cache=cache), sampler=sampler, **more) for cache in (held, again))
        assert (once.latents - twice.latents).norm() < 1e-4 * once.latents.norm()
        assert [e.computed for e in once.entries] == [e.computed for e in twice.entries]
        assert not all(e.computed for e in once.entries)


def test_outside_of_a_mask_the_source_stays(tiny_models: Path) -> None:
    model = open_plain(tiny_models, "tiny-wan2.1-t2v")
    inputs = {**needed(model), "seed": 3, "steps": 12}
    width, height = inputs.get("width", 64), inputs.get("height", 64)
    latents = Sampled(model).latents
    mask = torch.zeros(1, height, width)
    mask[:, :, : width // 2] = 1
    inputs |= {"source": latents, "mask": mask}
    conditioning = model.encode("a red circle", "")
    results = [
        sample(replace(model, cache=cache), conditioning, Request(**inputs)) for cache in (None, Corrected(speed=2.0))
    ]
    outside = latents.shape[-1] // 2 + 1
    for result in results:
        assert torch.equal(result[..., outside:], latents[..., outside:])
    assert not torch.equal(results[0], results[1])


def test_a_straight_line_is_interpolated_exactly() -> None:
    line = np.array([[1.0, t] for t in range(8)])
    for of, basis in ((2, (1, 4)), (3, (0, 2, 5)), (6, (5, 7))):
        weights = interpolations(line @ line.T, [of], np.array(basis))[:, 0]
        assert sum(weights) == pytest.approx(1)
        assert np.dot(weights, basis) == pytest.approx(of, abs=1e-4)


def test_a_run_that_went_astray_decides_nothing() -> None:
    line = np.array([[1.0, t] for t in range(8)])
    noise = np.random.default_rng(0).normal(size=(8, 8)) * 10
    grams = np.stack([line @ line.T, noise @ noise.T, line @ line.T])
    between = lambda gram: float(np.dot(interpolations(gram, [3], np.array((2, 5)))[:, 0], (2, 5)))
    assert between(typical(grams)) == pytest.approx(3, abs=0.01)
    assert abs(between(grams.mean(0)) - 3) > 0.1


def known(count: int, runs: int = 3, order: int = 1, longest: int = 12) -> Known:
    """Runs whose x0 follow smooth curves, more quickly at the start."""
    rng, times = np.random.default_rng(count), np.linspace(0, 1, count) ** 0.5
    waves = [np.cos(np.outer(times, rng.uniform(1, 4, 12)) + rng.uniform(0, 6, 12)) for _ in range(runs)]
    grams = tuple(tuple(map(tuple, (wave @ wave.T / (wave[-1] @ wave[-1])).tolist())) for wave in waves)
    sigmas = np.linspace(1, 0.1, count)
    levels = tuple((0.1, float(1 - sigma), float(sigma)) for sigma in sigmas)
    return Known(grams, levels, tuple(0.8 + 1 / max(1 - float(s), 0.05) for s in sigmas), order, longest)


def walked(way: Course, count: int, before: int = 0) -> tuple[int, ...]:
    """The computed steps; before: those that an option wants computed at the start."""
    for step in range(count):
        if step < before or not way.skips(step + way.start):
            way.arrive(step + way.start)
    return tuple(way.computed)


@pytest.mark.parametrize(
    ("count", "computed", "order"), [(8, 4, 1), (9, 5, 1), (9, 4, 0), (3, 3, 1), (2, 2, 1), (1, 1, 1)]
)
def test_the_course_is_the_cheapest_of_all(count: int, computed: int, order: int) -> None:
    """Of all choices with the first order + 1 steps and the last one."""
    facts, head = known(count, order=order), min(order + 1, count)
    steps = walked(course(facts, computed, range(5, 5 + count)), count)
    assert len(steps) == computed
    prices = map_of(facts).prices

    def price(chosen: tuple[int, ...]) -> float:
        before = (chosen[0], *chosen)
        return sum(prices[at, at - b, to - at] for b, at, to in zip(before, chosen, chosen[1:], strict=False))

    inner = range(head, count - 1)
    choices = [(*range(head), *more, count - 1) for more in combinations(inner, max(computed - head - 1, 0))]
    if count > head:
        assert price(steps) == pytest.approx(min(map(price, choices)))


@pytest.mark.parametrize("speed", [1.25, 2.0, 4.0, 10.0])
@pytest.mark.parametrize("count", [10, 30, 61])
def test_as_many_steps_are_computed_as_were_said(count: int, speed: float) -> None:
    computed = max(budget(count, speed), 3)
    steps = walked(course(known(count, longest=longest_gap(count, computed)), computed, range(count)), count)
    assert len(steps) == computed
    assert (steps[:2], steps[-1]) == ((0, 1), count - 1)


@pytest.mark.parametrize("speed", [1.5, 2.0, 3.0, 4.0])
@pytest.mark.parametrize("before", [3, 6, 9, 15, 21])
def test_steps_before_the_range_are_not_those_behind(before: int, speed: float) -> None:
    """As many of these are computed as the speed asks for, and they lie no further apart than in a whole run."""
    count, computed = 30, budget(30, speed)
    whole, part = (
        walked(course(known(count, longest=longest_gap(count, computed)), computed, range(count)), count, steps)
        for steps in (0, before)
    )
    behind = sum(step >= before for step in part)
    assert behind == pytest.approx((count - before) * computed / count, abs=2)
    assert max(np.diff(part)) <= max(np.diff(whole)) + 1


def test_the_error_grows_with_the_misses() -> None:
    """In squares, and a course of a smooth run is nearer than one of half the steps."""
    facts = known(24)

    def error(computed: int, surprise: float) -> float:
        way = course(facts, computed, range(24))
        for step in range(24):
            if not way.skips(step):
                way.arrive(step)
                if step:
                    way.notice(surprise * way.expected)
        return way.error

    assert error(12, 2.0) == pytest.approx(4 * error(12, 1.0))
    assert error(16, 1.0) < error(8, 1.0)


@pytest.fixture
def all_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Gaps are gone through again however little they move the video."""
    monkeypatch.setattr("reelwire.samplers.caches.course.SEEN", 1e3)


def far_off(count: int, runs: int = 2) -> tuple[tuple[str, tuple[tuple[tuple[float, ...], ...], ...]], ...]:
    """Calibrations of runs whose x0 hardly moves: every forecast misses by far more."""
    rows = np.array([[1.0, 1e-4 * (1 - i / count) ** 3] for i in range(count)])
    return (("transformer", (tuple(map(tuple, (rows @ rows.T).tolist())),) * runs),)


@pytest.mark.usefixtures("all_is_seen")
def test_a_run_that_misses_far_goes_back_and_is_computed_as_a_whole(tiny_models: Path) -> None:
    """And says so; what was thrown away counts, and nobody is told that less was done than before."""
    model = open_plain(tiny_models, "tiny-wan2.1-t2v")
    policy = Corrected(speed=2.0, grams=far_off(12))
    seen: list[int] = []

    class Watched(Sampled):
        def _see(self, done: int, total: int, run: Any) -> None:
            seen.append(done)
            super()._see(done, total, run)

    cached = replace(model, cache=policy)
    plain, run, rerun = Sampled(model, steps=12), Watched(cached, steps=12), Sampled(cached, steps=12)
    assert torch.equal(run.latents, rerun.latents)
    assert seen == sorted(seen)
    assert seen[-1] == 12
    assert [entry.step for entry in run.entries] == list(range(12))
    said = report(run.run.cache)
    assert 0 < said.again == run.run.cache.courses[0].rejected <= LOST
    assert said.ideal == pytest.approx(12 / (sum(e.computed for e in run.entries) + said.again))
    assert [note.key for note in nearness(run.run.cache.courses)] == ["corrected_whole"]
    assert all(entry.computed for entry in run.entries)
    assert torch.equal(run.latents, plain.latents)


@pytest.mark.parametrize(("method", "computed"), [("cfg", [0, 3, 6, 9, 11]), ("cfg-zero*", [0, 1, 3, 6, 9, 11])])
def test_nothing_is_forecast_from_a_prediction_of_zeros(tiny_models: Path, method: str, computed: list[int]) -> None:
    """CFG-Zero*'s first one points to its own noise. What is said is what was done."""
    model = replace(open_plain(tiny_models, "tiny-wan2.1-t2v"), guidance=Guidance(method))
    for policy in (Held(speed=2.0), HeldAgain(speed=2.0)):
        run = Sampled(replace(model, cache=policy), steps=12)
        assert [entry.step for entry in run.entries if entry.computed] == computed
    for speed, count in ((1.0, 12), (2.0, 6), (3.0, 4)):
        run = Sampled(replace(model, cache=Corrected(speed=speed)), steps=12)
        assert run.computed == count
        said = nearness(run.run.cache.courses)
        assert [note.values for note in said] == ([{"count": 12 - count}] if speed > 1 else [])


@pytest.mark.usefixtures("all_is_seen")
@pytest.mark.parametrize(
    "guidance",
    [
        Guidance("apg", momentum=-0.5),
        Guidance("apg", momentum=-0.5, start=0.3),
        Guidance("cfg-zero*"),
        Guidance("tcfg"),
        Guidance("skip-layer", layers=(1,), layer_end=0.6),
    ],
    ids=lambda each: f"{each.method}, {each.start}",
)
def test_guidance_goes_back_too(tiny_models: Path, guidance: Guidance) -> None:
    """Where all of a lost run was computed, its video is the uncached one: nothing that was thrown away counts."""
    model = replace(open_plain(tiny_models, "tiny-wan2.1-t2v"), guidance=guidance)
    run = Sampled(replace(model, cache=Corrected(speed=2.0, grams=far_off(12))), steps=12)
    assert [note.key for note in nearness(run.run.cache.courses)] == ["corrected_whole"]
    assert torch.equal(run.latents, Sampled(model, steps=12).latents)


@pytest.mark.usefixtures("all_is_seen")
@pytest.mark.parametrize(("runs", "goes_back"), [(0, False), (1, False), (2, True)])
def test_what_is_far_is_known_from_several_runs(tiny_models: Path, runs: int, goes_back: bool) -> None:
    model = open_plain(tiny_models, "tiny-wan2.1-t2v")
    run = Sampled(replace(model, cache=Corrected(speed=2.0, grams=far_off(12, runs) if runs else ())), steps=12)
    assert any(entry.again for entry in run.entries) == goes_back


@pytest.mark.parametrize(("runs", "most"), [(0, 6), (1, 6), (2, 12)])
def test_what_may_be_computed_is_known_before(runs: int, most: int) -> None:
    """All of it, where a run may go back."""
    policy = Corrected(speed=2.0, grams=far_off(12, runs) if runs else ())
    assert policy.count_computed("transformer", range(12), 12) == (6, most)


@pytest.mark.parametrize(("surprise", "more"), [(0.5, 0), (0.9 * FAR, 0), (1.1 * FAR, 1), (1.1 * ALL, 2)])
def test_the_gap_of_a_far_miss_is_gone_through_again(surprise: float, more: int) -> None:
    """With its cheapest step, or with all of them; as it is where it missed as usual."""
    facts = known(24)
    way = course(facts, 8, range(100, 124))
    while len(way.computed) < 4:
        way.arrive(way.following + 100)
    *_, before, begin, end = way.computed
    way.prices[-1] = 1.0  # far more than can be seen
    way.usual, left = way.prices[-1], way.left
    way.notice(surprise * way.expected)
    assert way.missed_far == bool(more)
    if not more:
        return
    back, prices = begin - before, map_of(facts).prices
    inside = {by: prices[begin, back, by - begin] + prices[by, by - begin, end - by] for by in range(begin + 1, end)}
    cheapest = min(inside, key=lambda by: inside[by])
    assert way.reject() - 100 == (cheapest if more == 1 else begin + 1)
    assert (way.computed[-1], way.left) == (begin, left + (2 if more == 1 else end - begin))
    if more == 2:
        assert walked(way, 24)[3 : 3 + end - begin] == tuple(range(begin + 1, end + 1))


@pytest.mark.parametrize(("seen", "far"), [(0.9, False), (1.1, True)])
def test_a_gap_that_nobody_would_see_is_left(seen: float, far: bool) -> None:
    """However far its forecast missed."""
    way = course(known(24), 8, range(24))
    while len(way.computed) < 4:
        way.arrive(way.following)
    way.usual, way.prices[-1] = 1e-12, 1e-10
    way.notice(way.expected * (seen * 10 ** ((FRAMES - SEEN) / 10) / 1e-10) ** 0.5)
    assert way.missed_far == far


def test_after_some_far_misses_all_is_computed() -> None:
    way = course(known(24), 8, range(24))
    while not way.lost:
        way.arrive(way.following)
        if len(way.computed) > 1:
            way.prices[-1] = 1e4 * way.usual
            way.notice(2 * ALL * way.expected)
            if way.missed_far:
                way.reject()
    begin = way.following
    assert walked(way, 24)[-(24 - begin) :] == tuple(range(begin, 24))


@pytest.fixture(scope="module")
def bundled() -> VideoModel:
    return open_ltx(BUNDLED)


def test_it_comes_nearer_than_its_forecast(bundled: VideoModel) -> None:
    """On the trained model, at the same number of computed steps, calibrated by another prompt."""
    request = Request(seed=5, steps=20)
    record = calibrate(bundled, bundled.encode("a green square moves up on black", ""), request, lambda *_: None)[0]
    grams, conditioning = tuple(record.grams.items()), bundled.encode("a red circle moves right on white", "")

    def sampled(cache: Plan | None) -> Tensor:
        return sample(replace(bundled, cache=cache), conditioning, Request(seed=1, steps=20))

    whole = sampled(None)
    forecast, corrected = ((sampled(kind(speed=1.7, grams=grams)) - whole).norm() for kind in (Plan, Corrected))
    assert corrected < 0.7 * forecast, (forecast, corrected)
