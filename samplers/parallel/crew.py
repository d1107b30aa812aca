"""Jobs over workers that may die: who gets which job, what is tried again elsewhere, and when workers rest.

Nothing here knows Ray: a `Wire` hires workers and carries work, so that a thousand of them can be played without one.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from ...loaders.messages import Message, RefusedError, message
from ...loaders.parts import Argument

RETRIES = 2  # of a job whose worker died
WAIT, IDLE_WAIT = 0.1, 1.0  # seconds between two looks at what is done, and at whether work has come
LOOKS_EVERY = 0.5  # seconds between two looks at one worker's progress, of up to
LOOKS = 100  # workers in that time
FRESH = 2.0  # seconds since it said anything, after which an idle worker must answer before it is given a job
REST_AFTER, LEAVE_AFTER = 5.0, 300.0  # seconds without work before workers give memory back, and before they end
HALT_SECONDS = 15.0  # that a job may take to stop before its worker is ended
HIRES_EVERY = 2.0  # seconds between two looks at how many workers there may be

W = TypeVar("W")
R = TypeVar("R")


class LostError(RuntimeError):
    """A worker has died, or its machine cannot be reached. machine: where that was, where it is known."""

    def __init__(self, words: str, machine: str = "") -> None:
        super().__init__(words)
        self.machine = machine


class UnfitError(RuntimeError):
    """No worker can be had."""


class Wire(Protocol[W, R]):
    """What reaches workers. A reference stands for an answer that is still to come."""

    def room(self) -> int:
        """How many workers there may be now."""

    def hire(self) -> tuple[W, R]:
        """A new worker, and the reference to its greeting: the name of its machine. Raises what says why it is of no
        use."""

    def give(self, worker: W, job: Argument) -> R:
        """Have a worker do a job."""

    def look(self, worker: W) -> R:
        """Ask a worker how far it is."""

    def halt(self, worker: W) -> None:
        """Ask a worker to stop what it does."""

    def rest(self, worker: W) -> None:
        """Ask a worker to give its memory back."""

    def ready(self, references: list[R], seconds: float) -> list[R]:
        """Those whose answers are there; waits for one at most so long."""

    def answer(self, reference: R) -> object:
        """The answer. Raises LostError where the worker is gone."""

    def dismiss(self, worker: W) -> None:
        """End a worker."""

    def close(self) -> None:
        """Let go of all that was opened for workers."""


@dataclass(eq=False)
class Ticket:
    """A job under way.

    future: of its answer. seen: the last look at it; machine: where it is.
    tries: how often its worker has died; losses: the same in words. unwanted: since when nobody wants it.
    """

    job: Argument
    future: Future[object] = field(default_factory=Future)
    seen: object = None
    machine: str = ""
    tries: int = 0
    losses: list[Message] = field(default_factory=list)
    unwanted: float = 0.0

    def cancel(self) -> None:
        """Nobody wants it any more."""
        self.unwanted = self.unwanted or time.monotonic()


@dataclass(eq=False)
class _Hand(Generic[W]):
    """A worker. ticket: what it is at; machine: where it is, once it has said so; heard: when it last said anything."""

    worker: W
    machine: str = ""
    ticket: Ticket | None = None
    heard: float = 0.0
    looked: float = 0.0
    is_looking: bool = False
    halted: bool = False
    rested: bool = True


class Crew(Generic[W, R]):
    """Workers of one kind, and the jobs that wait for them. A thread of its own serves them until `close`.

    most: workers; 0: as many as the wire has room for.
    """

    def __init__(self, wire: Wire[W, R], most: int = 0) -> None:
        self._wire, self.most = wire, most
        self._new: deque[Ticket] = deque()
        self._waiting: deque[Ticket] = deque()
        self._hands: list[_Hand[W]] = []
        self._running: dict[R, tuple[_Hand[W], str]] = {}
        self._room, self._asked = 0, float("-inf")
        self._losses = 0  # of workers that were never ready, in a row
        self._worked = time.monotonic()
        self._wake, self._closing, self._gate = threading.Event(), False, threading.Lock()
        self._thread = threading.Thread(target=self._serve, name="reelwire crew", daemon=True)
        self._thread.start()

    def submit(self, job: Argument) -> Ticket:
        """Have a job done by whichever worker is free first. Raises UnfitError where the workers have ended."""
        ticket = Ticket(job)
        if not self.add(ticket):
            raise UnfitError(message("workers_ended"))
        return ticket

    def add(self, ticket: Ticket) -> bool:
        """As `submit`; False, and nothing more, where the workers have ended, or are about to."""
        with self._gate:
            if self._closing:
                return False
            self._new.append(ticket)
        self._wake.set()
        return True

    @property
    def is_closed(self) -> bool:
        """Whether its workers have ended, by `close` or because nobody had work for them."""
        return self._closing

    @property
    def is_idle(self) -> bool:
        """Whether nobody waits for anything."""
        return not self._new and next(self._all_tickets(), None) is None

    @property
    def size(self) -> int:
        """How many workers there are."""
        return len(self._hands)

    def close(self) -> None:
        """End all workers; what is not done is cancelled."""
        self._shut()
        self._wake.set()
        if threading.current_thread() is not self._thread:
            self._thread.join(30)

    def _shut(self, though_asked: bool = True) -> None:
        """Take no more jobs; though_asked: even where one has just been given."""
        with self._gate:
            self._closing = self._closing or though_asked or not self._new

    # ------------------------------------------------------------ the thread

    def _serve(self) -> None:
        try:
            while not self._closing:
                self._turn()
        except BaseException as error:  # noqa: BLE001 - whoever waits must hear of it
            self._shut()
            self._fail_all(error)
        finally:
            self._shut()
            for ticket in (*self._all_tickets(),):
                ticket.future.cancel()
            for hand in self._hands:
                with suppress(Exception):
                    self._wire.dismiss(hand.worker)
            self._wire.close()

    def _turn(self) -> None:
        """Hire, give, and take what is done."""
        while self._new:
            self._waiting.append(self._new.popleft())
        self._drop_unwanted()
        self._hire()
        self._give()
        self._look()
        if not self._running:
            self._idle()
            return
        for reference in self._wire.ready([*self._running], WAIT):
            self._take(reference)

    def _idle(self) -> None:
        """Without work: wait for some, and let the workers rest."""
        if self._waiting:
            time.sleep(WAIT)  # until there is room for a worker
            return
        self._wake.wait(IDLE_WAIT)
        self._wake.clear()
        idle = time.monotonic() - self._worked
        if idle > REST_AFTER:
            for hand in self._hands:
                if not hand.rested:
                    self._wire.rest(hand.worker)
                    hand.rested = True
        if idle > LEAVE_AFTER:
            self._shut(though_asked=False)

    def _drop_unwanted(self) -> None:
        for ticket in [t for t in self._waiting if t.unwanted]:
            self._waiting.remove(ticket)
            ticket.future.cancel()
        for hand in [*self._hands]:
            if hand.ticket is None or not hand.ticket.unwanted:
                continue
            if not hand.halted:
                self._wire.halt(hand.worker)
                hand.halted = True
            elif time.monotonic() - hand.ticket.unwanted > HALT_SECONDS:
                self._lose(hand, LostError("", hand.machine))

    def _hire(self) -> None:
        """As many workers as there is work for, and room."""
        now = time.monotonic()
        if self._waiting and now - self._asked > HIRES_EVERY:
            self._asked, self._room = now, self._wire.room()
        most = min(self.most or self._room, self._room)
        wanted = len(self._waiting) + sum(hand.ticket is not None for hand in self._hands)
        while len(self._hands) < min(most, wanted):
            worker, greeting = self._wire.hire()
            hand = _Hand(worker)
            self._hands.append(hand)
            self._running[greeting] = hand, "greeting"

    def _give(self) -> None:
        """Jobs to those without one. Whoever has long said nothing is looked at first: where it died while it was idle,
        no job has died with it."""
        now = time.monotonic()
        for hand in self._hands:
            if not self._waiting:
                return
            if not hand.machine or hand.ticket is not None:
                continue
            if now - hand.heard > FRESH:
                self._look_at(hand, now)
            else:
                hand.ticket = self._waiting.popleft()
                hand.ticket.machine, hand.halted, hand.rested = hand.machine, False, False
                self._running[self._wire.give(hand.worker, hand.ticket.job)] = hand, "work"

    def _look(self) -> None:
        now, every = time.monotonic(), LOOKS_EVERY * max(1.0, len(self._hands) / LOOKS)
        for hand in self._hands:
            if hand.ticket is not None and now - hand.looked > every:
                self._look_at(hand, now)

    def _look_at(self, hand: _Hand[W], now: float) -> None:
        if not hand.is_looking:
            hand.looked, hand.is_looking = now, True
            self._running[self._wire.look(hand.worker)] = hand, "look"

    def _take(self, reference: R) -> None:
        """One answer: a greeting, what came of a job, or a look at it."""
        if reference not in self._running:  # of a worker that was lost meanwhile
            return
        hand, kind = self._running.pop(reference)
        self._worked = hand.heard = time.monotonic()
        answer, error = self._answer(reference)
        if isinstance(error, LostError):
            self._lose(hand, error)
        elif error is not None:
            self._refused(hand, kind, error)
        else:
            self._heard(hand, kind, answer)

    def _answer(self, reference: R) -> tuple[object, BaseException | None]:
        try:
            return self._wire.answer(reference), None
        except BaseException as error:  # noqa: BLE001 - it belongs to whoever waits for the answer
            return None, error

    def _refused(self, hand: _Hand[W], kind: str, error: BaseException) -> None:
        """An error that is not a worker's death: of a greeting, so that no other worker would be of use, or of a
        job."""
        if kind == "greeting":
            self._fail_all(error if isinstance(error, RefusedError) else UnfitError(str(error)))
            self._remove(hand)
        elif kind == "look":
            hand.is_looking = False
        elif kind == "work" and hand.ticket is not None:
            ticket, hand.ticket = hand.ticket, None
            settle(ticket, error)

    def _heard(self, hand: _Hand[W], kind: str, answer: object) -> None:
        """What a worker says."""
        if kind == "greeting":
            hand.machine, self._losses = str(answer), 0
        elif kind == "look":
            hand.is_looking = False
            if hand.ticket is not None:
                hand.ticket.seen = answer
        elif hand.ticket is not None:
            ticket, hand.ticket = hand.ticket, None
            settle(ticket, answer)

    def _lose(self, hand: _Hand[W], error: LostError) -> None:
        """A worker is gone: what it was at is tried elsewhere."""
        self._remove(hand)
        self._asked = float("-inf")
        place, ticket = hand.machine or error.machine or "?", hand.ticket
        if not hand.machine:
            self._losses += 1
            if self._losses > RETRIES:
                self._losses = 0
                self._fail_all(UnfitError(message("workers_never_ready", count=RETRIES + 1, reason=str(error))))
            return
        if ticket is None:
            return
        if ticket.unwanted:
            ticket.future.cancel()
            return
        ticket.tries += 1
        ticket.seen = None
        if ticket.tries > RETRIES:
            words = message("worker_lost_job", machine=place, count=ticket.tries, reason=str(error))
            settle(ticket, RuntimeError(words))
            return
        ticket.losses.append(message("worker_lost", machine=place, number=ticket.tries, most=RETRIES))
        self._waiting.appendleft(ticket)

    def _remove(self, hand: _Hand[W]) -> None:
        if hand in self._hands:
            self._hands.remove(hand)
        for reference in [r for r, (of, _) in self._running.items() if of is hand]:
            del self._running[reference]
        with suppress(Exception):
            self._wire.dismiss(hand.worker)

    def _fail_all(self, error: BaseException) -> None:
        """Whoever waits hears of an error that no other worker can mend; what is under way is halted."""
        for ticket in (*self._all_tickets(),):
            if not ticket.unwanted:
                settle(ticket, error)
                ticket.cancel()

    def _all_tickets(self) -> Iterator[Ticket]:
        yield from [*self._new, *self._waiting]
        for hand in [*self._hands]:
            if hand.ticket is not None:
                yield hand.ticket


def settle(ticket: Ticket, answer: object) -> None:
    """What came of a job, or the error that it ended with, for whoever waits, once."""
    if ticket.unwanted:
        ticket.future.cancel()
    elif ticket.future.done():
        return
    elif isinstance(answer, BaseException):
        ticket.future.set_exception(answer)
    else:
        ticket.future.set_result(answer)
