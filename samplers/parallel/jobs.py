"""Sampling by workers: the crews that are there, and one job as the one who waits for it sees it."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ...loaders.messages import about
from ...loaders.request import Conditioning, Parallel
from ...loaders.video_model import VideoModel
from ..plan import SamplingPlan
from .cluster import JOIN_EVERY, RayWire, Reference, Worker, import_ray
from .crew import Crew, Ticket, settle
from .marks import marks_of
from .versions import versions
from .worker import Done, Failed, Greeting, Look, Opener, StoppedError, Work

Sampler = Crew[Worker, Reference]
Openers = Callable[[], Opener | None]
_crews: dict[str, tuple[RayWire, Sampler]] = {}  # by the address of their cluster
_lock = threading.Lock()
_orders: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()  # of jobs that are not with a crew yet, in order
_starting = threading.Lock()
_giving = threading.Event()  # set once the thread runs that gives them


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


def submit(model: VideoModel, conditioning: Conditioning, plan: SamplingPlan, opener: Openers = lambda: None) -> Job:
    """Have a plan sampled by the workers that the model's `parallel` names. It returns at once: to join a cluster takes
    seconds, and how that goes is the job's own. opener: asked once Ray is there."""
    choice, recipe, ticket = model.parallel, model.whole_recipe(), Ticket(None)
    assert choice is not None

    def begin() -> None:
        _check_wanted(ticket)
        with about(choice):
            import_ray(choice.address)
            ticket.job = Work(recipe, marks_of(recipe), conditioning, plan)
            while not crew(choice, opener(), lambda: _waiting(ticket)).add(ticket):
                continue  # the workers that were there have just ended

    _orders.put(lambda: _settled(ticket, begin))
    _give_on()
    return Job(ticket)


def _give_on() -> None:
    """One thread brings all jobs to their crews, in order. Joining a cluster may take long, and holds `_lock`."""
    with _starting:
        if _giving.is_set():
            return
        _giving.set()
    threading.Thread(target=_give, name="reelwire jobs", daemon=True).start()


def _give() -> None:
    while True:
        _orders.get()()


def _settled(ticket: Ticket, begin: Callable[[], None]) -> None:
    """Begin a job; it ends with the error that this ends with."""
    try:
        begin()
    except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the job
        settle(ticket, error)


def _check_wanted(ticket: Ticket) -> None:
    if ticket.unwanted:
        raise StoppedError


def _waiting(ticket: Ticket) -> None:
    """Wait a moment for somebody who may not want it any more."""
    _check_wanted(ticket)
    time.sleep(JOIN_EVERY)


def crew(
    choice: Parallel, opener: Opener | None = None, pause: Callable[[], None] = lambda: time.sleep(JOIN_EVERY)
) -> Sampler:
    """The workers of a choice, which stay until they have had no work for a while. Raises InputError where there are
    none, or fewer than asked for on this machine. pause: see RayWire.check."""
    with _lock:
        wire, found = _opened(choice, opener)
    wire.check(choice.workers, pause)
    found.most = choice.workers
    return found


def _opened(choice: Parallel, opener: Opener | None) -> tuple[RayWire, Sampler]:
    """The crew of an address; others that have no work end."""
    for address, (_, other) in [*_crews.items()]:
        if other.is_closed or (address != choice.address and other.is_idle):
            other.close()
            del _crews[address]
    if choice.address not in _crews:
        greeting = Greeting(versions(), torch.get_num_threads(), opener)
        wire = RayWire(choice.address, choice.workers, greeting)
        _crews[choice.address] = wire, Crew(wire, choice.workers)
    return _crews[choice.address]


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
