"""No network while files are read: a switch of our own, for the thread that reads them and nobody else.

An audit hook (PEP 578) sees every socket of Python's, whoever opens it. It is there from the first use on, since hooks
cannot be taken back, and refuses nothing outside of `offline`: other packs, other threads and ComfyUI go on as they do.
"""

from __future__ import annotations

import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

from ...messages import CheckpointError, message
from ...parts import Args

_CALLS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr", "socket.sendto")
_thread = threading.local()


@contextmanager
def offline() -> Iterator[None]:
    """Within, this thread reaches no other machine: what tries raises CheckpointError."""
    _install()
    before = getattr(_thread, "offline", False)
    _thread.offline = True
    try:
        yield
    finally:
        _thread.offline = before


@cache
def _install() -> None:
    sys.addaudithook(_watch)


def _watch(event: str, args: Args) -> None:
    if event in _CALLS and getattr(_thread, "offline", False) and not _local(args):
        raise CheckpointError(message("offline"), message("download_folder"))


def _local(args: Args) -> bool:
    """Whether a socket stays on this machine, as one between two processes does."""
    first = args[0] if args else None
    return isinstance(first, socket.socket) and first.family == getattr(socket, "AF_UNIX", None)
