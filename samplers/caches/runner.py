"""The cache of one run: asks the policy, lets its mechanism compute or reuse, and keeps the state of every branch.

State belongs to a run: one for each branch, call and expert, and it is gone with the run.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from ...loaders.denoiser import GUIDED, Denoiser, DenoiserWrapper, NoiseSchedule
from ...loaders.facts import Stacks
from ...loaders.messages import InputError, about, message
from ...loaders.parts import Argument, Inputs, Kwargs, Network
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from ..parallel.clip.split import ALONE, Split
from ..solvers import Walk, run_predictions
from .corrector import Again, Corrector, Goal
from .course import Course
from .mechanisms.base import Forward, Mechanism, Prediction
from .policy import Policy, RunUnderWay, check_policy
from .state import BranchState, Slopes, StepContext, Values, distance

Key = tuple[str, int]  # branch, and the index of the forward pass among those of the branch in this step
WHOLE: Key = GUIDED, 0


@dataclass
class Entry:
    """One decision: where it was, whether the pass was computed, and how far its signal had moved.

    again: how often it was computed before, and thrown away.
    distance: a number on the card, where nobody needed it during the run.
    """

    part: str
    branch: str
    step: int
    computed: bool
    again: int = 0
    distance: float | Tensor | None = None


@dataclass
class Runner:
    """The cache of one run.

    batched: whether both branches of guidance go in one forward pass.
    levels: the noise level of each prediction; empty where each has its own.
    split: over ranks, whose caches all decide alike.
    entries: all decisions so far.
    expected, peak: bytes that its states should hold at most, and the most that they held at a time.
    courses: of the experts, where skipped steps are taken again.
    seconds: of each step.

    What it must know of the card it reads once in a step, or once for each forward pass that is decided by itself: each
    reading waits until the card has done all that it was given. Whether the step before was finite comes along with it.
    """

    policy: Policy
    stacks: Stacks | None
    steps: int
    batched: bool = False
    levels: tuple[int, ...] = ()
    split: Split = ALONE
    expected: int = 0
    entries: list[Entry] = field(default_factory=list)
    peak: int = 0
    courses: list[Course] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)
    _states: dict[Key, BranchState] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)
    _seen: dict[Key, int] = field(default_factory=dict)  # the last step that had such a pass
    _decisions: dict[int, bool] = field(default_factory=dict)
    _part: str = ""
    _first: int = 0
    _count: int = 0
    _step: int = -1
    _slopes: Slopes = field(default_factory=dict)
    _course: Course | None = None
    _corrector: Corrector | None = None
    _sums: dict[int, Tensor] = field(default_factory=dict)  # step -> of its prediction, not read yet
    _thrown: dict[int, int] = field(default_factory=dict)
    _reads: int = 0
    _since: float = 0.0  # when the last step whose end is known ended

    @property
    def sees_passes(self) -> bool:
        """Whether its mechanism looks at forward passes, and not at guided predictions alone."""
        return self.policy.mechanism_on(self.stacks).forward is not Mechanism.forward

    @contextmanager
    def phase(self, network: Network, run: RunUnderWay, part: str, steps: range) -> Iterator[None]:
        """The steps of one expert, which starts with nothing stored."""
        self._part, self._first, self._count = part, steps.start, len(steps)
        self._slopes = self.policy.plan_steps(run.denoiser, part, steps)
        self._course = self.policy.course(run.denoiser, part, steps)
        self.courses += [self._course] if self._course is not None else []
        state = self._states.setdefault(WHOLE, BranchState())
        self._corrector = Corrector(self._course, state) if self._course is not None else None
        try:
            self._since = time.perf_counter()
            enabled = partial(self.policy.enabled, network, run, self.stacks, len(steps), self.batched)
            with enabled() if network is not None else nullcontext():  # None: another rank's
                yield
            if self._sums:
                self._read_whole()
        finally:
            self.clear()

    def clear(self) -> None:
        """Forget what is stored; entries stay."""
        self._states.clear()
        self._seen.clear()
        self._corrector = None
        self._decisions.clear()
        self._sums.clear()

    def read(self, numbers: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers of the card, by one reading that also ends the steps before it; raises ValueError where one of these
        is not finite."""
        steps, self._reads = list(self._sums), self._reads + 1
        values = torch.stack([value.float() for value in (*numbers.values(), *self._sums.values())]).tolist()
        self._sums.clear()
        now = time.perf_counter()
        for step in steps:
            self.seconds[step] = self.seconds.get(step, 0.0) + (now - self._since) / len(steps)
        self._since = now if steps else self._since
        for step, total in zip(steps, values[len(numbers) :], strict=True):
            if not math.isfinite(total):
                raise ValueError(
                    message("prediction_not_finite", cache=self.policy.title, index=step + 1, count=self.steps)
                )
        return dict(zip(numbers, values, strict=False))

    def predict(self, denoiser: Denoiser, latents: Tensor, step: int, compute: Callable[[], Tensor]) -> Tensor:
        """The guided prediction of a step, computed or reused, and known to be finite one step later at the latest."""
        reads = self._reads
        common = self._common(*WHOLE, step)
        mechanism = self.policy.mechanism_on(self.stacks)()
        prediction = mechanism.predict(Prediction(**common, denoiser=denoiser, latents=latents, compute=compute))
        self.policy.on_prediction(self._part, partial(denoiser.x0, prediction, latents, step))
        self._sums[step] = prediction.sum(dtype=torch.float32)  # inf and NaN stay in it
        if self._reads == reads:
            self._read_whole()
        return prediction

    def _read_whole(self) -> None:
        """Read what is known of guided predictions as a whole."""
        state = self._states[WHOLE]
        state.numbers |= self.read(state.pending)
        state.pending.clear()
        if self._course is not None:
            self._course.hear(state.numbers)

    def correct(self, walk: Walk, latents: Tensor, step: int, again: Again) -> Goal | None:
        """(latents, of which prediction) after the skipped steps before number `step` were taken again, of this one or
        of an earlier one that is to be computed first; None: there were none. again: takes one step again."""
        if self._corrector is None:
            return None
        self.peak = max(self.peak, self._bytes + self._corrector.bytes)
        goal = self._corrector.correct(walk, latents, step, self._decisions[step], again)
        if goal is not None and goal[1] < step:
            self._thrown[step] = self._thrown.get(step, 0) + 1
            self.entries = [entry for entry in self.entries if entry.step < goal[1]]
        return goal

    def newest(self) -> Tensor:
        """The x0 of the newest prediction that was computed as a whole."""
        return self._states[WHOLE].history[-1][1][0]

    def call(self, network: Network, step: int, branch: str, inputs: Inputs) -> Tensor:
        """The network's output of one forward pass, computed or made of what is stored."""
        if step != self._step:
            self._step, self._calls = step, {}
        branch = self.split.branch(branch)
        index = self._calls.get(branch, 0)
        self._calls[branch] = index + 1
        common = self._common(branch, index, step)
        forward = Forward(
            **common,
            network=network,
            inputs=inputs,
            stacks=self.stacks,
            signal=self.policy.signal,
            always_computed=self.policy.always_computed,
            split=self.split,
            record=partial(self._record, common["context"]),
        )
        return self.policy.mechanism_on(self.stacks)().forward(forward)

    def _common(self, branch: str, index: int, step: int) -> Kwargs:
        """What a forward pass and a prediction have in common."""
        level = self.levels[step] if self.levels else step
        in_phase = step - self._first
        place = (self._part, branch, step, self.steps, in_phase, self._count)
        context = StepContext(*place, self._slopes, level, self._course, index)
        state = self._state_of((branch, index), step)
        return {
            "context": context,
            "state": state,
            "order": self.policy.order,
            "decide": partial(self._decide, state, context),
            "store": partial(self._store, state, context),
            "forecast": partial(self.policy.forecast, state, context),
        }

    def _state_of(self, key: Key, step: int) -> BranchState:
        """What a pass remembers; nothing after steps that had none of its kind, as where guidance was on meanwhile and
        both branches went in one."""
        if key != WHOLE and step - self._seen.get(key, step) > 1:
            self._states.pop(key, None)
        self._seen[key] = step
        return self._states.setdefault(key, BranchState())

    def _record(self, context: StepContext, computed: bool) -> Entry:
        """Note one decision."""
        entry = Entry(context.part, context.branch, context.step, computed, self._thrown.get(context.step, 0))
        self.entries.append(entry)
        return entry

    def _decide(self, state: BranchState, context: StepContext, signal: Tensor | None) -> bool:
        """Whether this step reuses what is stored; counts it."""
        policy, entry = self.policy, self._record(context, True)
        leading = policy.decides_once and context.step not in self._decisions
        if leading and not self.split.leads:
            self._decisions[context.step] = self.split.agree(False)
        signal = None if signal is None else self.split.whole_batch(signal)
        if signal is not None and state.signal is not None and state.signal.shape == signal.shape:
            entry.distance = state.distance = distance(signal, state.signal)
        skip = policy.may_skip(state, context) and self._should_skip(state, context, entry)
        if leading and self.split.leads:
            self.split.agree(skip)
        self._decisions[context.step] = skip
        if signal is not None and (policy.compare_to_previous_step or not skip):
            state.signal = signal.detach()
        entry.computed = not skip
        state.reuses = state.reuses + 1 if skip else 0
        state.total = state.total if skip else 0.0
        return skip

    def _should_skip(self, state: BranchState, context: StepContext, entry: Entry) -> bool:
        """Ask the policy, with all that it looks at read from the card together."""
        if self.policy.decides_once and context.step in self._decisions:
            return self._decisions[context.step]
        moved = {"distance": entry.distance} if isinstance(entry.distance, Tensor) else {}
        numbers = {**moved, **state.pending, **self.policy.numbers_to_read(state)}
        if numbers:
            state.numbers |= self.read(numbers)
            state.pending.clear()
        if moved:
            entry.distance = state.numbers["distance"]
            return self.policy.should_skip(state, context, entry.distance)
        return self.policy.should_skip(state, context, None)

    def _store(
        self,
        state: BranchState,
        context: StepContext,
        values: Values,
        observed: Mapping[str, Tensor],
        kept: bool = True,
    ) -> None:
        """Store what a step has computed, with as many earlier ones as the forecast needs; kept: whether at all."""
        whole = {name: self.split.whole_batch(x) if x.ndim else x for name, x in observed.items()}
        self.policy.on_computed(state, context, values, whole)
        if kept:
            state.history = [*state.history, (float(context.level), values)][-self.policy.stored_values :]
        self.peak = max(self.peak, self._bytes)

    @property
    def _bytes(self) -> int:
        """Of what all branches store now."""
        return sum(each.bytes for each in self._states.values())


