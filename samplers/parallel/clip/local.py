"""Ranks as processes of this machine: nothing listens to anybody but them."""

from __future__ import annotations

import os
import pickle  # nosec B403
import queue
import subprocess  # nosec B404
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

import torch

from ....loaders.messages import message
from ....loaders.request import Parallel
from ..scratch import Scratch
from .ranks import Died
from .serving import Order, Start, Stop
from .worker import Build, Event, Place, Task

ROOT = Path(__file__).parents[3]
CHILD = Path(__file__).with_name("child.py")
LOOPBACK = {"linux": "lo", "darwin": "lo0"}  # where ranks of one machine talk to each other
ENDING = 5.0  # seconds that a killed process may take to end


class LocalLauncher:
    """Processes of this machine, one for each device. patience: see Place. processes: those of the group that runs."""

    def __init__(self, patience: float = 300.0) -> None:
        self._patience = patience
        self._events: queue.Queue[tuple[int, Event | Died]] = queue.Queue()
        self._folder: Scratch | None = None
        self.processes: list[subprocess.Popen[bytes]] = []

    def start(self, build: Build, parallel: Parallel, devices: Sequence[str]) -> None:
        try:
            self._start(build, parallel, devices)
        except BaseException:
            self.close()  # those that have started
            raise

    def _start(self, build: Build, parallel: Parallel, devices: Sequence[str]) -> None:
        self._events = queue.Queue()
        self._folder = Scratch("ranks")
        store = (self._folder.path / "store").as_uri()
        threads = max(1, torch.get_num_threads() // len(devices))
        for rank, device in enumerate(devices):
            place = Place(parallel.mode, rank, len(devices), store, device, self._patience, threads)
            self.processes.append(self._process(rank))
            self._order(rank, Start(build, place))

    def _process(self, rank: int) -> subprocess.Popen[bytes]:
        loopback, package = LOOPBACK.get(sys.platform), __name__.rpartition(".samplers.parallel.")[0]
        environment = {**os.environ, **({"GLOO_SOCKET_IFNAME": loopback} if loopback else {})}
        process = subprocess.Popen(  # noqa: S603 (our own script)  # nosec B603
            [sys.executable, str(CHILD), package, str(ROOT)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
        )
        args = (rank, process, self._events)
        threading.Thread(target=_listen, args=args, daemon=True).start()
        return process

    def send(self, task: Task) -> None:
        for rank in range(len(self.processes)):
            self._order(rank, task)

    def stop(self) -> None:
        if self.processes:
            self._order(0, Stop())

    def _order(self, rank: int, order: Order) -> None:
        """Write an order; one that has died is heard of by its events."""
        stream: IO[bytes] | None = self.processes[rank].stdin
        assert stream is not None
        try:
            pickle.dump(order, stream, pickle.HIGHEST_PROTOCOL)
            stream.flush()
        except (BrokenPipeError, OSError):
            return

    def next_event(self, seconds: float) -> tuple[int, Event | Died] | None:
        try:
            return self._events.get(timeout=seconds)
        except queue.Empty:
            return None

    def close(self) -> None:
        ending, self.processes = self.processes, []
        for process in ending:
            process.kill()
        for process in ending:
            with suppress(subprocess.TimeoutExpired):  # one that the system does not let go of yet
                process.wait(ENDING)
            for stream in filter(None, (process.stdin, process.stdout)):
                with suppress(OSError):
                    stream.close()
        if self._folder is not None:
            self._folder.remove()
            self._folder = None


def _listen(rank: int, process: subprocess.Popen[bytes], events: queue.Queue[tuple[int, Event | Died]]) -> None:
    """Hand on what a process tells, and at last that it has ended."""
    assert process.stdout is not None
    try:
        while True:
            events.put((rank, pickle.load(process.stdout)))  # noqa: S301 (of a process of ours)  # nosec B301
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        code = process.wait()
        name = message("rank_here", rank=rank, process=process.pid)
        cause = message("ended_by_signal", signal=-code) if code < 0 else message("ended_with", code=code)
        events.put((rank, Died(name, cause)))
