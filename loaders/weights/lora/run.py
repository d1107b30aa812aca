"""A network with its LoRAs, for the length of a run.

W' = W + strength * scale * product. Nothing is merged: a layer's weight stays as it is, in whatever type it is held,
and a hook adds the LoRAs' part to what the layer gives. So a change of strength reads nothing anew, and a model without
the LoRA shares the same weights. Parameters that belong to no layer are exchanged, and put back.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from ...parts import Network
from ..modules import read_tensors
from ..stored import Stored, unpack, widen
from .delta import BESIDE, PARAMETER, Delta, Deltas, LoRA, Rows
from .products import FORMS, form_of, kronecker_factors, product, rank_of

_CONVOLUTIONS: dict[type[nn.Module], Any] = {nn.Conv2d: F.conv2d, nn.Conv3d: F.conv3d}
Switch = Callable[[int, int], None]  # (noise level, how many there are)
Addition = tuple[dict[str, Tensor], Rows, float]  # tensors by role, rows of their product, strength


@contextmanager
def applied(
    network: nn.Module, part: str, loras: tuple[LoRA, ...], device: torch.device | None = None
) -> Iterator[Switch]:
    """The network with these LoRAs, for the length of the block. Gives what is to be called before each step: it
    switches those off and on that count for some steps alone. device: where the network computes."""
    run = _Run(network, part, tuple(lora for lora in loras if lora.of(part)), device)
    try:
        run.switch(0, 1)
        yield run.switch
    finally:
        run.end()


class _Run:
    """What the LoRAs add in one run. A LoRA's tensors are read when it is first on."""

    def __init__(self, network: nn.Module, part: str, loras: tuple[LoRA, ...], device: torch.device | None) -> None:
        self._network, self._part, self._loras, self._device = network, part, loras, device
        self._loaded: dict[int, dict[str, dict[str, Tensor]]] = {}
        self._on: tuple[int, ...] = ()
        self._handles: list[RemovableHandle] = []
        self._parameters: dict[str, Tensor] = {}

    def switch(self, level: int, count: int) -> None:
        """Let those LoRAs be on that are at this noise level of so many."""
        on = tuple(i for i, lora in enumerate(self._loras) if _counts(lora, level, count))
        if on == self._on:
            return
        self.end()
        self._on, additions, changes = on, dict[str, list[Addition]](), dict[str, list[tuple[Tensor, float]]]()
        for index in on:
            lora = self._loras[index]
            for name, tensors in self._tensors(index).items():
                strength = lora.of(self._part) * lora.factors.get(name, 1.0)
                if not strength:
                    continue
                if PARAMETER in tensors:
                    changes.setdefault(name, []).append((tensors[PARAMETER], strength))
                else:
                    additions.setdefault(name, []).append((tensors, lora.on(self._part)[name].rows, strength))
        for name, each in additions.items():
            hook = partial(_add, tuple(each))
            self._handles.append(self._network.get_submodule(name).register_forward_hook(hook))
        for name, differences in changes.items():
            self._exchange(name, differences)

    def _tensors(self, index: int) -> dict[str, dict[str, Tensor]]:
        if index not in self._loaded:
            deltas = self._loras[index].on(self._part)
            loaded = _load(deltas)
            for name in [name for name, tensors in loaded.items() if "magnitude" in tensors]:
                _by_rows(self._network, name, deltas, loaded, self._device)
            done = set[str]()
            for name in [name for name, tensors in loaded.items() if "column_magnitude" in tensors]:
                if name not in done:
                    done |= {*_by_columns(self._network, name, deltas, loaded, self._device)}
            self._loaded[index] = loaded
        return self._loaded[index]

    def _exchange(self, name: str, differences: list[tuple[Tensor, float]]) -> None:
        """Put another tensor in the place of a parameter's."""
        parameter = self._network.get_parameter(name)
        self._parameters[name] = parameter.data
        value = parameter.data.float()
        for difference, strength in differences:
            value = value + strength * difference.to(value)
        parameter.data = value.to(parameter.dtype)

    def end(self) -> None:
        """Leave the network as it was."""
        for handle in self._handles:
            handle.remove()
        for name, tensor in self._parameters.items():
            parameter = self._network.get_parameter(name)
            parameter.data = tensor.to(parameter.device)  # it may have been moved meanwhile
        self._handles, self._parameters, self._on = [], {}, ()


