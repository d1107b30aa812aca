"""Wan's network with the host's own quantised layers, beside ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.loaders.weights.quantised import (
    FORMATS,
)
from reelwire.loaders.weights.stored import Stored
from reelwire.tests.support.files import (
    QUANTISED,
    as_written,
    host_layer,
    quantised,
    read_network,
    stored_layers,
)
from reelwire.tests.support.native import wan as native_wan
from safetensors.torch import load_file
from torch import Tensor, nn


def with_host_layers(model: Any, file: Path, kind: str) -> Any:
    """The host's network whose quantised layers are its own, with what is in the file."""
    state = load_file(file)
    for key in [key for key in state if key.endswith(".comfy_quant")]:
        name = key.removesuffix(".comfy_quant")
        owner, _, last = name.rpartition(".")
        shape = model.get_submodule(name).weight.shape
        layer = host_layer(torch.ones(shape), kind)
        del layer.weight
        layer.bias = nn.Parameter(torch.empty(shape[0])) if f"{name}.bias" in state else None
        layer.load_state_dict({k.removeprefix(f"{name}."): v for k, v in state.items() if k.startswith(f"{name}.")})
        setattr(model.get_submodule(owner), last, layer.requires_grad_(False))
    return model


class Kitchen(Stored):
    """A layer that comfy-kitchen computes on the CPU too, as the host lets it."""

    def _kitchen_takes(self, x: Tensor) -> bool:
        return True


@torch.no_grad()
def beside_the_host(file: Path, kind: str) -> dict[str, float]:
    """Largest differences of one forward of Wan, as shares of its largest number, from the same file.

    widened: ours to the host's class with the weights that it widens; native: ours to the host's class with its own
    layers, both computed as it computes; inputs: what the small inputs of comfy-kitchen's kernels change.
    """
    native = native_wan.native("t2v")
    numbers = quantised(file, native.state_dict(), kind, whole="time_embedding")  # diffusers keeps it in float32
    ours = read_network(wan_files, file)
    widened = native_wan.ours(ours, "t2v")
    with as_written(native, numbers):
        expected = native_wan.theirs(native, "t2v")
    if not FORMATS[QUANTISED[kind][0]].quantises_input:
        for layer in stored_layers(ours).values():
            layer.__class__ = Kitchen
    computed = native_wan.ours(ours, "t2v")
    theirs = native_wan.theirs(with_host_layers(native, file, kind), "t2v")
    share = lambda a, b: ((a - b).abs().max() / expected.abs().max()).item()
    return {"widened": share(widened, expected), "native": share(computed, theirs), "inputs": share(computed, widened)}
