"""GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), as ComfyUI-GGUF's converter writes them."""

from __future__ import annotations

import math
import os
import struct
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...messages import CheckpointError, message
from ...parts import Argument, JsonObject
from ..entry import Entry
from ..json_files import open_file

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_LENGTH = struct.Struct("<Q")
_HEAD = struct.Struct("<4sIQQ")  # GGUF, version, numbers of tensors and of fields
MOST_TENSORS, MOST_FIELDS, MOST_VALUES, MOST_AXES = 100_000, 10_000, 2**22, 8  # published ones: 2,000; 60; 260,000; 5
_ARRAY_HEAD = 12  # bytes before its first element: the type of all, and how many
_SHAPE = "comfy.gguf.orig_shape."  # holds the shape of a tensor that was folded to at most four axes


@cache
def _reader() -> Any:
    """gguf's reader, but for arrays of the metadata, which are one part each: it takes half a minute for a vocabulary,
    number by number."""
    from gguf import GGUFReader, GGUFValueType

    class Reader(GGUFReader):
        def _get(self, offset: int, dtype: Argument, count: int = 1, override_order: Argument = None) -> Argument:
            array = super()._get(offset, dtype, count, override_order)
            if len(array) != count:  # numpy ends a slice where the file ends
                raise ValueError(offset)
            return array

        def _get_field_parts(self, orig_offs: int, raw_type: int) -> tuple[int, list[Any], list[int], list[Any]]:
            if GGUFValueType(raw_type) != GGUFValueType.ARRAY:
                return super()._get_field_parts(orig_offs, raw_type)
            kind, start = GGUFValueType(self._get(orig_offs, np.uint32)[0]), orig_offs + _ARRAY_HEAD
            count = int(self._get(orig_offs + 4, np.uint64)[0])
            if count > min(MOST_VALUES, len(self.data)):
                raise ValueError(count)
            if kind == GGUFValueType.STRING:
                array = self.data[start : _end_of_texts(self.data, start, count)]
            else:
                array = self._get(start, self.gguf_scalar_to_np[kind], count)
            return _ARRAY_HEAD + array.nbytes, [array], [0], [GGUFValueType.ARRAY, kind]

    return Reader


def _end_of_texts(data: Argument, start: int, count: int) -> int:
    """Where an array of texts ends, each behind its length in eight bytes."""
    for _ in range(count):
        start += 8 + _LENGTH.unpack_from(data, start)[0]
    return start


def _texts(data: bytes) -> list[str]:
    """The texts of an array."""
    texts, at = list[str](), 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        texts.append(data[at + 8 : at + 8 + length].decode("utf-8", errors="replace"))
        at += 8 + length
    return texts


def _open(file: Path) -> Argument:
    """The reader of a file whose tensors lie in it, each in bytes of its own; raises CheckpointError."""
    with open_file(file) as stream:
        head, size = stream.read(_HEAD.size), os.fstat(stream.fileno()).st_size
    try:
        _, _, tensors, fields = _HEAD.unpack(head)
        if tensors > MOST_TENSORS or fields > MOST_FIELDS:
            raise ValueError(tensors, fields)
        with np.errstate(over="ignore"):  # of offsets, which then lead out of the file
            reader = _reader()(str(file), "c")  # copy on write: torch takes no read-only array
        sizes = [(math.prod(map(int, tensor.shape)), tensor.n_elements) for tensor in reader.tensors]
        last = max((int(tensor.field.parts[-1][0]) for tensor in reader.tensors), default=0)
        if any(count != n for count, n in sizes) or max(last, sum(tensor.n_bytes for tensor in reader.tensors)) > size:
            raise ValueError(size)
    except (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError, struct.error) as error:
        raise CheckpointError(message("gguf_damaged", file=file.name), message("download_again")) from error
    return reader


def read_gguf(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors by name, metadata) of a GGUF file; refuses types that cannot be widened."""
    from diffusers.quantizers.gguf.utils import SUPPORTED_GGUF_QUANT_TYPES

    reader, known = _open(file), {*_PLAIN, *(kind.name for kind in SUPPORTED_GGUF_QUANT_TYPES)}
    entries = {}
    for tensor in reader.tensors:
        kind, field = tensor.tensor_type.name, reader.fields.get(_SHAPE + tensor.name)
        if kind not in known:
            raise CheckpointError(
                message("gguf_type", file=file.name, kind=kind), message("use_file_of", kinds=", ".join(sorted(known)))
            )
        shape = [int(n) for n in (field.parts[field.data[0]] if field else reversed(tensor.shape))]
        if len(shape) > MOST_AXES or min(shape, default=1) < 0 or math.prod(shape) != tensor.n_elements:
            raise CheckpointError(message("gguf_damaged", file=file.name), message("download_again"))
        entries[tensor.name] = Entry(file, tensor.name, tuple(shape), kind)
    return entries, {"architecture": _architecture(reader)}


def _architecture(reader: Argument) -> str:
    field = reader.fields.get("general.architecture")
    return bytes(field.parts[field.data[0]][:64]).decode(errors="replace") if field else ""


def is_gguf(file: Path) -> bool:
    """Whether a file begins as a GGUF file does, whatever its name."""
    with open_file(file) as stream:
        return stream.read(4) == b"GGUF"


def fields(file: Path, beginning: str) -> JsonObject:
    """The metadata whose names begin so: numbers, texts, or lists of either."""
    reader = _open(file)
    return {name: _value(field) for name, field in reader.fields.items() if name.startswith(beginning)}


def _value(field: Argument) -> Argument:
    """A number, a text, or a list of either."""
    kinds, part = [kind.name for kind in field.types], field.parts[field.data[0]]
    if kinds[0] == "ARRAY":
        return _texts(bytes(part)) if kinds[1] == "STRING" else part.tolist()
    return bytes(part).decode("utf-8", errors="replace") if kinds[0] == "STRING" else part[0].item()


class GGUFTensors:
    """Reads as safetensors' safe_open does; quantised tensors come as bytes [rows, bytes of a row]."""

    def __init__(self, file: Path) -> None:
        self._tensors = {tensor.name: tensor for tensor in _open(file).tensors}

    def __enter__(self) -> GGUFTensors:
        return self

    def __exit__(self, *error: object) -> None:
        self._tensors = {}

    def get_slice(self, key: str) -> Tensor:
        """The tensor as it lies on disk, of which slices are read when they are taken."""
        tensor = self._tensors[key]
        data, kind = torch.from_numpy(tensor.data), tensor.tensor_type.name
        return data.view(_PLAIN[kind]) if kind in _PLAIN else data.flatten(0, -2)

    def get_tensor(self, key: str) -> Tensor:
        """The tensor as it lies on disk; see `get_slice`."""
        return self.get_slice(key)
