"""Lets another process choose the moment at which this one ends itself."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from pathlib import Path

LOOK_EVERY = 0.002


@dataclass(frozen=True)
class Fuse:
    """Travels with work: whoever unpickles it exits, from within, once the folder has a file that is its number."""

    folder: str

    def __reduce__(self) -> tuple[object, ...]:
        return lay, (self.folder,)

    def light(self, process: int) -> None:
        """End a process that has unpickled this."""
        (Path(self.folder) / str(process)).touch()


def lay(folder: str) -> Fuse:
    """In another process: watch the folder from now on."""
    threading.Thread(target=_watch, args=(Path(folder) / str(os.getpid()),), daemon=True).start()
    return Fuse(folder)


def _watch(file: Path) -> None:
    while not file.exists():
        time.sleep(LOOK_EVERY)
    os._exit(9)
