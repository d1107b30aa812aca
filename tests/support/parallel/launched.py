"""Ranks that only say what they are told to, so that a group's life can be played without processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from reelwire.samplers.parallel.clip.ranks import Died
from reelwire.samplers.parallel.clip.worker import Done, Event

Told = Iterable[tuple[int, Event | Died]]
READY: tuple[tuple[int, Event], ...] = ((0, Done()), (1, Done()))


@dataclass
class PlayedLauncher:
    """Two ranks. tells: for each task in order, what they say of it; starts, for each start. sent, stops, closed: what
    happened."""

    tells: list[Told]
    starts: list[Told] = field(default_factory=list)
    sent: list[Any] = field(default_factory=list)
    stops: int = 0
    closed: int = 0
    begun: int = 0
    _said: deque[tuple[int, Event | Died]] = field(default_factory=deque)

    def start(self, build: Any, parallel: Any, devices: Any) -> None:
        self.begun += 1
        self._said = deque(self.starts.pop(0) if self.starts else READY)

    def send(self, task: Any) -> None:
        self.sent.append(task)
        self._said.extend(self.tells.pop(0))

    def stop(self) -> None:
        self.stops += 1

    def next_event(self, seconds: float) -> tuple[int, Event | Died] | None:
        return self._said.popleft() if self._said else None

    def close(self) -> None:
        self.closed += 1
        self._said.clear()
