"""What a person should hear of while something is computed: said where it happens, heard by whoever asked for the
result."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_listener: ContextVar[Callable[[str], None]] = ContextVar("listener", default=logging.getLogger("reelwire").warning)


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
