"""ComfyUI's formats of quantised linear layers: what their bytes stand for, and comfy-kitchen's kernels for them.

A layer `x` of such a file has `x.comfy_quant`, JSON that names its format, and scales beside its bytes `x.weight`.
Sources: ComfyUI 0.30 (comfy/quant_ops.py, comfy/ops.py) and comfy-kitchen 0.2.26 (tensor/, float_utils.py) for the
formats; OCP Microscaling Formats 1.0 for E2M1 and E8M0; arXiv 2512.03673 for ConvRot; NVIDIA cuBLAS, "1D block scaling
factors layout", for the order of block scales.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..messages import either, message
from ..parts import Config

Tensors = Mapping[str, Tensor]  # "weight": the bytes of a layer; "scale", "block_scale", ...: what belongs to them
TILE = 128, 4  # rows and columns of block scales that lie together
_ROTATIONS = (4, 16, 64, 256, 1024)
INT4 = (*range(8), *range(-8, 0))
E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)


@dataclass(frozen=True)
class Quantisation:
    """What a layer's `comfy_quant` says beside its format.

    rotation: columns that ConvRot rotated together, 0: none; exact: it asks for widened weights even where the card
    could compute in the format; integers: what comfy-kitchen computes 4-bit integers as, "int4" or "int8".
    """

    rotation: int = 0
    exact: bool = False
    integers: str = "int4"


UNROTATED = Quantisation()


@dataclass(frozen=True)
class Coding:
    """How the bytes of a weight are to be read.

    kind: a type as a file's header names it, "int8", or one of FORMATS; shape: of the numbers that they stand for.
    """

    kind: str
    shape: tuple[int, ...]
    quantisation: Quantisation = UNROTATED


@dataclass(frozen=True)
class Format:
    """A format of ComfyUI's quantised layers.

    storage: types of its bytes, as a file's header names them; scales: what the layer must have -> the ending of its
    key; options: the same for what it may have; numbers: reads the bytes; per_byte: numbers in a byte; align: rows and
    columns are padded to a multiple of this; block: columns that share a block scale, 0: there is none; rotates: by
    ConvRot, if the layer says so; layout: comfy-kitchen's name for it; raw: the type in which comfy-kitchen takes the
    bytes; capability, release: the oldest CUDA card and torch that compute in it; quantises_input: inputs must be in
    it.
    """

    storage: tuple[str, ...]
    scales: dict[str, str]
    numbers: Callable[[Tensor, torch.dtype], Tensor]
    layout: str
    raw: torch.dtype
    capability: tuple[int, int]
    options: dict[str, str] = field(default_factory=dict)
    per_byte: int = 1
    align: int = 1
    block: int = 0
    release: tuple[int, int] = (2, 7)
    rotates: bool = False
    quantises_input: bool = False

    @property
    def endings(self) -> dict[str, str]:
        """What a layer has beside its bytes -> the ending of its key."""
        return {**self.scales, **self.options}


def _pairs(values: tuple[float, ...], low_first: bool) -> Callable[[Tensor, torch.dtype], Tensor]:
    """Reads two numbers of 4 bits from each byte [rows, n] -> [rows, 2 n]."""
    pairs = [(values[byte & 15], values[byte >> 4]) for byte in range(256)]

    @cache
    def table(dtype: torch.dtype) -> Tensor:
        numbers = torch.tensor(pairs, dtype=dtype)
        return numbers if low_first else numbers.flip(1)

    def read(raw: Tensor, dtype: torch.dtype) -> Tensor:
        return F.embedding(raw.view(torch.uint8).int(), table(dtype).to(raw.device)).flatten(1)

    return read


def _cast(storage: torch.dtype) -> Callable[[Tensor, torch.dtype], Tensor]:
    return lambda raw, dtype: raw.view(storage).to(dtype)


INT8, FP8, BYTES = torch.int8, torch.float8_e4m3fn, torch.uint8
SCALE, BLOCKS = {"scale": "weight_scale"}, {"block_scale": "weight_scale"}
TENSOR = {"scale": "weight_scale_2"}
SMOOTHED = {"input_scale": "input_scale", "input_factor": "pre_quant_scale"}
FORMATS: Mapping[str, Format] = {
    "int8_tensorwise": Format(("I8",), SCALE, _cast(INT8), "TensorWiseINT8Layout", INT8, (7, 5), rotates=True),
    "convrot_w4a4": Format(
        ("I8", "U8"), SCALE, _pairs(INT4, True), "TensorCoreConvRotW4A4Layout", INT8, (7, 5), per_byte=2, rotates=True
    ),
    "mxfp8": Format(
        ("F8_E4M3",),
        BLOCKS,
        _cast(FP8),
        "TensorCoreMXFP8Layout",
        FP8,
        (10, 0),
        align=32,
        block=32,
        release=(2, 10),
        quantises_input=True,
    ),
    "nvfp4": Format(
        ("U8",),
        TENSOR | BLOCKS,
        _pairs(E2M1, False),
        "TensorCoreNVFP4Layout",
        BYTES,
        (10, 0),
        SMOOTHED,
        per_byte=2,
        align=16,
        block=16,
        quantises_input=True,
    ),
}
FP8_FORMATS = ("float8_e4m3fn", "float8_e5m2")  # of a scale for all numbers or each row; `storage` knows them


def read_quantisation(config: Config) -> Quantisation:
    """What a layer's `comfy_quant` says; raises ValueError for what its format does not have."""
    params = config.get("params")
    config = {**(params if isinstance(params, dict) else {}), **config}
    kind, rotated = config["format"], bool(config.get("convrot")) or config["format"].startswith("convrot")
    rotation = int(config.get("convrot_groupsize", 256)) if rotated else 0
    if rotation and not FORMATS[kind].rotates:
        raise ValueError(message("format_rotated"))
    if rotation and rotation not in _ROTATIONS:
        raise ValueError(message("format_rotation", rotation=rotation, known=", ".join(map(str, _ROTATIONS))))
    if config.get("num_experts"):
        raise ValueError(message("format_experts"))
    return Quantisation(rotation, bool(config.get("full_precision_matrix_mult")), config.get("linear_dtype", "int4"))


