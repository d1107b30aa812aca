"""What all policies share: the options that people set, the rules of when a step may be reused, the hooks of a run."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import ClassVar, Protocol

from torch import Tensor

from ...loaders.denoiser import Denoiser
from ...loaders.facts import Stacks
from ...loaders.messages import InputError, Origin, message
from ...loaders.parts import Network
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from .course import Course
from .mechanisms.base import Mechanism
from .mechanisms.blocks import BLOCK, Blocks
from .state import BranchState, Slopes, StepContext, Values, forecast

FEWEST = 10  # predictions, under which each counts: caches on distilled models cost more picture than fewer steps do
SHORTEST = 4  # predictions of a run that can be calibrated


class RunUnderWay(Protocol):
    """What caches look at of a run."""

    denoiser: Denoiser

    def finish(self) -> Tensor:
        """The latents as they are now, as [B, C, T, h, w]."""


@dataclass(frozen=True, kw_only=True)
class Policy(ABC):
    """Which steps are computed. Immutable: its state is the run's.

    start, end: the share of the steps between which a step may be reused.
    warmup: steps at the start of each expert that are computed.
    longest: most reused steps in a row, 0 for any number.
    order: of the forecast: 0 gives the stored values, 1 follows their change on.

    Of its class:
    title: what people call it; in lower case, what they choose in the node Cache.
    position: where it stands among the choices of that node; None: it is no choice there.
    tooltip: what is said of it there.
    unused: options that it has and does not read.
    mechanism: what is stored, and how it is put back.
    signal: what tells of a step how far it has moved (signals.py); empty: nothing does.
    always_computed: blocks that run in every step.
    compare_to_previous_step: whether the signal is compared with that of the step before; else with the last computed
        step's.
    computes_last_step: whether the last step is computed in any case.
    decides_once: whether the second branch of guidance does what the first one did.
    """

    start: float = 0.0
    end: float = 1.0
    warmup: int = 1
    longest: int = 0
    order: int = 0
    node: Origin | None = field(default=None, compare=False, repr=False)

    title: ClassVar[str]
    position: ClassVar[int | None] = 100
    tooltip: ClassVar[str] = ""
    unused: ClassVar[tuple[str, ...]] = ()
    mechanism: ClassVar[type[Mechanism]] = Blocks
    signal: ClassVar[str] = ""
    always_computed: ClassVar[int] = 0
    compare_to_previous_step: ClassVar[bool] = True
    computes_last_step: ClassVar[bool] = True
    decides_once: ClassVar[bool] = False

    @abstractmethod
    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        """Whether this step is reused; called only where the rules common to all policies allow it.

        distance: how far the signal is from the one that it is compared with; None where there is none yet.
        """

    def on_computed(
        self, state: BranchState, context: StepContext, values: Values, observed: Mapping[str, Tensor]
    ) -> None:
        """Called after each computed step with what is stored, and with the network's "input" and "output" where the
        mechanism knows them."""

    def forecast(self, state: BranchState, context: StepContext) -> Values:
        """What the stored values would be at this step."""
        return forecast(state.history, context.level, self.order)

    def on_prediction(self, part: str, denoised: Callable[[], Tensor]) -> None:
        """Called after each step with a function that gives the x0 that its guided prediction points to."""

    def numbers_to_read(self, state: BranchState) -> Mapping[str, Tensor]:
        """Further numbers that `should_skip` looks up in the state; they are read from the card with the distance."""
        return {}

    def check_model(self, model: VideoModel) -> None:
        """Raise InputError for a model that it cannot work on, whatever the request."""

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        """The policy for this model and complete request, and what the person should know; raises InputError."""
        return self, ()

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> Slopes:
        """The skipped steps of an expert with the slopes of their forecasts, for policies that know them beforehand."""
        return {}

    def course(self, denoiser: Denoiser, part: str, steps: range) -> Course | None:
        """The course through the steps of an expert, for policies that go through skipped steps again once the next
        computed one is there; of the mechanism `Guided` alone."""
        return None

    def enabled(
        self, network: Network, run: RunUnderWay, stacks: Stacks | None, steps: int, batched: bool
    ) -> AbstractContextManager[None]:
        """What is switched on for the steps of an expert. batched: both branches of guidance in one forward pass."""
        return nullcontext()

    def notes(self, distances: list[float]) -> tuple[str, ...]:
        """What the person should know after a run. distances: how far the signal moved in its steps."""
        return ()

    def may_skip(self, state: BranchState, context: StepContext) -> bool:
        """Whether the options allow that this step is reused."""
        inside = int(self.start * context.steps) <= context.step < int(self.end * context.steps)
        last = self.computes_last_step and context.step == context.steps - 1
        too_many = 0 < self.longest <= state.reuses
        return bool(state.history) and inside and context.index >= self.warmup and not last and not too_many

    def pays(self, predictions: int) -> bool:
        """Whether a prepared policy is there at all in a run of so many predictions."""
        return predictions >= FEWEST

    def why_off(self, predictions: int, notes: tuple[str, ...]) -> tuple[str, ...]:
        """What the person should know where it does not pay. notes: of `prepare`."""
        return (message("cache_off", cache=self.title, count=predictions, least=FEWEST),)

    def count_computed(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        """The fewest and the most of these steps of an expert that are computed, as far as it is known before a run:
        all where a cache does not pay. total: of the whole run."""
        return self.count_cached(part, steps, total, branch) if self.pays(total) else (len(steps), len(steps))

    def count_cached(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        """The same of a run in which the cache pays."""
        if self.signal:
            return self.guess_computed(steps)
        state, count = BranchState(), 0
        for step in steps:
            context = StepContext(part, branch, step, total, step - steps.start, len(steps))
            reused = self.may_skip(state, context) and self.should_skip(state, context, None)
            count += not reused
            state.history = [(0.0, ())]
            state.reuses = state.reuses + 1 if reused else 0
            state.total = state.total if reused else 0.0
        return count, count

    def guess_computed(self, steps: range) -> tuple[int, int]:
        """The same of a policy that decides by what it sees: at least a third, as published speed-ups reach about three
        (TeaCache, arXiv 2411.19108, table 1; EasyCache, arXiv 2507.02860, table 1)."""
        return min(len(steps), max(-(-len(steps) // 3), self.warmup + self.computes_last_step)), len(steps)

    @property
    def stored_values(self) -> int:
        """How many computed steps are stored for each branch."""
        return self.order + 1

    @property
    def stored_signals(self) -> int:
        """How many values are stored for each branch beside those of the forecast."""
        return int(self.signal in ("modulated", BLOCK))

    def mechanism_on(self, stacks: Stacks | None) -> type[Mechanism]:
        """Its mechanism on a network with these blocks. stacks: None for a UNet."""
        return self.mechanism if stacks is not None else self.mechanism.on_unet()

    def estimate(self, model: VideoModel, request: Request) -> int:
        """Bytes that a complete request's run stores at most."""
        mechanism = self.mechanism_on(model.stacks)
        return mechanism.stored_bytes(model, request, self.stored_values, self.stored_signals)


def reuses_nothing(policy: Policy, predictions: int) -> bool:
    """Whether no prediction of a run of so many lies where the options allow that it is reused."""
    first = max(int(policy.start * predictions), policy.warmup)
    last = min(int(policy.end * predictions), predictions - policy.computes_last_step)
    return first >= last


def check_span(start: float, end: float) -> None:
    """Raise InputError for shares of the steps between which nothing can be reused."""
    if not 0 <= start < end <= 1:
        raise InputError("start, end", f"{start}, {end}", message("cache_span_rule"), message("use_span"))


def check_policy(policy: Policy) -> None:
    """Raise InputError for options that make no sense."""
    check_span(policy.start, policy.end)
    if policy.order not in (0, 1, 2):
        raise InputError("order", policy.order, message("order_rule"), message("use_0_or_1"))
