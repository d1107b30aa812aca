"""Runs a network with a cache: block lists are exchanged for the length of a forward, and nothing else is touched.

Blocks keep their names, hooks and compiled forms, so that LoRA, offloading and `torch.compile` know nothing of it. State
belongs to a run: one for each branch, call and expert, and it is gone with the run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ...loaders.denoiser import Denoiser, NoiseSchedule
from ...loaders.facts import Stacks
from ...loaders.messages import about, message
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from ..guidance import Guided, Predict
from ..solvers import prediction_count
from .mechanisms import unet
from .mechanisms.modules import taped
from .policies.external import External
from .policies.record import Record
from .policy import (
    FEWEST,
    At,
    Chosen,
    Policy,
    RunUnderWay,
    State,
    Values,
    check_policy,
    distance,
    exchanged,
    followed,
    forecast,
)
from .signals import CAUGHT, EMBEDDER, SIGNALS

Key = tuple[str, int]  # branch, and the how many-eth forward of it in this step


@dataclass
class Entry:
    """One forward: where it was, whether it was computed, and how far its signal was from the last one's (a number
    on the card, where nobody needed it on the way)."""

    part: str
    branch: str
    step: int
    computed: bool
    distance: float | Tensor | None = None


@dataclass
class Runner:
    """The cache of one run. notes: what the person should know; entries: all forwards so far; peak: the most bytes that its
    states held at a time; seconds: of each step.

    What it must know of the card it reads once in a step, or once for each forward that is decided by itself: each
    reading waits until the card has done all that it was given. Whether the step before was finite is told along with it.
    """

    policy: Policy
    stacks: Stacks | None
    steps: int
    batched: bool = False  # both branches of guidance in one forward
    notes: tuple[str, ...] = ()
    entries: list[Entry] = field(default_factory=list)
    peak: int = 0
    seconds: list[float] = field(default_factory=list)
    _states: dict[Key, State] = field(default_factory=dict)
    _calls: dict[str, int] = field(default_factory=dict)
    _decided: dict[int, bool] = field(default_factory=dict)
    _part: str = ""
    _first: int = 0
    _count: int = 0
    _step: int = -1
    _plan: Chosen = field(default_factory=dict)
    _finite: dict[int, Tensor] = field(default_factory=dict)  # step -> whether it is, not read yet
    _reads: int = 0
    _since: float = 0.0  # when the last step whose end is known ended

    @contextmanager
    def phase(self, network: Any, run: RunUnderWay, part: str, steps: range) -> Iterator[None]:
        """The steps of one expert, which starts with nothing kept."""
        self._part, self._first, self._count = part, steps.start, len(steps)
        self._plan = self.policy.choose(run.denoiser, part, steps)
        enabled: Any = nullcontext()
        if isinstance(self.policy, External):
            assert self.stacks is not None
            enabled = self.policy.enabled(network, run, self.stacks, len(steps), self.batched)
        try:
            self._since = time.perf_counter()
            with enabled:
                yield
            if self._finite:
                self.read({})
        finally:
            self.clear()

    def clear(self) -> None:
        """Forget what is kept; entries stay."""
        self._states.clear()
        self._decided.clear()
        self._finite.clear()

    def read(self, numbers: Mapping[str, Tensor]) -> dict[str, float]:
        """Numbers of the card, by one reading that also ends the steps before it; raises ValueError where one of these
        is not finite."""
        steps, self._reads = list(self._finite), self._reads + 1
        values = torch.stack([value.float() for value in (*numbers.values(), *self._finite.values())]).tolist()
        self._finite.clear()
        now = time.perf_counter()
        self.seconds += [(now - self._since) / len(steps)] * len(steps) if steps else []
        self._since = now if steps else self._since
        for step, finite in zip(steps, values[len(numbers) :], strict=True):
            if not finite:
                raise ValueError(message("step_not_finite", cache=self.policy.title, step=step + 1, steps=self.steps))
        return dict(zip(numbers, values, strict=False))

    def predict(self, denoiser: Denoiser, latents: Tensor, step: int, compute: Callable[[], Tensor]) -> Tensor:
        """The guided prediction of a step, computed or reused, and known to be finite one step later at the latest."""
        reads, prediction = self._reads, self._predicted(denoiser, latents, step, compute)
        self._finite[step] = torch.isfinite(prediction).all()
        if self._reads == reads:
            self.read({})
        return prediction

    def _predicted(self, denoiser: Denoiser, latents: Tensor, step: int, compute: Callable[[], Tensor]) -> Tensor:
        """The guided prediction of a step, computed or made of what is kept of the clean video."""
        if self.policy.level != "guided":
            prediction = compute()
            if isinstance(self.policy, Record):
                self.policy.watch(self._part, denoiser.x0(prediction, latents, step))
            return prediction
        state, at = self._states.setdefault(("guided", 1), State()), self._at("guided", step)
        entry = Entry(self._part, "guided", step, True)
        self.entries.append(entry)
        if self.decide(state, at, None, entry):
            return denoiser.from_x0(followed(state.kept, self._plan[step])[0], latents, step)
        prediction = compute()
        self.keep(state, at, (denoiser.x0(prediction, latents, step),), {})
        return prediction

    def call(self, network: Any, step: int, branch: str, inputs: dict[str, Any]) -> Tensor:
        """The network's output for one forward, computed or made of what is kept."""
        if self.policy.level == "guided":
            output: Tensor = network(**inputs, return_dict=False)[0]
            return output
        if step != self._step:
            self._step, self._calls = step, {}
        number = self._calls[branch] = self._calls.get(branch, 0) + 1
        state = self._states.setdefault((branch, number), State())
        forward = Forward(self, state, self._at(branch, step), Entry(self._part, branch, step, True), network)
        output = forward.run(inputs)
        self.entries.append(forward.entry)
        return output

    def _at(self, branch: str, step: int) -> At:
        return At(self._part, branch, step, self.steps, step - self._first, self._count, self._plan)

    def decide(self, state: State, at: At, signal: Tensor | None, entry: Entry) -> bool:
        """Whether this forward reuses what is kept; counts it."""
        policy = self.policy
        if signal is not None and state.signal is not None and state.signal.shape == signal.shape:
            entry.distance = state.moved = distance(signal, state.signal)
        leader = self._decided.get(at.step) if policy.follows else None
        wanted = policy.allowed(state, at) and (self._wanted(state, at, signal, entry) if leader is None else leader)
        self._decided[at.step] = wanted
        if signal is not None and (policy.anew or not wanted):
            state.signal = signal.detach()
        entry.computed = not wanted
        state.reused = state.reused + 1 if wanted else 0
        state.total = state.total if wanted else 0.0
        return wanted

    def _wanted(self, state: State, at: At, signal: Tensor | None, entry: Entry) -> bool:
        """Ask the policy, with all that it looks at read from the card together."""
        moved = {"moved": entry.distance} if isinstance(entry.distance, Tensor) else {}
        asked = {**moved, **state.unread, **self.policy.looks(state)}
        if asked:
            state.numbers |= self.read(asked)
            state.unread.clear()
        if moved:
            entry.distance = state.numbers["moved"]
            return self.policy.wants(state, at, entry.distance, signal)
        return self.policy.wants(state, at, None, signal)

    def keep(self, state: State, at: At, values: Values, seen: Mapping[str, Tensor]) -> None:
        self.policy.learn(state, at, values, seen)
        state.kept = [*state.kept, (float(at.step), values)][-(self.policy.order + 1) :]
        self.peak = max(self.peak, sum(s.bytes for s in self._states.values()))


