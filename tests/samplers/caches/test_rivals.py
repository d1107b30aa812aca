"""Spectrum and SenCache: their published schedules and rules in numbers, and the sensitivities of a calibration."""

from __future__ import annotations

from dataclasses import replace
from functools import reduce
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Request
from reelwire.loaders.spec import specs
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches import store
from reelwire.samplers.caches.calibration import calibrate, per_step
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.caches.policies.sencache import USUAL, SenCache
from reelwire.samplers.caches.policies.spectrum import Spectrum, chebyshev, computed_steps
from reelwire.samplers.caches.runner import planned
from reelwire.samplers.caches.state import BranchState, StepContext, distance
from reelwire.tests.support.engine.cached_runs import SENSITIVITIES, STEPS, Sampled
from reelwire.tests.support.engine.models import needed, open_model
from reelwire.tests.support.engine.sampling import sample
from reelwire.training.tiny_models import MODELS

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")


@pytest.fixture
def models(tiny_models: Path, tmp_path: Path) -> Path:
    """A folder of links, so that calibrations are written beside them and not among the shared models."""
    for name in MODELS:
        (tmp_path / name).symlink_to(tiny_models / name, target_is_directory=True)
    return tmp_path


# ---------------------------------------------------------------- Spectrum


@pytest.mark.parametrize(("growth", "count"), [(0.75, 14), (3.0, 10)])
def test_the_published_settings_compute_the_published_steps(growth: float, count: int) -> None:
    """14 and 10 of 50 steps (README of hanjq17/Spectrum)."""
    steps = computed_steps(50, 5, 2.0, growth)
    assert len(steps) == count
    assert steps >= {0, 1, 2, 3, 4, 6}
    gaps = np.diff(sorted(steps))[4:]
    assert (np.diff(gaps) >= 0).all()
    assert Spectrum(threshold=growth).count_computed("transformer", range(50), 50) == (count, count)


@pytest.mark.parametrize("degree", [0, 2, 4])
def test_a_forecast_is_that_of_ridge_regression(degree: int) -> None:
    """Though no step but the last two is kept; a share of it is the line through these."""
    policy, state, known, at = Spectrum(degree=degree, share=1.0), BranchState(), (0, 1, 2, 3, 4, 6, 8, 11), 14
    rows = torch.randn(len(known), 1, 5, generator=torch.Generator().manual_seed(0)).cumsum(0)
    place = lambda step: StepContext("", "", step, 30, step, 30, level=step)
    for step, row in zip(known, rows, strict=True):
        policy.on_computed(state, place(step), (row,), {})
        state.history = [*state.history, (float(step), (row,))][-2:]
    (forecast,) = policy.forecast(state, place(at))
    x = np.stack([chebyshev(2 * step / 30 - 1, degree) for step in known])
    coefficients = np.linalg.solve(x.T @ x + 0.1 * np.eye(degree + 1), x.T @ rows[:, 0].double().numpy())
    assert forecast[0].numpy() == pytest.approx(chebyshev(2 * at / 30 - 1, degree) @ coefficients, rel=1e-4)
    (line,) = replace(policy, share=0.0).forecast(state, place(at))
    assert torch.allclose(line, rows[-1] + (rows[-1] - rows[-2]))
    (half,) = replace(policy, share=0.5).forecast(state, place(at))
    assert torch.allclose(half, (forecast + line) / 2, atol=1e-5)


def test_chebyshev_polynomials() -> None:
    for x in (-1.0, -0.3, 0.0, 0.7, 1.0):
        assert chebyshev(x, 4) == pytest.approx([1, x, 2 * x**2 - 1, 4 * x**3 - 3 * x, 8 * x**4 - 8 * x**2 + 1])


def test_what_the_last_block_gave_stands_for_all_blocks(tiny_models: Path) -> None:
    """Of a kept step the network's output is that step's, but for what comes behind the blocks and knows the time."""
    model = open_model(tiny_models, "tiny-ltx-0.9.0")
    kept = Spectrum(warmup=2, share=0.0, order=0)
    outputs: list[torch.Tensor] = []
    with model.use("transformer") as network:
        handle = network.norm_out.register_forward_pre_hook(lambda _, args: outputs.append(args[0]))
        run = Sampled(replace(model, cache=kept))
        handle.remove()
    computed = [e.computed for e in run.entries]
    assert computed[:4] == [True, True, False, True]
    assert len(outputs) == len(computed)
    for before, now, new in zip(outputs, outputs[1:], computed[1:], strict=False):
        assert torch.equal(before, now) != new


