"""Jobs over workers that die, come and go: played ones, so that each case takes a moment."""

from __future__ import annotations

import time
from concurrent.futures import CancelledError
from typing import Any

import pytest
from reelwire.loaders.messages import InputError
from reelwire.samplers.parallel import crew as module
from reelwire.samplers.parallel.crew import RETRIES, Crew, Ticket, UnfitError
from reelwire.tests.support.parallel.played import PlayedWire


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything that is waited for, in hundredths."""
    for name, seconds in (
        ("WAIT", 0.01),
        ("LOOKS_EVERY", 0.01),
        ("HIRES_EVERY", 0.01),
        ("REST_AFTER", 0.05),
        ("IDLE_WAIT", 0.05),
        ("FRESH", 0.03),
    ):
        monkeypatch.setattr(module, name, seconds)


def results(crew: Crew[Any, Any], count: int) -> list[Any]:
    tickets = [crew.submit(number) for number in range(count)]
    return [ticket.future.result(20) for ticket in tickets]


def test_every_job_is_done_once_by_as_many_as_there_is_room_for() -> None:
    wire = PlayedWire(room_now=3)
    crew = Crew(wire)
    assert results(crew, 20) == [("done", number) for number in range(20)]
    assert sorted(job for _, job in wire.given) == list(range(20))
    assert len(wire.hired) == 3
    assert {name for name, _ in wire.given} == {player.name for player in wire.hired}
    crew.close()
    assert wire.dismissed == wire.hired
    assert wire.is_closed


def test_no_more_workers_than_asked_for_or_needed() -> None:
    wire = PlayedWire(room_now=100)
    crew = Crew(wire, 2)
    results(crew, 6)
    assert len(wire.hired) == 2
    crew.close()
    wire = PlayedWire(room_now=100)
    crew = Crew(wire)
    results(crew, 1)
    assert len(wire.hired) == 1
    crew.close()


@pytest.mark.parametrize("life", [(0.0,), (0.01, 0.05), (0.03, 0.03, 0.03), (0.2, 0.01, 0.06)])
def test_a_death_is_mended_elsewhere(life: tuple[float, ...]) -> None:
    wire = PlayedWire(life=life)
    crew = Crew(wire)
    assert results(crew, 12) == [("done", number) for number in range(12)]
    crew.close()


def test_the_death_of_the_idle_costs_no_job_a_try() -> None:
    """A machine that was started anew meanwhile, with more workers than a job has tries."""
    wire = PlayedWire(room_now=RETRIES + 2)
    crew = Crew(wire)
    results(crew, 20)
    idle = [*wire.hired]
    assert len(idle) == RETRIES + 2
    for player in idle:
        player.dies = time.monotonic()
    time.sleep(0.1)
    ticket = crew.submit("after that")
    assert ticket.future.result(5) == ("done", "after that")
    assert (ticket.tries, ticket.losses) == (0, [])
    assert not {*wire.given[-1:]} & {(player.name, "after that") for player in idle}
    crew.close()


def test_a_job_that_kills_its_workers_ends_with_the_name_of_a_machine() -> None:
    wire = PlayedWire(room_now=1, seconds=0.1, life=(0.02,) * 10)
    crew = Crew(wire)
    ticket = crew.submit("heavy")
    with pytest.raises(RuntimeError, match="machine") as error:
        ticket.future.result(20)
    assert error.value.args[0].key == "worker_lost_job"
    assert str(error.value.args[0].values["machine"]).startswith("machine ")
    assert ticket.tries == RETRIES + 1
    assert [loss.key for loss in ticket.losses] == ["worker_lost"] * RETRIES
    crew.close()


def test_a_worker_that_is_of_no_use_is_told_at_once() -> None:
    crew = Crew(PlayedWire(greets=InputError("model", "x", "Other files.")))
    with pytest.raises(InputError, match="Other files"):
        crew.submit(1).future.result(5)
    crew.close()
    crew = Crew(PlayedWire(greets=RuntimeError("no pack")))
    with pytest.raises(UnfitError, match="no pack"):
        crew.submit(1).future.result(5)
    crew.close()


def test_workers_that_end_before_they_are_ready_are_not_hired_for_ever() -> None:
    wire = PlayedWire(life=(-1.0,) * 100)
    crew = Crew(wire, 1)
    with pytest.raises(UnfitError):
        crew.submit(1).future.result(5)
    assert len(wire.hired) == RETRIES + 1
    crew.close()


def test_workers_may_come_later() -> None:
    wire = PlayedWire(room_now=0)
    crew = Crew(wire)
    ticket = crew.submit(1)
    time.sleep(0.05)
    assert not ticket.future.done()
    wire.room_now = 1
    assert ticket.future.result(5) == ("done", 1)
    crew.close()


def test_nobody_waits_for_what_is_not_wanted() -> None:
    wire = PlayedWire(room_now=1, seconds=30.0)
    crew = Crew(wire)
    first, second = crew.submit(1), crew.submit(2)
    while not wire.given:
        time.sleep(0.01)
    first.cancel()
    second.cancel()
    for ticket in (first, second):
        with pytest.raises(CancelledError):
            ticket.future.result(5)
    assert [job for _, job in wire.given] == [1]
    wire.halted.clear()
    wire.seconds = 0.01
    assert crew.submit(3).future.result(5) == ("done", 3)
    crew.close()


def test_a_look_shows_how_far_it_is_and_idle_workers_rest() -> None:
    wire = PlayedWire(room_now=1, seconds=0.3)
    crew = Crew(wire)
    ticket = crew.submit(1)
    ticket.future.result(5)
    assert ticket.seen == ("look", "machine 0")
    end = time.monotonic() + 5
    while not wire.rested and time.monotonic() < end:
        time.sleep(0.02)
    assert wire.rested == wire.hired
    assert crew.submit(2).future.result(5) == ("done", 2)
    crew.close()


def test_all_ends_when_nobody_has_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LEAVE_AFTER", 0.05)
    wire = PlayedWire()
    crew = Crew(wire)
    results(crew, 2)
    end = time.monotonic() + 5
    while not wire.is_closed and time.monotonic() < end:
        time.sleep(0.02)
    assert wire.is_closed
    assert crew.is_closed
    assert wire.dismissed == wire.hired


def test_a_closed_crew_cancels_what_waits() -> None:
    crew = Crew(PlayedWire(seconds=30.0))
    tickets = [crew.submit(number) for number in range(5)]
    crew.close()
    for ticket in tickets:
        with pytest.raises(CancelledError):
            ticket.future.result(5)


def test_who_has_heard_of_an_error_hears_of_nothing_else() -> None:
    """A worker's refusal ends what another is at; that other one's death after it, or its answer, harms nobody."""
    wire = PlayedWire(room_now=1, seconds=0.3, life=(0.15,))
    crew = Crew(wire)
    at_work = crew.submit(1)
    while not wire.given:
        time.sleep(0.01)
    wire.greets, wire.room_now = InputError("model", "x", "Other files."), 2
    waiting = crew.submit(2)
    for ticket in (at_work, waiting):
        with pytest.raises(InputError, match="Other files"):
            ticket.future.result(5)
    end = time.monotonic() + 5
    while not crew.is_idle and time.monotonic() < end:
        time.sleep(0.01)
    wire.greets = None
    assert crew.submit(3).future.result(5) == ("done", 3)
    crew.close()


def test_an_error_of_a_look_is_not_the_jobs() -> None:
    class Shy(PlayedWire):
        """Each second look fails."""

        def look(self, worker: Any) -> Any:
            answer = super().look(worker)
            self.looks = getattr(self, "looks", 0) + 1
            answer.value = RuntimeError("busy") if self.looks % 2 else answer.value
            return answer

    crew = Crew(Shy(room_now=1, seconds=0.3))
    ticket = crew.submit(1)
    assert ticket.future.result(5) == ("done", 1)
    assert ticket.seen == ("look", "machine 0")
    crew.close()


def test_a_crew_that_has_ended_takes_no_job() -> None:
    crew = Crew(PlayedWire())
    crew.close()
    with pytest.raises(UnfitError):
        crew.submit(1)
    assert not crew.add(Ticket(1))
