"""Files that are cut or whose headers alone are written, a disk that is full, and words that no error may show."""

from __future__ import annotations

import json
import math
import resource
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reelwire.tests.support.host import Host

NOISE = ("Traceback", "size mismatch", "shape '[", "KeyError", "NoneType", "has no attribute", "out of bounds")


def cut(file: Path, target: Path, size: int) -> None:
    target.write_bytes(file.read_bytes()[:size])


@contextmanager
def full_disk(host: Host, room: int) -> Iterator[None]:
    """No file of the host can grow beyond `room` bytes."""
    before = resource.prlimit(host.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(host.pid, resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.prlimit(host.pid, resource.RLIMIT_FSIZE, before)


# ---------------------------------------------------------------- files by their headers: the tensors are holes

SIZES = {"F64": 8, "I64": 8, "F32": 4, "F16": 2, "BF16": 2, "I8": 1, "U8": 1, "F8_E4M3": 1, "BOOL": 1}
Rows = dict[str, tuple[str, tuple[int, ...]]]  # key -> (dtype, shape)


def rows_of(file: Path) -> Rows:
    with file.open("rb") as stream:
        header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
    header.pop("__metadata__", None)
    return {key: (row["dtype"], tuple(row["shape"])) for key, row in header.items()}


def write_rows(file: Path, rows: Rows, metadata: Mapping[str, str] | None = None) -> Path:
    """A file whose header is right about all its tensors, whatever they are."""
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    end = 0
    for key, (dtype, shape) in rows.items():
        begin, end = end, end + SIZES[dtype] * math.prod(shape)
        header[key] = {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}
    return write_header(file, json.dumps(header).encode(), end)


def write_header(file: Path, header: bytes, size: int) -> Path:
    """A file with this header, whatever it is, and `size` bytes behind it."""
    with file.open("wb") as stream:
        stream.write(struct.pack("<Q", len(header)) + header)
        stream.truncate(8 + len(header) + size)
    return file
