"""A file that is written to while its tensors are read: refused in words, where a mapped page would end the process."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from reelwire.loaders.messages import CheckpointError, message_of
from reelwire.loaders.weights.modules import read_tensors
from reelwire.loaders.weights.safetensors import read_header
from safetensors.torch import save_file


def in_turn(*steps: Callable[[], object]) -> None:
    for step in steps:
        step()


CHANGES: dict[str, Callable[[Path], object]] = {
    "cut": lambda file: os.truncate(file, 5000),
    "emptied": lambda file: os.truncate(file, 0),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0" * 9),
    "another": lambda file: save_file({"a": torch.zeros(4)}, file),
    "gone": lambda file: file.unlink(),
    "a folder": lambda file: in_turn(file.unlink, file.mkdir),
    "replaced by its like": lambda file: in_turn(
        partial(shutil.copy, file, f"{file}.new"), partial(os.replace, f"{file}.new", file)
    ),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("read", [0, 1])
def test_a_file_that_changes_while_it_is_read(tmp_path: Path, change: str, read: int) -> None:
    """read: tensors that are taken before; a file of the same content may be taken for the one that was there."""
    file = tmp_path / "weights.safetensors"
    save_file({name: torch.full((64, 64), 2.0) for name in "abc"}, file)
    entries, _ = read_header(file)
    tensors = read_tensors(entries)
    for _ in range(read):
        assert next(tensors)[1].sum() == 2 * 64 * 64
    CHANGES[change](file)
    if change == "replaced by its like" and not read:
        assert len(list(tensors)) == 3
        return
    with pytest.raises(CheckpointError) as refusal:
        list(tensors)
    assert file.name in message_of(refusal.value)
