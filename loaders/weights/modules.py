"""Weights on disk -> modules, strictly: nothing missing, unexpected or misshapen."""

from __future__ import annotations

import math
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..messages import CheckpointError as CheckpointError
from ..messages import listed, message
from ..parts import Progress
from .entry import IDENTITY, Entry
from .quantised import FORMATS, TILE, Coding, Tensors, round_up, swizzled, unswizzled
from .safetensors import WatchedFile
from .stored import BY_NAME, Stored, is_ggml, is_small, is_whole, narrow, widen

_IN_A_BLOCK = re.compile(r"\.\d+\.")  # layers outside of the blocks are few, and their errors reach everything
LEAST_TABLES = 2**24  # bytes of tables of positions that any network may have
_ONE_AT_A_TIME = threading.RLock()
AT_ONCE = 2**26  # bytes that are read before a file is opened anew, so that its pages do not count as ours for long


def build(
    make: Callable[[], nn.Module],
    entries: Mapping[str, Entry],
    dtype: torch.dtype,
    progress: Progress,
    small: bool = False,
    storage: str = "",
) -> nn.Module:
    """Make a module and fill it with `entries` cast to dtype; raises CheckpointError unless every key fits.

    progress: called as (tensors read, tensors in all) after each one; may raise to stop. small: linear layers keep
    weights of 8 bits and less as they are; storage: those of the blocks are made so, "fp8" or "int8".
    """
    module = fitting(make, entries)
    whole = set(getattr(module, "_keep_in_fp32_modules", None) or ())  # diffusers keeps these in float32 too
    state: dict[str, Tensor] = {}
    for done, (name, tensors) in enumerate(_read(entries), 1):
        entry, stays_whole = entries[name], bool(whole & {*name.split(".")})
        layer = None if stays_whole or not (small or storage) else _linear(module, name)
        if layer is not None and is_small(entry.dtype):
            _put(module, name, Stored(layer, tensors, entry.coding))
        elif layer is not None and storage and _IN_A_BLOCK.search(name):
            narrowed = narrow(tensors["weight"].reshape(entry.shape), BY_NAME[storage])
            _put(module, name, Stored(layer, narrowed, Coding(BY_NAME[storage], entry.shape)))
        else:
            state[name] = _widen(tensors, entry, torch.float32 if stays_whole else dtype)
        progress(done, len(entries))
    module.load_state_dict(state, strict=False, assign=True)
    getattr(module, "tie_weights", lambda: None)()
    return module.eval().requires_grad_(False)


def fitting(make: Callable[[], nn.Module], entries: Mapping[str, Entry]) -> nn.Module:
    """A module without memory for its weights; raises CheckpointError unless every key fits."""
    with _parameters_on_meta():
        module = make()
    check_fit(module, entries)
    return module


def _linear(module: nn.Module, name: str) -> nn.Linear | None:
    """The plain linear layer whose weight this is."""
    owner, _, last = name.rpartition(".")
    layer = module.get_submodule(owner)
    return layer if type(layer) is nn.Linear and last == "weight" else None


def _put(module: nn.Module, name: str, layer: nn.Module) -> None:
    owner, _, last = name.rpartition(".")[0].rpartition(".")
    setattr(module.get_submodule(owner), last, layer)


def _widen(tensors: Tensors, entry: Entry, dtype: torch.dtype) -> Tensor:
    """A tensor of a file in its own shape; whole numbers stay what they are."""
    if is_ggml(entry.dtype) or entry.scales:
        return widen(tensors, entry.coding, dtype)
    raw = tensors["weight"]
    if raw.numel() != math.prod(entry.shape):
        raise CheckpointError(message("file_changed", file=entry.file.name), message("load_anew"))
    return (raw.to(dtype) if raw.is_floating_point() else raw).reshape(entry.shape)