@pytest.mark.parametrize("further", [1, 20])
def test_pictures_in_further_channels_are_no_latents(further: int) -> None:
    """EasyCache's change of the input is that of the latents, beside which nothing moves."""

    def total(before: torch.Tensor, now: torch.Tensor) -> float:
        numbers = {"output change": 1.0, "input change": 2.0, "latents": float(before.abs().mean()), "output": 3.0}
        state = BranchState(numbers=numbers, memory={"input": before[:, :16]}, signal=before)
        EasyCache(threshold=9.0).should_skip(state, StepContext("", "", 5, 30, 5, 30), float(distance(now, before)))
        return state.total

    generator = torch.Generator().manual_seed(0)
    before, now = torch.randn(2, 1, 16, 3, 4, 4, generator=generator)
    pictures = torch.randn(1, further, 3, 4, 4, generator=generator)
    alone = total(before, now)
    assert total(torch.cat([before, pictures], 1), torch.cat([now, pictures], 1)) == pytest.approx(alone, rel=1e-5)


# ---------------------------------------------------------------- SenCache


def decided(policy: SenCache, moved: float, time: float, step: int) -> bool:
    state = BranchState(numbers={"moved": moved, "time": time}, memory={"index": step - 1})
    return policy.should_skip(state, StepContext("transformer", "cond", step, 10, step, 10), None)


def test_the_rule_is_the_published_one() -> None:
    """by latents * moved + by time * time < limit, the tighter limit in the first fifth."""
    row = ("transformer", "cond", tuple(float(i) for i in range(10)), (0.01,) * 10)
    policy = SenCache(threshold=1.0, early=0.1, sensitivities=(row,))
    assert decided(policy, 0.16, 1.0, 6)  # 5 * .16 + .01
    assert not decided(policy, 0.16, 21.0, 6)  # 5 * .16 + .21
    assert not decided(policy, 0.2, 0.0, 6)
    assert not decided(policy, 0.0, 11.0, 1), "the tighter limit"
    assert decided(policy, 0.0, 11.0, 2)
    assert not policy.should_skip(BranchState(), StepContext("transformer", "cond", 5, 10, 5, 10), None)


def test_what_has_moved_is_measured(tiny_models: Path) -> None:
    """Latents and time since the last computed step, and the second branch does what the first one did."""
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    rows = (("transformer", "cond", (0.0,) * STEPS, (1.0,) * STEPS),)
    whole = Sampled(replace(model, cache=SenCache(threshold=1e-9, early=1e-9, sensitivities=rows)))
    assert whole.computed == len(whole.entries)
    timesteps = [float(t) for t in whole.run.denoiser.schedule.scheduler.timesteps]
    limit = max(a - b for a, b in pairwise(timesteps)) * 1.01
    run = Sampled(replace(model, cache=SenCache(threshold=limit, early=limit, sensitivities=rows)))
    by_branch = {b: [e.computed for e in run.entries if e.branch == b] for b in ("cond", "uncond")}
    assert by_branch["cond"] == by_branch["uncond"]
    last, expected = timesteps[0], [True]
    for time in timesteps[1:-1]:
        expected.append(last - time >= limit)
        last = time if expected[-1] else last
    # Wan's published run may reuse its last step, too
    assert by_branch["cond"][: len(expected)] == expected
    by_latents = (("transformer", "cond", (1.0,) * STEPS, (0.0,) * STEPS),)
    moved = Sampled(replace(model, cache=SenCache(threshold=1e9, early=1e-9, sensitivities=by_latents, longest=1)))
    assert [e.computed for e in moved.entries if e.branch == "cond"][:4] == [True, True, False, True]


def calibrated(model: VideoModel, seed: int = 1, sensitivity: bool = True, **changes: Any) -> store.Calibration:
    inputs = {**needed(model), "seed": seed, "steps": STEPS, **changes}
    conditioning = model.encode("a blue square", "", inputs["keyframes"])
    calibration, latents = calibrate(model, conditioning, Request(**inputs), lambda *_: None, sensitivity)
    assert torch.equal(latents, sample(replace(model, cache=None), conditioning, Request(**inputs)))
    return calibration


def test_limits_are_the_published_ones() -> None:
    limits = {spec.name: spec.cache_limits for spec in specs() if spec.cache_limits}
    assert {name: (limit.early, limit.threshold, limit.longest, limit.last) for name, limit in limits.items()} == {
        "wan": (0.045, 2.0, 3, False),
        "ltx": (0.01, 0.7, 4, True),
        "cogvideox": (0.005, 0.07, 10, True),
    }


