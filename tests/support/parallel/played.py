"""Workers that do nothing but take time: a thousand of them cost no more than their bookkeeping."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from reelwire.samplers.parallel.crew import LostError

NEVER = float("inf")


@dataclass(eq=False)
class Player:
    """A worker. dies: when, by the clock."""

    name: str
    dies: float = NEVER
    is_gone: bool = False


@dataclass(eq=False)
class Answer:
    """What comes of a call, and when."""

    player: Player
    at: float
    value: Any


@dataclass
class PlayedWire:
    """A wire to played workers. seconds: of a job; life: seconds that each of the first workers lives, in order.

    room_now may be changed while the crew works. given: (worker, job) in order; hired, dismissed, rested: workers.
    """

    room_now: int = 2
    seconds: float = 0.02
    life: tuple[float, ...] = ()
    greets: Any = None
    given: list[tuple[str, Any]] = field(default_factory=list)
    hired: list[Player] = field(default_factory=list)
    dismissed: list[Player] = field(default_factory=list)
    rested: list[Player] = field(default_factory=list)
    halted: set[Player] = field(default_factory=set)
    is_closed: bool = False
    _numbers: Any = field(default_factory=count)

    def room(self) -> int:
        return self.room_now

    def hire(self) -> tuple[Player, Answer]:
        number = next(self._numbers)
        life = self.life[number] if number < len(self.life) else NEVER
        player = Player(f"machine {number}", time.monotonic() + life)
        self.hired.append(player)
        return player, Answer(player, time.monotonic(), self.greets or player.name)

    def give(self, worker: Player, job: Any) -> Answer:
        self.given.append((worker.name, job))
        return Answer(worker, time.monotonic() + self.seconds, ("done", job))

    def look(self, worker: Player) -> Answer:
        return Answer(worker, time.monotonic(), ("look", worker.name))

    def halt(self, worker: Player) -> None:
        self.halted.add(worker)

    def rest(self, worker: Player) -> None:
        self.rested.append(worker)

    def ready(self, references: list[Answer], seconds: float) -> list[Answer]:
        end = time.monotonic() + seconds
        while True:
            now = time.monotonic()
            there = [r for r in references if min(r.at, r.player.dies) <= now or r.player in self.halted]
            if there or now >= end:
                return there
            time.sleep(0.001)

    def answer(self, reference: Answer) -> Any:
        if reference.player.dies <= reference.at and reference.player.dies <= time.monotonic():
            raise LostError("it was killed", reference.player.name)
        if isinstance(reference.value, Exception):
            raise reference.value
        return reference.value

    def dismiss(self, worker: Player) -> None:
        self.dismissed.append(worker)

    def close(self) -> None:
        self.is_closed = True
