"""Workers that stay alive between cases, are watched while they work, and are replaced where one hangs or dies."""

from __future__ import annotations

import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from queue import Queue
from typing import Any

import psutil

from .edits import Case
from .watch import ROOT

BUSY, IDLE = 20.0, 120.0  # seconds of computing, and of waiting, that a case may take
START = 180.0
CALL = re.compile(r"(connect|sendto|bind|socket|execve|execveat)\((?!AF_UNIX)")
LINE = re.compile(r'File "([^"]+)", line (\d+) in (\S+)')


def tracer(log: Path) -> list[str]:
    """A command in front of a worker's that notes its system calls for networks and programs; empty where there is
    none that can."""
    program = shutil.which("strace")
    if program is None:
        return []
    command = [program, "-f", "--seccomp-bpf", "-qq", "-e", "trace=socket,connect,sendto,bind,execve,execveat"]
    works = subprocess.run([*command, "-o", str(log), "true"], capture_output=True, check=False).returncode == 0
    return [*command, "-o", str(log)] if works else []


class Worker:
    """One process, and the case that it is at. busy: seconds of computing that a case may take."""

    def __init__(self, folder: Path, name: str, traced: bool, warm: bool = True, busy: float = BUSY) -> None:
        self.folder, self.bound = folder, busy
        for made in (folder, folder / "tmp", folder / "home"):
            made.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"calls-{name}"
        environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_"))}
        environment |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1", "TMPDIR": str(folder / "tmp")}
        environment |= {"HF_HOME": str(folder / "home"), "TOKENIZERS_PARALLELISM": "false"}
        command = [*(tracer(self.log) if traced else []), sys.executable, "-W", "ignore", "-m", "tests.campaign.worker"]
        pipes: dict[str, Any] = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        command += [str(folder), *([] if warm else ["cold"])]
        self.process = subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **pipes)
        hello = self._line(START)
        if hello is None:
            raise RuntimeError("a worker did not start: run `python -m tests.campaign.worker FOLDER` to see why")
        self.pid = int(json.loads(hello)["pid"])
        self._began = self.log.stat().st_size if self.log.exists() else 0

    def run(self, case: Case) -> dict[str, Any] | None:
        """The verdict on a case. A worker that hung or died is no worker any more: `alive` is then False."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(asdict(case)) + "\n")
        self.process.stdin.flush()
        start, busy = time.monotonic(), self._busy()
        while time.monotonic() - start < IDLE and self._busy() - busy < self.bound:
            if line := self._line(0.5):
                return json.loads(line)
            if self.process.poll() is not None:
                return self._verdict("raw", f"the process ended with {self.process.returncode}", "")
        where, seconds = self._stack(), round(self._busy() - busy, 1)
        self.stop()
        return self._verdict("hung", f"not done after {time.monotonic() - start:.0f} s", where, seconds)

    @staticmethod
    def _verdict(verdict: str, text: str, where: str, seconds: float = 0.0) -> dict[str, Any]:
        return {"verdict": verdict, "text": text, "place": where, "seconds": seconds, "seen": {}}

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def _line(self, seconds: float) -> str | None:
        """The next line that it writes, if there is one in time."""
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], seconds)
        return (self.process.stdout.readline() or None) if ready else None

    def _busy(self) -> float:
        """Seconds that it has computed."""
        with suppress(psutil.Error):
            times = psutil.Process(self.pid).cpu_times()
            return times.user + times.system
        return 0.0

    def _stack(self) -> str:
        """The line of the pack where it is."""
        with suppress(OSError):
            os.kill(self.pid, signal.SIGUSR1)
            time.sleep(0.5)
            text = (self.folder / f"stacks-{self.pid}").read_text(errors="replace")
            main = text.rpartition("most recent call first")[2]
            ours = [m for m in LINE.findall(main) if m[0].startswith(str(ROOT)) and "/tests/" not in m[0]]
            return f"{Path(ours[0][0]).relative_to(ROOT)}:{ours[0][1]}" if ours else " ".join(main.split()[:12])
        return ""

    def stop(self) -> None:
        """End it."""
        with suppress(OSError):
            if self.alive:
                os.kill(self.pid, signal.SIGKILL)
        self.process.wait()
        for pipe in filter(None, (self.process.stdin, self.process.stdout)):
            with suppress(OSError):  # what it had no time to read
                pipe.close()

    def calls(self) -> list[str]:
        """The system calls that were noted after it had started."""
        with suppress(OSError):
            return [line for line in self.log.read_bytes()[self._began :].decode().splitlines() if CALL.search(line)]
        return []


class Pool:
    """Runs cases in several workers; the order of the answers is that in which they come."""

    def __init__(self, folder: Path, workers: int, traced: bool = True, warm: bool = True, busy: float = BUSY) -> None:
        self._folder, self._workers, self._number = folder, workers, 0
        self._options = traced, warm, busy
        self._lock, self.calls = threading.Lock(), list[str]()

    def _worker(self) -> Worker:
        with self._lock:
            self._number += 1
            name = str(self._number)
        return Worker(self._folder / f"worker-{name}", name, *self._options)

    def run(
        self, cases: Iterable[Case], stop: Callable[[], bool] = lambda: False
    ) -> Iterator[tuple[Case, dict[str, Any]]]:
        """(case, verdict) of each."""
        source, answers = iter(cases), Queue[Any]()

        def work() -> None:
            worker: Worker | None = None
            try:
                while not stop():
                    with self._lock:
                        case = next(source, None)
                    if case is None:
                        break
                    worker = worker if worker is not None and worker.alive else self._worker()
                    answers.put((case, worker.run(case)))
                    if not worker.alive:
                        worker.stop()
                        self.calls += worker.calls()
            except BaseException as error:  # noqa: BLE001 - raised by who waits for the answers
                answers.put(error)
            finally:
                if worker is not None and worker.alive:
                    worker.stop()
                    self.calls += worker.calls()
                answers.put(None)

        threads = [threading.Thread(target=work) for _ in range(self._workers)]
        for thread in threads:
            thread.start()
        ends = 0
        while ends < len(threads):
            answer = answers.get()
            if isinstance(answer, BaseException):
                raise answer
            if answer is None:
                ends += 1
            else:
                yield answer
        for thread in threads:
            thread.join()
