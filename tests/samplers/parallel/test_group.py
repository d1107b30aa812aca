"""What a group of ranks makes of starts, errors and tasks that were left; and that no process stays behind."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import pytest
from reelwire.loaders.messages import InputError
from reelwire.loaders.notices import stopped_by
from reelwire.loaders.parts import PlainMemory
from reelwire.loaders.request import Parallel
from reelwire.samplers.parallel.clip import local, spread
from reelwire.samplers.parallel.clip.local import LocalLauncher
from reelwire.samplers.parallel.clip.ranks import Died, Group
from reelwire.samplers.parallel.clip.worker import Done, Failed, Stopped
from reelwire.tests.support.engine.models import open_plain
from reelwire.tests.support.parallel.launched import READY, PlayedLauncher

HERE, CARDS = Parallel("", 2, "branches"), ["cpu", "cpu"]
GOOD = ((0, Done("a")), (1, Done("b")))
OTHERS_ERROR = InputError("steps", 0, "One at least.", "Use 1.")


class LeftError(Exception):
    """Somebody has stopped."""


def group_of(*tells: Any, **more: Any) -> tuple[Group, PlayedLauncher]:
    launcher = PlayedLauncher([*tells], **more)
    return Group(launcher, lambda device: None, HERE, CARDS), launcher  # type: ignore[arg-type,return-value]


def left(group: Group) -> None:
    """A task that whoever asked leaves at its first event that is not an end."""

    def leave(event: object) -> None:
        raise LeftError

    with pytest.raises(LeftError):
        group.run(lambda: "left", leave)  # type: ignore[arg-type,return-value]


def done(group: Group) -> list[Any]:
    return group.run(lambda: "next")  # type: ignore[arg-type,return-value]


SAID = (0, Stopped())  # heard of by the one who leaves
ENDINGS: dict[str, tuple[Any, int]] = {  # what ranks still say of a task that was left; how often they are started
    "as asked": (((1, Stopped()),), 1),
    "done before": (((1, Done("old")),), 1),
    "an error": (((1, Failed(OTHERS_ERROR)),), 2),
    "a lost connection": (((1, Failed(RuntimeError("Connection reset by peer"))),), 2),
    "a death": (((1, Died("rank 1", "killed")),), 2),
}


@pytest.mark.parametrize("name", ENDINGS)
def test_what_becomes_of_a_task_that_was_left_is_nobodys(name: str) -> None:
    """Neither its error nor its result is the next task's."""
    rest, starts = ENDINGS[name]
    group, launcher = group_of((SAID, *rest), GOOD)
    left(group)
    assert launcher.stops == 1
    assert done(group) == ["a", "b"]
    assert (launcher.begun, launcher.sent, group.restarts) == (starts, ["left", "next"], 0)


def test_an_error_of_a_start_is_raised_and_the_next_one_starts_anew() -> None:
    group, launcher = group_of(GOOD, starts=[((1, Failed(OTHERS_ERROR)),), READY])
    with pytest.raises(InputError, match="One at least"):
        done(group)
    assert done(group) == ["a", "b"]
    assert (launcher.begun, launcher.closed) == (2, 1)


def test_a_stop_is_heard_while_a_left_task_ends() -> None:
    group, launcher = group_of((SAID,), GOOD)
    left(group)

    def stop() -> None:
        raise LeftError

    with stopped_by(stop), pytest.raises(LeftError):
        done(group)
    assert launcher.sent == ["left"]


def test_a_card_makes_way_before_ranks_are_asked(tiny_models: Path) -> None:
    """Before they start, and again before each task: prompts have been encoded on it meanwhile."""

    class Host(PlainMemory):
        """Notes how many starts of ranks there have been whenever it makes way."""

        starts: ClassVar[list[int]] = []

        def make_way(self) -> None:
            self.starts.append(launcher.begun)

    launcher = PlayedLauncher([GOOD, GOOD])
    model = replace(open_plain(tiny_models, "tiny-wan2.1-t2v"), parallel=HERE, memory=Host())
    try:
        first = spread.group_of(model, launcher)
        assert done(first) == ["a", "b"]
        assert spread.group_of(model) is first
    finally:
        spread.close()
    assert (Host.starts, launcher.begun, launcher.closed) == ([0, 1], 1, 1)


# ---------------------------------------------------------------- processes


def sleeper() -> subprocess.Popen[bytes]:
    """A process that does nothing."""
    command = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)


def test_a_rank_that_cannot_start_leaves_none_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    launcher, started = LocalLauncher(), list[subprocess.Popen[bytes]]()

    def process(rank: int) -> subprocess.Popen[bytes]:
        if rank:
            raise OSError("Cannot allocate memory")
        started.append(sleeper())
        return started[0]

    monkeypatch.setattr(launcher, "_process", process)
    group = Group(launcher, len, HERE, CARDS)  # type: ignore[arg-type]
    with pytest.raises(OSError, match="allocate"):
        done(group)
    assert started[0].poll() is not None
    assert launcher.processes == []
    assert launcher._folder is None


def test_a_process_that_does_not_end_holds_up_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stuck:
        """Sleeps where the system cannot end it."""

        stdin = stdout = None
        killed = False

        def kill(self) -> None:
            self.killed = True

        def wait(self, seconds: float) -> int:
            raise subprocess.TimeoutExpired("rank", seconds)

    launcher, stuck, other = LocalLauncher(), Stuck(), sleeper()
    monkeypatch.setattr(local, "ENDING", 5.0)
    launcher.processes = [stuck, other]  # type: ignore[list-item]
    launcher.close()
    assert stuck.killed
    assert other.returncode not in (None, 0) or os.name == "nt"
    assert launcher.processes == []
