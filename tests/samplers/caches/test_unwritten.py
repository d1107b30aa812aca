"""Calibrations that the disk did not take, and those of weights that are not there any more."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders.messages import CheckpointError, Message, message_of
from reelwire.samplers.caches import store
from reelwire.samplers.caches.store import Calibration, Key, match
from reelwire.tests.support.faults.layer import Layer, failing
from reelwire.tests.support.faults.points import keys

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the layer of faults is of POSIX")
GRAM = ((1.0, 2.0), (2.0, 1.0))
KEY = Key(2, "euler", 1.0, 1.0, 8)


def record(key: Key = KEY) -> Calibration:
    return Calibration(key, {"transformer": (GRAM,)})


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(bytes(1000))
    return tmp_path / "model.safetensors"


def unwritten(checkpoint: Path, calibration: Calibration, error: str = "ENOSPC") -> OSError:
    """What is raised for a record that the disk does not take."""
    with Layer(failing(error), 0, ("write",)), pytest.raises(OSError) as refusal:  # noqa: PT011 - by its keys
        store.add(checkpoint, calibration)
    return refusal.value


def test_a_record_in_memory_is_used_and_written_later(checkpoint: Path) -> None:
    error = unwritten(checkpoint, record())
    assert keys(message_of(error)) == {"calibration_in_memory", "cause_full"}
    assert store.read(checkpoint) == (record(),)
    other = replace(KEY, steps=3)
    store.add(checkpoint, record(other))
    assert {each.key for each in store.read(checkpoint)} == {KEY, other}
    assert len(json.loads(store.file_of(checkpoint).read_text())["records"]) == 2
    assert not [path for path, _ in store._unwritten if path == store.file_of(checkpoint)]


def replace_file(file: Path) -> None:
    file.with_name("new").write_bytes(b"\2" * 1000)
    os.replace(file.with_name("new"), file)


def make_folder(file: Path) -> None:
    file.unlink()
    file.mkdir()
    (file / "a.safetensors").write_bytes(b"\3" * 1000)


CHANGES: dict[str, Callable[[Path], object]] = {
    "other weights": lambda file: file.write_bytes(b"\1" * 1000),
    "longer": lambda file: file.write_bytes(bytes(1001)),
    "another file took its name": replace_file,
    "a folder": make_folder,
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_record_in_memory_is_of_its_own_weights_alone(checkpoint: Path, change: str) -> None:
    unwritten(checkpoint, record())
    content = checkpoint.read_bytes()
    CHANGES[change](checkpoint)
    assert store.read(checkpoint) == ()
    other = record(replace(KEY, shift=3.0))
    store.add(checkpoint, other)
    assert store.read(checkpoint) == (other,)
    if checkpoint.is_dir():
        shutil.rmtree(checkpoint)
    checkpoint.write_bytes(content)
    assert store.read(checkpoint) == (record(),), "it is there again with its weights"


@pytest.mark.parametrize("change", CHANGES)
def test_what_was_measured_with_weights_that_are_gone_is_not_kept(checkpoint: Path, change: str) -> None:
    """As it would count for the file that has their name now."""
    weights = store.fingerprint(checkpoint)
    store.add(checkpoint, record(), weights)
    CHANGES[change](checkpoint)
    with pytest.raises(CheckpointError) as refusal:
        store.add(checkpoint, record(), weights)
    assert "calibration_of_others" in keys(message_of(refusal.value))
    assert store.read(checkpoint) == ()


def test_a_checkpoint_that_went_away(checkpoint: Path) -> None:
    store.add(checkpoint, record())
    unwritten(checkpoint, record(replace(KEY, steps=4)))
    checkpoint.unlink()
    for act in (store.read, store.fingerprint, store.stale, lambda file: store.add(file, record())):
        with pytest.raises(CheckpointError) as refusal:
            act(checkpoint)
        assert isinstance(message_of(refusal.value), Message)


def test_further_files_with_weights_count(checkpoint: Path) -> None:
    """Of an older record they are not known."""
    mine, others = (replace(KEY, files=(f"low.safetensors {digits}",)) for digits in ("12", "34"))
    old, new = record(), record(mine)
    assert match((new,), mine)[0] == new
    assert match((new,), others)[0] is None
    assert match((new,), KEY)[0] is None
    assert match((old,), mine)[0] == old
    store.add(checkpoint, new)
    store.add(checkpoint, old)
    assert store.read(checkpoint) == (new, old)
    assert ["files" in each["key"] for each in json.loads(store.file_of(checkpoint).read_text())["records"]] == [
        True,
        False,
    ]


def test_a_file_is_read_once_for_each_of_its_states(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.add(checkpoint, record())
    opened = list[str]()

    def counting(read: Callable[..., Any]) -> Callable[..., Any]:
        def count(file: Path, *more: Any) -> Any:
            opened.append(file.name)
            return read(file, *more)

        return count

    for name in ("open_file", "read_bytes"):
        monkeypatch.setattr(store, name, counting(getattr(store, name)))
    for _ in range(3):
        store.read(checkpoint)
    assert opened in ([], [store.file_of(checkpoint).name])
    opened.clear()
    checkpoint.write_bytes(b"\1" * 1000)
    for _ in range(3):
        assert store.read(checkpoint) == ()
    assert opened == [checkpoint.name]
