"""The corrector: skipped steps are taken again, whatever the solver remembers and draws, and come out nearer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
import torch
from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.request import Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.calibration import calibrate
from reelwire.samplers.caches.policies.corrected import Corrected, interpolation, typical
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.state import Between, Slopes
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


@dataclass(frozen=True, kw_only=True)
class Held(Plan):
    """Every third step is computed; the others have the x0 of the one before, and again when they are taken again."""

    again: bool
    title: ClassVar[str] = "held"
    position: ClassVar[int | None] = None
    stored_values: ClassVar[int] = 3  # type: ignore[assignment]

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> Slopes:
        return {i: 0.0 for i in steps if (i - steps.start) % 3 and i != steps.stop - 1}

    def between(self, denoiser: Denoiser, part: str, steps: range) -> Between | None:
        def weights(of: int, basis: tuple[int, ...]) -> tuple[float, ...]:
            before = max(step for step in basis if step < of)
            return tuple(float(step == before) for step in basis)

        return weights if self.again else None


@pytest.mark.parametrize(("name", "sampler"), SOLVERS)
def test_steps_that_are_taken_again_with_the_same_x0_come_out_the_same(
    tiny_models: Path, name: str, sampler: str
) -> None:
    """But for rounding: the solver, its scheduler and its noise are where they were, and so is what is given."""
    model = open_plain(tiny_models, name)
    more: dict[str, object] = {}
    if name == "tiny-ltx-0.9.5":  # noise is drawn on given tokens in every step
        more = {"keyframes": (Keyframe(frames(1), 0), Keyframe(frames(1), -1, 0.5))}
    once, twice = (Sampled(replace(model, cache=Held(again=again)), sampler=sampler, **more) for again in (False, True))
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
        weights = interpolation(line @ line.T, of, basis)
        assert sum(weights) == pytest.approx(1)
        assert np.dot(weights, basis) == pytest.approx(of, abs=1e-4)


def test_a_run_that_went_astray_decides_nothing() -> None:
    line = np.array([[1.0, t] for t in range(8)])
    noise = np.random.default_rng(0).normal(size=(8, 8)) * 10
    grams = np.stack([line @ line.T, noise @ noise.T, line @ line.T])
    assert np.dot(interpolation(typical(grams), 3, (2, 5)), (2, 5)) == pytest.approx(3, abs=0.01)
    assert abs(np.dot(interpolation(grams.mean(0), 3, (2, 5)), (2, 5)) - 3) > 0.1


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
