"""What passes between what is computed and whoever asked for it: what a person should hear, and whether to stop."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None]] = ContextVar("listener", default=logging.getLogger("reelwire").warning)
_stopper: ContextVar[Callable[[], None]] = ContextVar("stopper", default=lambda: None)


def stop_if_asked() -> None:
    """Raise what the one who asked for the result raises to stop it, where that is wanted: called in every loop whose
    length others decide."""
    _stopper.get()()


@contextmanager
def stopped_by(check: Callable[[], None]) -> Iterator[None]:
    """All that is computed within ends where `check` raises."""
    token = _stopper.set(check)
    try:
        yield
    finally:
        _stopper.reset(token)


def say(notice: str) -> None:
    """Tell the one who listens; a warning in the log where nobody does."""
    _listener.get()(notice)


@contextmanager
def heard_by(listener: Callable[[str], None]) -> Iterator[None]:
    """Everything that is said within goes to a listener, the same words once."""
    said: set[str] = set()

    def hear(notice: str) -> None:
        if notice not in said:
            said.add(notice)
            listener(notice)

    token = _listener.set(hear)
    try:
        yield
    finally:
        _listener.reset(token)
