"""Guidance and caches around a denoiser of three lines. (Context windows: tests/samplers/long/test_windows.py.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace

import pytest
import torch
from reelwire.loaders.denoiser import GUIDED, Denoiser, DenoiserWrapper, Network
from reelwire.loaders.facts import Stacks
from reelwire.loaders.request import Guidance, SpatioTemporal
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.caches.runner import Forecasting, Runner, ThroughCache
from reelwire.samplers.caches.state import forecast
from reelwire.samplers.denoise import Shared
from reelwire.samplers.guidance import ClassifierFree, guide
from reelwire.samplers.parallel.clip.split import Split
from reelwire.samplers.parallel.clip.worker import Remembered
from reelwire.samplers.solvers import TABLES
from reelwire.tests.support.engine.denoisers import flow_schedule
from reelwire.tests.support.engine.words import refuses
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
    guided = guide(toy(), Guidance(start=0.2, end=0.5), batched)
    made = [guided.predict(None, X, step, GUIDED).mean().item() for step in range(STEPS)]
    assert made == [3.0, 3.0, *[1 + 5 * (3 - 1)] * 3, *[3.0] * 5]


def test_a_scale_of_one_is_no_guidance() -> None:
    guided = guide(toy(1.0), Guidance(), False)
    assert guided.predict(None, X, 0, GUIDED).mean() == 3.0


def test_cfg_zero_star_leaves_branches_that_differ_in_length_alone() -> None:
    guided = guide(toy(), Guidance("cfg-zero*"), False)
    assert [guided.predict(None, X, step, GUIDED).mean().item() for step in (0, STEPS // 2)] == [
        0.0,
        pytest.approx(3.0),
    ]


@pytest.mark.parametrize("method", ["apg", "tcfg"])
def test_other_guidance_pulls_the_same_way(method: str) -> None:
    guided = guide(toy(), Guidance(method, threshold=0.0), False)
    assert guided.predict(None, X, 0, GUIDED).mean() > 3.0


class Weaker(Toy):
    """Its network is a list of blocks, each of which adds a part of the prompt's share."""

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        return super().predict(network, latents, step, branch.replace("perturbed", "cond")) * sum(network) / 4


@contextmanager
def without(network: Network, blocks: Sequence[int], mode: str) -> Iterator[None]:
    whole = [*network]
    network[:] = [0.0 if place in blocks else part for place, part in enumerate(whole)]
    yield
    network[:] = whole


def test_spatio_temporal_guidance_follows_its_lists_of_noise_levels() -> None:
    """Above the half: uncond + 5 (cond - uncond) and 2 (cond - perturbed), a fourth of the blocks left out; below it
    the prompt's alone."""
    stg = SpatioTemporal((5.0, 1.0), (2.0, 0.0), (1.0,), (0.5, 0.0), ((1,), (0,)))
    network = [1.0, 1.0, 1.0, 1.0]
    weaker = Weaker(X, flow_schedule(STEPS), 1.0, torch.Generator())
    guided = guide(weaker, Guidance("stg", stg=stg), False, perturb=without)
    made = [guided.predict(network, X, step, GUIDED).mean().item() for step in range(STEPS)]
    high = sum(sigma >= 0.5 for sigma in weaker.schedule.sigmas[:STEPS])
    assert made == [1 + 5 * (3 - 1) + 2 * (3 - 3 * 3 / 4)] * high + [3.0] * (STEPS - high)
    assert network == [1.0] * 4


def test_spatio_temporal_guidance_brings_half_of_the_spread_back() -> None:
    """12.5 = 1 + 5 (3 - 1) + (3 - 1.5) times the latents; a share of 1 stands for none, as in the makers' program."""
    stg = SpatioTemporal((5.0,), (1.0,), (0.5,), (), ((1, 2),))
    latents = torch.arange(24.0).reshape(X.shape)
    weaker = Weaker(latents, flow_schedule(STEPS), 1.0, torch.Generator())
    guided = guide(weaker, Guidance("stg", stg=stg), False, perturb=without)
    made = guided.predict([1.0] * 4, latents, 0, GUIDED)
    assert made.std() == pytest.approx((12.5 + 3) / 2 * latents.std().item(), rel=1e-5)


@pytest.mark.parametrize("end", [0.25, 0.5, 0.55, 1.0])
def test_both_predictions_of_a_noise_level_are_guided_or_none(end: float) -> None:
    schedule = flow_schedule(10, TABLES["flow"]["heun"])
    denoiser = replace(toy(), schedule=schedule)
    guided = guide(denoiser, Guidance("cfg", end=end), False)
    plain = [denoiser.predict(None, X, step, "cond") for step in range(len(schedule))]
    differs = [not torch.equal(guided.predict(None, X, step, GUIDED), plain[step]) for step in range(len(schedule))]
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
    through = ThroughCache(denoiser, runner)
    with runner.phase(network, Run(denoiser), "transformer", range(STEPS)):
        for step in range(STEPS):
            assert torch.equal(through.predict(network, X * step, step, "cond"), X * step + 2)
    computed = [step % 2 == 0 or step == STEPS - 1 for step in range(STEPS)]  # the last one always
    assert [entry.computed for entry in runner.entries] == computed
    assert network.runs == 2 * sum(computed)


