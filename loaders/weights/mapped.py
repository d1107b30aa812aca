"""Tensors of a safetensors file as they lie in its mapped pages.

safetensors' own reader (to 0.8 at least) loses two Python numbers, 64 bytes, with each tensor that it maps, which a
server that loads models for weeks would not get back: it is asked for what the header says alone.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

_NAMES = {
    "F64": "float64",
    "I64": "int64",
    "U64": "uint64",
    "F32": "float32",
    "I32": "int32",
    "U32": "uint32",
    "F16": "float16",
    "BF16": "bfloat16",
    "I16": "int16",
    "U16": "uint16",
    "I8": "int8",
    "U8": "uint8",
    "BOOL": "bool",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
    "F8_E8M0": "float8_e8m0fnu",  # not in every PyTorch
}
TYPES: dict[str, torch.dtype] = {kind: getattr(torch, name) for kind, name in _NAMES.items() if hasattr(torch, name)}


class MappedTensors:
    """Reads as safetensors' safe_open does. Raises OSError or SafetensorError for a file that is not whole, or has
    types that are not in TYPES."""

    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        self._places = dict[str, tuple[int, torch.dtype, torch.Size]]()  # key -> (first byte, type, shape)
        size, begin = file.stat().st_size, 0
        with safe_open(file, framework="pt") as opened:
            for key in opened.offset_keys():  # one lies behind the other, with nothing between
                told = opened.get_slice(key)
                kind, shape = TYPES.get(told.get_dtype()), torch.Size(told.get_shape())
                if kind is None:
                    raise OSError(told.get_dtype())
                self._places[key] = begin, kind, shape
                begin += shape.numel() * kind.itemsize
        self._header = size - begin
        self._pages = torch.UntypedStorage.from_file(str(file), False, size)

    def __enter__(self) -> MappedTensors:
        return self

    def __exit__(self, *error: object) -> None:
        self._places.clear()
        self._pages = torch.UntypedStorage(0)

    def get_slice(self, key: str) -> Tensor:
        """The tensor as it lies on disk, of which slices are read when they are taken."""
        begin, kind, shape = self._places[key]
        start, size = self._header + begin, shape.numel() * kind.itemsize
        if not size:
            return torch.empty(shape, dtype=kind)
        return torch.asarray(self._pages[start : start + size], dtype=torch.uint8).view(kind).reshape(shape)

    def get_tensor(self, key: str) -> Tensor:
        """The tensor as it lies on disk; see `get_slice`."""
        return self.get_slice(key)
