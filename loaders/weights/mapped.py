"""Tensors of a safetensors file as they lie in its mapped pages.

safetensors' own reader (to 0.8 at least) loses two Python numbers, 64 bytes, with each tensor that it maps, which a
server that loads models for weeks would not get back: it is asked for what the header says alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from ..messages import CheckpointError, message
from .json_files import excerpt

_KINDS = {  # type in a header -> its bytes, and PyTorch's name
    "F64": (8, "float64"),
    "I64": (8, "int64"),
    "U64": (8, "uint64"),
    "F32": (4, "float32"),
    "I32": (4, "int32"),
    "U32": (4, "uint32"),
    "F16": (2, "float16"),
    "BF16": (2, "bfloat16"),
    "I16": (2, "int16"),
    "U16": (2, "uint16"),
    "I8": (1, "int8"),
    "U8": (1, "uint8"),
    "BOOL": (1, "bool"),
    "F8_E4M3": (1, "float8_e4m3fn"),
    "F8_E5M2": (1, "float8_e5m2"),
    "F8_E8M0": (1, "float8_e8m0fnu"),  # not in every PyTorch
}
BYTES = {kind: size for kind, (size, _) in _KINDS.items()}
TYPES: dict[str, torch.dtype] = {k: getattr(torch, name) for k, (_, name) in _KINDS.items() if hasattr(torch, name)}


@contextmanager
def _as_of_the_system() -> Iterator[None]:
    """PyTorch's RuntimeError, of a file that is gone or a mapping that is refused, as an OSError."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(str(error)) from error


class MappedTensors:
    """Reads as safetensors' safe_open does. Raises OSError or SafetensorError for a file that is not whole, and
    CheckpointError for a tensor of a type that this PyTorch does not have."""

    def __init__(self, file: Path) -> None:
        from safetensors import safe_open

        self._file, size, begin = file, file.stat().st_size, 0
        self._places = dict[str, tuple[int, int, str, torch.Size]]()  # key -> (first byte, bytes, type, shape)
        with _as_of_the_system(), safe_open(file, framework="pt") as opened:
            for key in opened.offset_keys():  # one lies behind the other, with nothing between
                told = opened.get_slice(key)
                kind, shape = told.get_dtype(), torch.Size(told.get_shape())
                if kind not in BYTES:
                    raise OSError(kind)
                length = shape.numel() * BYTES[kind]
                self._places[key] = begin, length, kind, shape
                begin += length
        self._header = size - begin
        with _as_of_the_system():
            self._pages = torch.UntypedStorage.from_file(str(file), False, size)

    def __enter__(self) -> MappedTensors:
        return self

    def __exit__(self, *error: object) -> None:
        self._places.clear()
        self._pages = torch.UntypedStorage(0)

    def get_slice(self, key: str) -> Tensor:
        """The tensor as it lies on disk, of which slices are read when they are taken."""
        begin, size, name, shape = self._places[key]
        start, kind = self._header + begin, TYPES.get(name)
        if kind is None:
            words = {"file": self._file.name, "name": excerpt(key), "dtype": name, "version": torch.__version__}
            raise CheckpointError(message("torch_lacks_type", **words), message("update_torch"))
        with _as_of_the_system():
            if not size:
                return torch.empty(shape, dtype=kind)
            return torch.asarray(self._pages[start : start + size], dtype=torch.uint8).view(kind).reshape(shape)

    def get_tensor(self, key: str) -> Tensor:
        """The tensor as it lies on disk; see `get_slice`."""
        return self.get_slice(key)
