"""Sampling by workers: the crews that are there, and one job as the one who waits for it sees it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...loaders.request import Conditioning, Parallel
from ...loaders.video_model import VideoModel
from ..plan import SamplingPlan
from .cluster import RayWire, Reference, Worker
from .crew import Crew, Ticket
from .marks import marks_of
from .versions import versions
from .worker import Done, Failed, Greeting, Look, Opener, Work

Sampler = Crew[Worker, Reference]
_crews: dict[str, tuple[RayWire, Sampler]] = {}  # by the address of their cluster
_lock = threading.Lock()


@dataclass(frozen=True)
class Job:
    """A sampling under way on some worker."""

    ticket: Ticket

    @property
    def look(self) -> Look:
        """How far it is."""
        return self.ticket.seen if isinstance(self.ticket.seen, Look) else Look()

    @property
    def is_done(self) -> bool:
        """Whether there is a result, or an error."""
        return self.ticket.future.done()

    @property
    def has_made(self) -> bool:
        """Whether there is a result, and no error."""
        future = self.ticket.future
        if not future.done() or future.cancelled() or future.exception() is not None:
            return False
        return isinstance(future.result(), Done)

    def result(self) -> Done:
        """What came of it, once it is done; raises the error that it ended with."""
        answer = self.ticket.future.result()
        if isinstance(answer, Failed):
            raise answer.error()
        assert isinstance(answer, Done)
        return answer

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self.ticket.cancel()


def submit(model: VideoModel, conditioning: Conditioning, plan: SamplingPlan, opener: Opener | None = None) -> Job:
    """Have a plan sampled by the workers that the model's `parallel` names. Raises InputError where there are none."""
    assert model.parallel is not None
    recipe = model.whole_recipe()
    return Job(crew(model.parallel, opener).submit(Work(recipe, marks_of(recipe), conditioning, plan)))


def crew(choice: Parallel, opener: Opener | None = None) -> Sampler:
    """The workers of a choice, which stay until they have had no work for a while. Raises InputError where there are
    none, or fewer than asked for on this machine."""
    with _lock:
        for address, (_, other) in [*_crews.items()]:
            if other.is_closed or (address != choice.address and other.is_idle):
                other.close()
                del _crews[address]
        if choice.address not in _crews:
            greeting = Greeting(versions(), torch.get_num_threads(), opener)
            wire = RayWire(choice.address, choice.workers, greeting)
            _crews[choice.address] = wire, Crew(wire, choice.workers)
        wire, found = _crews[choice.address]
        wire.check(choice.workers)
        found.most = choice.workers
        return found


def close_all() -> None:
    """End all workers."""
    with _lock:
        for _, each in _crews.values():
            each.close()
        _crews.clear()


def wait(job: Job, on_look: Callable[[Look], None], pause: Callable[[], None]) -> Done:
    """What came of a job. on_look: hears how far it is, and may raise to stop it; pause: waits a moment."""
    try:
        while not job.is_done:
            on_look(job.look)
            pause()
        return job.result()
    finally:
        job.cancel()
