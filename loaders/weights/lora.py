"""LoRA files in the three forms that people have, as additions to what a network's layers give.

W' = W + strength * alpha / rank * up @ down (Hu et al. 2021). Nothing is merged: a layer's weight stays as it is, in
whatever type it is held, and a hook adds the LoRA's part for the length of a run. So a change of strength reads nothing
anew, and a model without the LoRA shares the same weights.

Key forms: diffusers (`transformer.blocks.0.attn1.to_q.lora_A.weight`), ComfyUI and the makers' own
(`diffusion_model.blocks.0.self_attn.q.lora_down.weight`), Kohya and musubi
(`lora_unet_blocks_0_self_attn_q.lora_down.weight`).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..messages import CheckpointError, Origin, message
from ..parts import Network, Part
from .entry import Entry
from .format import CheckpointFormat, Entries
from .modules import read_tensors
from .safetensors import read_file

DOWN, UP = ("lora_A", "lora_down"), ("lora_B", "lora_up")
_PREFIX = re.compile(r"^(base_model\.model\.|transformer\.|unet\.|diffusion_model\.|model\.diffusion_model\.)+")
_KOHYA = re.compile(r"^(lora_unet|lora_transformer|lycoris)_")
_CONVOLUTIONS: dict[type[nn.Module], Any] = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
_ENDINGS = re.compile(r"\.(?:(lora_A|lora_down|lora_B|lora_up)(?:\.default)?(?:\.weight)?|(alpha|diff|diff_b))$")


@dataclass(frozen=True)
class LoRA:
    """A LoRA on a model. strength: how much it counts; low_noise: the same for the expert for low noise."""

    file: Path
    strength: float
    low_noise: float
    deltas: Mapping[str, Delta] = field(repr=False, hash=False, compare=False)  # layer of the network -> what is added
    node: Origin | None = field(default=None, compare=False, repr=False)

    def of(self, part: str) -> float:
        return self.low_noise if part == "transformer_2" else self.strength


@dataclass(frozen=True)
class Delta:
    """What one layer gets. down: [rank, in, ...], up: [out, rank], or diff and bias: what is added to its own."""

    down: Entry | None = None
    up: Entry | None = None
    alpha: Entry | None = None
    diff: Entry | None = None
    bias: Entry | None = None


def read_lora(file: Path, form: CheckpointFormat, part: Part) -> Mapping[str, Delta]:
    """Layer of `part` -> what the file adds to it; raises CheckpointError for keys that belong to none of its
    layers."""
    entries, _ = read_file(file)
    layers, strange = _layers(entries), sorted(k for k in entries if not _ENDINGS.search(k))
    if not layers or strange:
        cause = message("lora_strange", keys=_list(strange)) if strange else message("lora_empty")
        raise CheckpointError(message("lora_unusable", file=file.name, cause=cause), message("use_lora_form"))
    named = _name(layers, form, part)
    wrong = [name for name, delta in named.items() if not _fits(name, delta, part)]
    if wrong:
        rule = message("lora_does_not_fit", file=file.name, wrong=len(wrong), count=len(named), names=_list(wrong))
        raise CheckpointError(rule, message("use_lora_of_family"))
    return named


def _list(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")


def _layers(entries: Mapping[str, Entry]) -> dict[str, Delta]:
    """The file's own layer names -> their deltas."""
    roles = {
        **dict.fromkeys(DOWN, "down"),
        **dict.fromkeys(UP, "up"),
        "alpha": "alpha",
        "diff": "diff",
        "diff_b": "bias",
    }
    layers: dict[str, Delta] = {}
    for key, entry in entries.items():
        if ending := _ENDINGS.search(key):
            name = key[: ending.start()]
            layers[name] = replace(layers.get(name, Delta()), **{roles[ending[1] or ending[2]]: entry})
    return layers


def _name(layers: Mapping[str, Delta], form: CheckpointFormat, part: Part) -> dict[str, Delta]:
    """The network's layer names -> deltas; fused layers are divided as the family's files are."""
    known = {name.rpartition(".")[0] for name in part.tensors}
    by_underscores = {name.replace(".", "_"): name for name in known}
    plain: dict[str, Delta] = {}
    for name, delta in layers.items():
        short = _PREFIX.sub("", name)
        if _KOHYA.match(name):
            flat = _KOHYA.sub("", name)
            short = by_underscores.get(flat) or _dotted(flat, form.underscored)
        plain[short] = delta
    if all(name in known for name in plain):
        return plain
    return _divided(plain, lambda entries: form.rename(entries, part.tensors))


def _dotted(flat: str, words: tuple[str, ...]) -> str:
    """Kohya's underscores as dots, but for those inside the makers' own words."""
    for word in sorted(words, key=len, reverse=True):
        flat = re.sub(rf"(?<![a-z]){word}(?![a-z])", word.replace("_", "\0"), flat)
    return flat.replace("_", ".").replace("\0", "_")