class Forward:
    """One forward of a network in one of the ways that a policy asks for."""

    def __init__(self, runner: Runner, state: State, at: At, entry: Entry, network: Any) -> None:
        self.runner, self.policy, self.state, self.at, self.entry = runner, runner.policy, state, at, entry
        self.network, self.reuse, self.caught = network, False, list[Any]()
        self.anchor: Tensor | None = None

    def run(self, inputs: dict[str, Any]) -> Tensor:
        if self.runner.stacks is None:
            return self._deep(inputs)
        ways = {"network": self._whole, "blocks": self._blocks, "module": self._modules, "external": self._foreign}
        return ways[self.policy.level](self.runner.stacks, inputs)

    # ------------------------------------------------------------ the whole network

    def _whole(self, stacks: Stacks, inputs: dict[str, Any]) -> Tensor:
        """What is kept is the output less the latents that went in (EasyCache)."""
        x = inputs["hidden_states"]
        self.reuse = self.runner.decide(self.state, self.at, x, self.entry)
        if self.reuse:
            (change,) = forecast(self.state.kept, self.at.step, self.policy.order)
            return _part_of(x, change) + change
        output: Tensor = self.network(**inputs, return_dict=False)[0]
        x = _part_of(x, output)
        self.runner.keep(self.state, self.at, (output - x,), {"input": x, "output": output})
        return output

    # ------------------------------------------------------------ all blocks at once

    def _blocks(self, stacks: Stacks, inputs: dict[str, Any]) -> Tensor:
        lists = stacks.of(self.network)
        if stacks.beside in lists and (self.policy.always or stacks.hints_last(self.network)):
            lists = stacks.lists
        blocks = [block for name in lists for block in self.network._modules[name]]
        shells = iter([Shell(self, block, i, len(blocks) - 1) for i, block in enumerate(blocks)])
        changed = {name: nn.ModuleList([next(shells) for _ in self.network._modules[name]]) for name in lists}
        with exchanged(self.network, changed), self._catching():
            return self.network(**inputs, return_dict=False)[0]

    @contextmanager
    def _catching(self) -> Iterator[None]:
        """Hear what the network's embedder of time gives, where the policy asks for it."""
        if self.policy.signal not in CAUGHT:
            yield
            return
        catch = lambda module, args, output: self.caught.extend(output[:2])
        handle = self.network.get_submodule(EMBEDDER).register_forward_hook(catch)
        try:
            yield
        finally:
            handle.remove()

    def at_block(self, index: int, last: int, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        hidden = _hidden(args, kwargs)
        if index == 0 and self.policy.signal == "block":
            self.state.memory["entry"] = hidden
        if index == self.policy.always:
            self._begin(hidden, block, args, kwargs)
        if self.reuse and index >= self.policy.always:
            made = hidden if index < last or self.anchor is None else self._made(self.anchor)
            return _packed(made, args, kwargs, self.state.memory["pairs"][index])
        output = block(*args, **kwargs)
        self.state.memory.setdefault("pairs", {})[index] = isinstance(output, tuple)
        if index == last:
            out = output[0] if isinstance(output, tuple) else output
            if self.anchor is not None:  # none: the policy looks behind the network's last block
                self.runner.keep(self.state, self.at, (out - self.anchor,), {})
        return output

    def _begin(self, hidden: Tensor, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Decide; everything after this place is computed or reused."""
        self.anchor, name, signal = hidden, self.policy.signal, None
        if name == "block":
            signal = hidden - self.state.memory.pop("entry")
        elif name:
            signal = SIGNALS[name](self.caught, block, args, kwargs)
        self.reuse = self.runner.decide(self.state, self.at, signal, self.entry)

    def _made(self, anchor: Tensor) -> Tensor:
        (change,) = forecast(self.state.kept, self.at.step, self.policy.order)
        return anchor + change

    # ------------------------------------------------------------ each attention and MLP

    def _modules(self, stacks: Stacks, inputs: dict[str, Any]) -> Tensor:
        """FORA as published: modules are skipped one by one, their gates are not."""
        self.reuse = self.runner.decide(self.state, self.at, None, self.entry)
        old = forecast(self.state.kept, self.at.step, self.policy.order) if self.reuse else None
        forms = self.state.memory["forms"] if self.reuse else []
        if not self.reuse:  # what the new values will push out makes room for them
            self.state.kept = self.state.kept[max(len(self.state.kept) - self.policy.order, 0) :]
        with taped(self.network, stacks.of(self.network), forms, old) as tape:
            output: Tensor = self.network(**inputs, return_dict=False)[0]
        if not self.reuse:
            self.state.memory["forms"] = tape.forms
            self.runner.keep(self.state, self.at, tuple(tape.values), {})
        return output

    # ------------------------------------------------------------ another library

    def _foreign(self, stacks: Stacks, inputs: dict[str, Any]) -> Tensor:
        """It decides; whether the last block's attention was computed tells how."""
        block = getattr(self.network, stacks.lists[-1])[-1]
        self.entry.computed, attention = False, block.attn1 if hasattr(block, "attn1") else block.attn
        handle = attention.to_q.register_forward_pre_hook(lambda *_: setattr(self.entry, "computed", True))
        try:
            output: Tensor = self.network(**inputs, return_dict=False)[0]
        finally:
            handle.remove()
        return output

    # ------------------------------------------------------------ a UNet

    def _deep(self, inputs: dict[str, Any]) -> Tensor:
        self.reuse = self.runner.decide(self.state, self.at, None, self.entry)
        kept = forecast(self.state.kept, self.at.step, self.policy.order)[0] if self.reuse else None
        children, last = unet.changed(self.network, kept)
        with exchanged(self.network, children):
            output: Tensor = self.network(**inputs, return_dict=False)[0]
        if not self.reuse:
            self.runner.keep(self.state, self.at, (last.given,), {})
        return output


class Shell(nn.Module):
    """Stands in for a block during one forward, without owning it."""

    run: Forward
    block: nn.Module
    index: int
    last: int

    def __init__(self, forward: Forward, block: nn.Module, index: int, last: int) -> None:
        super().__init__()
        self.__dict__.update(run=forward, block=block, index=index, last=last)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.run.at_block(self.index, self.last, self.block, args, kwargs)


def _hidden(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]


def _packed(hidden: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any], pair: bool) -> Any:
    """As the block would give it: alone, or with the text that came in."""
    if not pair:
        return hidden
    return hidden, kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[1]


def _part_of(x: Tensor, like: Tensor) -> Tensor:
    """The latents among a network's input channels: pictures and masks lie behind them."""
    for axis, size in enumerate(like.shape):
        if x.shape[axis] != size:
            return x.narrow(axis, 0, size)
    return x


# ---------------------------------------------------------------- in a run


def planned(model: VideoModel, request: Request) -> tuple[Policy | None, tuple[str, ...]]:
    """(the model's policy made ready for a complete request, what the person should know); raises InputError.

    None: every step is computed.
    """
    if model.cache is None:
        return None, ()
    with about(model.cache):
        check_policy(model.cache)
        policy, notes = model.cache.fit(model, request)
    predictions = prediction_count(model, request)
    if predictions < FEWEST:
        return None, (message("cache_off", cache=policy.title, steps=predictions, least=FEWEST),)
    return policy, notes


@contextmanager
def cached(model: VideoModel, schedule: NoiseSchedule, policy: Policy | None) -> Iterator[Runner | None]:
    """The cache of one run, whose state ends with it; what is to be told stays. None where every step is computed."""
    if policy is None:
        yield None
        return
    runner = Runner(policy, model.stacks, len(schedule), model.batched_guidance)
    try:
        yield runner
    finally:
        runner.clear()


def through_cache(predict: Predict, runner: Runner) -> Predict:
    """Predictions whose network is asked through a cache."""
    return lambda network, latents, step, branch: predict(CachedNetwork(network, runner), latents, step, branch)


def forecasting(guided: Guided, denoiser: Denoiser, runner: Runner) -> Guided:
    """Guided predictions, computed or made of what a cache has kept of the video; all of them checked to be finite."""
    return lambda network, latents, step: runner.predict(
        denoiser, latents, step, lambda: guided(network, latents, step)
    )


class CachedNetwork:
    """Stands in for a network whose forwards go through a cache; all else is the network's own."""

    def __init__(self, network: Any, runner: Runner) -> None:
        self._network, self._runner = network, runner
        self._branch, self._step = "", 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._network, name)

    @contextmanager
    def cache_context(self, branch: str, step_index: int, **place: Any) -> Iterator[None]:
        """Tells the cache too which forward comes next."""
        self._branch, self._step = branch, step_index
        has_context = hasattr(self._network, "cache_context")
        with self._network.cache_context(branch, step_index=step_index, **place) if has_context else nullcontext():
            yield

    def __call__(self, return_dict: bool = True, **inputs: Any) -> tuple[Tensor]:
        return (self._runner.call(self._network, self._step, self._branch, inputs),)
