"""Tensors of a file are those that safetensors reads, and nothing is left of reading them."""

from __future__ import annotations

import gc
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from reelwire.loaders.messages import CheckpointError, Message
from reelwire.loaders.weights.mapped import BYTES, TYPES, MappedTensors
from reelwire.loaders.weights.safetensors import WatchedFile
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

BLOCKS = 40  # of Python's memory, for what another thread keeps


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """One tensor of each type, of odd sizes, and of some shapes."""
    bits = torch.randint(0, 256, (3 * 8 * 5,), dtype=torch.uint8)
    tensors = {name: bits[: 15 * kind.itemsize].view(kind).reshape(3, 5).clone() for name, kind in TYPES.items()}
    tensors["BOOL"] = torch.tensor([[True, False, True]])
    tensors |= {"none": torch.empty(0, 4), "one": torch.tensor(3.5), "large": torch.randn(40, 50, 2)}
    save_file(tensors, tmp_path / "x.safetensors", {"note": "odd" * 7})
    return tmp_path / "x.safetensors"


def test_every_type_has_its_size() -> None:
    assert {name: kind.itemsize for name, kind in TYPES.items()}.items() <= BYTES.items()


def test_tensors_are_those_of_the_library(file: Path) -> None:
    with safe_open(file, framework="pt") as theirs, MappedTensors(file) as ours:
        assert {*theirs.keys()} >= {*TYPES, "none", "one", "large"}
        for key in theirs.keys():  # noqa: SIM118 (it has no other way)
            wanted, tensor, part = theirs.get_tensor(key), ours.get_tensor(key), ours.get_slice(key)
            assert (tensor.dtype, tensor.shape) == (wanted.dtype, wanted.shape)
            assert tensor.untyped_storage().nbytes() == wanted.untyped_storage().nbytes() == wanted.nbytes
            assert tensor.data_ptr() % 64 == wanted.data_ptr() % 64
            assert torch.equal(_bits(tensor), _bits(wanted))
            assert tensor.dim() == 0 or torch.equal(_bits(part[1:3]), _bits(theirs.get_slice(key)[1:3]))


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


def test_a_tensor_outlives_its_file(file: Path) -> None:
    with MappedTensors(file) as opened:
        tensor = opened.get_tensor("large")
    gc.collect()
    with safe_open(file, framework="pt") as theirs:
        assert torch.equal(tensor, theirs.get_tensor("large"))


def test_nothing_is_left_of_reading(file: Path) -> None:
    def read() -> None:
        with WatchedFile(file) as opened:
            for key in TYPES:
                opened.get_tensor(key)

    counts = []
    for _ in range(5):
        for _ in range(50):
            read()
        gc.collect()
        counts.append(sys.getallocatedblocks())
    lost = [after - before for before, after in pairwise(counts)]
    assert min(lost) < BLOCKS, f"2 for each of 800 tensors were lost: {lost}"


def test_a_file_that_is_cut_is_refused(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(SafetensorError):
        MappedTensors(file)


def test_a_type_that_this_torch_lacks_is_named(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are read."""
    monkeypatch.delitem(TYPES, "I16")
    with WatchedFile(file) as opened:
        assert opened.get_tensor("F32").shape == (3, 5)
        with pytest.raises(CheckpointError) as refused:
            opened.get_tensor("I16")
    assert isinstance(refused.value.rule, Message)
    assert refused.value.rule.values["dtype"] == "I16"


def test_a_mapping_that_is_refused_is_told(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*given: object, **named: object) -> None:
        raise RuntimeError

    monkeypatch.setattr(torch.UntypedStorage, "from_file", refused)
    with pytest.raises(CheckpointError):
        WatchedFile(file)
