"""A WebSocket client (RFC 6455) for the ComfyUI that `run.py` starts, by the standard library alone."""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import socket
from collections.abc import Iterator
from typing import BinaryIO

ADDRESS = "127.0.0.1"  # where that ComfyUI listens


def open_websocket(port: int, path: str) -> BinaryIO:
    """A WebSocket (RFC 6455) as a stream; the server's answer to our key is checked."""
    key = base64.b64encode(os.urandom(16)).decode()
    asks = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": key}
    lines = (f"GET {path} HTTP/1.1", f"Host: {ADDRESS}:{port}", *map(": ".join, asks.items()), "", "")
    with socket.create_connection((ADDRESS, port)) as connection:
        stream = connection.makefile("rwb")  # the connection stays open until this is closed too
    stream.write("\r\n".join(lines).encode())
    stream.flush()
    status, headers = stream.readline().split(), http.client.parse_headers(stream)
    digest = hashlib.sha1(f"{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11".encode(), usedforsecurity=False).digest()
    if status[1:2] != [b"101"] or headers["Sec-WebSocket-Accept"] != base64.b64encode(digest).decode():
        stream.close()
        raise ConnectionError("the server does not speak the WebSocket protocol")
    return stream  # type: ignore[return-value]


def messages(stream: BinaryIO) -> Iterator[str | bytes]:
    """Whole messages, text or binary, until the server says goodbye; its pings are answered."""

    def read(size: int) -> bytes:
        if len(data := stream.read(size)) < size:
            raise ConnectionResetError("the server ended the connection")
        return data

    continued, text, goodbye, ping, pong = 0, 1, 8, 9, 10
    kind, parts = text, b""
    while True:
        first, size = read(2)
        opcode = first & 0x0F
        payload = read(int.from_bytes(read({126: 2, 127: 8}[size]), "big") if size > 125 else size)
        if opcode in (goodbye, ping):  # the answer is masked, as all that clients send
            mask = os.urandom(4)
            masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
            stream.write(bytes((0x80 | {ping: pong}.get(opcode, opcode), 0x80 | size)) + mask + masked)
            stream.flush()
        if opcode == goodbye:
            raise ConnectionResetError("the server said goodbye")
        if opcode < goodbye:
            kind, parts = (kind if opcode == continued else opcode), parts + payload
            if first & 0x80:
                yield parts.decode("utf-8") if kind == text else parts
                parts = b""
