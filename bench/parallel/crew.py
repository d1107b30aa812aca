"""What the process that hands out jobs does for each, with played workers that only take time.

python bench/parallel/crew.py    prints jobs a second, CPU time for each job, and memory, for 10, 100 and 1,000 workers
"""

from __future__ import annotations

import heapq
import resource
import sys
import time
from itertools import count
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

if "reelwire" not in sys.modules:
    import_pack()
from reelwire.samplers.parallel.crew import Crew

SECONDS, EACH = 20.0, 1.0  # of a trial, and of a job


class Idle:
    """A wire whose answers come when they are due."""

    def __init__(self, workers: int, seconds: float) -> None:
        self._workers, self._seconds = workers, seconds
        self._numbers, self._due = count(), list[tuple[float, int]]()
        self.looks = 0

    def room(self) -> int:
        return self._workers

    def _later(self, seconds: float) -> int:
        number = next(self._numbers)
        heapq.heappush(self._due, (time.monotonic() + seconds, number))
        return number

    def hire(self) -> tuple[int, int]:
        number = self._later(0)
        return number, number

    def give(self, worker: int, job: object) -> int:
        return self._later(self._seconds)

    def look(self, worker: int) -> int:
        self.looks += 1
        return self._later(0)

    def halt(self, worker: int) -> None: ...

    def rest(self, worker: int) -> None: ...

    def ready(self, references: list[int], seconds: float) -> list[int]:
        end = time.monotonic() + seconds
        while not self._due or self._due[0][0] > time.monotonic():
            if time.monotonic() > end:
                return []
            time.sleep(0.001)
        there, now = list[int](), time.monotonic()
        while self._due and self._due[0][0] <= now:
            there.append(heapq.heappop(self._due)[1])
        return there

    def answer(self, reference: int) -> str:
        return "done"

    def dismiss(self, worker: int) -> None: ...

    def close(self) -> None: ...


def trial(workers: int) -> None:
    """One line of the table."""
    wire, jobs = Idle(workers, EACH), int(workers * SECONDS / EACH)
    began, cpu = time.monotonic(), time.process_time()
    crew = Crew(wire)
    tickets = [crew.submit(number) for number in range(jobs)]
    for ticket in tickets:
        ticket.future.result()
    took, cpu = time.monotonic() - began, time.process_time() - cpu
    crew.close()
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    least = SECONDS
    print(
        f"{workers:6d} workers  {jobs:7d} jobs  {jobs / took:8.1f} jobs/s of {workers / EACH:.0f}  "
        f"{cpu / jobs * 1e3:6.3f} ms of CPU for each  busy {cpu / took:5.1%}  kept waiting {took / least - 1:5.1%}  "
        f"{wire.looks / took:7.1f} looks/s  {held:6.0f} MiB"
    )


if __name__ == "__main__":
    for workers in (10, 100, 1000):
        trial(workers)
