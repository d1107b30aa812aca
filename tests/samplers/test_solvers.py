"""Solvers on problems whose solution is known: their order, their noise, and how many predictions they ask for."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Guidance, Keyframe, Request
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.caches.report import report
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import Sampling
from reelwire.samplers.estimate.count import count_steps
from reelwire.samplers.plan import plan
from reelwire.samplers.solvers import TABLES, Solver, noise_schedule
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.denoisers import Gaussian, PlainRun, flow_schedule
from reelwire.tests.support.engine.models import open_ltx as load
from reelwire.tests.support.engine.sampling import sample
from reelwire.training.evaluate import ATTRIBUTES, as_text, held_out_prompts, score, table
from torch import Tensor

HEUN, SDE = TABLES["flow"]["heun"], TABLES["flow"]["dpm++ 2m sde"]
MANY = (1, 1, 1, 512, 512)


def noise(shape: tuple[int, ...] = (1, 1, 1, 8, 8), seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def solved(solver: Solver, denoiser: Denoiser) -> tuple[Tensor, PlainRun]:
    run = PlainRun(denoiser)
    return solver.solve(run, denoiser.latents, denoiser.schedule), run


def gaussian(steps: int, solver: object, shape: tuple[int, ...] = (1, 1, 1, 8, 8), seed: int = 1) -> Gaussian:
    schedule = flow_schedule(steps, solver)  # type: ignore[arg-type]
    return Gaussian(noise(shape), schedule, 1.0, torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- Heun


def test_heun_is_of_second_order() -> None:
    """The exact flow carries the noise z to mean + spread * z; half the step makes the error a quarter."""

    def error(steps: int) -> float:
        denoiser = gaussian(steps, HEUN)
        exact = denoiser.mean + denoiser.spread * denoiser.latents
        return (solved(HEUN, denoiser)[0] - exact).abs().max().item()

    errors = [error(steps) for steps in (8, 16, 32)]
    assert all(3.4 < coarse / fine < 4.6 for coarse, fine in pairwise(errors)), errors


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_heun_asks_for_two_predictions_a_step_but_the_last(steps: int) -> None:
    denoiser = gaussian(steps, HEUN)
    run = solved(HEUN, denoiser)[1]
    assert run.predictions == list(range(2 * steps - 1)) == list(range(len(denoiser.schedule)))
    assert [following for following, _ in run.seen] == list(range(1, 2 * steps))
    assert denoiser.schedule.sigmas[-1] == 0 < denoiser.schedule.sigmas[-2]


def test_one_step_of_heun_is_eulers() -> None:
    denoiser = gaussian(1, HEUN)
    latents = denoiser.latents
    assert torch.equal(
        solved(HEUN, denoiser)[0],
        latents - (latents - denoiser.x0(denoiser.predict(None, latents, 0, ""), latents, 0)),
    )


# ---------------------------------------------------------------- DPM++ 2M SDE


def test_the_sde_goes_through_the_exact_marginals() -> None:
    """At every noise level mean and spread are those of alpha_t x0 + sigma_t noise; the first noise is gone."""
    denoiser = gaussian(80, SDE, MANY)
    latents, run = solved(SDE, denoiser)
    for step, state in run.seen[3:]:
        alpha, sigma = denoiser.alpha_sigma(step)
        assert state.mean().item() == pytest.approx(alpha * denoiser.mean, abs=0.01)
        assert state.std().item() == pytest.approx(math.hypot(alpha * denoiser.spread, sigma), rel=0.015)
    assert torch.corrcoef(torch.stack([latents.flatten(), denoiser.latents.flatten()]))[0, 1].abs() < 0.02


def test_the_sde_is_of_second_order() -> None:
    """What the mean of many numbers is off by: the noise, drawn anew in each step, is left out of it."""

    def error(steps: int) -> float:
        denoiser = gaussian(steps, SDE, MANY)
        return abs(solved(SDE, denoiser)[0].std().item() - denoiser.spread)

    coarse, fine = error(5), error(10)
    assert coarse > 0.004, "more than chance"
    assert coarse / fine > 2.5, (coarse, fine)


def test_the_same_seed_draws_the_same_noise() -> None:
    one, same, other = (solved(SDE, gaussian(6, SDE, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


# ---------------------------------------------------------------- in a run


@dataclass
class Half(Gaussian):
    """The first half of the latents is given and stays."""

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        half = latents.shape[-1] // 2
        return torch.cat([latents[..., :half], stepped[..., half:]], -1)


@pytest.mark.parametrize("name", ["heun", "dpm++ 2m sde"])
def test_what_is_given_stays(name: str) -> None:
    solver = TABLES["flow"][name]
    denoiser = Half(noise(), flow_schedule(4, solver), 1.0, torch.Generator().manual_seed(1))
    latents, run = solved(solver, denoiser)
    for seen in (latents, *(latents for _, latents in run.seen)):
        assert torch.equal(seen[..., :4], denoiser.latents[..., :4])
    assert not torch.equal(latents[..., 4:], denoiser.latents[..., 4:])


@pytest.mark.parametrize("name", ["heun", "dpm++ 2m sde"])
def test_on_the_trained_model(name: str) -> None:
    """Progress by predictions, a preview of each one, keyframes in their place, the same seed the same video."""
    model = load(BUNDLED)
    conditioning = model.encode("a red circle moving right on a black background", "")
    request = Request(64, 64, 17, 6, 4.0, name, seed=3, keyframes=(Keyframe(torch.full((1, 64, 64, 3), 0.5), -1),))
    seen: list[tuple[int, int]] = []
    previews: list[Tensor] = []

    def on_step(done: int, total: int, run: Sampling) -> None:
        seen.append((done, total))
        previews.append(run.preview())

    latents = sample(model, conditioning, request, on_step)
    count = len(noise_schedule(model, model.complete(request), torch.device("cpu")))
    assert count == (11 if name == "heun" else 6)
    assert seen == [(done, count) for done in range(1, count + 1)]
    assert torch.equal(previews[-1], latents)
    assert (previews[count // 2] - latents).abs().mean() < (previews[0] - latents).abs().mean()
    assert torch.equal(sample(model, conditioning, request), latents)


@pytest.mark.parametrize("policy", [FORA(interval=2), Plan(speed=2.0)])
def test_caches_count_predictions(policy: Policy) -> None:
    """In the run, in its report and in the estimate: 6 steps of Heun are 11 predictions, enough for a cache."""
    model = replace(load(BUNDLED), cache=policy)
    request, runs = Request(64, 64, 17, 6, 4.0, "heun", seed=3), list[Sampling]()
    sample(model, model.encode("a red circle", ""), request, lambda done, total, run: runs.append(run))
    cache = runs[-1].cache
    assert cache is not None
    (computed,) = report(cache).computed.values()
    steps = count_steps(model, plan(model, request))
    assert len(computed) == steps.total == plan(model, request).predictions == 11
    assert steps.computed == (sum(computed), sum(computed))
    assert sum(computed) < 11
    assert [entry.step for entry in cache.entries] == list(range(11))


@pytest.mark.parametrize(("name", "steps"), [("heun", 13), ("dpm++ 2m sde", 25)])
def test_the_trained_model_shows_what_prompts_say(name: str, steps: int) -> None:
    """By the judge of tests/loaders/test_bundled_model.py, on each 15th held-out prompt, in 25 predictions each."""
    model = load(BUNDLED)

    def frames(prompt: str, seed: int) -> np.ndarray:
        latents = sample(model, model.encode(prompt, ""), Request(steps=steps, sampler=name, seed=seed))
        return torch.cat(list(stream_frames(model, latents))).numpy()

    rows = table(score(each, frames(each.prompt, each.seed)) for each in held_out_prompts()[::15])
    assert rows["all"]["n"] >= 5
    assert all(rows["all"][attribute] >= 0.8 for attribute in ATTRIBUTES), as_text(rows)


@pytest.mark.parametrize("sampler", ["heun", "dpm++ 2m sde"])
def test_a_first_step_that_stands_still_is_for_other_solvers(sampler: str) -> None:
    model = replace(load(BUNDLED), guidance=Guidance("cfg-zero*"))
    with pytest.raises(InputError) as refusal:
        plan(model, Request(steps=4, sampler=sampler))
    assert (refusal.value.name, refusal.value.value) == ("sampler", sampler)
    assert plan(model, Request(steps=4)).request.sampler == "euler"
