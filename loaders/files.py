"""Files that are whole or not there, whatever happens meanwhile."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from .messages import CheckpointError as CheckpointError


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its final name, under which it is whole after a power cut too, or not there."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        with suppress(OSError):  # some network file systems cannot
            os.fsync(folder)
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whatever happens meanwhile."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)
