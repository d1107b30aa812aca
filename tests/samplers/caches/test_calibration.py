"""What one run tells of a checkpoint: polynomials, ratios and plans; how it is kept, and when it is not used."""

from __future__ import annotations

import itertools
import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.loaders.denoiser import DenoiserWrapper
from reelwire.loaders.families import load
from reelwire.loaders.messages import CheckpointError, InputError
from reelwire.loaders.notices import stopped_by
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Guidance, Request
from reelwire.loaders.spec import specs
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.caches import store
from reelwire.samplers.caches.calibration import calibrate, fit_polynomial
from reelwire.samplers.caches.corrector import follows
from reelwire.samplers.caches.policies.magcache import MagCache
from reelwire.samplers.caches.policies.plan import Plan, best_steps, budget, level, missed, place, slope, slopes, weight
from reelwire.samplers.caches.policies.record import Track
from reelwire.samplers.caches.policies.teacache import TeaCache, published, published_fits
from reelwire.samplers.caches.report import report
from reelwire.samplers.caches.runner import planned
from reelwire.samplers.caches.state import distance, extrapolate, forecast
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.cached_runs import StopError
from reelwire.tests.support.engine.models import needed
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.engine.words import refuses
from reelwire.training.tiny_models import MODELS, seeded

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")
STEPS = 12


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """A folder of links, so that calibrations are written beside them and not among the shared models."""
    for name in MODELS:
        (tmp_path / name).symlink_to(tiny_models / name, target_is_directory=True)
    return tmp_path


def open_model(folder: Path, name: str) -> VideoModel:
    family = next(f for f in ("hunyuan_video", "wan", "cogvideox", "mochi", "ltx", "svd") if f.split("_")[0] in name)
    return load(Recipe(family, "", files_of(folder / name), "float32"), PlainMemory())


def calibrated(model: VideoModel, seed: int = 1, **changes: Any) -> store.Calibration:
    inputs = {**needed(model), "seed": seed, "steps": STEPS, **changes}
    conditioning = model.encode("a blue square", "", inputs["keyframes"])
    calibration, latents = calibrate(model, conditioning, Request(**inputs), lambda *_: None)
    assert torch.equal(latents, sample(replace(model, cache=None), conditioning, Request(**inputs)))
    return store.add(model.recipe.files["checkpoint"], calibration)


def run(model: VideoModel, **changes: Any) -> tuple[torch.Tensor, Any]:
    inputs, runs = {**needed(model), "seed": 3, "steps": STEPS, **changes}, list[Any]()
    conditioning = model.encode("a red circle", "", inputs["keyframes"])
    return sample(model, conditioning, Request(**inputs), lambda *a: runs.append(a[2])), runs[-1].cache


# ---------------------------------------------------------------- numbers


@pytest.mark.parametrize("order", [0, 1, 2])
def test_a_forecast_is_exact_for_a_polynomial_of_its_order(order: int) -> None:
    at = lambda x: torch.tensor([2.0, 3.0]) if order == 0 else torch.tensor([2 * x - 1, x**order])
    history: list[tuple[float, tuple[torch.Tensor, ...]]] = [(x, (at(x), at(x) * 2)) for x in (-3.0, 0.5, 1.0, 4.0)]
    predicted = forecast(history, 6.0, order)
    assert torch.allclose(predicted[0], at(6.0), atol=1e-4)
    assert torch.allclose(predicted[1], at(6.0) * 2, atol=1e-4)
    assert forecast(history[:1], 6.0, order)[0] is history[0][1][0], "with one point there is nothing to follow"


def test_distance_is_relative() -> None:
    assert float(distance(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))) == pytest.approx(0.5)


@pytest.mark.parametrize("order", [0, 1])
@pytest.mark.parametrize("seed", range(4))
def test_the_plan_is_the_cheapest_of_all(order: int, seed: int) -> None:
    """Against every choice of steps there is, with errors measured on the vectors themselves."""
    with seeded(seed):
        count, computed = 9, 4 + seed % 3
        rows, weights = torch.randn(count, 5).double().cumsum(0), torch.rand(count).tolist()
    gram = (rows @ rows.T).numpy()[None]

    def cost(steps: tuple[int, ...]) -> float:
        total = 0.0
        for i, how in slopes(gram, steps, order).items():
            earlier = [s for s in steps if s < i]
            predicted = extrapolate([(s, (rows[s],)) for s in earlier], how)[0]
            total += weights[i] ** 2 * float((rows[i] - predicted).square().sum())
        return total

    head = order + 1
    every = [
        (*range(head), *middle, count - 1)
        for middle in itertools.combinations(range(head, count - 1), computed - head - 1)
    ]
    best = best_steps(gram, weights, computed, order)
    assert len(best) == computed
    assert cost(best) == pytest.approx(min(map(cost, every)))