def _divided(layers: Mapping[str, Delta], rename: Callable[[Entries], Entries]) -> dict[str, Delta]:
    """The deltas under the network's names. Renaming works on rows, so what it does to a weight it does to `up`, `diff`
    and `bias`; an incomplete LoRA pair keeps its name, by which it is refused later."""
    divided = {name: d for name, d in layers.items() if (d.up or d.diff or d.bias) is None}
    for role, ending in (("up", "weight"), ("diff", "weight"), ("bias", "bias")):
        entries = {f"{name}.{ending}": getattr(d, role) for name, d in layers.items() if getattr(d, role) is not None}
        owner = {entry.key: layers[key.rpartition(".")[0]] for key, entry in entries.items()}
        for key, entry in rename(entries).items():
            name = key.rpartition(".")[0]
            delta = owner[entry.key]
            shared = {"down": delta.down, "alpha": delta.alpha} if role == "up" else {}
            divided[name] = replace(divided.get(name, Delta()), **{role: entry}, **shared)
    return divided


def _fits(name: str, delta: Delta, part: Part) -> bool:
    """Whether the network has the layer, in these sizes."""
    weight, bias = part.tensors.get(f"{name}.weight"), part.tensors.get(f"{name}.bias")
    if (delta.down is None) != (delta.up is None) or delta == Delta():
        return False
    if delta.alpha is not None and math.prod(delta.alpha.shape) != 1:
        return False
    if delta.down is not None and not delta.down.shape[0]:
        return False
    if delta.down is not None and delta.up is not None:
        product = (delta.up.shape[0], *delta.down.shape[1:])
        if product != weight or delta.up.shape[1] != delta.down.shape[0]:
            return False
    return (delta.diff is None or delta.diff.shape == weight) and (delta.bias is None or delta.bias.shape == bias)


# ---------------------------------------------------------------- in a run


@contextmanager
def applied(network: nn.Module, part: str, loras: tuple[LoRA, ...]) -> Iterator[None]:
    """The network with these LoRAs, for the length of the block."""
    handles = []
    try:
        for lora in (lora for lora in loras if lora.of(part)):
            for name, tensors in _load(lora.deltas).items():
                hook = partial(_add, tensors, lora.of(part))
                handles.append(network.get_submodule(name).register_forward_hook(hook))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _load(deltas: Mapping[str, Delta]) -> dict[str, dict[str, Tensor]]:
    """Layer -> the tensors of its delta; `up` is multiplied with alpha / rank."""
    roles = ("down", "up", "alpha", "diff", "bias")
    wanted = {
        f"{name}\0{role}": getattr(d, role)
        for name, d in deltas.items()
        for role in roles
        if getattr(d, role) is not None
    }
    loaded: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(wanted):
        name, _, role = key.partition("\0")
        loaded.setdefault(name, {})[role] = tensor
    for tensors in loaded.values():
        if "up" in tensors:
            rank = tensors["down"].shape[0]
            alpha = float(tensors.pop("alpha", torch.tensor(float(rank))))
            tensors["up"] = tensors["up"] * (alpha / rank)
    return loaded


def _add(
    tensors: dict[str, Tensor], strength: float, layer: Network, inputs: tuple[Tensor, ...], output: Tensor
) -> Tensor:
    """A layer's output with the LoRA's part in it; the tensors stay where and as they were last needed."""
    x = inputs[0]
    for role, tensor in tensors.items():
        if tensor.device != x.device or tensor.dtype != x.dtype:
            tensors[role] = tensor.to(x)
    added: Any = 0.0
    if "up" in tensors:
        added = _through(layer, x, tensors["down"], tensors["up"])
    if "diff" in tensors:
        added = added + _through(layer, x, tensors["diff"], None)
    if "bias" in tensors:
        bias = tensors["bias"]
        added = added + (_per_channel(bias, x) if isinstance(layer, tuple(_CONVOLUTIONS)) else bias)
    if getattr(added, "dtype", None) == output.dtype and added.shape == output.shape:
        return added.mul_(strength).add_(output)  # in place: an MLP's inner layer is wide
    return (output + strength * added).to(output.dtype)


def _per_channel(values: Tensor, x: Tensor) -> Tensor:
    """One number for each channel of x [B, C, ...]."""
    return values.view(-1, *[1] * (x.ndim - 2))


def _through(layer: Network, x: Tensor, first: Tensor, second: Tensor | None) -> Tensor:
    """x through a weight of this layer's kind, then through `second` as a matrix of channels."""
    if isinstance(layer, nn.Linear):
        output = F.linear(x, first)
        return output if second is None else F.linear(output, second)
    for kind, convolve in _CONVOLUTIONS.items():
        if isinstance(layer, kind):
            output = convolve(x, first, None, layer.stride, layer.padding)
            if second is None:
                return output
            return convolve(output, second.reshape(*second.shape[:2], *[1] * (x.ndim - 2)))
    if isinstance(layer, nn.GroupNorm):
        return F.group_norm(x, layer.num_groups, None, None, layer.eps) * _per_channel(first, x)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, None, None, layer.eps) * first
    return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + (layer.eps or math.ulp(1.0))).to(x) * first