def test_a_branch_that_has_rested_begins_anew() -> None:
    """As where both branches go in one pass in the middle of a run, and the prompt's alone before and behind it."""
    denoiser, network = Networked(X, flow_schedule(30), 1.0, torch.Generator()), Blocks()
    runner = Runner(FORA(interval=2), Stacks(), 30)
    through = ThroughCache(denoiser, runner)
    branches = ["cond"] * 6 + ["cond_uncond"] * 11 + ["cond"] * 13
    with runner.phase(network, Run(denoiser), "transformer", range(30)):
        for step, branch in enumerate(branches):
            through.predict(network, X * step, step, branch)
    computed = [entry.step for entry in runner.entries if entry.computed]
    assert {0, 6, 17} <= {*computed}
    assert not {1, 7, 19} & {*computed}, "others are made of what was stored"


class Recording(DenoiserWrapper):
    """A denoiser that notes what it is asked for."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner)
        self.asked = list[tuple[int, str]]()

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        self.asked.append((step, branch))
        return self.inner.predict(network, latents, step, branch)


def test_a_cache_around_guidance() -> None:
    """A step that is not computed points to the video that the last computed one pointed to."""
    guided = Recording(guide(toy(), Guidance(), False))
    runner = Runner(Plan(speed=2.0, order=0), None, STEPS)
    cached, shown = Forecasting(guided, runner), list[Tensor]()
    with runner.phase(None, Run(cached), "transformer", range(STEPS)):
        for step in range(STEPS):
            shown.append(cached.x0(cached.predict(None, X, step, GUIDED), X, step))
    calls = [step for step, _ in guided.asked]
    assert guided.asked == [(entry.step, GUIDED) for entry in runner.entries if entry.computed]
    assert len(calls) == STEPS // 2
    for step in set(range(STEPS)) - set(calls):
        assert torch.allclose(shown[step], shown[max(call for call in calls if call < step)], atol=1e-5)


@pytest.mark.parametrize(
    ("values", "dtype", "is_finite"),
    [
        ((torch.nan, 1.0), torch.float32, False),
        ((torch.inf, 1.0), torch.float32, False),
        ((torch.inf, -torch.inf), torch.float16, False),
        ((-torch.inf, 1.0), torch.bfloat16, False),
        ((6e4, 6e4), torch.float16, True),  # whose sum float16 does not hold
        ((1e30, -1.0), torch.bfloat16, True),
    ],
)
def test_a_prediction_that_is_not_finite_is_found(
    values: tuple[float, float], dtype: torch.dtype, is_finite: bool
) -> None:
    runner, denoiser = Runner(Plan(speed=2.0), None, STEPS), toy()
    prediction = torch.tensor(values, dtype=dtype).repeat(X.numel() // 2).reshape(X.shape)
    found = nullcontext() if is_finite else refuses(ValueError, "prediction_not_finite", cache="plan", index=1)
    with found, runner.phase(None, Run(denoiser), "transformer", range(STEPS)):
        runner.predict(denoiser, X, 0, lambda: prediction)


@pytest.mark.parametrize(("policy", "sees"), [(Plan(), False), (FORA(), True)])
def test_only_caches_of_forward_passes_are_put_around_the_network(policy: Policy, sees: bool) -> None:
    assert Runner(policy, Stacks(), STEPS).sees_passes == sees


# ---------------------------------------------------------------- any of them, around any denoiser


def test_branches_pass_through_guidance_and_caches() -> None:
    """What is wrapped keeps its own branches, which reach the denoiser within."""
    within = Recording(toy())
    runner = Runner(Plan(speed=2.0), None, STEPS)
    outside = Forecasting(Shared(guide(ThroughCache(within, runner), Guidance(), False), Split()), runner)
    assert outside.predict(None, X, 4, "uncond").mean() == 1.0
    assert outside.predict(None, X, 4, "cond_uncond").shape == (2, *X.shape[1:])
    assert within.asked == [(4, "uncond"), (4, "cond_uncond")]
    assert runner.entries == []


@pytest.mark.parametrize("batched", [False, True])
def test_guidance_asks_for_its_branches_in_one_forward_or_two(batched: bool) -> None:
    within = Recording(toy())
    guided = ClassifierFree(within, Guidance(), Split(), batched)
    assert guided.predict(None, X, 4, GUIDED).mean() == 1 + 5 * (3 - 1)
    assert within.asked == ([(4, "cond_uncond")] if batched else [(4, "cond"), (4, "uncond")])


def test_a_part_of_another_rank_is_not_computed_here() -> None:
    class Elsewhere(Split):
        def guided(self, part: str, compute: Callable[[], Tensor]) -> Tensor:
            return X * 7 if part == "transformer" else compute()

    within = Recording(toy())
    assert torch.equal(Shared(within, Elsewhere()).predict(None, X, 0, GUIDED), X * 7)
    assert within.asked == []


def test_what_was_computed_before_is_not_computed_again() -> None:
    within, computed = Recording(guide(toy(), Guidance(), False)), list[Tensor]()
    remembered = Remembered(within, iter([X * 8, X * 9]), computed.append)
    made = [remembered.predict(None, X, step, GUIDED).mean().item() for step in range(4)]
    assert made == [8.0, 9.0, 11.0, 11.0]
    assert [step for step, _ in within.asked] == [2, 3]
    assert [prediction.mean().item() for prediction in computed] == [11.0, 11.0]
