"""What can be told of a Ray cluster before anything of Ray is imported: whether it is installed, and answers."""

from __future__ import annotations

import os
import socket
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

from ...loaders.messages import InputError, message

REACH_SECONDS = 3.0


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
    """Raise InputError where nobody listens at an address: Ray itself would try for a minute."""
    check_address(address)
    if not address:
        return
    host, _, port = address.rpartition(":")
    try:
        with closing(socket.create_connection((host.strip("[]"), int(port)), REACH_SECONDS)):
            pass
    except OSError as error:
        rule = message("address_unreachable", error=error.strerror or str(error))
        raise InputError("address", repr(address), rule, message("address_remedy")) from error


def stays_here(address: str) -> bool:
    """Whether a cluster is of this machine alone, so that nothing needs to listen to others."""
    return address.rpartition(":")[0] in ("", "127.0.0.1", "localhost", "[::1]")


def has_token() -> bool:
    """Whether this machine has a token for Ray's clusters, at one of the places where Ray looks."""
    named = os.environ.get("RAY_AUTH_TOKEN_PATH")
    file = Path(named) if named else Path.home() / ".ray" / "auth_token"
    return bool(os.environ.get("RAY_AUTH_TOKEN")) or file.is_file()