# ---------------------------------------------------------------- in a run


def planned(model: VideoModel, request: Request) -> tuple[Policy | None, tuple[str, ...]]:
    """(the model's policy made ready for a complete request, what the person should know); raises InputError.

    None: every step is computed.
    """
    if model.cache is None:
        return None, ()
    with about(model.cache):
        check_policy(model.cache)
        model.cache.check_model(model)
        policy, notes = model.cache.prepare(model, request)
        _check_signal(policy, model)
    predictions = run_predictions(model, request)
    return (policy, notes) if policy.pays(predictions) else (None, policy.why_off(predictions, notes))


def _check_signal(policy: Policy, model: VideoModel) -> None:
    """Raise InputError for a signal that the policy's mechanism cannot measure on this model."""
    signals = policy.mechanism_on(model.stacks).signals
    if policy.signal and policy.signal not in signals:
        rule = message("no_signal", title=model.title, signal=policy.signal, signals=", ".join(signals) or "-")
        raise InputError("policy", policy.title, rule, message("use_plan_or_fora"))


@contextmanager
def cached(
    model: VideoModel, schedule: NoiseSchedule, policy: Policy | None, expected: int, split: Split
) -> Iterator[Runner | None]:
    """The cache of one run, whose state ends with it; what is to be told stays. None where every step is computed."""
    if policy is None:
        yield None
        return
    runner = Runner(policy, model.stacks, len(schedule), model.batched_guidance, schedule.levels, split, expected)
    try:
        yield runner
    finally:
        runner.clear()


