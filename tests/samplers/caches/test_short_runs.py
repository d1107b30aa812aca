"""Runs in which each prediction counts: only a corrected plan leaves any out, and only where a calibration of as many
expects the video to be near."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.messages import Message
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches import store
from reelwire.samplers.caches.calibration import calibrate
from reelwire.samplers.caches.course import FRAMES, NEAR, Course, Known, course, decibels
from reelwire.samplers.caches.policies.corrected import GROWTH, Corrected
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.magcache import MagCache
from reelwire.samplers.caches.policies.plan import Grams, Plan, weight
from reelwire.samplers.caches.policies.sencache import SenCache
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.caches.policy import FEWEST, SHORTEST, Policy
from reelwire.samplers.caches.report import planned_more, report
from reelwire.samplers.caches.runner import planned
from reelwire.samplers.caches.store import Calibration
from reelwire.samplers.estimate.count import count_steps
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.cached_runs import Sampled
from reelwire.tests.support.engine.models import MODELS, needed, open_plain

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")
MODEL = "tiny-ltx-0.9.5"


def bent(count: int, bend: float) -> Grams:
    """Calibrations of two runs whose x0 goes along a line, and leaves it by so much."""
    aside = np.random.default_rng(0).normal(size=(count, count)) * bend
    rows = np.array([[1.0, 0.5 * t / count, *aside[t]] for t in range(count)])
    return (("transformer", (tuple(map(tuple, (rows @ rows.T).tolist())),) * 2),)


def keys(notes: tuple[Any, ...]) -> list[str]:
    return [note.key for note in notes if isinstance(note, Message)]


def way(bend: float, computed: int, near: float, count: int = 8, measured: bool = True) -> Course:
    ((_, grams),) = bent(count, bend)
    levels = tuple((0.3, 1 - s / (count + 1), s / (count + 1)) for s in range(count, 0, -1))
    return course(Known(grams, levels, (1.0,) * count, 1, 12, measured), computed, range(count), near)


def walked(made: Course, asked: int) -> float:
    """The price of the gaps of a course that is walked without a miss."""
    while len(made.computed) < 2 or made.computed[-1] < made.map.count - 1:
        made.arrive(made.following)
    assert len(made.computed) == asked
    return sum(made.prices)


@pytest.mark.parametrize("bend", [0.0, 0.02, 0.05, 0.1, 1.0])
@pytest.mark.parametrize("asked", [3, 4, 6, 8])
def test_as_many_more_are_computed_as_the_distance_takes_and_no_more(bend: float, asked: int) -> None:
    made = way(bend, asked, NEAR)
    assert made.asked == asked
    assert decibels(walked(made, made.planned)) >= NEAR
    if made.planned > asked:
        fewer = way(bend, made.planned - 1, -math.inf)
        assert decibels(walked(fewer, made.planned - 1)) < NEAR
    assert way(bend, asked, -math.inf).planned == asked, "and in longer runs as many as are asked for"


def test_bends_differ() -> None:
    """The cases above have some of each kind."""
    assert [way(bend, 3, NEAR).planned for bend in (0.0, 1.0)] == [3, 8]
    assert 3 < way(0.05, 3, NEAR).planned < 8


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ([(0.0, 4)], []),
        ([(1.0, 4)], ["short_whole"]),
        ([(0.05, 3)], ["short_more"]),
        ([(0.0, 4), (1.0, 4)], ["short_more"]),
        ([(1.0, 4), (1.0, 4)], ["short_whole"]),
        ([(1.0, 8)], []),
        ([], []),
    ],
)
def test_more_than_the_speed_asks_for_is_said(ways: list[tuple[float, int]], said: list[str]) -> None:
    notes = planned_more([way(bend, asked, NEAR) for bend, asked in ways])
    assert keys(notes) == said
    for note in notes:
        assert note.values["near"] == round(NEAR)
        assert note.values["count"] == 8 * len(ways)
    assert planned_more([way(bend, asked, -math.inf) for bend, asked in ways]) == ()


def test_why_nothing_could_be_left_out_is_said() -> None:
    assert keys(planned_more([way(0.0, 2, NEAR, count=3), way(0.0, 2, NEAR, count=2)])) == ["short_few"]
    unmeasured = way(0.0, 4, NEAR, measured=False)
    assert unmeasured.planned == 8
    assert keys(planned_more([unmeasured])) == ["short_unknown"]


@pytest.mark.parametrize("experts", [1, 2])
def test_the_errors_of_experts_add_up(experts: int) -> None:
    """So each of two has to be 3 dB nearer."""
    ((_, grams),) = bent(4, 0.0)
    policy = Corrected(grams=(("transformer", grams), ("transformer_2", grams))[:experts])
    assert decibels(experts * 10 ** ((FRAMES - policy.near) / 10)) == pytest.approx(NEAR)
    assert Corrected(grams=bent(FEWEST, 0.0)).near == Corrected().near == -math.inf


def test_errors_grow_more_than_those_of_a_plan(tiny_models: Path) -> None:
    """What the weights of corrected steps were measured with."""
    model = open_plain(tiny_models, MODEL)
    seen: list[tuple[float, ...]] = []

    class Watched(Corrected):
        def course(self, denoiser: Denoiser, part: str, steps: range) -> Course:
            seen.append(tuple(weight(denoiser, step) for step in steps))
            return super().course(denoiser, part, steps)

    run = Sampled(replace(model, cache=Watched(grams=bent(FEWEST, 0.0))))
    (made,) = run.run.cache.courses
    weights, _, sigmas = zip(*made.map.known.levels, strict=True)
    assert GROWTH == 2.5
    assert weights == pytest.approx([w * math.exp(0.5 * sigma) for w, sigma in zip(seen[0], sigmas, strict=True)])


# ---------------------------------------------------------------- on models


@pytest.mark.parametrize("steps", [SHORTEST, 6, FEWEST - 1])
def test_where_the_video_moves_evenly_steps_are_left_out(tiny_models: Path, steps: int) -> None:
    model = open_plain(tiny_models, MODEL)
    cached = replace(model, cache=Corrected(speed=steps / (steps - 1), grams=bent(steps, 0.0)))
    run = Sampled(cached, steps=steps)
    assert 3 <= sum(entry.computed for entry in run.entries) < steps
    assert not torch.equal(run.latents, Sampled(model, steps=steps).latents)
    assert torch.equal(run.latents, Sampled(cached, steps=steps).latents)


def test_where_it_does_not_all_are_computed_and_it_is_said(tiny_models: Path) -> None:
    model = open_plain(tiny_models, MODEL)
    run = Sampled(replace(model, cache=Corrected(speed=2.0, grams=bent(8, 1.0))), steps=8)
    assert torch.equal(run.latents, Sampled(model, steps=8).latents)
    assert keys(report(run.run.cache).notes) == ["short_whole"]


@pytest.mark.parametrize("bend", [0.0, 0.05, 1.0])
def test_what_is_computed_is_estimated(tiny_models: Path, bend: float) -> None:
    model = replace(open_plain(tiny_models, MODEL), cache=Corrected(speed=2.0, grams=bent(8, bend)))
    low, high = count_steps(model, plan(model, Request(**{**needed(model), "steps": 8}))).computed
    run = Sampled(model, steps=8)
    assert low <= sum(entry.computed for entry in run.entries) <= high == 8
    assert low == 4


@pytest.mark.parametrize(
    ("policy", "steps", "key"),
    [
        (Corrected(), FEWEST - 1, "corrected_off"),
        (Corrected(), SHORTEST, "corrected_off"),
        (Corrected(), SHORTEST - 1, "cache_off"),
        (Corrected(speed=1.0), 8, "cache_off"),
        (Corrected(grams=bent(3, 0.0)), 3, "cache_off"),
        (Corrected(start=0.5, grams=bent(8, 0.0)), 8, "corrected_off_span"),
        (Corrected(end=0.5, grams=bent(8, 0.0)), 8, "corrected_off_span"),
        (Corrected(longest=1, grams=bent(8, 0.0)), 8, "corrected_off_span"),
        (Plan(), 8, "cache_off"),
        (Plan(grams=bent(8, 0.0)), 8, "cache_off"),
    ],
)
def test_without_a_calibration_it_is_off_and_says_what_would_help(
    tiny_models: Path, policy: Plan, steps: int, key: str
) -> None:
    model = replace(open_plain(tiny_models, MODEL), cache=policy)
    made, notes = planned(model, model.complete(Request(**{**needed(model), "steps": steps})))
    assert made is None
    assert keys(notes) == [key]


@pytest.fixture
def beside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Calibrations are kept apart from the shared models."""
    monkeypatch.setattr(store, "file_of", lambda checkpoint: tmp_path / f"{checkpoint.name}.json")


