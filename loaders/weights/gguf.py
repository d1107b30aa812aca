"""GGUF files (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md), as ComfyUI-GGUF's converter writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..messages import CheckpointError, message
from .entry import Entry

_PLAIN = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_SHAPE = "comfy.gguf.orig_shape."  # holds the shape of a tensor that was folded to at most four axes


def _open(file: Path) -> Any:
    from gguf import GGUFReader

    try:
        return GGUFReader(str(file), "c")  # copy on write: torch takes no read-only array
    except (ValueError, KeyError, IndexError, OverflowError, AssertionError) as error:
        raise CheckpointError(message("gguf_damaged", file=file.name), message("download_again")) from error


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
        shape = [int(field.parts[at][0]) for at in field.data] if field else [int(n) for n in reversed(tensor.shape)]
        entries[tensor.name] = Entry(file, tensor.name, tuple(shape), kind)
    return entries, {"architecture": _architecture(reader)}


def _architecture(reader: Any) -> str:
    field = reader.fields.get("general.architecture")
    return bytes(field.parts[field.data[0]]).decode(errors="replace") if field else ""


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
