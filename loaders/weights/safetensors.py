"""Headers of checkpoint files, checked strictly and never a pickle; scales go with the tensors that they belong to."""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..messages import CheckpointError as CheckpointError
from ..messages import message, reason_of
from ..parts import Argument, Config, JsonObject
from .entry import Entry, describing, unwrapped
from .json_files import excerpt, open_file, parse_object
from .mapped import BYTES, MappedTensors
from .quantised import FORMATS, FP8_FORMATS, check_shapes, read_quantisation, round_up
from .shards import files_in, shards_of
from .stored import FP8

if TYPE_CHECKING:
    from torch import Tensor

MOST_HEADER = 32 * 2**20  # bytes: trainers put up to 10 MB of notes into one
MOST_TENSORS = 100_000  # published files have some 5000
MOST_QUANT = 4096  # bytes of what a layer says of its quantisation
MOST_AXES = 8  # of a tensor: published ones have five at most
MOST_SIZE = 2**40  # of an axis


def read_header(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors by name, metadata) of a file and of those that it is a shard with; checks that all bytes are there."""
    parts = [_read_one(part) for part in shards_of(file)]
    entries = {key: entry for part, _ in parts for key, entry in part.items()}
    return entries, {name: value for _, metadata in parts for name, value in metadata.items()}


def _read_one(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """The same of one file alone."""
    with open_file(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        start = stream.read(8)
        if start[:4] == b"GGUF":
            from .gguf import read_gguf

            return read_gguf(file)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        fits = 0 < length <= size - 8  # the first bytes alone do not tell: a length may begin as a pickle does
        if file.suffix in (".ckpt", ".pt", ".pth", ".bin") or (
            not fits and start[:2] in (b"PK", b"\x80\x02", b"\x80\x04")
        ):
            raise CheckpointError(message("pickle", file=file.name), message("use_safetensors"))
        if not fits:
            raise _no_checkpoint(file, size, start + stream.read(100))
        try:
            header = parse_object(stream.read(min(length, MOST_HEADER + 1)), MOST_HEADER, unique=True)
            metadata = _metadata(header.pop("__metadata__", {}))
            if len(header) > MOST_TENSORS:
                raise ValueError(len(header))
            entries = {key: Entry(file, key, *_tensor(value)) for key, value in header.items()}
            spans = sorted(_span(value["data_offsets"]) for value in header.values())
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(message("header_damaged", file=file.name), message("download_again")) from error
    _check_spans(file, size - 8 - length, spans, entries.values())
    return entries, metadata


def _no_checkpoint(file: Path, size: int, start: bytes) -> CheckpointError:
    """What to say of a file that holds no tensors. start: its first bytes."""
    text, values = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower(), {"file": file.name, "size": size}
    if text.startswith(b"version https://git-lfs"):
        return CheckpointError(message("file_is_pointer", **values), message("pull_it"))
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return CheckpointError(message("file_is_page", **values), message("download_itself"))
    if start and all(byte in b"\t\r\n" or 32 <= byte < 127 for byte in start):
        return CheckpointError(message("file_is_text", **values), message("download_itself"))
    return CheckpointError(message("damaged_size", **values), message("download_again"))


def _metadata(value: object) -> dict[str, str]:
    """Texts by name, as safetensors' own reader wants them; raises ValueError."""
    if not isinstance(value, dict) or not all(isinstance(text, str) for text in value.values()):
        raise ValueError(excerpt(value))
    return value


def _tensor(value: JsonObject) -> tuple[tuple[int, ...], str]:
    """(shape, dtype) of a row of the header; raises ValueError, KeyError or TypeError for what is none."""
    shape, dtype = value["shape"], value["dtype"]
    if len(shape) > MOST_AXES or dtype not in BYTES or not all(type(n) is int and 0 <= n < MOST_SIZE for n in shape):
        raise ValueError(excerpt(value))
    return tuple(shape), dtype


def _span(offsets: list[int]) -> tuple[int, int]:
    begin, end = offsets
    if not (type(begin) is type(end) is int):
        raise ValueError(excerpt(offsets))
    return begin, end


def _check_spans(file: Path, room: int, spans: list[tuple[int, int]], entries: Iterable[Entry]) -> None:
    """The tensors must fill the data without gaps, and each dtype must be known."""
    end = 0
    for begin, stop in spans:
        if begin != end:
            raise CheckpointError(message("header_gaps", file=file.name), message("download_again"))
        end = stop
    if end != room:
        raise CheckpointError(message("file_short", file=file.name, room=room, end=end), message("download_again"))
    total = sum(math.prod(e.shape) * BYTES.get(e.dtype, 0) for e in entries)
    if total != end:
        raise CheckpointError(message("header_sizes", file=file.name), message("download_again"))


_MARKS = (".comfy_quant", ".scale_input", ".input_scale", "scaled_fp8")  # the numbers do not need them
_SCALES = (".scale_weight", ".weight_scale")
_READABLE = message("use_readable", formats=", ".join(FORMATS))


