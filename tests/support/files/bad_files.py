"""Files that are cut, a disk that is full, and words that no error may show."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reelwire.tests.support.host import Host

NOISE = ("Traceback", "size mismatch", "shape '[", "KeyError", "NoneType", "has no attribute", "out of bounds")


def cut(file: Path, target: Path, size: int) -> None:
    target.write_bytes(file.read_bytes()[:size])


@contextmanager
def full_disk(host: Host, room: int) -> Iterator[None]:
    """No file of the host can grow beyond `room` bytes."""
    before = resource.prlimit(host.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(host.pid, resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, before)
