"""Writes single-file checkpoints of every kind from a dict of weights, and reads their networks."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.weights.entry import strip_prefix
from reelwire.loaders.weights.find import NETWORK_PREFIXES
from reelwire.loaders.weights.safetensors import read_file
from reelwire.loaders.weights.stored import Stored
from safetensors.torch import save_file
from torch import Tensor, nn

State = Mapping[str, Tensor]
E4M3 = torch.float8_e4m3fn


def _linear(name: str, value: Tensor) -> bool:
    """What published fp8 and GGUF files make small: the weights of linear layers, but for the first and the last."""
    return value.ndim == 2 and name.endswith(".weight") and min(value.shape) >= 32


def plain(file: Path, state: State, dtype: torch.dtype = torch.float32, prefix: str = "", **metadata: str) -> State:
    """(The numbers that the file holds.)"""
    save_file({prefix + k: v.to(dtype).contiguous() for k, v in state.items()}, file, metadata or None)
    return {k: v.to(dtype).float() for k, v in state.items()}


def fp8(file: Path, state: State) -> State:
    """Plain casts to fp8, without scales."""
    tensors = {k: v.to(E4M3) if _linear(k, v) else v for k, v in state.items()}
    save_file({k: v.contiguous() for k, v in tensors.items()}, file)
    return {k: v.float() for k, v in tensors.items()}


def scaled_fp8(file: Path, state: State, new: bool = False, prefix: str = "") -> State:
    """Both formats of ComfyUI: `scaled_fp8` and `x.scale_weight`; new: `x.comfy_quant` and `x.weight_scale`."""
    written, numbers = ({} if new else {"scaled_fp8": torch.zeros(2, dtype=E4M3)}), {}
    for name, value in state.items():
        written[name], numbers[name] = value, value
        if _linear(name, value):
            scale = (value.abs().max() / 448).float().clamp(min=1e-12)
            written[name] = (value / scale).to(E4M3)
            numbers[name] = written[name].float() * scale
            layer = name.removesuffix(".weight")
            if new:
                comfy_quant = json.dumps({"format": "float8_e4m3fn"}).encode()
                written |= {
                    f"{layer}.weight_scale": scale,
                    f"{layer}.comfy_quant": torch.frombuffer(bytearray(comfy_quant), dtype=torch.uint8),
                }
            else:
                written |= {f"{layer}.scale_weight": scale, f"{layer}.scale_input": torch.tensor(1.0)}
    save_file({prefix + k if k != "scaled_fp8" else k: v.contiguous() for k, v in written.items()}, file)
    return numbers


def gguf(file: Path, state: State, kind: str = "Q8_0", architecture: str = "wan") -> State:
    """As ComfyUI-GGUF's converter does it: linear weights quantised, tensors of five axes folded to four."""
    import gguf as library

    writer, numbers = library.GGUFWriter(str(file), architecture), {}
    for name, value in state.items():
        data, shape = value.float(), tuple(value.shape)
        if len(shape) > 4:
            writer.add_array(f"comfy.gguf.orig_shape.{name}", [int(n) for n in shape])
            data = data.reshape(shape[0], shape[1], shape[2] * shape[3], shape[4])
        if _linear(name, value) and value.shape[1] % 256 == 0:
            quantisation = library.GGMLQuantizationType[kind]
            blocks = library.quants.quantize(data.numpy(), quantisation)
            writer.add_tensor(name, blocks, raw_dtype=quantisation)
            numbers[name] = torch.from_numpy(library.quants.dequantize(blocks, quantisation)).reshape(shape)
        else:
            writer.add_tensor(name, data.numpy())
            numbers[name] = value.float()
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    return numbers


# kind -> ComfyUI's name of the format, and what its quantiser is asked for
QUANTISED: dict[str, tuple[str, dict[str, Any]]] = {
    "int8": ("int8_tensorwise", {}),
    "int8 rows": ("int8_tensorwise", {"per_channel": True}),
    "int8 convrot": ("int8_tensorwise", {"per_channel": True, "convrot": True}),
    "w4a4": ("convrot_w4a4", {}),
    "mxfp8": ("mxfp8", {}),
    "nvfp4": ("nvfp4", {}),
}


