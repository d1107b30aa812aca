"""A group of ranks that sample one clip together: started, asked, watched, and started again when one of them dies.

Who starts them is a Launcher: processes of this machine (local.py), or actors of a cluster.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from ....loaders.messages import message
from ....loaders.notices import say, stop_if_asked
from ....loaders.parts import Argument
from ....loaders.request import Conditioning, Parallel
from ....loaders.vae.tiles import Tiling
from ...caches.runner import Runner
from ...decode import Form
from ...denoise import OnStep, Wrap
from ...plan import SamplingPlan
from ...sources.inpaint import Inpainting
from .worker import (
    Build,
    CacheSeen,
    Computed,
    DecodeTask,
    Done,
    Event,
    Failed,
    Frames,
    Said,
    SampleTask,
    Stepped,
    Stopped,
    Task,
)

DEATHS = 3  # in a row, with nothing new between them, after which a task is given up
POLL = 0.2  # seconds between two looks at whether the person wants to stop
LOST_WORDS = (
    "connection",
    "gloo",
    "nccl",
    "peer",
    "timed out",
    "timeout",
    "aborted",
)  # of an error that a death causes
AFTERMATH = 5.0  # seconds in which the death that made another rank fail is heard of


@dataclass(frozen=True)
class Died:
    """A rank has ended. name: of it, for people; cause: how, in words."""

    name: str
    cause: str


class Launcher(Protocol):
    """Who starts ranks and carries their orders and events."""

    def start(self, build: Build, parallel: Parallel, devices: Sequence[str]) -> None:
        """Start a rank on each device, and make them join one another; each tells Done or Failed, as after a task."""

    def send(self, task: Task) -> None:
        """Give a task to all ranks."""

    def stop(self) -> None:
        """Ask the first rank, and so all, to end the task under way."""

    def next_event(self, seconds: float) -> tuple[int, Event | Died] | None:
        """(rank, event), of any rank; None where none came in time. A death is heard of within 10 s."""

    def close(self) -> None:
        """End all ranks, whatever they do, and wait until they have."""


class DeathError(RuntimeError):
    """A rank died, so that the others cannot go on."""


@dataclass
class RunElsewhere:
    """A run on ranks, as those who look on see it. cache: filled in when the run is done."""

    cache: Runner | None
    latents: Tensor = field(default_factory=lambda: torch.empty(0))

    def preview(self) -> Tensor:
        """The video that the last prediction points to."""
        return self.latents

    def finish(self) -> Tensor:
        """The same: the latents themselves stay where they are."""
        return self.latents


class Group:
    """Ranks that hold one model. They start with the first task, and stay until `close`."""

    def __init__(self, launcher: Launcher, build: Build, parallel: Parallel, devices: Sequence[str]) -> None:
        self._launcher, self._build, self._parallel, self._devices = launcher, build, parallel, devices
        self._busy: set[int] = set()
        self._started = False
        self.restarts = 0

    def sample(
        self,
        conditioning: Conditioning,
        plan: SamplingPlan,
        on_step: OnStep,
        wrap: Wrap | None,
        inpainting: Inpainting | None,
        cache: Runner | None,
    ) -> Tensor:
        """Latents [1, C, t, h, w] of a plan on the CPU. cache: gets what the ranks' caches did."""
        computed: list[Tensor] = []
        run, furthest = RunElsewhere(cache), 0

        def hear(event: Event) -> None:
            nonlocal furthest
            if isinstance(event, Computed):
                computed.append(event.prediction)
            elif isinstance(event, Stepped):
                run.latents = event.preview
                if event.done > furthest:
                    furthest = event.done
                    on_step(event.done, event.count, run)

        task = lambda: SampleTask(conditioning, plan, wrap, inpainting, list(computed))
        results = self._until_done(task, hear, lambda: len(computed))
        latents: Tensor = results[0][0]
        _report(cache, [seen for _, seen in results if seen is not None])
        return latents

    def decode(self, latents: Tensor, seed: int, tiling: Tiling, form: Form) -> Iterator[Tensor]:
        """Frames in order as pieces, decoded in these tiles."""
        pieces: list[Tensor] = []
        task = lambda: DecodeTask(latents, seed, tiling, form)
        done = 0
        deaths = 0
        while True:
            seen = 0
            try:
                self._begin(task())
                for _, event in self._events():
                    if isinstance(event, Frames):
                        pieces.append(event.piece)
                    while pieces:
                        piece = pieces.pop(0)
                        seen += 1
                        if seen > done:
                            done, deaths = seen, 0
                            yield piece
                return
            except DeathError as error:
                deaths += 1
                self._lost(error, deaths)
            except BaseException:
                self._leave()
                raise

    def run(self, task: Callable[[], Task], hear: Callable[[Event], None] = lambda _: None) -> list[Argument]:
        """What each rank gives for a task, again from the beginning where one of them dies."""
        return self._until_done(task, hear, lambda: 0)

    def close(self) -> None:
        """End the ranks, and give back what they hold; the next task starts new ones."""
        if self._started:
            self._launcher.close()
        self._started = False
        self._busy.clear()

    # ------------------------------------------------------------ one task

    def _until_done(
        self, task: Callable[[], Task], hear: Callable[[Event], None], progress: Callable[[], int]
    ) -> list[Argument]:
        deaths, reached = 0, 0
        while True:
            results: dict[int, Argument] = {}
            try:
                self._begin(task())
                for rank, event in self._events():
                    if isinstance(event, Done):
                        results[rank] = event.result
                    else:
                        hear(event)
                return [results[rank] for rank in sorted(results)]
            except DeathError as error:
                deaths = 1 if progress() > reached else deaths + 1
                reached = progress()
                self._lost(error, deaths)
            except BaseException:
                self._leave()
                raise

    def _lost(self, error: DeathError, deaths: int) -> None:
        """Raise the error after too many deaths; else say what happened, and be ready to begin again."""
        self.close()
        self.restarts += 1
        if deaths >= DEATHS:
            raise RuntimeError(message("ranks_keep_dying", error=error, count=deaths)) from error
        say(message("rank_restarts", error=error))

    def _begin(self, task: Task) -> None:
        """Give all ranks a task, once they are there and have ended the one before."""
        everyone = range(len(self._devices))
        self._end_left()
        if not self._started:
            self._launcher.start(self._build, self._parallel, self._devices)
            self._started, self._busy = True, set(everyone)
            for _ in self._events():
                pass
        self._launcher.send(task)
        self._busy = set(everyone)

    def _end_left(self) -> None:
        """Wait until a start or a task that was left has ended. Nobody wants to hear how: ranks that died or failed
        then are started anew."""
        while self._busy:
            stop_if_asked()
            heard = self._launcher.next_event(POLL)
            if heard is not None and isinstance(heard[1], (Died, Failed)):
                self.close()
            elif heard is not None and isinstance(heard[1], (Done, Stopped)):
                self._busy.discard(heard[0])

    def _events(self) -> Iterator[tuple[int, Event]]:
        """What the ranks tell until all of them have ended their task; raises what one of them failed with."""
        while self._busy:
            stop_if_asked()
            heard = self._launcher.next_event(POLL)
            if heard is None:
                continue
            rank, event = heard
            if isinstance(event, Died):
                raise DeathError(message("rank_died", name=event.name, cause=event.cause))
            if isinstance(event, Failed):
                self._fail(event.error)
            if isinstance(event, Said):
                say(event.notice)
            if isinstance(event, (Done, Stopped)):
                self._busy.discard(rank)
            yield rank, event

    def _fail(self, error: Exception) -> None:
        """Raise what a rank failed with; where that came of the death of another, its death."""
        if isinstance(error, RuntimeError) and any(word in str(error).lower() for word in LOST_WORDS):
            death = self._death()
            if death is not None:
                raise DeathError(message("rank_died", name=death.name, cause=death.cause))
            raise DeathError(message("ranks_lost_touch", error=error))
        self.close()  # the others wait for this one
        raise error

    def _death(self) -> Died | None:
        """The death that other ranks noticed first, if it is heard of soon."""
        while (heard := self._launcher.next_event(AFTERMATH)) is not None:
            if isinstance(heard[1], Died):
                return heard[1]
        return None

    def _leave(self) -> None:
        """Leave the task under way: its ranks end at their next step, and what they still tell is not heard."""
        if self._started:
            self._launcher.stop()


def _report(cache: Runner | None, seen: Sequence[CacheSeen]) -> None:
    """Put together what the caches of all ranks did: of an expert or a branch, what the first rank that has it says."""
    if cache is None:
        return
    for each in seen:
        known = {(entry.part, entry.branch) for entry in cache.entries}
        cache.entries += [e for e in each.entries if (e.part, e.branch) not in known]
    cache.entries.sort(key=lambda entry: entry.step)
    cache.peak = max((each.peak for each in seen), default=0)
    if seen:
        cache.courses[:], cache.seconds = list(seen[0].courses), dict(seen[0].seconds)
