"""A network that leads nowhere, for this process and all that it starts."""

from __future__ import annotations

import ctypes
import os
import socket
import struct
from contextlib import suppress

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def alone() -> str:
    """Leave the network but for the loop to this machine itself; what was done, in words."""
    unshare = getattr(ctypes.CDLL(None, use_errno=True) if os.name == "posix" else None, "unshare", None)
    if unshare is None:
        return "the machine's: this system has no namespaces"
    user, group = os.geteuid(), os.getegid()
    if unshare(CLONE_NEWNET) and unshare(CLONE_NEWUSER | CLONE_NEWNET):
        return f"the machine's: {os.strerror(ctypes.get_errno())}"
    with suppress(OSError):  # only in a new user namespace
        for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(text)
    _raise_loopback()
    return "a namespace of its own with nothing but loopback"


def _raise_loopback() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sh14x", b"lo", 0)
        flags = struct.unpack("16sh14x", fcntl.ioctl(control, SIOCGIFFLAGS, request))[1]
        fcntl.ioctl(control, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", flags | IFF_UP))