def _counts(lora: LoRA, level: int, count: int) -> bool:
    return int(lora.start * count) <= level < int(lora.end * count)


def _load(deltas: Deltas) -> dict[str, dict[str, Tensor]]:
    """Layer -> the tensors of its delta; one factor of a product is multiplied with its scale."""
    wanted = {f"{name}\0{role}": entry for name, d in deltas.items() for role, entry in d.tensors.items()}
    loaded: dict[str, dict[str, Tensor]] = {}
    for key, tensor in read_tensors(wanted):
        name, _, role = key.partition("\0")
        loaded.setdefault(name, {})[role] = tensor
    for name, tensors in loaded.items():
        alpha = tensors.pop("alpha", None)
        scale = _scale(deltas[name], None if alpha is None else float(alpha))
        scaled = [role for role in FORMS[form_of(deltas[name].factors)][1] if role in tensors][:1]
        for role in (*scaled, "up_bias"):
            if role in tensors and scale != 1:
                tensors[role] = tensors[role] * scale
    return loaded


def _scale(delta: Delta, alpha: float | None) -> float:
    """What a product is multiplied with: alpha / rank, or alpha / sqrt(rank)."""
    own = rank_of({role: entry.shape for role, entry in delta.factors.items()})
    if alpha is not None:
        return alpha / own if own else 1.0
    rank = own or delta.rank
    if delta.alpha is None or not rank:
        return 1.0
    return delta.alpha / (math.sqrt(rank) if delta.root else rank)


# ---------------------------------------------------------------- DoRA (Liu et al. 2024, arXiv 2402.09353)


def _weight(layer: nn.Module, device: torch.device | None) -> Tensor:
    """A layer's own weight in float32, however it is held."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    raw = weight.to(device or weight.device)
    if isinstance(layer, Stored):
        return widen(unpack(raw, layer.places), layer.coding, torch.float32)
    return raw.float()


def _changed(layer: nn.Module, tensors: Mapping[str, Tensor], rows: Rows, device: torch.device | None) -> Tensor:
    """W + its product, in float32."""
    weight = _weight(layer, device)
    factors = {role: t.to(weight) for role, t in tensors.items() if role not in BESIDE}
    weight = weight + _rows(product(factors), rows).reshape(weight.shape)
    return weight + tensors["diff"].to(weight) if "diff" in tensors else weight


def _by_rows(
    network: nn.Module,
    name: str,
    deltas: Deltas,
    loaded: dict[str, dict[str, Tensor]],
    device: torch.device | None,
) -> None:
    """Make the magnitudes of outputs what changed rows gain, less 1: m / |W + product| - 1."""
    tensors = loaded[name]
    norm = _changed(network.get_submodule(name), tensors, deltas[name].rows, device).flatten(1).norm(dim=1)
    tensors["magnitude"] = tensors["magnitude"].to(norm) / norm.clamp(min=torch.finfo(norm.dtype).eps) - 1


def _by_columns(
    network: nn.Module,
    name: str,
    deltas: Deltas,
    loaded: dict[str, dict[str, Tensor]],
    device: torch.device | None,
) -> tuple[str, ...]:
    """The same for magnitudes of inputs, which all rows of a fused layer share; gives the layers that have it now."""
    siblings = deltas[name].siblings
    squares: Tensor | float = 0.0
    for each in siblings:
        weight = _changed(network.get_submodule(each), loaded[each], deltas[each].rows, device)
        squares = squares + weight.transpose(0, 1).flatten(1).pow(2).sum(1)
    assert isinstance(squares, Tensor)
    norm = squares.sqrt().clamp(min=torch.finfo(squares.dtype).eps)
    for each in siblings:
        loaded[each]["column_magnitude"] = loaded[each]["column_magnitude"].to(norm) / norm - 1
    return siblings


# ---------------------------------------------------------------- in a layer


def _add(additions: tuple[Addition, ...], layer: Network, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
    """A layer's output with the LoRAs' part in it; their tensors stay where and as they were last needed."""
    x, result = inputs[0], output
    for tensors, rows, strength in additions:
        for role, tensor in tensors.items():
            if tensor.device != x.device or tensor.dtype != x.dtype:
                tensors[role] = tensor.to(x)
        added = _difference(layer, x, output, tensors, rows)
        if added.dtype == result.dtype and added.shape == result.shape:
            result = added.mul_(strength).add_(result)  # in place: an MLP's inner layer is wide
        else:
            result = (result + strength * added).to(result.dtype)
    return result


def _difference(layer: Network, x: Tensor, output: Tensor, tensors: dict[str, Tensor], rows: Rows) -> Tensor:
    """What one LoRA makes of a layer's output, less that output; never a tensor that something else holds."""
    gained = x * _per_channel(tensors["column_magnitude"], x, layer) if "column_magnitude" in tensors else None
    taken = x if gained is None else x + gained
    added: Any = _product_of(layer, taken, tensors, rows)
    if "diff" in tensors:
        added = added + _through(layer, taken, tensors["diff"], None)
    if gained is not None:
        added = added + _without_bias(layer, layer.forward(gained))
    if "magnitude" in tensors:
        gain = _per_channel(tensors["magnitude"], output, layer)
        added = added + gain * (added + _without_bias(layer, output))
    for role in ("bias", "up_bias"):
        if role in tensors:
            added = added + _per_channel(tensors[role], x, layer)
    return added


