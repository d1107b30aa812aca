"""What can be told of a Ray cluster before anything of Ray is imported: whether it is installed, and answers."""

from __future__ import annotations

import os
import socket
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from ...loaders.messages import InputError, message

REACH_SECONDS = 3.0  # to connect to an address, and for what listens there to say that it speaks gRPC
GREETING = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes((0, 0, 0, 4, 0, 0, 0, 0, 0))  # and no settings (RFC 9113)
SETTINGS = 4  # the kind of frame that an answer begins with


def check_there() -> None:
    """Raise InputError where Ray is not installed."""
    if find_spec("ray") is None:
        raise InputError("model", message("with_parallel"), message("ray_absent"), message("ray_install"))


def check_address(address: str | None) -> None:
    """Raise InputError for what is no address."""
    address = (address or "").strip()
    host, _, port = address.rpartition(":")
    if address and not (host and port.isdecimal() and 0 < int(port) < 2**16 and "/" not in address):
        raise InputError("address", repr(address), message("address_rule"), message("address_write"))


def check_reachable(address: str) -> None:
    """Raise InputError where nobody listens at an address, or something that is no Ray: Ray itself would try for
    minutes."""
    check_address(address)
    if not address:
        return
    host, _, port = address.rpartition(":")
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS)) as connection:
            is_ray = os.environ.get("RAY_USE_TLS", "0") not in ("", "0") or _speaks_grpc(connection)
    except OSError as error:
        rule = message("address_unreachable", error=error.strerror or str(error))
        raise InputError("address", repr(address), rule, message("address_remedy")) from error
    if not is_ray:
        raise InputError("address", repr(address), message("address_no_ray"), message("address_write"))


def _speaks_grpc(connection: socket.socket) -> bool:
    """Whether what listens answers as every server of gRPC, which Ray's is, does at once."""
    connection.sendall(GREETING)
    head, end = b"", time.monotonic() + REACH_SECONDS
    while len(head) < 4 and (left := end - time.monotonic()) > 0:
        connection.settimeout(left)
        try:
            more = connection.recv(9 - len(head))
        except (TimeoutError, ConnectionError):
            return False
        if not more:
            return False
        head += more
    return len(head) >= 4 and head[3] == SETTINGS


def stays_here(address: str) -> bool:
    """Whether a cluster is of this machine alone, so that nothing needs to listen to others."""
    return address.rpartition(":")[0] in ("", "127.0.0.1", "localhost", "[::1]")


def has_token() -> bool:
    """Whether this machine has a token for Ray's clusters, at one of the places where Ray looks."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()
