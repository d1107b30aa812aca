"""Weights on disk -> modules, strictly: nothing missing, unexpected or misshapen, and never a pickle."""

from __future__ import annotations

import json
import math
import os
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .messages import CheckpointError as CheckpointError
from .messages import listed, message
from .quantised import (
    FORMATS,
    FP8_FORMATS,
    TILE,
    UNROTATED,
    Coding,
    Quantisation,
    Tensors,
    check_shapes,
    read_quantisation,
    round_up,
    swizzled,
    unswizzled,
)
from .storage import BY_NAME, FP8, Stored, is_ggml, is_small, narrow, widen
from .video_model import Progress

_IN_A_BLOCK = re.compile(r"\.\d+\.")  # layers outside of the blocks are few, and their errors reach everything
IDENTITY = "IDENTITY"  # the type of an entry that is in no file: a weight that changes nothing, or a bias of zeros
AT_ONCE = 2**26  # bytes that are read before a file is opened anew, so that its pages do not count as ours for long
_BYTES = {"F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2, "U16": 2,
          "I8": 1, "U8": 1, "BOOL": 1, "F8_E4M3": 1, "F8_E5M2": 1, "F8_E8M0": 1}  # fmt: skip
# keys that only one kind of file has, to say what a file is when it is not what was asked for
_KINDS: dict[str, tuple[str, ...]] = {
    "LTX-Video": ("patchify_proj.weight", "transformer_blocks.0.scale_shift_table"),
    "HunyuanVideo": ("double_blocks.0.img_attn_qkv.weight", "single_transformer_blocks.0.proj_mlp.weight"),
    "Wan": ("blocks.0.self_attn.q.weight", "blocks.0.attn1.norm_added_k.weight", "patch_embedding.weight"),
    "Mochi": ("blocks.0.attn.qkv_x.weight", "t5_y_embedder.to_kv.weight"),
    "CogVideoX": ("patch_embed.text_proj.weight",),
    "Stable Video Diffusion": ("input_blocks.1.0.time_stack.in_layers.0.weight", "down_blocks.0.resnets.0.temporal_res_block.conv1.weight"),
    message("kind_t5"): ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    message("kind_clip"): ("text_model.encoder.layers.0.self_attn.q_proj.weight",),
    message("kind_image_model"): ("input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "input_blocks.4.1.proj_in.weight"),
    "Flux": ("double_blocks.0.img_attn.qkv.weight",),
    message("kind_lora"): ("lora_A.weight", "lora_down.weight"),
}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """One tensor as a file's header tells it. shape: what it becomes; dtype: the header's, or one of FORMATS; rows: the
    ranges of its first axis that are put together for that, all of it if there are none; scales: what its numbers are
    multiplied with, by the names of `storage.widen`; quantisation: how else they are to be read."""

    file: Path
    key: str  # its name in the file
    shape: tuple[int, ...]
    dtype: str
    rows: tuple[tuple[int, int], ...] = ()
    scales: Mapping[str, Entry] = field(default_factory=dict)
    quantisation: Quantisation = UNROTATED
    transposed: bool = False

    @property
    def coding(self) -> Coding:
        return Coding(self.dtype, self.shape, self.quantisation)

    def split(self, *sizes: int) -> list[Entry]:
        """Parts along the first axis, of these sizes."""
        start = self.rows[0][0] if self.rows else 0
        ends = [start + sum(sizes[: i + 1]) for i in range(len(sizes))]
        return [replace(self, shape=(size, *self.shape[1:]), rows=((end - size, end),)) for size, end in zip(sizes, ends, strict=True)]  # fmt: skip

    def chunk(self, count: int) -> list[Entry]:
        """Equal parts along the first axis."""
        return self.split(*[self.shape[0] // count] * count)

    def swapped(self) -> Entry:
        """The second half of the first axis before the first half."""
        first, second = self.chunk(2)
        return replace(self, rows=second.rows + first.rows)

    def turned(self) -> Entry:
        """The matrix transposed."""
        return replace(self, shape=self.shape[::-1], transposed=True)

    def reshaped(self, *shape: int) -> Entry:
        return replace(self, shape=shape)


def read_header(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors by name, metadata) of a safetensors file; checks that all its bytes are there."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(8)
        if start[:4] == b"GGUF":
            from .gguf_files import read_gguf

            return read_gguf(file)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        fits = 0 < length <= size - 8  # the first bytes alone do not tell: a length may begin as a pickle does
        if file.suffix in (".ckpt", ".pt", ".pth", ".bin") or (
            not fits and start[:2] in (b"PK", b"\x80\x02", b"\x80\x04")
        ):
            raise CheckpointError(message("pickle", file=file.name), message("use_safetensors"))
        if not fits:
            raise CheckpointError(message("damaged_size", file=file.name, size=size), message("download_again"))
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
            metadata = header.pop("__metadata__", {})
            entries = {k: Entry(file, k, tuple(map(int, v["shape"])), str(v["dtype"])) for k, v in header.items()}
            spans = sorted((int(begin), int(end)) for begin, end in (v["data_offsets"] for v in header.values()))
            dict.items(metadata)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise CheckpointError(message("header_damaged", file=file.name), message("download_again")) from error
    _check_spans(file, size - 8 - length, spans, entries.values())
    return entries, metadata


def _check_spans(file: Path, room: int, spans: list[tuple[int, int]], entries: Iterable[Entry]) -> None:
    """The tensors must fill the data without gaps, and each dtype must be known."""
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise CheckpointError(message("header_gaps", file=file.name), message("download_again"))
        end = stop
    if end != room:
        raise CheckpointError(message("file_short", file=file.name, room=room, end=end), message("download_again"))
    total = sum(math.prod(e.shape) * _BYTES.get(e.dtype, 0) for e in entries)
    if total != end:
        raise CheckpointError(message("header_sizes", file=file.name), message("download_again"))


_MARKS = (".comfy_quant", ".scale_input", ".input_scale", "scaled_fp8")  # the numbers do not need them
_SCALES = (".scale_weight", ".weight_scale")
_READABLE = message("use_readable", formats=", ".join(FORMATS))


def read_file(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors by name, metadata) of a file, each quantised tensor with its scales.

    ComfyUI's formats: `scaled_fp8` with `x.scale_weight`, and `x.comfy_quant` (or `_quantization_metadata` in the header)
    with `x.weight_scale` and what else its format needs, see `quantised`. Raises CheckpointError for a scale that
    belongs to nothing, for a format that is not known, and for numbers that are scaled in another way.
    """
    entries, metadata = read_header(file)
    layers = _quantised_layers(file, entries, metadata)
    quantised = {
        f"{layer}.weight": _quantised(file, entries, layer, config)
        for layer, config in layers.items()
        if config["format"] in FORMATS
    }
    taken = {scale.key for entry in quantised.values() for scale in entry.scales.values()}
    rest = {k: e for k, e in entries.items() if k not in taken and not k.endswith(_MARKS)}
    scales = {k: e for k, e in rest.items() if k.endswith(_SCALES)}
    plain = {k: quantised.get(k, e) for k, e in rest.items() if k not in scales}
    for key, scale in scales.items():
        name = key.rpartition(".")[0] + ".weight"
        if name not in plain or plain[name].dtype not in FP8 or math.prod(scale.shape) not in (1, plain[name].shape[0]):
            raise CheckpointError(message("stray_scale", file=file.name, scale=key), _READABLE)
        plain[name] = replace(plain[name], scales={"scale": scale})
    for layer in layers:
        if f"{layer}.weight" not in plain or not plain[f"{layer}.weight"].scales:
            raise CheckpointError(message("lacks_scale", file=file.name, layer=layer), _READABLE)
    return plain, metadata


def _quantised_layers(
    file: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Layer -> what the file says of its quantisation, in a tensor beside it or for all layers in the header."""
    marks = [key for key in entries if key.endswith(".comfy_quant")]
    layers: dict[str, dict[str, Any]] = {}
    try:
        listed = json.loads(metadata.get("_quantization_metadata", "{}")).get("layers", {})
        for name, config in listed.items():  # by its whole name, or without the prefix of the network
            keys = [key for key in entries if f".{key}".endswith(f".{name}.weight")]
            layers |= {key.removesuffix(".weight"): {**config} for key in keys}
        if marks:
            with _open(file) as opened:
                for key in marks:
                    layers[key.removesuffix(".comfy_quant")] = {**json.loads(bytes(opened.get_tensor(key).tolist()))}
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            message("quantisation_untold", file=file.name, error=error), message("download_again")
        ) from error
    for layer, config in layers.items():
        if config.get("format") not in (*FORMATS, *FP8_FORMATS):
            name = config.get("format")
            raise CheckpointError(message("format_unknown", file=file.name, layer=layer, format=repr(name)), _READABLE)
    return layers


def _quantised(file: Path, entries: Mapping[str, Entry], layer: str, config: Mapping[str, Any]) -> Entry:
    """The weight of a quantised layer in the shape that it stands for, with all that it is scaled with."""
    kind, key = config["format"], f"{layer}.weight"
    known = FORMATS[kind]
    scales = {of: entries[f"{layer}.{end}"] for of, end in known.endings.items() if f"{layer}.{end}" in entries}
    try:
        quantisation = read_quantisation(config)
        if missing := [k for k in (key, *(f"{layer}.{end}" for end in known.scales.values())) if k not in entries]:
            raise ValueError(message("format_lacks", names=", ".join(missing)))
        weight, sizes = entries[key], {of: math.prod(scale.shape) for of, scale in scales.items()}
        check_shapes(kind, quantisation.rotation, weight.shape, weight.dtype, sizes)
    except ValueError as error:
        raise CheckpointError(
            message("format_wrong", file=file.name, layer=layer, format=kind, error=error), _READABLE
        ) from error
    rows, columns = weight.shape[0], weight.shape[1] * known.per_byte
    bias = entries.get(f"{layer}.bias", weight).shape[0]  # tells how many of the rows are no padding
    padded = bias < rows == round_up(bias, known.align)
    shape, used = ((bias, columns), ((0, bias),)) if padded else ((rows, columns), ())
    return replace(weight, dtype=kind, shape=shape, rows=used, scales=scales, quantisation=quantisation)


def read_folder(folder: Path) -> dict[str, Entry]:
    """All tensors of one part of a diffusers or transformers folder, sharded or not."""
    files = sorted(folder.glob("*.safetensors"))
    plain = [f for f in files if "-of-" not in f.name]
    if not files:
        raise CheckpointError(
            message("folder_empty", parent=folder.parent.name, folder=folder.name), message("download_folder")
        )
    index = next(iter(sorted(folder.glob("*.safetensors.index.json"))), None)
    if plain or index is None:
        return read_header(min(plain or files, key=lambda f: len(f.name)))[0]
    names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
    missing = [n for n in names if not (folder / n).exists()]
    if missing:
        raise CheckpointError(
            message("folder_lacks", parent=folder.parent.name, folder=folder.name, files=", ".join(missing)),
            message("download_these"),
        )
    return {k: e for n in names for k, e in read_header(folder / n)[0].items()}


def strip_prefix(entries: Mapping[str, Entry], *prefixes: str) -> dict[str, Entry]:
    """The entries under the first prefix that occurs, without it; the entries themselves if none does."""
    for prefix in prefixes:
        found = {k.removeprefix(prefix): e for k, e in entries.items() if k.startswith(prefix)}
        if found:
            return found
    return dict(entries)


def kind_of(entries: Mapping[str, Entry]) -> str:
    """What a file seems to be, in words."""
    for kind, marks in _KINDS.items():
        if any(key.endswith(mark) for mark in marks for key in entries):
            return kind
    return message("kind_unknown")


def build(
    make: Callable[[], nn.Module], entries: Mapping[str, Entry], dtype: torch.dtype, progress: Progress,
    small: bool = False, storage: str = "",
) -> nn.Module:  # fmt: skip
    """Make a module and fill it with `entries` cast to dtype; raises CheckpointError unless every key fits.

    progress: called as (tensors read, tensors in all) after each one; may raise to stop. small: linear layers keep
    weights of 8 bits and less as they are; storage: those of the blocks are made so, "fp8" or "int8".
    """
    module = fitting(make, entries)
    whole = set(getattr(module, "_keep_in_fp32_modules", None) or ())  # diffusers keeps these in float32 too
    state: dict[str, Tensor] = {}
    for done, (name, tensors) in enumerate(_read(entries), 1):
        entry, held = entries[name], bool(whole & {*name.split(".")})
        layer = None if held or not (small or storage) else _linear(module, name)
        if layer is not None and is_small(entry.dtype):
            _put(module, name, Stored(layer, tensors, entry.coding))
        elif layer is not None and storage and _IN_A_BLOCK.search(name):
            narrowed = narrow(tensors["weight"].reshape(entry.shape), BY_NAME[storage])
            _put(module, name, Stored(layer, narrowed, Coding(BY_NAME[storage], entry.shape)))
        else:
            state[name] = _widen(tensors, entry, torch.float32 if held else dtype)
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
    return (raw.to(dtype) if raw.is_floating_point() else raw).reshape(entry.shape)


def read_tensors(entries: Mapping[str, Entry]) -> Iterator[tuple[str, Tensor]]:
    """Tensors one by one, in their own shapes, numbers as float32."""
    for name, tensors in _read(entries):
        yield name, _widen(tensors, entries[name], torch.float32)


@contextmanager
def _parameters_on_meta() -> Iterator[None]:
    """New modules get no memory for their weights, but real buffers: some are not in the file, as tables of positions."""
    register = nn.Module.register_parameter

    def on_meta(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(module, name, parameter)

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
            with _open(file) as opened:
                while names and read < AT_ONCE:
                    name = names.pop(0)
                    entry = entries[name]
                    scales = {of: _scale_rows(of, opened.get_tensor(e.key), entry) for of, e in entry.scales.items()}
                    tensors = {"weight": _rows(opened, entry), **scales}
                    read += tensors["weight"].nbytes
                    yield name, tensors
            read = 0


def _open(file: Path) -> Any:
    from safetensors import safe_open

    from .gguf_files import GGUFTensors

    with file.open("rb") as stream:
        return GGUFTensors(file) if stream.read(4) == b"GGUF" else safe_open(file, framework="pt")


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
    """Raise CheckpointError where names or shapes of entries and module differ. Tied weights may be left out."""
    wanted = {k: tuple(v.shape) for k, v in module.state_dict().items()}
    tied = getattr(module, "_tied_weights_keys", None) or {}
    missing = sorted(k for k in set(wanted) - set(entries) if k not in tied)
    extra = sorted(set(entries) - set(wanted))
    wrong = sorted(k for k in set(wanted) & set(entries) if wanted[k] != entries[k].shape)
    if missing or extra or wrong:
        name = next((e.file.name for e in entries.values()), message("the_file"))
        counted = lambda keys: {"count": len(keys), "names": ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")}
        told = [
            *([message("keys_missing", **counted(missing))] if missing else ()),
            *([message("keys_unexpected", **counted(extra))] if extra else ()),
            *([message("keys_reshaped", **counted(wrong))] if wrong else ()),
        ]
        raise CheckpointError(
            message("does_not_fit", file=name, network=type(module).__name__, differences=listed(told)),
            message("nothing_loaded"),
        )


class Config(dict[str, Any]):
    """A config as on disk. Asked for an entry that it lacks, it raises CheckpointError with the file's name."""

    def __init__(self, entries: Mapping[str, Any], name: str) -> None:
        super().__init__(entries)
        self.name = name

    def __missing__(self, key: str) -> Any:
        raise CheckpointError(message("file_incomplete", file=self.name, key=key), message("download_again"))


def load_config(folder: Path, name: str = "config.json") -> Config:
    """A diffusers or transformers config."""
    file = folder / name
    if not file.exists():
        raise CheckpointError(
            message("config_missing", parent=folder.parent.name, folder=folder.name, file=name),
            message("download_folder"),
        )
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(
            message("not_json", folder=file.parent.name, file=name), message("download_again")
        ) from error
    if not isinstance(config, dict):
        raise CheckpointError(message("no_entries", folder=file.parent.name, file=name), message("download_again"))
    return Config(config, f"{file.parent.name}/{name}")


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its final name, under which it is whole after a power cut too, or not there."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        with suppress(OSError):  # some network file systems cannot
            os.fsync(folder)
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whatever happens meanwhile."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)