def _without_bias(layer: Network, output: Tensor) -> Tensor:
    return output if layer.bias is None else output - _per_channel(layer.bias.to(output), output, layer)


def _product_of(layer: Network, x: Tensor, tensors: dict[str, Tensor], rows: Rows) -> Tensor | float:
    """x through the product of a delta's factors; 0 where it has none."""
    if {"down", "up"} <= tensors.keys() and "mid" not in tensors:
        return _through(layer, x, tensors["down"], tensors["up"])
    factors = {role: tensor for role, tensor in tensors.items() if role not in BESIDE}
    if not factors:
        return 0.0
    if form_of(factors) == "lokr_" and isinstance(layer, nn.Linear):
        return _through_kronecker(x, *kronecker_factors(factors), rows)
    weight = _rows(product(factors), rows)
    return _through(layer, x, weight.reshape(_shape(layer, weight)), None)


def _shape(layer: Network, weight: Tensor) -> tuple[int, ...]:
    """The shape that a product must have to be this layer's weight."""
    return (len(weight), -1, *getattr(layer, "kernel_size", ()))


def _through_kronecker(x: Tensor, first: Tensor, second: Tensor, rows: Rows) -> Tensor:
    """x [..., b * d] through kron(first [a, b], second [c, d]) -> [..., a * c], without making the whole."""
    by_column = F.linear(x.unflatten(-1, (first.shape[1], -1)), second.flatten(1))  # [..., b, c]
    output = torch.einsum("...bc,ab->...ac", by_column, first).flatten(-2)
    return torch.cat([output[..., start:end] for start, end in rows], -1) if rows else output


def _rows(weight: Tensor, rows: Rows) -> Tensor:
    return torch.cat([weight[start:end] for start, end in rows]) if rows else weight


def _per_channel(values: Tensor, x: Tensor, layer: Network) -> Tensor:
    """One number for each channel of x: [B, C, ...] of a convolution or a GroupNorm, [..., C] of other layers."""
    second = isinstance(layer, (*_CONVOLUTIONS, nn.GroupNorm))
    return values.view(-1, *[1] * (x.ndim - 2)) if second else values


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
        return F.group_norm(x, layer.num_groups, None, None, layer.eps) * _per_channel(first, x, layer)
    if isinstance(layer, nn.LayerNorm):
        return F.layer_norm(x, layer.normalized_shape, None, None, layer.eps) * first
    return x * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + (layer.eps or math.ulp(1.0))).to(x) * first
