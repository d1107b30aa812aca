"""The calls by which files are written, of which one fails, or is the last before a kill."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from typing import Any

CALLS = ("open", "write", "ftruncate", "fsync", "replace", "rename", "link", "unlink", "mkdir", "rmdir")
NAMES = ("replace", "rename", "link", "unlink", "mkdir", "rmdir")  # that change what a folder holds
ERRORS = ("ENOSPC", "EDQUOT", "EROFS", "EACCES", "EIO", "EINTR")


class Layer:
    """Counts the calls of this process that write, and acts on one of them.

    act: called with the name of that call and a function that makes it; at: which one, counted from 0; of: the calls
    that count. names: of the calls that came.
    """

    def __init__(self, act: Callable[[str, Callable[[], Any]], Any], at: int, of: tuple[str, ...] = CALLS) -> None:
        self._act, self._at, self._of, self.names = act, at, of, list[str]()
        self._originals: dict[str, Any] = {}

    def __enter__(self) -> Layer:
        for name in self._of:
            self._originals[name] = getattr(os, name)
            setattr(os, name, self._counting(name, self._originals[name]))
        return self

    def __exit__(self, *error: object) -> None:
        for name, original in self._originals.items():
            setattr(os, name, original)

    def _counting(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.names.append(name)
            if len(self.names) - 1 != self._at:
                return original(*args, **kwargs)
            if name == "write":  # half of it is on disk
                original(args[0], args[1][: len(args[1]) // 2])
            return self._act(name, lambda: original(*args, **kwargs))

        return call

    @property
    def fired(self) -> bool:
        """Whether the call came on which it acts."""
        return len(self.names) > self._at


def failing(error: str) -> Callable[[str, Callable[[], Any]], Any]:
    """An act: the call fails with this error."""
    number = getattr(errno, error)

    def act(name: str, call: Callable[[], Any]) -> Any:
        raise OSError(number, os.strerror(number))

    return act


def killing(after: bool) -> Callable[[str, Callable[[], Any]], Any]:
    """An act: the process is killed before the call, or after it."""

    def act(name: str, call: Callable[[], Any]) -> Any:
        try:
            if after:
                call()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)

    return act


def in_child(run: Callable[[], Any], codes: dict[type[BaseException], int] | None = None) -> int:
    """Start `run` in a child process; its id. It ends with 0, with the code of what was raised, or with 1."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        run()
        code = 0
    except BaseException as error:  # noqa: BLE001 - told by the code
        code = next((number for kind, number in (codes or {}).items() if isinstance(error, kind)), 1)
    finally:
        os._exit(code)


def ended(child: int) -> int:
    """The code of a child that has ended; minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