def test_long_runs_are_planned_in_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    """With gaps that are bounded, which changes no plan, and until somebody interrupts it."""
    times = np.linspace(0, 1, 40) ** 0.5
    gram, weights = np.exp(-8 * (times[:, None] - times) ** 2)[None], [1.0] * 40
    whole = best_steps(gram, weights, 16, 1)
    monkeypatch.setattr("reelwire.samplers.caches.policies.plan.MANY", 0)
    assert best_steps(gram, weights, 16, 1) == whole

    def stop() -> None:
        raise StopError

    with pytest.raises(StopError), stopped_by(stop):
        best_steps(gram, weights, 16, 1)


def test_a_slope_is_the_best_there_is() -> None:
    with seeded(0):
        rows = torch.randn(4, 6).double().cumsum(0)
    gram = (rows @ rows.T).numpy()[None]
    best = slope(gram, 0, 1, 2)
    error = lambda how: float((rows[2] - rows[1] - how * (rows[1] - rows[0])).square().sum())
    assert error(best) == pytest.approx(missed(gram, 0, 1, 2))
    assert all(error(best) <= error(how) + 1e-9 for how in np.linspace(0, 3, 301))


@pytest.mark.parametrize("speed", [1.0, 1.3, 2.0, 3.0, 7.0])
@pytest.mark.parametrize("name", ["tiny-wan2.2-t2v-a14b", "tiny-cogvideox-5b", "tiny-svd", "tiny-mochi"])
def test_a_plan_computes_as_many_steps_as_it_says(models: Path, name: str, speed: float) -> None:
    _, cache = run(replace(open_model(models, name), cache=Plan(speed=speed)), steps=20)
    groups = [list(g) for _, g in itertools.groupby(cache.entries, lambda e: e.part)]
    for entries in groups:
        steps = sum(entry.computed for entry in entries)
        assert steps == min(len(entries), max(budget(len(entries), speed), min(3, len(entries))))
        assert entries[0].computed
        assert entries[-1].computed


def test_places_and_weights_are_those_of_the_noise(models: Path) -> None:
    """An error of the clean video moves a flow's next latents by the share of the noise that goes."""
    runs = list[Any]()
    model = open_model(models, "tiny-wan2.1-t2v")
    conditioning = model.encode("a", "")
    sample(model, conditioning, Request(steps=STEPS), lambda *a: runs.append(a[2]))
    denoiser = runs[0].denoiser
    sigmas = denoiser.schedule.sigmas
    for i in range(STEPS):
        assert weight(denoiser, i) == pytest.approx((1 - sigmas[i + 1] / sigmas[i]) * np.exp(2 * sigmas[i]), rel=1e-5)
        assert place(denoiser, i) == pytest.approx(np.log((1 - sigmas[i] + 1e-3) / (sigmas[i] + 1e-3)))


@pytest.mark.parametrize("name", [name for name in MODELS if "upsampler" not in name])
def test_the_clean_video_goes_there_and_back(models: Path, name: str) -> None:
    """Where each family's prediction points, and from there back, at every step; at the end it is the video."""
    model, differences = open_model(models, name), list[Any]()
    inputs = {**needed(model), "seed": 3, "steps": STEPS}
    conditioning = model.encode("a red circle", "", inputs["keyframes"])

    class ThereAndBack(DenoiserWrapper):
        def predict(self, network: Any, latents: torch.Tensor, step: int, branch: str) -> torch.Tensor:
            prediction = super().predict(network, latents, step, branch)
            if branch == "uncond":  # where the branches are predicted one by one, the first shows it
                return prediction
            half = prediction.chunk(2)[0] if branch == "cond_uncond" else prediction
            back = self.from_x0(self.x0(half, latents, step), latents, step)
            free = torch.as_tensor(self.scalings(step)[1]).abs() > 1e-3  # tokens that are given have no noise
            differences.append((((back - half).abs() * free).max() / half.abs().max()).item())
            return prediction

    result = sample(model, conditioning, Request(**inputs), wrap=ThereAndBack)
    assert len(differences) == STEPS
    assert max(differences) < 1e-3
    assert torch.equal(result, sample(model, conditioning, Request(**inputs)))