def check_shapes(kind: str, rotation: int, shape: tuple[int, ...], dtype: str, sizes: Mapping[str, int]) -> None:
    """Raise ValueError unless bytes of this shape and type fit the format. sizes: how many numbers each scale has."""
    known = FORMATS[kind]
    if len(shape) != 2 or dtype not in known.storage:
        raise ValueError(message("format_matrix", dtype=dtype, shape=list(shape), storage=either(*known.storage)))
    rows, columns = shape[0], shape[1] * known.per_byte
    if rotation and columns % rotation:
        raise ValueError(message("format_columns_rotation", columns=columns, count=rotation))
    if known.block and columns % known.block:
        raise ValueError(message("format_columns_blocks", columns=columns, count=known.block))
    tiles = round_up(rows, TILE[0]) * round_up(columns // known.block, TILE[1]) if known.block else 0
    allowed = {
        "scale": (1,) if known.block else (1, rows),
        "block_scale": (tiles,),
        "input_scale": (1,),
        "input_factor": (columns,),
    }
    for name, size in sizes.items():
        if size not in allowed[name]:
            counts = either(*allowed[name])
            raise ValueError(message("format_numbers", scale=known.endings[name], size=size, counts=counts))


def round_up(number: int, multiple: int) -> int:
    """The smallest multiple that is not below the number."""
    return -(-number // multiple) * multiple


# ---------------------------------------------------------------- scales and rotations


def unswizzled(scales: Tensor, rows: int, columns: int) -> Tensor:
    """Block scales in the order of cuBLAS's tiles -> bytes [rows, columns]."""
    high, wide = TILE
    tiles = dict(R=round_up(rows, high) // high, C=round_up(columns, wide) // wide, a=high // 4, b=4, j=wide)
    return rearrange(scales.view(torch.uint8).flatten(), "(R C a b j) -> (R b a) (C j)", **tiles)[:rows, :columns]


def swizzled(scales: Tensor) -> Tensor:
    """Bytes [rows, columns] -> the order of cuBLAS's tiles, [rows, columns] of whole tiles, padded with zeros."""
    (rows, columns), (high, wide) = scales.shape, TILE
    padded = F.pad(scales, (0, -columns % wide, 0, -rows % high))
    tiles = rearrange(padded, "(R b a) (C j) -> R C a b j", a=high // 4, b=4, j=wide)
    return tiles.reshape(padded.shape)


def block_scales(tensors: Tensors, coding: Coding) -> Tensor:
    """[rows, blocks] in float32."""
    rows, columns = coding.shape
    scales = unswizzled(tensors["block_scale"], rows, columns // FORMATS[coding.kind].block)
    if coding.kind == "mxfp8":  # E8M0 is float32's exponent; 0 stands for 0, as comfy-kitchen has it
        return (scales.int() << 23).view(torch.float32)
    return scales.contiguous().view(FP8).float()


@cache
def _hadamard(size: int, dtype: torch.dtype) -> Tensor:
    """ConvRot's regular Hadamard matrix [size, size], a power of 4: symmetric and its own inverse, of powers of 2. It
    is held on the CPU: what a cache holds on a card would stay there."""
    four = torch.ones(4, 4, dtype=dtype) - 2 * torch.eye(4, dtype=dtype).flip(1)
    matrix = four
    while len(matrix) < size:
        matrix = torch.kron(matrix, four)
    return matrix / size**0.5


def rotate(values: Tensor, size: int) -> Tensor:
    """[..., columns] with each `size` columns rotated together; twice gives what there was."""
    return (values.unflatten(-1, (-1, size)) @ _hadamard(size, values.dtype).to(values.device).T).flatten(-2)


# ---------------------------------------------------------------- comfy-kitchen


def kitchen_computes(kind: str, device: torch.device) -> bool:
    """Whether comfy-kitchen is installed and computes in this format on a device, as the host's own layers would."""
    return device.type == "cuda" and _card_computes(kind, device)


@cache
def _card_computes(kind: str, device: torch.device) -> bool:
    if torch.version.cuda is None:
        return False
    try:
        from comfy_kitchen.tensor import get_layout_class

        get_layout_class(FORMATS[kind].layout)
    except (ImportError, KeyError):  # not installed, or older than the format
        return False
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    return torch.cuda.get_device_capability(device) >= FORMATS[kind].capability and version >= FORMATS[kind].release


def kitchen_linear(input: Tensor, tensors: Tensors, bias: Tensor | None, coding: Coding) -> Tensor:
    """input [..., in] through a layer [out, in] by comfy-kitchen, which makes the input as small as the weight.

    These are the calls of the host's own layers.
    """
    known, (rows, columns) = FORMATS[coding.kind], coding.shape
    weight, flat = kitchen_weight(tensors, coding, input.dtype), input.reshape(-1, columns)
    if known.quantises_input:
        flat = type(weight).from_float(flat, known.layout, scale=tensors.get("input_scale"))
    return F.linear(flat, weight, bias).reshape(*input.shape[:-1], rows)


def kitchen_weight(tensors: Tensors, coding: Coding, dtype: torch.dtype) -> Any:
    """A weight as comfy-kitchen's QuantizedTensor, of the same bytes."""
    from comfy_kitchen.tensor import QuantizedTensor, get_layout_class

    known = FORMATS[coding.kind]
    fields = {**_kitchen_fields(tensors, coding), "orig_dtype": dtype, "orig_shape": coding.shape}
    params = get_layout_class(known.layout).Params(**fields)
    return QuantizedTensor(tensors["weight"].view(known.raw), known.layout, params)


def _kitchen_fields(tensors: Tensors, coding: Coding) -> dict[str, Any]:
    """Fields of comfy-kitchen's layout beside the shape and the type."""
    if coding.kind == "mxfp8":
        return {"scale": tensors["block_scale"].view(torch.float8_e8m0fnu)}
    if coding.kind == "nvfp4":
        return {"scale": tensors["scale"].reshape(()), "block_scale": tensors["block_scale"].view(FP8)}
    quantisation = coding.quantisation
    common = {"scale": tensors["scale"], "convrot_groupsize": quantisation.rotation or 256}
    if coding.kind == "int8_tensorwise":
        return {**common, "convrot": bool(quantisation.rotation)}
    return {**common, "linear_dtype": quantisation.integers}
