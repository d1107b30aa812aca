"""Python's own audit of a process: sockets, programs, and writes outside of some folders."""

from __future__ import annotations

import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
SOCKETS = {
    "socket.connect",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
    "socket.bind",
    "urllib.Request",
}
STARTS = {
    "subprocess.Popen",
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "os.spawn",
    "os.fork",
    "os.forkpty",
    "pty.spawn",
}
# event -> which of its arguments are paths that it changes
CHANGES = dict.fromkeys(("open", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"), (0, 1))
CHANGES |= {"shutil.rmtree": (0, 1), "os.rename": (0, 2), "shutil.move": (0, 2)}
CHANGES |= dict.fromkeys(("os.link", "os.symlink", "shutil.copyfile"), (1, 2))
DEVICES = ("/dev/null", "/dev/shm/")
LOCAL = ("127.0.0.1", "::1", "localhost")


class Watch:
    """note: called with "socket" or "outside", and the event with its place."""

    def __init__(self, note: Callable[[str, str], object]) -> None:
        self._note, self._allowed, self._on, self._own = note, tuple[str, ...](), False, threading.local()
        sys.addaudithook(self._hook)

    def start(self, *folders: Path) -> None:
        """Watch from now on; in these folders may be written."""
        self._allowed = tuple(os.path.realpath(folder) + os.sep for folder in folders)
        self._on = True

    def stop(self) -> None:
        """Watch no more."""
        self._on = False

    def _hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._on or getattr(self._own, "busy", False):
            return
        self._own.busy = True
        try:
            if kind := self._kind(event, arguments):
                where = place(traceback.extract_stack()[:-2])
                self._note(kind, f"{event} {str(arguments)[:200]!r} at {where}")
        finally:
            self._own.busy = False

    def _kind(self, event: str, arguments: tuple[Any, ...]) -> str:
        """What an event is that should not be; empty for one that may."""
        if event in STARTS:
            return "socket"
        if event in SOCKETS:
            return "" if any(f"'{name}'" in str(arguments) for name in LOCAL) and "bind" not in event else "socket"
        if event not in CHANGES or (event == "open" and not (arguments[2] or 0) & WRITES):
            return ""
        if event in ("os.remove", "os.rmdir") and len(arguments) > 1 and arguments[1] not in (-1, None):
            return ""  # inside of an open folder, of which the removal was seen
        return "outside" if any(self._outside(event, p) for p in arguments[slice(*CHANGES[event])]) else ""

    def _outside(self, event: str, path: Any) -> bool:
        if isinstance(path, int) or path is None:
            return False
        name = os.fsdecode(path)
        inside = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        real = os.path.realpath(name) if event == "open" else inside
        return not f"{real}{os.sep}".startswith((*self._allowed, *DEVICES))


def place(stack: Iterable[Any]) -> str:
    """The last line of the pack in a stack as file:line, tests left out; else the last line."""
    frames = list(stack)
    ours = [
        f for f in frames if f.filename.startswith(f"{ROOT}{os.sep}") and f"{os.sep}tests{os.sep}" not in f.filename
    ]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).relative_to(ROOT).as_posix() if ours else last.filename}:{last.lineno}"
