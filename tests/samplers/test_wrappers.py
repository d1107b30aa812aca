"""Guidance and caches around a denoiser of three lines. (Context windows: tests/samplers/long/test_windows.py.)"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from reelwire.loaders.denoiser import Denoiser, Network
from reelwire.loaders.facts import Stacks
from reelwire.loaders.request import Guidance
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.runner import Runner, forecasting, through_cache
from reelwire.samplers.caches.state import forecast
from reelwire.samplers.guidance import guide
from reelwire.samplers.solvers import TABLES
from reelwire.tests.support.engine.denoisers import flow_schedule
from torch import Tensor, nn

STEPS, X = 10, torch.ones(1, 2, 3, 2, 2)
SHARES = {"cond": 3.0, "uncond": 1.0}


class Toy(Denoiser):
    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        return torch.cat([latents * SHARES[name] for name in reversed(SHARES) if name in branch.split("_")])


def toy(guidance: float = 5.0) -> Toy:
    return Toy(X, flow_schedule(STEPS), guidance, torch.Generator())


@dataclass
class Run:
    """What a cache looks at of a run."""

    denoiser: Denoiser

    def finish(self) -> Tensor:
        return X


@pytest.mark.parametrize("batched", [False, True])
def test_guidance(batched: bool) -> None:
    guided = guide(toy().predict, toy(), Guidance(start=0.2, end=0.5), batched)
    made = [guided(None, X, step).mean().item() for step in range(STEPS)]
    assert made == [3.0, 3.0, *[1 + 5 * (3 - 1)] * 3, *[3.0] * 5]


def test_a_scale_of_one_is_no_guidance() -> None:
    guided = guide(toy(1.0).predict, toy(1.0), Guidance(), False)
    assert guided(None, X, 0).mean() == 3.0


def test_cfg_zero_star_leaves_branches_that_differ_in_length_alone() -> None:
    guided = guide(toy().predict, toy(), Guidance("cfg-zero*"), False)
    assert [guided(None, X, step).mean().item() for step in (0, STEPS // 2)] == [0.0, pytest.approx(3.0)]


@pytest.mark.parametrize("method", ["apg", "tcfg"])
def test_other_guidance_pulls_the_same_way(method: str) -> None:
    guided = guide(toy().predict, toy(), Guidance(method, threshold=0.0), False)
    assert guided(None, X, 0).mean() > 3.0


@pytest.mark.parametrize("end", [0.25, 0.5, 0.55, 1.0])
def test_both_predictions_of_a_noise_level_are_guided_or_none(end: float) -> None:
    schedule = flow_schedule(10, TABLES["flow"]["heun"])
    denoiser = replace(toy(), schedule=schedule)
    guided = guide(denoiser.predict, denoiser, Guidance("cfg", end=end), False)
    plain = [denoiser.predict(None, X, step, "cond") for step in range(len(schedule))]
    differs = [not torch.equal(guided(None, X, step), plain[step]) for step in range(len(schedule))]
    assert differs == [level < int(end * 10) for level in schedule.levels]
    assert schedule.level_count == 10


# ---------------------------------------------------------------- caches


def test_two_predictions_at_one_level_tell_nothing_of_the_change_between_levels() -> None:
    one, two, three = (torch.full((1,), float(value)) for value in (1, 2, 3))
    assert forecast([(0.0, (one,)), (1.0, (two,))], 2, 1)[0] == 3
    assert forecast([(1.0, (one,)), (1.0, (three,))], 2, 1)[0] == 3


class Blocks(nn.Module):
    """A network that adds 1 in each of two blocks, and counts how often the first one runs."""

    def __init__(self) -> None:
        super().__init__()
        self.runs = 0
        self.transformer_blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
        for block in self.transformer_blocks:
            block.forward = self._add

    def _add(self, hidden_states: Tensor) -> Tensor:
        self.runs += 1
        return hidden_states + 1

    def forward(self, hidden_states: Tensor, return_dict: bool = True) -> tuple[Tensor]:
        for block in self.transformer_blocks:
            hidden_states = block(hidden_states)
        return (hidden_states,)


class Networked(Denoiser):
    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        return self.forward(network, step, branch, hidden_states=latents)


def test_a_cache_around_the_network() -> None:
    """Every second forward makes do with the change that the blocks made in the one before."""
    denoiser, network = Networked(X, flow_schedule(STEPS), 1.0, torch.Generator()), Blocks()
    runner = Runner(FORA(interval=2), Stacks(), STEPS)
    predict = through_cache(denoiser.predict, runner)
    with runner.phase(network, Run(denoiser), "transformer", range(STEPS)):
        for step in range(STEPS):
            assert torch.equal(predict(network, X * step, step, "cond"), X * step + 2)
    computed = [step % 2 == 0 or step == STEPS - 1 for step in range(STEPS)]  # the last one always
    assert [entry.computed for entry in runner.entries] == computed
    assert network.runs == 2 * sum(computed)


def test_a_cache_around_guidance() -> None:
    """A step that is not computed points to the video that the last computed one pointed to."""
    calls: list[int] = []
    denoiser = toy()

    def guided(network: Any, latents: Tensor, step: int) -> Tensor:
        calls.append(step)
        return latents * 3

    runner = Runner(Plan(speed=2.0, order=0), None, STEPS)
    cached, shown = forecasting(guided, denoiser, runner), list[Tensor]()
    with runner.phase(None, Run(denoiser), "transformer", range(STEPS)):
        for step in range(STEPS):
            shown.append(denoiser.x0(cached(None, X, step), X, step))
    assert calls == [entry.step for entry in runner.entries if entry.computed]
    assert len(calls) == STEPS // 2
    for step in set(range(STEPS)) - set(calls):
        assert torch.allclose(shown[step], shown[max(call for call in calls if call < step)], atol=1e-5)
