"""Temporary folders of processes that may be killed outright: whoever makes one next removes what those have left."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path

from ...loaders.files import Lock

LOCK = "in-use"
YOUNG = 60.0  # seconds within which a folder may not be locked yet by the one who makes it


class Scratch:
    """A folder of this process, `path`, until `remove` or its end."""

    def __init__(self, kind: str) -> None:
        """kind: of which what others have left is removed."""
        prefix = f"reelwire-{kind}-"
        for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
            _remove_left(folder)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = Lock(self.path / LOCK)
        self._lock.acquire()

    def release(self) -> None:
        """Leave its removal to somebody else."""
        self._lock.release()

    def remove(self) -> None:
        """Remove it with all that it holds."""
        self._lock.release(lambda: _remove(self.path))


def _remove_left(folder: Path) -> None:
    """Remove a folder of ours whose process has ended."""
    try:
        state = folder.lstat()
        is_ours = not hasattr(os, "getuid") or state.st_uid == os.getuid()
        if not (is_ours and (folder / LOCK).is_file() and time.time() - state.st_mtime > YOUNG):
            return
        lock = Lock(folder / LOCK)
        lock.acquire()  # HeldError, an OSError, where its process is at it
    except OSError:
        return
    lock.release(lambda: _remove(folder))


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
