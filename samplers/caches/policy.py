"""What all caches share: when a step may be reused, what is remembered of a branch, and the forecast of what was kept."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn

from ...loaders.denoiser import Denoiser
from ...loaders.messages import InputError, Origin, message
from ...loaders.request import Request
from ...loaders.video_model import VideoModel

Values = tuple[Tensor, ...]
Chosen = dict[int, float]  # step that is not computed -> by how much of the last change its values lie further on
FEWEST = 10  # steps, under which each counts: caches on distilled models cost more picture than fewer steps do
# children of a block whose outputs are kept one by one (src/models.py of prathebaselva/FORA: attention and MLP, before
# their gates; for blocks of two streams as Shenyi-Z/TaylorSeer does it)
MODULES = ("attn", "attn1", "attn2", "ff", "ffn", "ff_context", "proj_mlp", "proj_out")


class RunUnderWay(Protocol):
    """What caches look at of a run."""

    denoiser: Denoiser

    def finish(self) -> Tensor:
        """The latents as they are now, as [B, C, T, h, w]."""


@dataclass(frozen=True)
class At:
    """Where a forward is. part, branch: of which network and guidance; step, steps: of the whole run; index, count: within
    its expert; plan: what the policy has chosen
    beforehand."""

    part: str
    branch: str
    step: int
    steps: int
    index: int
    count: int
    plan: Chosen = field(default_factory=dict)


@dataclass
class State:
    """What one branch of one expert remembers. kept: (where, values) of the computed steps, the newest last; reused: how
    many steps in a row; total: what a policy has added up since the last computed step; moved: how far the signal went, not
    read yet; unread: other numbers that the policy will look at, still on the card; numbers: those that were read."""

    kept: list[tuple[float, Values]] = field(default_factory=list)
    reused: int = 0
    total: float = 0.0
    signal: Tensor | None = None
    moved: Tensor | None = None
    unread: dict[str, Tensor] = field(default_factory=dict)
    numbers: dict[str, float] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)  # what one policy alone needs

    @property
    def bytes(self) -> int:
        tensors = [t for _, values in self.kept for t in values]
        tensors += [v for v in (self.signal, *self.memory.values()) if isinstance(v, Tensor)]
        return sum(t.nbytes for t in tensors)


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """A way to decide which steps are computed. Immutable: its state is the run's.

    start, end: the share of the steps between which a step may be reused; warmup: steps at the start of each expert that
    are computed; longest: most reused steps in a row, 0 for any number; order: 0 keeps what was, 1 follows its change on.
    """

    start: float = 0.0
    end: float = 1.0
    warmup: int = 1
    longest: int = 0
    order: int = 0
    node: Origin | None = field(default=None, compare=False, repr=False)

    title: ClassVar[str]
    signal: ClassVar[str] = ""  # what `distance` compares: see signals.py
    always: ClassVar[int] = 0  # blocks that run in any case
    # whether each step's signal is compared with that of the step before; else with the last computed one's
    anew: ClassVar[bool] = True
    last: ClassVar[bool] = True  # whether the last step is always computed
    follows: ClassVar[bool] = False  # whether the other branch does what the first one did
    # what is kept: the change that all "blocks" make, or the whole "network", what each "module" gives, or the "guided"
    # prediction of a step; "external": another library's business
    level: ClassVar[str] = "blocks"

    @property
    def memory_of(self) -> int:
        """How many values of a token's width, or of a latent pixel's, are kept for each of them and each branch."""
        return self.order + 1 + (self.signal == "modulated" or self.signal == "block")

    @abstractmethod
    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        """Whether this step may be reused; called only where the rules common to all policies allow it.

        moved: how far the signal is from the one it is compared with; None where there is none yet.
        """

    def learn(self, state: State, at: At, values: Values, seen: Mapping[str, Tensor]) -> None:
        """Told after each computed step: what is kept, and the network's "input" and "output"."""

    def looks(self, state: State) -> Mapping[str, Tensor]:
        """Further numbers that `wants` finds in the state, to be read from the card together with how far the signal is."""
        return {}

    def suits(self, model: VideoModel) -> None:
        """Raise InputError for a model that it cannot work on, whatever the request."""

    def fit(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        """The policy for this model and complete request, and what the person should know; raises InputError."""
        return self, ()

    def choose(self, denoiser: Denoiser, part: str, steps: range) -> Chosen:
        """The reused steps of an expert with the slopes of their forecasts, for policies that know them beforehand."""
        return {}

    def computed(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        """The fewest and the most of these steps of an expert that are computed, as far as it is known before a run.

        Policies without a signal are followed step by step; for the others at least a third are, as published speed-ups
        reach about three (TeaCache, arXiv 2411.19108, table 1; EasyCache, arXiv 2507.02860, table 1).
        """
        if self.signal or self.level not in ("blocks", "module"):
            return min(len(steps), max(-(-len(steps) // 3), self.warmup + self.last)), len(steps)
        state, count = State(), 0
        for step in steps:
            at = At(part, branch, step, total, step - steps.start, len(steps))
            reused = self.allowed(state, at) and self.wants(state, at, None, None)
            count += not reused
            state.kept = [(0.0, ())]
            state.reused = state.reused + 1 if reused else 0
            state.total = state.total if reused else 0.0
        return count, count

    def notes(self, moves: list[float]) -> tuple[str, ...]:
        """What the person should know after a run; moves: how far the signal went in its steps."""
        return ()

    def estimate(self, model: VideoModel, request: Request) -> int:
        """Bytes that its states hold at most."""
        branches = 2 if request.guidance > 1 and not getattr(model.facts, "embedded", False) else 1
        if model.guidance.true_scale > 1:
            branches = 2
        if self.level in ("guided", "network"):
            _, channels, time, h, w = model.facts.latent_shape(request.width, request.height, request.frames)
            size = channels * -(-time // model.facts.time_patch) * model.facts.time_patch * h * w
            return self.memory_of * size * 4 * (branches if self.level == "network" else 1)
        item = torch.empty(0, dtype=getattr(torch, model.recipe.dtype)).element_size()
        if model.stacks is None:  # what the second outermost block of a UNet gives
            _, _, time, h, w = model.facts.latent_shape(request.width, request.height, request.frames)
            return (self.order + 1) * time * h * w * 2 * model.facts.width * item * branches
        tokens = model.facts.tokens(request.width, request.height, request.frames)
        return self.memory_of * tokens * model.facts.width * item * branches

    def allowed(self, state: State, at: At) -> bool:
        inside = int(self.start * at.steps) <= at.step < int(self.end * at.steps)
        ends = self.last and at.step == at.steps - 1
        tired = 0 < self.longest <= state.reused
        return bool(state.kept) and inside and at.index >= self.warmup and not ends and not tired


def of_modules(model: VideoModel, request: Request) -> float:
    """How many times the video's hidden states all attentions and MLPs of a network give; in blocks of two streams, of
    the text's tokens too."""
    tokens = model.facts.tokens(request.width, request.height, request.frames)
    text = model.facts.prompt_tokens if model.stacks and model.stacks.pairs else 0
    return model.facts.modules * (tokens + text) / tokens


def check_span(start: float, end: float) -> None:
    """Raise InputError for shares of the steps between which nothing can be reused."""
    if not 0 <= start < end <= 1:
        raise InputError("start, end", f"{start}, {end}", message("cache_span_rule"), message("use_span"))


def check_policy(policy: Policy) -> None:
    """Raise InputError for options that make no sense."""
    check_span(policy.start, policy.end)
    if policy.order not in (0, 1, 2):
        raise InputError("order", policy.order, message("order_rule"), message("use_0_or_1"))


def forecast(kept: list[tuple[float, Values]], at: float, order: int) -> Values:
    """What the kept values would be at another place: the newest, or the polynomial through the newest ones (Newton's form)."""
    points = kept[-(order + 1) :]
    if len(points) == 1:
        return points[-1][1]
    made = []
    for values in zip(*(v for _, v in points), strict=True):
        weights = [_lagrange([x for x, _ in points], i, at) for i in range(len(points))]
        made.append(sum(w * v for w, v in zip(weights[1:], values[1:], strict=True)) + weights[0] * values[0])
    return tuple(made)


def followed(kept: list[tuple[float, Values]], slope: float) -> Values:
    """The newest values, and so much of their change since the ones before."""
    if len(kept) < 2 or not slope:
        return kept[-1][1]
    return tuple(new + slope * (new - old) for new, old in zip(kept[-1][1], kept[-2][1], strict=True))


def _lagrange(places: list[float], i: int, at: float) -> float:
    weight = 1.0
    for j, place in enumerate(places):
        if j != i:
            weight *= (at - place) / (places[i] - place)
    return weight


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Relative L1 distance of a from b: mean |a - b| / mean |b| (TeaCache, arXiv 2411.19108, eq. 4), a number on the card."""
    a, b = a.float(), b.float()
    return (a - b).abs().mean() / b.abs().mean().clamp(min=1e-12)


@contextmanager
def exchanged(module: nn.Module, changed: Mapping[str, nn.Module]) -> Iterator[None]:
    """Children of a module exchanged for the length of the block."""
    old = {name: module._modules[name] for name in changed}
    module._modules.update(changed)
    try:
        yield
    finally:
        module._modules.update(old)