@pytest.mark.parametrize("name", [name for name in MODELS if "upsampler" not in name])
def test_noise_levels_are_those_of_the_latents(models: Path, name: str) -> None:
    """At the start they are all noise, as much of it as is said; whatever they count in, plans see a variance near one,
    and x0 moves by their own measure."""
    runs = list[Any]()
    model = open_model(models, name)
    inputs = {**needed(model), "seed": 3, "steps": STEPS}
    conditioning = model.encode("a red circle", "", inputs["keyframes"])
    sample(model, conditioning, Request(**inputs), lambda *a: runs.append(a[2]))
    denoiser = runs[0].denoiser
    assert denoiser.latents.std().item() == pytest.approx(denoiser.alpha_sigma(0)[1], rel=0.2)
    for step in range(STEPS + 1):
        alpha, sigma = denoiser.alpha_sigma(step)
        seen, left = level(denoiser, step)
        assert seen * sigma == pytest.approx(left * alpha)
        assert 0.7 < math.hypot(seen, left) < 1.001
        assert follows(alpha, sigma) * math.hypot(alpha, sigma) == pytest.approx(math.hypot(seen, left))


def test_a_run_that_went_astray_counts_for_nothing() -> None:
    with seeded(1):
        rows = torch.randn(3, 9, 50).double().cumsum(1)
    rows[1] = rows[0] + 0.01 * torch.randn(9, 50, generator=torch.Generator().manual_seed(0))
    grams = (rows @ rows.mT).numpy()
    weights = [1.0] * 9
    wild = grams.copy()
    wild[2] *= 1e6
    assert (
        best_steps(wild, weights, 5, 1) == best_steps(grams, weights, 5, 1)
        or abs(slope(wild, 0, 1, 2) - slope(grams, 0, 1, 2)) < 1e-9
    )
    assert missed(wild, 0, 1, 2) <= max(missed(grams[i : i + 1], 0, 1, 2) for i in (0, 1)) * 1.5


# ---------------------------------------------------------------- fits


def test_a_polynomial_is_found_again() -> None:
    x = np.linspace(0.05, 0.6, 25)
    fit, quality = fit_polynomial(Track(list(torch.tensor(x)), list(torch.tensor(0.3 + 2 * x - x**2))), "modulated")
    assert quality > 0.999
    assert fit(0.3) == pytest.approx(0.3 + 0.6 - 0.09, abs=1e-3)
    assert fit.knows(0.3)
    assert not fit.knows(0.7)


PUBLISHED = {(spec.name, variant): fits for spec in specs() for variant, fits in published_fits(spec).items()}


@pytest.mark.parametrize("key", PUBLISHED)
def test_published_polynomials_never_count_down(key: tuple[str, str]) -> None:
    for fit in PUBLISHED[key]:
        assert all(fit(x) >= 0 for x in np.linspace(0, 2, 401))
        assert any(fit(x) > 0 for x in np.linspace(0, 2, 401))
        assert fit.source.startswith("TeaCache4")


def test_published_values_are_the_published() -> None:
    """Spot checks: the polynomial at a point, as numpy computes it from the numbers in the repository."""
    wan = PUBLISHED["wan", "2.1-t2v-1.3b"][0]
    assert wan(0.1) == pytest.approx(np.polyval([2396.76752, -1311.10545, 201.331979, -8.29855975, 0.137887774], 0.1))
    assert PUBLISHED["wan", "2.1-t2v-14b"][0](0.1) == 0, "it is negative below .13"
    mochi = PUBLISHED["mochi", "1-preview"][0]
    assert mochi(0.2) == 0, "it is negative above .144"


# ---------------------------------------------------------------- kept beside the checkpoint