@pytest.mark.parametrize(
    "name", ["tiny-wan2.2-t2v-a14b", "tiny-ltx-0.9.5", "tiny-cogvideox-2b", "tiny-hunyuan-t2v", "tiny-mochi"]
)
def test_a_calibration_serves_it(models: Path, name: str) -> None:
    model = open_model(models, name)
    cached = replace(model, cache=SenCache(threshold=1e9, early=1e9, longest=1))
    request = model.complete(Request(steps=STEPS))
    with pytest.raises(InputError, match=r"with sensitivities.*sensitivity on"):
        planned(cached, request)
    plain = calibrated(model, sensitivity=False)
    store.add(models / name, plain)
    with pytest.raises(InputError, match=r"sensitivity on"):
        planned(cached, request)
    calibration = store.add(models / name, calibrated(model))
    for branch in calibration.branches:
        assert branch.measured == 1
        assert min(branch.by_latents) > 0
        assert min(branch.by_time) > 0
    policy, notes = planned(cached, request)
    assert isinstance(policy, SenCache)
    assert bool(notes) == (model.checkpoint.spec.cache_limits is None)
    assert replace(policy, sensitivities=()).longest == 1
    run = Sampled(cached)
    assert run.computed < len(run.entries)


def test_sensitivities_are_finite_differences(models: Path) -> None:
    """Of a network that is linear in its latents and its time they are its slopes."""
    from reelwire.samplers.caches.mechanisms.base import Forward
    from reelwire.samplers.caches.mechanisms.sensitivity import sensitivity

    slope, drift = 0.7, torch.tensor([3.0, -4.0])

    def network(hidden_states: torch.Tensor, timestep: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        return (slope * hidden_states + timestep * drift,)

    x, y = torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0])
    t, later = torch.tensor([900.0]), torch.tensor([700.0])
    common: dict[str, Any] = dict.fromkeys(
        ("context", "state", "order", "decide", "store", "forecast", "stacks", "signal", "always_computed", "record")
    )
    forward = Forward(**{**common, "network": network, "inputs": {"hidden_states": y, "timestep": later}})
    output = network(y, later, False)[0]
    found = sensitivity(forward, output, x, t, network(x, t, False)[0])
    assert float(found["by latents"]) == pytest.approx(slope, rel=1e-3)
    assert float(found["by time"]) == pytest.approx(float(drift.square().mean().sqrt()))
    still = replace(forward, inputs={"hidden_states": y, "timestep": t})
    assert float(sensitivity(still, network(y, t, False)[0], x, t, network(x, t, False)[0])["by time"]) == 0


def test_sensitivities_of_runs_are_averaged_and_kept(models: Path) -> None:
    """A later calibration without them does not throw them away."""
    key, gram = store.Key(3, "euler", 4.0, 3.0, 10), {"transformer": (((1.0,),),)}
    plain = store.Branch("transformer", "cond", (), (), "", (), 0.0, 0.0, 0.0)
    measured = [replace(plain, by_latents=(1.0 * n, 0.5), by_time=(0.1, 0.2 * n), measured=1) for n in (1, 2, 6)]
    runs = [store.Calibration(key, gram, (branch,)) for branch in (*measured, plain)]
    joined = reduce(store.Calibration.joined, runs)
    assert joined.runs == 4
    (branch,) = joined.branches
    assert branch.measured == 3
    assert branch.by_latents == pytest.approx((3.0, 0.5))
    assert branch.by_time == pytest.approx((0.1, 0.6))
    file = models / "tiny-wan2.1-t2v"
    store.add(file, joined)
    assert store.read(file)[0] == joined


def test_where_a_step_has_none_it_is_that_of_the_step_before() -> None:
    """Heun asks twice at one time; behind the last step there is nothing."""
    assert per_step([torch.tensor(value) for value in (2.0, 0.0, 3.0)]) == (2.0, 2.0, 3.0, 3.0)
    assert per_step([]) == ()


def test_a_unet_has_none(models: Path) -> None:
    model = open_model(models, "tiny-svd")
    assert calibrated(model, steps=10).branches == ()
    with pytest.raises(InputError, match=r"UNet.*Use"):
        Sampled(replace(model, cache=SenCache(sensitivities=SENSITIVITIES)))


def test_what_is_not_published_is_told(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-mochi")
    policy = SenCache(sensitivities=SENSITIVITIES)
    prepared, notes = planned(replace(model, cache=policy), model.complete(Request(steps=STEPS)))
    assert isinstance(prepared, SenCache)
    assert (prepared.early, prepared.threshold, prepared.longest) == (USUAL.early, USUAL.threshold, USUAL.longest)
    assert len(notes) == 1
    set_by_hand = replace(policy, threshold=0.3, longest=2)
    prepared, _ = planned(replace(model, cache=set_by_hand), model.complete(Request(steps=STEPS)))
    assert isinstance(prepared, SenCache)
    assert (prepared.threshold, prepared.longest) == (0.3, 2)