def read_file(file: Path) -> tuple[dict[str, Entry], dict[str, str]]:
    """(tensors by name, metadata) of a file, each quantised tensor with its scales.

    ComfyUI's formats: `scaled_fp8` with `x.scale_weight`, and `x.comfy_quant` (or `_quantization_metadata` in the
    header) with `x.weight_scale` and what else its format needs, see `quantised`. Raises CheckpointError for a scale
    that belongs to nothing, for a format that is not known, and for numbers that are scaled in another way.
    """
    with describing(file, message("any_model")):
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
            if (
                name not in plain
                or plain[name].dtype not in FP8
                or math.prod(scale.shape) not in (1, plain[name].shape[0])
            ):
                raise CheckpointError(message("stray_scale", file=file.name, scale=key), _READABLE)
            plain[name] = replace(plain[name], scales={"scale": scale})
        for layer in layers:
            if f"{layer}.weight" not in plain or not plain[f"{layer}.weight"].scales:
                raise CheckpointError(message("lacks_scale", file=file.name, layer=layer), _READABLE)
        return unwrapped(plain), metadata


def _quantised_layers(
    file: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Layer -> what the file says of its quantisation, in a tensor beside it or for all layers in the header."""
    marks = [key for key in entries if key.endswith(".comfy_quant")]
    layers: dict[str, dict[str, Any]] = {}
    try:
        listed = parse_object(metadata.get("_quantization_metadata", "{}"), MOST_HEADER).get("layers", {})
        for name, keys in _ending_with(listed, entries).items():
            layers |= {key.removesuffix(".weight"): {**listed[name]} for key in keys}
        for shard in sorted({entries[key].file for key in marks}):
            with WatchedFile(shard) as opened:
                for key in (key for key in marks if entries[key].file == shard):
                    layers[key.removesuffix(".comfy_quant")] = _comfy_quant(opened, entries[key])
    except (ValueError, TypeError, AttributeError) as error:
        raise CheckpointError(
            message("quantisation_untold", file=file.name, error=reason_of(error)), message("download_again")
        ) from error
    for layer, config in layers.items():
        if config.get("format") not in (*FORMATS, *FP8_FORMATS):
            rule = message("format_unknown", file=file.name, layer=layer, format=excerpt(config.get("format")))
            raise CheckpointError(rule, _READABLE)
    return layers


def _ending_with(names: Iterable[str], entries: Mapping[str, Entry]) -> dict[str, list[str]]:
    """Name of a layer -> the keys of its weights, by its whole name or without the prefix of the network."""
    keys: dict[str, list[str]] = {name: [] for name in names}
    for parts in {name.count(".") + 2 for name in keys}:
        for key in entries:
            end = ".".join(key.rsplit(".", parts)[-parts:])
            if end.endswith(".weight") and (name := end.removesuffix(".weight")) in keys:
                keys[name].append(key)
    return keys


def _comfy_quant(opened: Argument, entry: Entry) -> JsonObject:
    """What a layer's `comfy_quant` says; raises ValueError."""
    if math.prod(entry.shape) > MOST_QUANT or entry.dtype != "U8":
        raise ValueError(f"{entry.key}: {entry.dtype} {excerpt(entry.shape)}")
    return parse_object(bytes(opened.get_tensor(entry.key).flatten().tolist()))


def _quantised(file: Path, entries: Mapping[str, Entry], layer: str, config: Config) -> Entry:
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
    return {key: entry for file in files_in(folder) for key, entry in _read_one(file)[0].items()}


class WatchedFile:
    """An open file of tensors that is refused in words once it is another than when it was opened: its pages are
    mapped, and one that is cut meanwhile would end the whole process."""

    def __init__(self, file: Path) -> None:
        from .gguf import GGUFTensors, is_gguf

        self._file = file
        self._opened: Any = None
        with self._reading():
            self._status = _status(file)
            self._opened = (GGUFTensors if is_gguf(file) else MappedTensors)(file)

    def __enter__(self) -> WatchedFile:
        self._opened.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._opened.__exit__(*error)

    def get_tensor(self, key: str) -> Tensor:
        """The tensor as it lies on disk."""
        with self._reading():
            return self._opened.get_tensor(key)

    def get_slice(self, key: str) -> Any:
        """The tensor as it lies on disk, of which slices are read when they are taken."""
        with self._reading():
            return self._opened.get_slice(key)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        from safetensors import SafetensorError

        try:
            if self._opened is not None and _status(self._file) != self._status:
                raise OSError
            yield
        except (OSError, SafetensorError) as error:
            raise CheckpointError(message("file_changed", file=self._file.name), message("load_anew")) from error


def _status(file: Path) -> tuple[int, int, int]:
    """What changes when a file is written to, or another takes its name."""
    status = file.stat()
    return status.st_size, status.st_mtime_ns, status.st_ino