def read_tensors(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Tensors one by one, in their own shapes, numbers as float32."""
    for name, tensors in _read(entries):
        yield name, _widen(tensors, entries[name], torch.float32)


def outline(make: Callable[[], nn.Module], entries: Mapping[str, Entry]) -> nn.Module:
    """A module of shapes alone, to which no memory goes; raises CheckpointError unless every key fits, and for tables
    beside the weights that are far larger than these."""
    with torch.device("meta"), without_init():
        module = make()
    check_fit(module, entries)
    known, weights = module.state_dict().keys(), sum(math.prod(entry.shape) for entry in entries.values())
    tables = sum(buffer.nbytes for name, buffer in module.named_buffers() if name not in known)
    if tables > max(weights // 4, LEAST_TABLES):
        file = next((entry.file.name for entry in entries.values()), message("the_file"))
        raise CheckpointError(message("config_tables", file=file, size=tables), message("download_again"))
    return module


class without_init(TorchFunctionMode):  # noqa: N801 (a context manager)
    """Leaves new weights as they are: on the meta device there is nothing to fill."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """New modules get no memory for their weights, but real buffers: some are not in the file, as tables of
    positions. Modules that other threads make meanwhile are theirs: one thread at a time is inside."""
    owner = threading.get_ident()

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta and threading.get_ident() == owner:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

    with _ONE_AT_A_TIME:
        register = nn.Module.register_parameter
        nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
        try:
            yield
        finally:
            nn.Module.register_parameter = register  # type: ignore[method-assign]


def _read(entries: Mapping[str, Entry]) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """(name, tensor as it lies on disk, called "weight", with its scales) one by one."""
    for file in sorted({e.file for e in entries.values()}):
        names, read = [name for name, entry in entries.items() if entry.file == file], 0
        while names:
            with WatchedFile(file) as opened:
                while names and read < AT_ONCE:
                    name = names.pop(0)
                    entry = entries[name]
                    scales = {of: _scale_rows(of, opened.get_tensor(e.key), entry) for of, e in entry.scales.items()}
                    tensors = {"weight": _rows(opened, entry), **scales}
                    read += tensors["weight"].nbytes
                    yield name, tensors
            read = 0


def _rows(opened: Any, entry: Entry) -> Tensor:
    if entry.dtype == IDENTITY:
        return torch.eye(*entry.shape[:2]) if len(entry.shape) > 1 else torch.zeros(entry.shape)
    if not entry.rows:
        return opened.get_tensor(entry.key).mT if entry.transposed else opened.get_tensor(entry.key)
    whole = opened.get_slice(entry.key)
    parts = [whole[start:end] for start, end in entry.rows]
    return parts[0].contiguous() if len(parts) == 1 else torch.cat(parts)


def _scale_rows(name: str, scale: Tensor, entry: Entry) -> Tensor:
    """What a tensor is scaled with, or that of the rows that are taken."""
    if scale.numel() == 1 or not entry.rows or name not in ("scale", "block_scale"):
        return scale
    if name == "scale":
        return torch.cat([scale[start:end] for start, end in entry.rows])
    blocks = entry.shape[1] // FORMATS[entry.dtype].block
    natural = unswizzled(scale, scale.numel() // round_up(blocks, TILE[1]), blocks)
    return swizzled(torch.cat([natural[start:end] for start, end in entry.rows]))


def check_fit(module: nn.Module, entries: Mapping[str, Entry]) -> None:
    """Raise CheckpointError where names, shapes or kinds of numbers of entries and module differ. Tied weights may be
    left out."""
    state = module.state_dict()
    wanted = {k: tuple(v.shape) for k, v in state.items()}
    tied = getattr(module, "_tied_weights_keys", None) or {}
    missing = sorted(k for k in set(wanted) - set(entries) if k not in tied)
    extra = sorted(set(entries) - set(wanted))
    wrong = sorted(k for k in set(wanted) & set(entries) if wanted[k] != entries[k].shape)
    whole = sorted(k for k in set(wanted) & set(entries) if state[k].is_floating_point() == is_whole(entries[k].dtype))
    if missing or extra or wrong or whole:
        name = next((e.file.name for e in entries.values()), message("the_file"))
        counted = lambda keys: {"count": len(keys), "names": ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")}
        differences = [
            *([message("keys_missing", **counted(missing))] if missing else ()),
            *([message("keys_unexpected", **counted(extra))] if extra else ()),
            *([message("keys_reshaped", **counted(wrong))] if wrong else ()),
            *([message("keys_typed", **counted(whole))] if whole else ()),
        ]
        raise CheckpointError(
            message("does_not_fit", file=name, network=type(module).__name__, differences=listed(differences)),
            message("nothing_loaded"),
        )
