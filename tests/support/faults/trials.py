"""Trials: a point of the product, a fault, a look at what is left, and the next run."""

from __future__ import annotations

import os
import random
import resource
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reelwire.loaders.messages import InputError, Message, message_of

from .layer import CALLS, ERRORS, NAMES, Layer, ended, failing, in_child, killing
from .points import Calibrate, Film

Point = Any  # one of POINTS
HELD = 3  # how a process ends that was told that another is at it


@dataclass
class Row:
    """What came of the trials of one point and one kind of fault.

    words: runs that failed in words; raw: in others. lost: of what was computed; half: files under a final name that
    are not whole; left: temporary files after the next run; equal: next runs with the same bytes.
    """

    point: str
    fault: str
    tried: int = 0
    words: int = 0
    raw: int = 0
    lost: int = 0
    half: int = 0
    left: int = 0
    equal: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_good(self) -> bool:
        """Whether nothing was lost."""
        return not (self.raw or self.lost or self.half or self.left) and self.equal == self.tried > 0

    def add(self, point: Any, folder: Path, expected: bytes, error: BaseException | None, what: str) -> None:
        """Look at what a fault has left, run again, and count."""
        self.tried += 1
        is_worded = error is not None and isinstance(message_of(error), Message)
        self.words += is_worded
        faults: dict[str, int] = {"raw": error is not None and not is_worded, "half": not point.whole(folder, expected)}
        lost_at_once = 0 if isinstance(point, Film) else point.lost(folder, error)
        point.run(folder)
        faults["lost"] = lost_at_once or point.lost(folder, error)
        faults["left"] = len(point.left(folder))
        self.count(faults, point.result(folder) == expected, f"{what}: {error!r}")

    def count(self, faults: Mapping[str, int], is_equal: bool, what: str) -> None:
        """Add what was found to the columns, and a note where it is not good."""
        for name, value in faults.items():
            setattr(self, name, getattr(self, name) + int(value))
        self.equal += is_equal
        if any(faults.values()) or not is_equal:
            self.notes.append(f"{what}; {dict(faults)}, equal {is_equal}"[:400])


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that is gone afterwards."""
    place = "/dev/shm" if os.path.isdir("/dev/shm") else None  # where nothing waits for a disk
    with tempfile.TemporaryDirectory(prefix="faults_", dir=place) as folder:
        yield Path(folder)


def expected_of(make: Point, nodes: Any) -> bytes:
    """What two runs come to that nothing disturbs."""
    point = make(nodes)
    with scratch() as folder:
        point.prepare(folder)
        point.run(folder)
        if isinstance(point, Calibrate):
            point.run(folder)
        return point.result(folder)


def injected(make: Point, nodes: Any, errors: tuple[str, ...] = ERRORS, every: int = 1) -> list[Row]:
    """Each error at each call that writes; every: only at one call in so many, another for each error."""
    expected, rows = expected_of(make, nodes), []
    for turn, error in enumerate(errors):
        row, at, fired = Row(make.name, error), turn % every, True
        while fired:
            point, raised = make(nodes), None
            with scratch() as folder:
                point.prepare(folder)
                with Layer(failing(error), at) as layer:
                    try:
                        point.run(folder)
                    except Exception as caught:  # noqa: BLE001 - judged by the row
                        raised = caught
                if fired := layer.fired:
                    row.add(point, folder, expected, raised, f"{error} at {at}, {layer.names[at]}")
            at += every
        rows.append(row)
    return rows


def killed_at_calls(make: Point, nodes: Any, calls: tuple[str, ...] = CALLS, every: int = 1) -> Row:
    """SIGKILL before and after each call that writes."""
    row, expected = Row(make.name, f"kill -9 at each {'name' if calls == NAMES else 'call'}"), expected_of(make, nodes)
    at, fired = 0, True
    while fired:
        for after in (False, True):
            with scratch() as folder:
                make(nodes).prepare(folder)

                def run(folder: Path = folder, after: bool = after, at: int = at) -> None:
                    with Layer(killing(after), at, calls):
                        make(nodes).run(folder)

                if fired := ended(in_child(run)) == -signal.SIGKILL:
                    _resumed(row, make(nodes), folder, expected, f"kill {'after' if after else 'before'} call {at}")
        at += every
    return row


def killed_at_random(make: Point, nodes: Any, count: int, seed: int = 1) -> Row:
    """SIGKILL at random moments."""
    row, expected, draw = Row(make.name, f"kill -9, {count} moments"), expected_of(make, nodes), random.Random(seed)
    began = time.monotonic()
    expected_of(make, nodes)
    length = time.monotonic() - began
    while row.tried < count:
        with scratch() as folder:
            child = in_child(lambda folder=folder: make(nodes).run(folder))  # type: ignore[misc]
            time.sleep(draw.uniform(0, length))
            with suppress(ProcessLookupError):
                os.kill(child, signal.SIGKILL)
            if ended(child) == -signal.SIGKILL:
                _resumed(row, make(nodes), folder, expected, f"kill {row.tried}")
    return row


def _resumed(row: Row, point: Any, folder: Path, expected: bytes, what: str) -> None:
    """Go on after a kill: what was on disk is not computed again."""
    on_disk = len(list(folder.glob("*/window_*.safetensors")))
    row.tried += 1
    is_half = not point.whole(folder, expected)
    had_video = any(folder.glob("*.mp4"))
    point.run(folder)
    if isinstance(point, Calibrate) and point.result(folder) != expected:
        point.run(folder)  # the other processes' one
    again = len(point.computed) + on_disk - 3 if isinstance(point, Film) and not had_video else 0
    left, is_equal = len(point.left(folder)), point.result(folder) == expected
    row.half, row.lost, row.left, row.equal = (
        row.half + is_half,
        row.lost + again,
        row.left + left,
        row.equal + is_equal,
    )
    if is_half or again or left or not is_equal:
        row.notes.append(f"{what}: half {is_half}, again {again}, left {point.left(folder)}, equal {is_equal}")


# ---------------------------------------------------------------- disks that are full


def limited(make: Point, nodes: Any, sizes: range) -> Row:
    """No file may grow beyond so many bytes, as under a quota."""
    row, expected = Row(make.name, "files limited in size"), expected_of(make, nodes)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in sizes:
        point, raised = make(nodes), None
        with scratch() as folder:
            point.prepare(folder)
            resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            try:
                point.run(folder)
            except Exception as caught:  # noqa: BLE001 - judged by the row
                raised = caught
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, before)
            row.add(point, folder, expected, raised, f"{size} bytes")
    return row


def small_disk(make: Point, nodes: Any, sizes: range) -> Row | None:
    """A disk of so many kilobytes, and one that is read-only; None where none can be mounted here."""
    row, expected = Row(make.name, "small disk (tmpfs)"), expected_of(make, nodes)
    for size in (0, *sizes):
        point, raised = make(nodes), None
        options = f"size={size}k" if size else "ro"
        with scratch() as folder:
            if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
                return None
            try:
                if size:
                    point.prepare(folder)
                point.run(folder)
            except Exception as caught:  # noqa: BLE001 - judged by the row
                raised = caught
            try:
                subprocess.run(["mount", "-o", "remount,rw,size=9m", folder], check=True)
                row.add(point, folder, expected, raised, options)
            finally:
                subprocess.run(["umount", "-l", folder], check=True)  # PyAV holds a file that it could not finish
    return row


# ---------------------------------------------------------------- two hosts


def at_once(nodes: Any, rounds: int, hosts: int = 2) -> Row:
    """The same film in several processes at once: each makes a whole one, or is told that another is at it."""
    row, expected = Row(Film.name, f"{hosts} hosts at once"), expected_of(Film, nodes)
    for _ in range(rounds):
        with scratch() as folder:
            row.tried += 1
            start = time.monotonic() + 0.05

            def run(folder: Path = folder, start: float = start) -> None:
                time.sleep(max(0.0, start - time.monotonic()))
                Film(nodes).run(folder)

            codes = [ended(child) for child in [in_child(run, {InputError: HELD}) for _ in range(hosts)]]
            videos, point = list(folder.glob("*.mp4")), Film(nodes)
            row.words += codes.count(HELD)
            left, contents = point.left(folder), [video.read_bytes() for video in videos]
            faults = {
                "raw": sum(code not in (0, HELD) for code in codes),
                "half": not point.whole(folder, expected),
                "lost": max(codes.count(0) - len(videos), not videos),
                "left": len(left),
            }
            what = f"{codes} made {len(videos)} files, {left} was left"
            row.count(faults, bool(contents) and all(content == expected for content in contents), what)
    return row
