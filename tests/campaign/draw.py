"""Edits drawn from a seed: what strangers' files hold, by mistake or on purpose."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

from .edits import TENSORS, Edit, read_tensors

_TABLE = json.loads(Path(__file__).with_name("hostile.json").read_text(encoding="utf-8"))
HOSTILE: list[Any] = _TABLE["values"]
KEYS: list[tuple[str, Any]] = _TABLE["keys"]
NUMBERS = (0, 1, 4, 127, 128, 255, 2**15, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1, 10**9)
TYPES = ("F64", "F16", "BF16", "I64", "I32", "I8", "U8", "BOOL", "F8_E4M3", "F8_E5M2", "F8_E8M0", "F4", "C64", "X9")
MOST = 4  # edits of one case


def draw(random: Random, data: bytes, form: str) -> list[Edit]:
    """A few edits of a file."""
    count = 1 + min(int(random.expovariate(1.2)), MOST - 1)
    return [_one(random, data, form) for _ in range(count)]


def _one(random: Random, data: bytes, form: str) -> Edit:
    if form in SHAPED and random.random() < SHAPED[form][0]:
        return SHAPED[form][1](random, data)
    return _bytes(random, data)


# ---------------------------------------------------------------- bytes


def _bytes(random: Random, data: bytes, most: int = 0) -> Edit:
    """An edit of the bytes; mostly of the first ones, where headers are."""
    size = max(len(data), 1)
    at = random.randrange(min(size, random.choice((16, 64, 256, 4096, size))))
    return random.choice(
        (
            ["flip", at, random.randrange(8)],
            ["put", at, random.randbytes(random.choice((1, 2, 4, 8))).hex()],
            ["put", at, _number(random)],
            ["insert", at, random.randbytes(random.choice((1, 4, 30))).hex()],
            ["cut", at],
            ["cut", size - random.choice((1, 8, 100))],
            ["drop", at, random.choice((1, 4, 100, 5000))],
            ["repeat", at, random.choice((1, 8, 100)), random.choice((2, 100))],
        )
    )


def _number(random: Random) -> str:
    """A number as bytes of its size."""
    size = random.choice((2, 4, 8))
    return (random.choice(NUMBERS) % 2 ** (8 * size)).to_bytes(size, random.choice(("little", "big"))).hex()


# ---------------------------------------------------------------- JSON


def paths(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values of a JSON value, the first few of a long list."""
    yield path
    if isinstance(value, dict):
        for key in list(value)[:200]:
            yield from paths(value[key], (*path, key))
    if isinstance(value, list):
        for index in range(min(len(value), 8)):
            yield from paths(value[index], (*path, index))


def json_edit(random: Random, value: Any) -> Edit:
    """An edit of a JSON value."""
    ways = list(paths(value))
    path = list(random.choice(ways))
    old = _value(value, path)
    roll = random.random()
    if roll < 0.12:
        return ["del", path]
    if roll < 0.3:
        parent = next((list(way) for way in random.sample(ways, len(ways)) if isinstance(_value(value, way), dict)), [])
        key, new = random.choice(KEYS)
        return ["set", [*parent, key], new]
    if roll < 0.6 and isinstance(old, int | float) and not isinstance(old, bool):
        return ["set", path, random.choice((old + 1, old - 1, old * 2, -old, old * 1000, old / 3, str(old), [old]))]
    if roll < 0.65:
        return ["set", path, _value(value, random.choice(ways))]
    return ["set", path, random.choice(HOSTILE)]


def _value(value: Any, path: Any) -> Any:
    for key in path:
        value = value[key]
    return value


def _json(random: Random, data: bytes) -> Edit:
    return json_edit(random, json.loads(data))


# ---------------------------------------------------------------- safetensors


def _safetensors(random: Random, data: bytes) -> Edit:
    metadata, tensors = read_tensors(data)
    name, roll = random.choice(list(tensors)), random.random()
    if roll < 0.6:
        op = random.choice(list(TENSORS))
        other = random.choice(list(tensors))
        argument = {"type": random.choice(TYPES), "renamed": random.choice((other, f"{name}.x", "", "x.0.x"))}
        return [
            "tensor",
            op,
            name,
            argument.get(op, random.choice((f"{name}.more", "scaled_fp8", f"{name}.comfy_quant"))),
        ]
    if roll < 0.7:
        return ["length", random.choice((*NUMBERS, len(data), len(data) - 8))]
    if roll < 0.78:
        key = random.choice(
            [*metadata, "format", "config", "_quantization_metadata", "lora_adapter_metadata", "reelwire"]
        )
        return ["meta", key, random.choice((*HOSTILE[30:], '{"a": 1}', "[]", "null", '{"layers": {"x": 1}}'))]
    entry = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    part = random.choice(("dtype", "shape", "data_offsets"))
    value = random.choice((*HOSTILE, [-1, -1], [2**62, 4], [0, 2**63], [4, 0], [0, 0], "F32"))
    return random.choice(
        (
            ["header", ["set", [name, part], value]],
            ["header", ["set", [name], value]],
            ["header", ["del", [name, part]]],
            ["header", ["set", ["__metadata__"], value]],
            ["header", ["set", ["__metadata__"], {"a": value}]],
            ["header", ["set", [random.choice(("x", "", "../x"))], entry]],
            ["header", ["set", [], value]],
        )
    )


# form -> (how often it is edited as what it is, how)
SHAPED: dict[str, tuple[float, Callable[[Random, bytes], Edit]]] = {
    "json": (0.9, _json),
    "safetensors": (0.75, _safetensors),
}