class ThroughCache(DenoiserWrapper):
    """A denoiser whose network is asked through a cache."""

    def __init__(self, inner: Denoiser, runner: Runner) -> None:
        super().__init__(inner)
        self._runner = runner

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        return self.inner.predict(CachedNetwork(network, self._runner), latents, step, branch)


class Forecasting(DenoiserWrapper):
    """A guided denoiser whose guided predictions are computed, or made of what a cache has stored of the video; all of
    them are checked to be finite."""

    def __init__(self, inner: Denoiser, runner: Runner) -> None:
        super().__init__(inner)
        self._runner = runner

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        compute = partial(self.inner.predict, network, latents, step, branch)
        return self._runner.predict(self.inner, latents, step, compute) if branch == GUIDED else compute()


class CachedNetwork:
    """Stands in for a network whose forward passes go through a cache; all else is the network's own."""

    def __init__(self, network: Network, runner: Runner) -> None:
        self._network, self._runner = network, runner
        self._branch, self._step = "", 0

    def __getattr__(self, name: str) -> Argument:
        return getattr(self._network, name)

    @contextmanager
    def cache_context(self, branch: str, step_index: int, **place: object) -> Iterator[None]:
        """Tells the cache too which forward pass comes next."""
        self._branch, self._step = branch, step_index
        has_context = hasattr(self._network, "cache_context")
        with self._network.cache_context(branch, step_index=step_index, **place) if has_context else nullcontext():
            yield

    def __call__(self, return_dict: bool = True, **inputs: object) -> tuple[Tensor]:
        return (self._runner.call(self._network, self._step, self._branch, inputs),)
