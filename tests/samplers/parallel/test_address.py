"""Addresses of clusters: what is none, where nobody answers, and what answers but is no Ray, all within seconds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from reelwire.loaders.messages import InputError
from reelwire.samplers.parallel import address as module
from reelwire.samplers.parallel.address import check_address, check_reachable

SECONDS = 5.0
HTTP = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
GRPC = bytes((0, 0, 6, 4, 0, 0, 0, 0, 0, 0, 5, 0, 0, 64, 0))  # the frame of settings of a server


@pytest.mark.parametrize(
    "text", ["somewhere", "10.0.0.5", ":6379", "10.0.0.5:", "10.0.0.5:0", "10.0.0.5:70000", "a/b:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(InputError) as refused:
        check_address(text)
    assert refused.value.name == "address"


@contextmanager
def listening(answer: bytes | None) -> Iterator[str]:
    """The address of something that says `answer` to whoever connects; None: that says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        guests = list[socket.socket]()

        def serve() -> None:
            while True:
                try:
                    guests.append(server.accept()[0])
                except OSError:
                    return
                if answer is not None:
                    guests[-1].recv(100)
                    guests[-1].sendall(answer)
                    guests[-1].close()

        threading.Thread(target=serve, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for guest in guests:
            guest.close()


@pytest.mark.parametrize(
    "answer", [None, HTTP, b"", b"SSH", b"\0" * 9], ids=["silence", "http", "end", "short", "zeros"]
)
def test_what_is_no_ray(answer: bytes | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "REACH_SECONDS", 0.5)
    with listening(answer) as address:
        began = time.monotonic()
        with pytest.raises(InputError) as refused:
            check_reachable(address)
    assert time.monotonic() - began < SECONDS
    assert refused.value.name == "address"
    assert refused.value.rule.key == "address_no_ray"  # type: ignore[attr-defined]


def test_what_may_be_one(monkeypatch: pytest.MonkeyPatch) -> None:
    with listening(GRPC) as address:
        check_reachable(address)
    monkeypatch.setenv("RAY_USE_TLS", "1")
    with listening(b"") as address:
        check_reachable(address)  # what is encrypted is Ray's to judge
    check_reachable("")


def test_where_nobody_answers() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(InputError) as refused:
        check_reachable(f"127.0.0.1:{port}")
    assert refused.value.rule.key == "address_unreachable"  # type: ignore[attr-defined]
