"""Weights that stay as small in memory as they are on disk: fp8 with a scale, int8 by rows, GGUF's blocks.

A `Stored` layer holds the bytes and widens them to the input's type when it runs. The bytes are held as int8, which
diffusers and transformers leave alone where they would cast their inputs to a weight's type (T5's `wo`, Wan's time
embedding).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

FP8 = {"F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2}
INT8 = "int8"
ROWS = 32  # of a weight that are made smaller at a time
BY_NAME = {"fp8": "F8_E4M3", "int8": INT8}  # what a person chooses -> how it is held


def is_small(dtype: str) -> bool:
    """Whether a file's type takes a byte a number or less, so that a layer may hold it as it is."""
    return dtype in FP8 or is_ggml(dtype)


def is_ggml(dtype: str) -> bool:
    return dtype.startswith(("Q", "IQ"))


def widen(raw: Tensor, kind: str, scale: Tensor | None, dtype: torch.dtype, shape: tuple[int, ...]) -> Tensor:
    """The numbers that stored bytes stand for, scaled in float32.

    raw: int8 or uint8 bytes, rows first; kind: a type as a file's header names it, or "int8"; scale: one number, or one
    for each row.
    """
    if is_ggml(kind):
        import gguf
        from diffusers.quantizers.gguf.utils import GGUFParameter, dequantize_gguf_tensor

        blocks = GGUFParameter(raw.view(torch.uint8), quant_type=gguf.GGMLQuantizationType[kind])
        return dequantize_gguf_tensor(blocks).reshape(shape).to(dtype)
    numbers = (raw.view(FP8[kind]) if kind in FP8 else raw.view(torch.int8)).reshape(shape)
    if scale is None:
        return numbers.to(dtype)
    return (numbers.to(torch.float32) * scale.float().reshape(-1, *[1] * (len(shape) - 1))).to(dtype)


def narrow(weight: Tensor, kind: str) -> tuple[Tensor, Tensor]:
    """(bytes, scale of each row) of a weight [out, in]: its largest number becomes the type's largest.

    It goes by a few rows at a time, so that the float32 numbers between take no room to speak of.
    """
    top = 127.0 if kind == INT8 else torch.finfo(FP8[kind]).max
    made, scales = torch.empty(weight.shape, dtype=torch.int8), torch.empty(len(weight), 1)
    for rows, scale, numbers in zip(*(t.split(ROWS) for t in (weight, scales, made)), strict=True):
        scale.copy_(rows.float().abs().amax(1, keepdim=True).clamp(min=1e-12) / top)
        exact = rows.float() / scale
        numbers.copy_(exact.round().to(torch.int8) if kind == INT8 else exact.to(FP8[kind]).view(torch.int8))
    return made, scales.squeeze(1)


class Stored(nn.Linear):
    """A linear layer that holds its weight as bytes. weight: int8 [out, bytes of a row]; scale: [1], [out] or None."""

    comfy_cast_weights = False  # tells ComfyUI's manager that the layer computes wherever its weight lies
    scale: Tensor | None
    weight_function: tuple[Any, ...] = ()
    bias_function: tuple[Any, ...] = ()

    def __init__(self, layer: nn.Linear, raw: Tensor, kind: str, scale: Tensor | None) -> None:
        nn.Module.__init__(self)
        self.in_features, self.out_features, self.kind = layer.in_features, layer.out_features, kind
        self.weight = nn.Parameter(raw.reshape(self.out_features, -1).view(torch.int8), requires_grad=False)
        self.bias = layer.bias
        self.register_buffer("scale", scale, persistent=False)

    def forward(self, input: Tensor) -> Tensor:
        bias = None if self.bias is None else self.bias.to(input)
        return self.compute(input, self.weight.to(input.device), bias)

    def compute(self, input: Tensor, raw: Tensor, bias: Tensor | None) -> Tensor:
        """input [..., in] through the layer. raw: `weight`, and bias, wherever they are needed.

        Numbers of 8 bits are cast straight to the input's type, which holds them exactly, and what they are scaled with
        is multiplied onto the output: it has far fewer numbers than the weight. float16 would overflow there.
        """
        shape = (self.out_features, self.in_features)
        scale = None if self.scale is None else self.scale.to(raw.device).flatten()
        if scale is None or input.dtype == torch.float16:
            return F.linear(input, widen(raw, self.kind, scale, input.dtype, shape), bias)
        output = F.linear(input, widen(raw, self.kind, None, input.dtype, shape)).mul_(scale)
        return output if bias is None else output.add_(bias)
