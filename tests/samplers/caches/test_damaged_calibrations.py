"""A calibration file that somebody else wrote, or half of one: the same records, or words."""

from __future__ import annotations

import copy
import json
import os
import random
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders.messages import CheckpointError
from reelwire.samplers.caches.store import Branch, Calibration, Key, add, file_of, match, read, stale

KEY = Key(4, "euler", 3.0, 1.0, 12, ("a",))
GRAM = tuple(tuple(float(i * j) for j in range(4)) for i in range(4))
BRANCH = Branch("transformer", "cond", (1.0, 2.0), (0.5, 0.25), "latent", (1.0, 0.0), 0.0, 1.0, 0.9)
ODD: tuple[Any, ...] = (
    None,
    True,
    -1,
    2**70,
    10**30,
    1e308,
    "x",
    "x" * 10**5,
    [],
    {},
    [[]],
    {"a": 1},
    [None],
    "\ud800",
)
WHOLE: dict[str, bytes] = {
    "empty": b"",
    "deep": b'{"records":' * 10**5,
    "a list": b"[]",
    "null": b"null",
    "NaN": b'{"checkpoint": NaN}',
    "no JSON": b"{'a'}",
    "zeros": bytes(1000),
}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    file = tmp_path / "model.safetensors"
    file.write_bytes(b"weights")
    add(file, Calibration(KEY, {"transformer": (GRAM, GRAM)}, (BRANCH,)))
    return file


def test_what_was_written_is_read(checkpoint: Path) -> None:
    assert read(checkpoint) == (Calibration(KEY, {"transformer": (GRAM, GRAM)}, (BRANCH,)),)
    assert not stale(checkpoint)


@pytest.mark.parametrize("kind", WHOLE)
def test_a_file_that_is_none(checkpoint: Path, kind: str) -> None:
    file_of(checkpoint).write_bytes(WHOLE[kind])
    for ask in (read, stale):
        with pytest.raises(CheckpointError) as refused:
            ask(checkpoint)
        assert file_of(checkpoint).name in str(refused.value)
        assert len(str(refused.value)) < 600


def test_a_pipe_in_its_place(checkpoint: Path) -> None:
    file_of(checkpoint).unlink()
    os.mkfifo(file_of(checkpoint))
    with pytest.raises(CheckpointError):
        read(checkpoint)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value)):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


def test_odd_values_anywhere(checkpoint: Path) -> None:
    whole = json.loads(file_of(checkpoint).read_text(encoding="utf-8"))
    rng, seen, start = random.Random(2), Counter[str](), time.process_time()
    for _ in range(300):
        values = copy.deepcopy(whole)
        container, key = rng.choice(list(places(values)))
        if rng.random() < 0.2:
            del container[key]
        else:
            container[key] = rng.choice(ODD)
        file_of(checkpoint).write_text(json.dumps(values))
        try:
            for record in read(checkpoint):
                match((record,), KEY)
                record.joined(record)
                assert all(len(runs[0]) <= 4 for runs in record.grams.values())
            seen["read"] += 1
        except CheckpointError:
            seen["words"] += 1
    assert min(seen.values()) > 10
    assert time.process_time() - start < 10
