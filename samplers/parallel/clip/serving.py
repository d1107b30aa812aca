"""The loop of a rank that is a process of this machine: pickles in, pickles out."""

from __future__ import annotations

import os
import pickle  # nosec B403
import queue
import threading
from dataclasses import dataclass
from typing import BinaryIO

from .worker import Build, Done, Event, Failed, Place, Task, Worker, portable


@dataclass(frozen=True)
class Start:
    """Build a model and join the other ranks."""

    build: Build
    place: Place


@dataclass(frozen=True)
class Stop:
    """End the task under way."""


Order = Start | Stop | Task


def serve(orders: BinaryIO, events: BinaryIO) -> None:
    """Do what is ordered until the input ends, which ends this process at once, whatever it is at."""
    waiting: queue.Queue[Start | Task] = queue.Queue()
    workers: list[Worker] = []
    threading.Thread(target=_read, args=(orders, waiting, workers), daemon=True).start()

    def emit(event: Event) -> None:
        pickle.dump(event, events, pickle.HIGHEST_PROTOCOL)
        events.flush()

    start = waiting.get()
    assert isinstance(start, Start)
    try:
        workers.append(Worker(start.build, start.place))
    except Exception as error:  # noqa: BLE001 (it is raised where the order came from)
        emit(Failed(portable(error)))
        return
    emit(Done())
    while True:
        task = waiting.get()
        assert not isinstance(task, Start)
        workers[0].run(task, emit)


def _read(orders: BinaryIO, waiting: queue.Queue[Start | Task], workers: list[Worker]) -> None:
    """Hand on orders as they come."""
    while True:
        try:
            order: Order = pickle.load(orders)  # noqa: S301 (of the process that started this one)  # nosec B301
        except (EOFError, OSError):
            os._exit(0)
        for worker in workers:  # a stop that comes after its task holds, however soon
            worker.stopped.set() if isinstance(order, Stop) else worker.stopped.clear()
        if not isinstance(order, Stop):
            waiting.put(order)