def calibrated(model: VideoModel, **inputs: Any) -> Calibration:
    given = {**needed(model), "seed": 3, **inputs}
    conditioning = model.encode("a red circle", "", given["keyframes"])
    return store.add(
        model.recipe.files["checkpoint"], calibrate(model, conditioning, Request(**given), lambda *_: None)[0]
    )


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("name", sorted(MODELS))
@pytest.mark.parametrize("steps", [SHORTEST, 6])
def test_every_family_is_calibrated_and_run_at_few_steps(tiny_models: Path, name: str, steps: int) -> None:
    """A calibration of a short run is of use to one of as many steps alone."""
    model = open_plain(tiny_models, name)
    calibration = calibrated(model, steps=steps)
    cached = replace(model, cache=Corrected(speed=2.0))
    run = Sampled(cached, steps=steps)
    assert run.run.cache is not None
    assert {part for part, _ in run.run.cache.policy.grams} == {*calibration.grams}
    computed = sum(entry.computed for entry in run.entries)
    low, high = count_steps(cached, plan(cached, Request(**{**needed(model), "steps": steps}))).computed
    assert low <= computed <= high == len(run.entries)
    assert computed < steps or torch.equal(run.latents, Sampled(model, steps=steps).latents)
    assert Sampled(cached, steps=steps + 1).run.cache is None


