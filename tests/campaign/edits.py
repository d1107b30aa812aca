"""What is done to a file, as data: a few lists that JSON can hold, so that a case is small, kept and played again."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

Edit = list[Any]  # [what, its arguments ...]
_SIZES = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_NAN = {"F64": "<d", "F32": "<f", "F16": "<e"}
_MARK = re.compile(r'"@@([a-z]+):?(-?\d*)@@"')  # stands for what JSON text alone can say, or what would be long


@dataclass(frozen=True)
class Case:
    """One case. base: what it is made of; target: the file in it that is edited; seed, number: where it came from."""

    kind: str
    base: str
    target: str
    edits: tuple[Edit, ...]
    seed: int = 0
    number: int = 0

    def save(self, file: Path, **more: Any) -> None:
        """Write it, with what was found."""
        file.write_text(json.dumps({**asdict(self), **more}, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Case:
        """A case of `save`."""
        content = json.loads(file.read_text(encoding="utf-8"))
        fields = {name: content[name] for name in ("kind", "base", "target", "edits", "seed", "number")}
        return cls(**{**fields, "edits": tuple(fields["edits"])})


def edited(data: bytes, form: str, edits: tuple[Edit, ...]) -> bytes:
    """A file's bytes with edits; form: "json", "safetensors", or anything else for bytes alone."""
    shaped = [edit for edit in edits if edit[0] not in BYTES]
    if form == "json" and shaped:
        data = json_text(json_edited(json.loads(data), shaped)).encode("utf-8", "surrogatepass")
    if form == "safetensors" and shaped:
        data = _safetensors(data, shaped)
    for what, *arguments in edits:
        if what in BYTES:
            data = BYTES[what](data, *arguments)
    return data


# ---------------------------------------------------------------- bytes


def _put(data: bytes, at: int, text: str) -> bytes:
    new = bytes.fromhex(text)
    return data[:at] + new + data[at + len(new) :]


BYTES: dict[str, Callable[..., bytes]] = {
    "flip": lambda data, at, bit: data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :] if at < len(data) else data,
    "put": _put,
    "insert": lambda data, at, text: data[:at] + bytes.fromhex(text) + data[at:],
    "cut": lambda data, size: data[:size],
    "drop": lambda data, at, count: data[:at] + data[at + count :],
    "repeat": lambda data, at, count, times: data[:at] + data[at : at + count] * times + data[at + count :],
    "all": lambda data, text, times: bytes.fromhex(text) * times,
}

# ---------------------------------------------------------------- JSON

MARKS: dict[str, Callable[[int], str]] = {
    "deep": lambda count: "[" * count + "]" * count,
    "deepobject": lambda count: '{"a":' * count + "1" + "}" * count,
    "wide": lambda count: "[" + ",".join(["0"] * count) + "]",
    "text": lambda count: '"' + "x" * count + '"',
    "spaces": lambda count: '"' + " " * count + '"',
    "keys": lambda count: "{" + ",".join(f'"k{i}":1' for i in range(count)) + "}",
    "twice": lambda count: "{" + ",".join(['"k":1'] * count) + "}",
    "digits": lambda count: "9" * count,
    "nan": lambda _: "NaN",
    "inf": lambda _: "Infinity",
    "half": lambda _: '"\\ud800"',
    "nul": lambda _: '"a\\u0000b"',
    "exponent": lambda _: "1e999",
}


def json_text(value: Any) -> str:
    """JSON, with each "@@mark:number@@" replaced by what it stands for."""
    return _MARK.sub(lambda match: MARKS[match[1]](int(match[2] or 0)), json.dumps(value))


def json_edited(value: Any, edits: list[Edit]) -> Any:
    """A JSON value with ["set", path, value], ["del", path]; a path that is not there changes nothing."""
    for what, path, *new in edits:
        value = _at(value, path, what, *new)
    return value


def _at(value: Any, path: list[Any], what: str, new: Any = None) -> Any:
    if not path:
        return new
    key, *rest = path
    if isinstance(value, list) and isinstance(key, int) and key < len(value):
        if what == "del" and not rest:
            return value[:key] + value[key + 1 :]
        return [*value[:key], _at(value[key], rest, what, new), *value[key + 1 :]]
    if isinstance(value, dict) and (key in value or (what == "set" and not rest)):
        if what == "del" and not rest:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: _at(value.get(key), rest, what, new)}
    return value


