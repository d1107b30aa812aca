"""Ends the process that unpickles it, a moment later, once."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass


@dataclass(frozen=True)
class Bomb:
    """file: made by the first that goes off; those that come later find it, and do nothing."""

    file: str
    seconds: float

    def __reduce__(self) -> tuple[object, ...]:
        return arm, (self.file, self.seconds)


def arm(file: str, seconds: float) -> str:
    """Set it off in so many seconds."""
    try:
        os.close(os.open(file, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return "spent"
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
    return "armed"