@pytest.mark.parametrize(
    "name",
    ["tiny-hunyuan-t2v", "tiny-wan2.2-t2v-a14b", "tiny-cogvideox-2b", "tiny-mochi", "tiny-ltx-0.9.0", "tiny-svd"],
)
def test_a_calibration_serves_every_policy(models: Path, name: str) -> None:
    model = open_model(models, name)
    calibration = calibrated(model)
    file = models / f"{name}.reelwire-cache.json"
    assert file.exists()
    assert store.read(models / name) == (calibration,)
    parts = [part for part in model.parts if part.startswith(("transformer", "unet"))]
    assert [*calibration.grams] == parts
    _, cache = run(replace(model, cache=Plan(speed=2.0)))
    assert planned(replace(model, cache=Plan(speed=2.0)), model.complete(Request(steps=STEPS)))[1] == ()
    assert sum(e.computed for e in cache.entries) < len(cache.entries)
    if name == "tiny-svd":
        assert calibration.branches == ()
        return
    for branch in calibration.branches:  # each change belongs to the move of its own step, the last step's too
        assert len(branch.moves) == len(branch.ratios) > 0
    for policy in (MagCache(threshold=1e9), TeaCache(threshold=1e9, source="calibrated")):
        _, cache = run(replace(model, cache=policy))
        assert planned(replace(model, cache=policy), model.complete(Request(steps=STEPS)))[1] == ()
        assert sum(e.computed for e in cache.entries) < len(cache.entries)


def test_more_runs_are_kept_side_by_side(models: Path) -> None:
    model = open_model(models, "tiny-wan2.1-t2v")
    first = calibrated(model, 1)
    second = calibrated(model, 2)
    assert second.runs == 2
    alone, _ = calibrate(
        model, model.encode("a blue square", ""), Request(seed=2, steps=STEPS, **needed(model)), lambda *_: None
    )
    assert second.grams["transformer"] == (*first.grams["transformer"], *alone.grams["transformer"])
    assert len(store.read(models / "tiny-wan2.1-t2v")) == 1
    calibrated(model, 1, steps=15)
    assert len(store.read(models / "tiny-wan2.1-t2v")) == 2


def test_a_part_of_a_run_has_a_record_of_its_own(models: Path) -> None:
    """Video-to-video leaves predictions out: what it shows is of others than a whole run's."""
    model = open_model(models, "tiny-wan2.1-t2v")
    part: dict[str, Any] = {"source": torch.zeros(9, 64, 64, 3), "strength": 0.9}
    whole = calibrated(model)
    calibrated(model, **part)
    records = store.read(models / "tiny-wan2.1-t2v")
    assert [(record.key.steps, record.key.left_out) for record in records] == [(STEPS, 0), (STEPS, 2)]
    assert records[0] == whole
    for changes, record in zip((dict[str, Any](), part), records, strict=True):
        request = model.complete(Request(steps=STEPS, **changes))
        policy, notes = planned(replace(model, cache=Plan()), request)
        assert isinstance(policy, Plan)
        assert (dict(policy.grams), notes) == (record.grams, ())


def test_what_differs_is_told(models: Path, tiny_models: Path) -> None:
    model = replace(open_model(models, "tiny-wan2.1-t2v"), cache=Plan(speed=2.0))
    note = lambda **changes: planned(model, model.complete(Request(**{"steps": STEPS, **changes})))[1]
    assert "not calibrated for 12 steps" in note()[0]
    calibrated(model)
    assert note() == ()
    assert "not calibrated for 13 steps" in note(steps=13)[0]
    assert "differs in guidance, shift" in note(guidance=2.0, shift=9.0)[0]
    assert "differs in size class" in note(width=256, height=256)[0]
    (models / "tiny-wan2.1-t2v").unlink()
    shutil.copytree(tiny_models / "tiny-wan2.1-t2v", models / "tiny-wan2.1-t2v")
    weights = models / "tiny-wan2.1-t2v" / "transformer" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    (message,) = note()
    assert "made for other weights" in message
    assert "not calibrated" in message