# ---------------------------------------------------------------- safetensors

Tensors = dict[str, tuple[str, list[int], bytes]]  # name -> (type, shape, numbers)


def read_tensors(data: bytes) -> tuple[Mapping[str, str], Tensors]:
    """(metadata, tensors) of a sound file."""
    length = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    metadata = header.pop("__metadata__", {})
    return metadata, {k: (v["dtype"], v["shape"], body[slice(*v["data_offsets"])]) for k, v in header.items()}


def _safetensors(data: bytes, edits: list[Edit]) -> bytes:
    """["tensor", op, name, argument], ["meta", name, value], ["header", edit of its JSON], ["length", number]."""
    metadata, tensors = read_tensors(data)
    metadata = dict(metadata)
    for what, *arguments in edits:
        if what == "tensor":
            op, name, argument = arguments
            tensors = TENSORS[op](tensors, name, argument) if name in tensors else tensors
        if what == "meta":
            metadata[arguments[0]] = json_text(arguments[1]) if not isinstance(arguments[1], str) else arguments[1]
    header: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, (kind, shape, numbers) in tensors.items():
        header[name] = {"dtype": kind, "shape": shape, "data_offsets": [end, end + len(numbers)]}
        end += len(numbers)
    text = json_text(json_edited(header, [arguments[0] for what, *arguments in edits if what == "header"])).encode()
    length = next((arguments[0] for what, *arguments in edits if what == "length"), len(text))
    return struct.pack("<Q", length % 2**64) + text + b"".join(numbers for _, _, numbers in tensors.values())


def _change(make: Callable[..., tuple[str, list[int], bytes]]) -> Callable[[Tensors, str, Any], Tensors]:
    return lambda tensors, name, argument: {**tensors, name: make(*tensors[name], argument)}


def _halved(kind: str, shape: list[int], numbers: bytes, axis: int) -> tuple[str, list[int], bytes]:
    """The first half along axis 0, or twice as much where there is no half."""
    if not shape or shape[0] < 2:
        return kind, [2, *shape], numbers * 2
    rest = len(numbers) // shape[0]
    return kind, [shape[0] // 2, *shape[1:]], numbers[: shape[0] // 2 * rest]


def _nan(kind: str, shape: list[int], numbers: bytes, _: Any) -> tuple[str, list[int], bytes]:
    if kind not in _NAN or not numbers:
        return kind, shape, b"\xff" * len(numbers)
    value = struct.pack(_NAN[kind], float("nan"))
    return kind, shape, value + numbers[len(value) :]


def _as(kind: str, shape: list[int], numbers: bytes, new: str) -> tuple[str, list[int], bytes]:
    """Zeros of another type in the same shape."""
    return new, shape, bytes(len(numbers) // _SIZES.get(kind, 1) * _SIZES.get(new, 1))


TENSORS: dict[str, Callable[[Tensors, str, Any], Tensors]] = {
    "missing": lambda tensors, name, _: {k: v for k, v in tensors.items() if k != name},
    "flat": _change(lambda kind, shape, numbers, _: (kind, [len(numbers) // _SIZES.get(kind, 1)], numbers)),
    "empty": _change(lambda kind, shape, numbers, _: (kind, [0], b"")),
    "hollow": _change(lambda kind, shape, numbers, _: (kind, [*shape[:-1], 0], b"")),
    "scalar": _change(lambda kind, shape, numbers, _: (kind, [], numbers[: _SIZES.get(kind, 1)])),
    "longer": _change(lambda kind, shape, numbers, _: (kind, [2 * (shape or [1])[0], *shape[1:]], numbers * 2)),
    "deeper": _change(lambda kind, shape, numbers, _: (kind, [1, 1, *shape], numbers)),
    "deep": _change(lambda kind, shape, numbers, _: (kind, [1] * 70 + shape, numbers)),
    "turned": _change(lambda kind, shape, numbers, _: (kind, shape[::-1], numbers)),
    "half": _change(_halved),
    "nan": _change(_nan),
    "type": _change(_as),
    "renamed": lambda tensors, name, new: {(new if k == name else k): v for k, v in tensors.items()},
    "more": lambda tensors, name, new: {**tensors, new: tensors[name]},
    "only": lambda tensors, name, _: {name: tensors[name]},
}
