"""One tensor of a file, by its header alone: what it is called there, and what it becomes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..messages import CheckpointError as CheckpointError
from .quantised import UNROTATED, Coding, Quantisation

IDENTITY = "IDENTITY"  # the type of an entry that is in no file: a weight that changes nothing, or a bias of zeros


@dataclass(frozen=True)
class Entry:
    """One tensor as a file's header tells it. shape: what it becomes; dtype: the header's, or one of FORMATS; rows: the
    ranges of its first axis that are put together for that, all of it if there are none; scales: what its numbers are
    multiplied with, by the names of `storage.widen`; quantisation: how else they are to be read."""

    file: Path
    key: str  # its name in the file
    shape: tuple[int, ...]
    dtype: str
    rows: tuple[tuple[int, int], ...] = ()
    scales: Mapping[str, Entry] = field(default_factory=dict)
    quantisation: Quantisation = UNROTATED
    transposed: bool = False

    @property
    def coding(self) -> Coding:
        return Coding(self.dtype, self.shape, self.quantisation)

    def split(self, *sizes: int) -> list[Entry]:
        """Parts along the first axis, of these sizes."""
        start = self.rows[0][0] if self.rows else 0
        ends = [start + sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [replace(self, shape=(size, *self.shape[1:]), rows=((end - size, end),)) for size, end in zip(sizes, ends, strict=True)]  # fmt: skip

    def chunk(self, count: int) -> list[Entry]:
        """Equal parts along the first axis."""
        return self.split(*[self.shape[0] // count] * count)

    def swapped(self) -> Entry:
        """The second half of the first axis before the first half."""
        first, second = self.chunk(2)
        return replace(self, rows=second.rows + first.rows)

    def turned(self) -> Entry:
        """The matrix transposed."""
        return replace(self, shape=self.shape[::-1], transposed=True)

    def reshaped(self, *shape: int) -> Entry:
        return replace(self, shape=shape)


def strip_prefix(entries: Mapping[str, Entry], *prefixes: str) -> dict[str, Entry]:
    """The entries under the first prefix that occurs, without it; the entries themselves if none does."""
    for prefix in prefixes:
        found = {k.removeprefix(prefix): e for k, e in entries.items() if k.startswith(prefix)}
        if found:
            return found
    return dict(entries)