def host_layer(weight: Tensor, kind: str) -> Any:
    """A layer of the host's own with this weight [out, in], made small by its quantiser and computed in float32.

    On a CPU it widens what PyTorch cannot multiply there, mxfp8 and nvfp4, and makes its inputs small for the others.
    """
    from reelwire.tests.support.files.native import host_classes

    with host_classes():
        import comfy.ops
        from comfy.quant_ops import QUANT_ALGOS, QuantizedTensor

    name, asked = QUANTISED[kind]
    rows, columns = weight.shape
    if "convrot" in asked or name.startswith("convrot"):
        asked = {**asked, "convrot_groupsize": 256 if columns % 256 == 0 else 16}
    layout = QUANT_ALGOS[name]["comfy_tensor_layout"]
    kinds = comfy.ops.mixed_precision_ops(
        {"mixed_ops": True}, torch.float32, full_precision_mm=name in ("mxfp8", "nvfp4")
    )
    layer = kinds.Linear(columns, rows, bias=False)
    layer.quant_format, layer.layout_type = name, layout
    small = QuantizedTensor.from_float(weight.float(), layout, **asked)
    layer.weight = torch.nn.Parameter(small, requires_grad=False)
    return layer


def quantised(file: Path, state: State, kind: str, prefix: str = "", whole: str = " ") -> State:
    """ComfyUI's formats, written by its own layers; the numbers are those that it widens its weights to.

    whole: a part of the names that are left as they are, as zeros are: the host makes them NaN.
    """
    written: dict[str, Tensor] = {}
    numbers: dict[str, Tensor] = {}
    for name, value in state.items():
        numbers[name] = value
        if _linear(name, value) and value.shape[1] % 64 == 0 and whole not in name and value.any():
            layer = host_layer(value, kind)
            written |= layer.state_dict(prefix=name.removesuffix("weight"))
            numbers[name] = layer.weight.dequantize()
        else:
            written[name] = value
    save_file({prefix + k: v.detach().clone().contiguous() for k, v in written.items()}, file)
    return numbers


KINDS: dict[str, Callable[[Path, State], State]] = {
    "fp32": plain,
    "bf16 with a prefix": lambda file, state: plain(file, state, torch.bfloat16, "model.diffusion_model."),
    "fp16": lambda file, state: plain(file, state, torch.float16),
    "fp8": fp8,
    "scaled fp8, old": scaled_fp8,
    "scaled fp8, new": lambda file, state: scaled_fp8(file, state, new=True, prefix="model.diffusion_model."),
    "GGUF Q8_0": gguf,
    "GGUF Q4_0": lambda file, state: gguf(file, state, "Q4_0"),
    **{kind: partial(quantised, kind=kind) for kind in QUANTISED},
}
SMALL = tuple(kind for kind in KINDS if kind.startswith(("fp8", "scaled", "GGUF")) or kind in QUANTISED)


def read_network(module: Any, file: Path, small: bool = True) -> Any:
    """The network of a file by the reader of its family, in float32; small: layers keep what the file holds."""
    entries, metadata = read_file(file)
    weights = module.transformer(strip_prefix(entries, *NETWORK_PREFIXES), {**metadata, "file": file.name})
    return weights.build(torch.float32, small, "", lambda *_: None)


@contextmanager
def as_written(native: Any, numbers: State) -> Iterator[Any]:
    """The host's own module with the numbers that a file holds."""
    native.load_state_dict({k: numbers.get(k, v) for k, v in native.state_dict().items()})
    with torch.no_grad():
        yield native


def stored_layers(network: nn.Module) -> dict[str, Stored]:
    return {name: layer for name, layer in network.named_modules() if isinstance(layer, Stored)}


def train_pieces(folder: Path, sentences: Iterable[str], size: int) -> Path:
    """T5's kind of SentencePiece model, of so many pieces, as `spiece.model` in a folder."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_prefix=str(folder / "spiece"),
        vocab_size=size,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    return folder / "spiece.model"