@pytest.mark.usefixtures("beside")
@pytest.mark.parametrize("policy", [TeaCache(), MagCache(), EasyCache(), Plan()], ids=lambda policy: policy.title)
def test_what_a_short_calibration_does_not_know_harms_no_other_cache(tiny_models: Path, policy: Policy) -> None:
    """Of so few steps there is no polynomial; all are off, as without it."""
    model = replace(open_plain(tiny_models, "tiny-wan2.1-t2v"), cache=policy)
    assert not calibrated(model, steps=SHORTEST).branches
    assert keys(planned(model, model.complete(Request(steps=SHORTEST)))[1]) == ["cache_off"]


@pytest.mark.usefixtures("beside")
def test_ratios_that_an_expert_of_a_few_steps_lacks_compute_it(tiny_models: Path) -> None:
    model = replace(open_plain(tiny_models, "tiny-wan2.2-t2v-a14b"), cache=MagCache(threshold=1e9, start=0.0))
    inputs: dict[str, Any] = {"steps": 12, "shift": 1.0}
    calibration = calibrated(model, **inputs)
    short, long = sorted(calibration.grams, key=lambda part: len(calibration.grams[part][0]))
    assert {branch.part for branch in calibration.branches} == {long}
    run = Sampled(model, **inputs)
    assert all(entry.computed for entry in run.entries if entry.part == short)
    assert not all(entry.computed for entry in run.entries if entry.part == long)


def test_sensitivities_that_an_expert_of_a_few_steps_lacks_compute_it(tiny_models: Path) -> None:
    plain, inputs = open_plain(tiny_models, "tiny-wan2.2-t2v-a14b"), dict[str, Any](steps=12, shift=1.0)
    parts = [entry.part for entry in Sampled(replace(plain, cache=FORA(interval=2)), **inputs).entries]
    short, long = sorted({*parts}, key=parts.count)
    rows = ((long, "cond", (0.0,) * 12, (0.0,) * 12),)
    run = Sampled(replace(plain, cache=SenCache(threshold=1e9, early=1e9, sensitivities=rows)), **inputs)
    assert all(entry.computed for entry in run.entries if entry.part == short)
    assert not all(entry.computed for entry in run.entries if entry.part == long)


@pytest.mark.usefixtures("beside")
def test_a_calibration_that_differs_in_anything_is_not_believed(tiny_models: Path) -> None:
    model = replace(open_plain(tiny_models, "tiny-wan2.1-t2v"), cache=Corrected())
    calibrated(model, steps=8)
    made = lambda **inputs: planned(model, model.complete(Request(steps=8, **inputs)))
    assert made()[0] is not None
    for inputs in ({"guidance": 3.0}, {"shift": 2.0}, {"sampler": "euler"}, {"width": 256, "height": 256}):
        policy, notes = made(**inputs)
        assert policy is None, inputs
        assert keys(notes) == ["corrected_off", "calibration_differs_plan"]


@pytest.mark.usefixtures("beside")
def test_experts_with_other_steps_than_calibrated_are_computed(tiny_models: Path) -> None:
    """As many in all, but the boundary lies elsewhere."""
    model = open_plain(tiny_models, "tiny-wan2.2-t2v-a14b")
    counts = [(part, len(runs[0])) for part, runs in calibrated(model, steps=8).grams.items()]
    moved = tuple((part, bent(n + by, 0.0)[0][1]) for (part, n), by in zip(counts, (1, -1), strict=True))
    run = Sampled(replace(model, cache=Corrected(speed=2.0, grams=moved)), steps=8)
    assert torch.equal(run.latents, Sampled(model, steps=8).latents)
    assert keys(report(run.run.cache).notes) == ["short_unknown"]