def test_another_method_of_guidance_is_told(models: Path) -> None:
    """And a record of plain guidance is one that versions before read."""
    plain = open_model(models, "tiny-wan2.1-t2v")
    momentum = replace(plain, guidance=Guidance("apg", momentum=-0.5))
    off = dict[str, Any](guidance=1.0)
    note = lambda model, **changes: planned(
        replace(model, cache=Plan(speed=2.0)), model.complete(Request(**{"steps": STEPS, **changes}))
    )[1]
    calibrated(plain)
    (record,) = json.loads(store.file_of(models / "tiny-wan2.1-t2v").read_text())["records"]
    assert "method" not in record["key"]
    assert "differs in guidance:" in note(momentum)[0]
    assert "differs in guidance:" in note(momentum, guidance=2.0)[0]
    assert note(momentum, **off) == note(plain, **off), "no guidance is there"
    calibrated(momentum)
    assert note(momentum) == note(plain) == ()
    for method in ("cfg-zero*", "tcfg"):
        assert "differs in guidance:" in note(replace(plain, guidance=Guidance(method)))[0]


@pytest.mark.parametrize("damage", ["not json", "{}", '{"checkpoint": "x"}', '{"records": [], "checkpoint": 3}'])
def test_a_damaged_file_is_told(models: Path, damage: str) -> None:
    model = open_model(models, "tiny-wan2.1-t2v")
    calibrated(model)
    store.file_of(models / "tiny-wan2.1-t2v").write_text(damage)
    if "records" in damage or '"x"' in damage:  # whole, and made for other weights
        assert store.read(models / "tiny-wan2.1-t2v") == ()
        return
    with pytest.raises(CheckpointError, match=r"reelwire-cache.json is damaged. Delete it"):
        planned(replace(model, cache=Plan()), model.complete(Request(steps=STEPS)))


def test_predictions_decide_whether_a_cache_pays(models: Path) -> None:
    """Heun makes two a step; video-to-video leaves steps out."""
    model = open_model(models, "tiny-wan2.1-t2v")
    cached = replace(model, cache=Plan())
    source = torch.zeros(9, 64, 64, 3)
    runs = [Request(steps=12), Request(steps=6, sampler="heun"), Request(steps=12, source=source, strength=0.9)]
    assert [plan(cached, request).policy is not None for request in runs] == [True] * 3
    few = [Request(steps=5, sampler="heun"), Request(steps=12, source=source, strength=0.3)]
    assert [plan(cached, request).policy is not None for request in few] == [False] * 2
    with pytest.raises(InputError, match=r"steps = 2: .* at least 4 predictions. Use 3 or more"):
        calibrate(model, model.encode("a", ""), Request(steps=2, sampler="heun"), lambda *_: None)


def test_too_few_steps_are_refused(models: Path) -> None:
    model = open_model(models, "tiny-wan2.1-t2v")
    with refuses(InputError, "few_steps_rule", least=4):
        calibrate(model, model.encode("a", ""), Request(steps=3), lambda *_: None)


# ---------------------------------------------------------------- the report


def test_the_report_says_what_was_done(models: Path) -> None:
    model = replace(open_model(models, "tiny-wan2.2-t2v-a14b"), cache=TeaCache(threshold=1e9, longest=1))
    _, cache = run(model, steps=16)
    text = report(cache)
    words = " ".join(text.words())
    assert "high noise, prompt" in words
    assert "low noise, negative prompt" in words
    assert f"Ideal speed-up {text.ideal:.2f}" in words
    facts: dict[str, Any] = text.facts()
    assert json.loads(json.dumps(facts)) == facts
    marks = facts["predictions"]
    assert sum(passes.count("x") for passes in marks.values()) == sum(e.computed for e in cache.entries)
    chart: dict[str, Any] = text.chart()
    rows = {row["name"]["text"]: row for row in chart["rows"]}
    assert {name: "".join("x" if c else "." for c in row["computed"]) for name, row in rows.items()} == marks
    assert all(len(row["distances"]) == len(row["computed"]) for row in rows.values())
    assert any(distance for row in rows.values() for distance in row["distances"])


def test_the_published_signal_of_each_family(models: Path) -> None:
    from reelwire.samplers.caches.calibration import observed

    expected = {
        "tiny-wan2.1-t2v": "embedder",
        "tiny-cogvideox-2b": "time",
        "tiny-ltx-0.9.0": "modulated",
        "tiny-mochi": "modulated",
        "tiny-hunyuan-t2v": "modulated",
    }
    for name, signal in expected.items():
        model = open_model(models, name)
        assert observed(model) == signal
        assert published(model, False) is None
        ready, notes = planned(replace(model, cache=TeaCache()), model.complete(Request(steps=STEPS)))
        assert ready is not None
        assert ready.signal == signal
        assert "Nobody published TeaCache coefficients" in notes[0]
