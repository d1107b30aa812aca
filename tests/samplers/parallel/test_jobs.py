"""How a job finds its workers: nobody is held up meanwhile, and what goes wrong is the job's own."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Parallel, Request
from reelwire.samplers.parallel import crew as crews
from reelwire.samplers.parallel import jobs
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.models import FIRST, PROMPT, needed, open_plain
from reelwire.tests.support.parallel.played import PlayedWire

ADDRESS = "10.0.0.5:6379"
SOON = 5.0


class JoinedWire(PlayedWire):
    """Played workers of a cluster that may have no machine with room yet."""

    opened: ClassVar[list[JoinedWire]] = []
    refusal: Exception | None = None
    first_room = 2

    def __init__(self, address: str, workers: int, greeting: Any) -> None:
        super().__init__(room_now=self.first_room)
        self.opened.append(self)
        if self.refusal is not None:
            raise self.refusal

    def check(self, workers: int, pause: Callable[[], None]) -> None:
        while not self.room():
            pause()


@pytest.fixture(autouse=True)
def played(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Workers that are played, and no Ray."""
    monkeypatch.setattr(jobs, "RayWire", JoinedWire)
    monkeypatch.setattr(jobs, "import_ray", lambda address: None)
    monkeypatch.setattr(jobs, "JOIN_EVERY", 0.01)
    monkeypatch.setattr(crews, "WAIT", 0.01)
    monkeypatch.setattr(crews, "HIRES_EVERY", 0.01)
    JoinedWire.opened, JoinedWire.refusal, JoinedWire.first_room = [], None, 2
    yield
    jobs.close_all()


@pytest.fixture
def run(tiny_models: Path) -> tuple[Any, ...]:
    """(model, conditioning, plan) for workers of a cluster."""
    model = open_plain(tiny_models, FIRST["ltx"])
    inputs = {**needed(model), "seed": 3, "steps": 2}
    conditioning = model.encode(PROMPT, "", inputs["keyframes"])
    spread = replace(model, parallel=Parallel(ADDRESS, node=("ReelwireParallel", "9")))
    return spread, conditioning, plan(spread, Request(**inputs))


def until(holds: Callable[[], object]) -> None:
    end = time.monotonic() + SOON
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


def test_nobody_is_held_up_while_a_cluster_has_no_room(run: Any) -> None:
    """A job that is not wanted any more lets the next one wait in its place; that one is done when a machine joins."""
    JoinedWire.first_room = 0
    began = time.monotonic()
    first, second = jobs.submit(*run), jobs.submit(*run)
    assert time.monotonic() - began < 1
    until(lambda: JoinedWire.opened)
    first.cancel()
    until(lambda: first.is_done)
    with pytest.raises(CancelledError):
        first.result()
    assert not second.is_done
    JoinedWire.opened[0].room_now = 1
    until(lambda: second.is_done)
    assert second.ticket.future.result()[0] == "done"  # type: ignore[index]
    assert len(JoinedWire.opened) == 1


def test_what_stops_a_wait_ends_it(run: Any) -> None:
    JoinedWire.first_room = 0

    def stop(_: object) -> None:
        raise KeyboardInterrupt

    job = jobs.submit(*run)
    with pytest.raises(KeyboardInterrupt):
        jobs.wait(job, stop, lambda: None)
    until(lambda: job.ticket.future.cancelled())


def test_a_refusal_is_the_jobs_and_names_its_node(run: Any) -> None:
    JoinedWire.refusal = InputError("address", ADDRESS, "Its token is another one.", "Copy it.")
    job = jobs.submit(*run)
    with pytest.raises(InputError, match="token") as error:
        jobs.wait(job, lambda _: None, lambda: time.sleep(0.01))
    assert error.value.node == ("ReelwireParallel", "9")
    JoinedWire.refusal = None
    again = jobs.submit(*run)
    until(lambda: again.is_done)
    assert again.ticket.future.result()[0] == "done"  # type: ignore[index]


def test_workers_that_have_just_ended_get_no_job(run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often they end while jobs come, every job is done."""
    monkeypatch.setattr(crews, "LEAVE_AFTER", 0.0)
    monkeypatch.setattr(crews, "IDLE_WAIT", 0.001)
    under_way = []
    for _ in range(20):
        under_way.append(jobs.submit(*run))
        until(lambda: under_way[-1].is_done)
    assert all(job.ticket.future.result()[0] == "done" for job in under_way)  # type: ignore[index]
    assert len(JoinedWire.opened) > 1
