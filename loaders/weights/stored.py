"""Weights that stay as small in memory as they are on disk: fp8, int8, GGUF's blocks, ComfyUI's quantised formats.

A `Stored` layer holds the bytes and widens them to the input's type when it runs. The bytes are held as int8, which
diffusers and transformers leave alone where they would cast their inputs to a weight's type (T5's `wo`, Wan's time
embedding).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .quantised import FORMATS, Coding, Tensors, block_scales, kitchen_computes, kitchen_linear, rotate, round_up

FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
INT8 = "int8"
ROWS = 32  # of a weight that are made smaller at a time
ALIGNED = 128  # bytes; where each tensor of a layer begins, so that any type and any kernel can read it there
BY_NAME = {"fp8": "F8_E4M3", "int8": INT8}  # what a person chooses -> how it is held


def is_small(dtype: str) -> bool:
    """Whether a file's type takes a byte a number or less, so that a layer may hold it as it is."""
    return dtype in FP8 or dtype in FORMATS or is_ggml(dtype)


def is_whole(dtype: str) -> bool:
    """Whether tensors of this type hold whole numbers that stand for themselves, as indices do and weights do not."""
    return dtype == "BOOL" or (dtype[0] in "IU" and dtype[1:].isdigit())


def is_ggml(dtype: str) -> bool:
    """Whether a file's type is one of GGUF's quantised formats."""
    return dtype.startswith(("Q", "IQ"))


def widen(tensors: Tensors, coding: Coding, dtype: torch.dtype) -> Tensor:
    """The numbers that stored bytes stand for, scaled in float32 and then cast.

    tensors: "weight", int8 or uint8 bytes, rows first, and what they are scaled with: "scale", one number or one for
    each row, "block_scale", "input_factor".
    """
    numbers = _numbers(tensors, coding, torch.float32, scaled=True)
    if coding.quantisation.rotation:
        numbers = rotate(numbers, coding.quantisation.rotation)
    if "input_factor" in tensors:
        numbers = numbers * tensors["input_factor"].float()
    return numbers.to(dtype)


def _numbers(tensors: Tensors, coding: Coding, dtype: torch.dtype, scaled: bool) -> Tensor:
    """The weight, rotated if it is; scaled: with its `scale`, without which bfloat16 and float32 hold it exactly."""
    raw, shape, known = tensors["weight"], coding.shape, FORMATS.get(coding.kind)
    if is_ggml(coding.kind):
        return _ggml(raw, coding.kind).reshape(shape).to(dtype)
    numbers = known.numbers(raw, dtype) if known else raw.view(FP8.get(coding.kind, torch.int8)).to(dtype)
    scale = tensors["scale"].float().reshape(-1, *[1] * (len(shape) - 1)) if scaled and "scale" in tensors else None
    if known is not None and known.block:
        blocks = block_scales(tensors, coding)
        factor = (blocks if scale is None else scale * blocks).to(dtype)
        return (numbers.unflatten(1, (-1, known.block)) * factor[..., None]).reshape(shape)
    return numbers.reshape(shape) if scale is None else numbers.reshape(shape) * scale


def _ggml(raw: Tensor, kind: str) -> Tensor:
    import gguf
    from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

    packed = GGUFParameter(raw.view(torch.uint8), quant_type=gguf.GGMLQuantizationType[kind])
    return dequantize_gguf_tensor(packed)


def narrow(weight: Tensor, kind: str) -> dict[str, Tensor]:
    """A weight [out, in] as "weight", bytes, and "scale" of each row: its largest number becomes the type's largest.

    It goes by a few rows at a time, so that the float32 numbers between take no room to speak of.
    """
    top = 127.0 if kind == INT8 else torch.finfo(FP8[kind]).max
    small = torch.empty(weight.shape, dtype=torch.int8)
    scales = torch.empty(len(weight), 1)
    for rows, scale, numbers in zip(*(t.split(ROWS) for t in (weight, scales, small)), strict=True):
        scale.copy_(rows.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / top)
        exact = rows.float() / scale
        numbers.copy_(exact.round().to(torch.int8) if kind == INT8 else exact.to(FP8[kind]).view(torch.int8))
    return {"weight": small, "scale": scales.squeeze(1)}


Places = tuple[tuple[str, int, torch.dtype, torch.Size], ...]  # name, first byte, type and shape of each tensor


def pack(tensors: Tensors) -> tuple[Tensor, Places]:
    """All tensors of a layer as int8 [bytes] in one piece, which a memory manager moves as one; and where they lie."""
    places, end = [], 0
    for name, tensor in tensors.items():
        places.append((name, end, tensor.dtype, tensor.shape))
        end += round_up(tensor.nbytes, ALIGNED)
    flat = [tensor.contiguous().view(-1).view(torch.int8) for tensor in tensors.values()]
    whole = flat[0] if len(flat) == 1 else torch.cat([F.pad(t, (0, -len(t) % ALIGNED)) for t in flat])
    return whole, tuple(places)


def unpack(whole: Tensor, places: Places) -> dict[str, Tensor]:
    """The tensors of `pack`, as views."""
    tensors = {}
    for name, start, dtype, shape in places:
        tensors[name] = whole[start : start + dtype.itemsize * shape.numel()].view(dtype).view(shape)
    return tensors


class Stored(nn.Linear):
    """A linear layer that holds its weight, with its scales, as bytes. weight: int8 [bytes], see `pack`."""

    def __init__(self, layer: nn.Linear, tensors: Tensors, coding: Coding) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.coding = layer.in_features, layer.out_features, coding
        whole, self.places = pack(tensors)
        self.weight = nn.Parameter(whole, requires_grad=False)
        self.bias = layer.bias

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input)
        return self.compute(input, self.weight.to(input.device), bias)

    def compute(self, input: Tensor, raw: Tensor, bias: Tensor | None) -> Tensor:
        """input [..., in] through the layer. raw: `weight`, and bias, wherever they are needed.

        Widened, the numbers are cast straight to the input's type, which holds them exactly, and what they are scaled
        with is multiplied onto the output, which has far fewer numbers (float16 would overflow there). A rotated weight
        meets its input rotated.
        """
        x, tensors = input, unpack(raw, self.places)
        if "input_factor" in tensors:
            x = x * tensors["input_factor"].to(x.dtype)
        if self._kitchen_takes(x):
            return kitchen_linear(x, tensors, bias, self.coding)
        if self.coding.quantisation.rotation:
            x = rotate(x, self.coding.quantisation.rotation)
        half = x.dtype == torch.float16
        scale = None if half else tensors.get("scale")
        weight = _numbers(tensors, self.coding, torch.float32 if half else x.dtype, scaled=half)
        if scale is None:
            return F.linear(x, weight.to(x.dtype), bias)
        output = F.linear(x, weight).mul_(scale.flatten())
        return output if bias is None else output.add_(bias)

    def _kitchen_takes(self, x: Tensor) -> bool:
        kind = self.coding.kind
        if kind not in FORMATS or self.coding.quantisation.exact or self.out_features % FORMATS[kind].align:
            return False
        return kitchen_computes(kind, x.device)
