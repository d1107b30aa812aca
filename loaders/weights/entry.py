"""One tensor of a file, by its header alone: what it is called there, and what it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import OutOfMemoryError

from ..messages import CheckpointError as CheckpointError
from ..messages import RefusedError, message, reason_of
from .quantised import UNROTATED, Coding, Quantisation

_AGAIN = message("download_again")
IDENTITY = "IDENTITY"  # the type of an entry that is in no file: a weight that changes nothing, or a bias of zeros


@dataclass(frozen=True)
class Entry:
    """One tensor as a file's header tells it.

    file, key: where it lies, and its name there.
    shape: what it becomes.
    dtype: the header's, or one of FORMATS.
    rows: the ranges of its first axis that are put together for that; all of it if there are none.
    scales: what its numbers are multiplied with, by the names of `stored.widen`.
    quantisation: how else they are to be read.
    transposed: whether the matrix in the file is the transpose of what it becomes.
    """

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str
    rows: tuple[tuple[int, int], ...] = ()
    scales: Mapping[str, Entry] = field(default_factory=dict)
    quantisation: Quantisation = UNROTATED
    transposed: bool = False

    @property
    def coding(self) -> Coding:
        """How its numbers are stored."""
        return Coding(self.dtype, self.shape, self.quantisation)

    def split(self, *sizes: int) -> list[Entry]:
        """Parts along the first axis, of these sizes."""
        start = self.rows[0][0] if self.rows else 0
        parts = []
        for size in sizes:
            parts.append(replace(self, shape=(size, *self.shape[1:]), rows=((start, start + size),)))
            start += size
        return parts

    def chunk(self, count: int) -> list[Entry]:
        """Equal parts along the first axis."""
        return self.split(*[self.shape[0] // count] * count)

    def swap_halves(self) -> Entry:
        """The second half of the first axis before the first half."""
        first, second = self.chunk(2)
        return replace(self, rows=second.rows + first.rows)

    def transpose(self) -> Entry:
        """The matrix transposed."""
        return replace(self, shape=self.shape[::-1], transposed=True)

    def reshape(self, *shape: int) -> Entry:
        """The same numbers in another shape."""
        return replace(self, shape=shape)


@contextmanager
def describing(file: Path, title: str) -> Iterator[None]:
    """What goes wrong while tensors and configs of a file or folder are read, of whatever shapes and types, as a
    CheckpointError. title: what it should be."""
    try:
        yield
    except (RefusedError, OutOfMemoryError, MemoryError):
        raise
    except KeyError as error:
        raise CheckpointError(
            message("file_lacks", file=file.name, key=str(next(iter(error.args), ""))), _AGAIN
        ) from error
    except OSError as error:
        rule = message("file_unreadable", file=file.name, error=error.strerror or error)
        raise CheckpointError(rule, message("choose_another_file")) from error
    except Exception as error:  # of torch, and of libraries that check configs with errors of their own
        raise CheckpointError(
            message("file_strange", file=file.name, title=title, error=reason_of(error)), _AGAIN
        ) from error


def strip_prefix(entries: Mapping[str, Entry], *prefixes: str) -> dict[str, Entry]:
    """The entries under the first prefix that occurs, without it; the entries themselves if none does."""
    for prefix in prefixes:
        inside = {k.removeprefix(prefix): e for k, e in entries.items() if k.startswith(prefix)}
        if inside:
            return inside
    return dict(entries)


def unwrapped(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """The entries without what training put around the network: torch.compile around any module of it, as
    `blocks.0._orig_mod.x`, and DistributedDataParallel around the whole, as `module.x`."""
    named = {re.sub(r"(^|\.)(_orig_mod\.)+", r"\1", key): entry for key, entry in entries.items()}
    while named and all(key.startswith("module.") for key in named):
        named = {key.removeprefix("module."): entry for key, entry in named.items()}
    return named if len(named) == len(entries) else dict(entries)


def rename(key: str, table: Mapping[str, str]) -> str:
    """A key after all substitutions of a table of patterns, in order."""
    for pattern, replacement in table.items():
        key = re.sub(pattern, replacement, key)
    return key
