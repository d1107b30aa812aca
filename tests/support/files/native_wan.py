"""Wan's network as the host's own class makes it, and one forward of the host's and of ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.tests.support.files.files import (
    KINDS,
    as_written,
    read_network,
)
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.training.tiny_models import seeded

WIDTH, TEXT = 256, 64


def native(kind: str) -> Any:
    with host_classes(), seeded(1):
        import comfy.ops
        from comfy.ldm.wan.model import VaceWanModel, WanModel

        common = dict(
            in_dim={"i2v": 36}.get(kind, 16),
            out_dim=16,
            dim=WIDTH,
            ffn_dim=512,
            num_heads=2,
            num_layers=4,
            text_len=512,
            text_dim=TEXT,
            operations=comfy.ops.disable_weight_init,
            dtype=torch.float32,
            device="cpu",
        )
        network = VaceWanModel(vace_layers=2, vace_in_dim=96, **common) if kind == "vace" else WanModel(kind, **common)
        randomised(network)
    return network.eval().requires_grad_(False)


def inputs(kind: str) -> dict[str, Any]:
    with seeded(2):
        x, text = torch.randn(1, 36 if kind == "i2v" else 16, 2, 4, 4), torch.randn(1, 512, TEXT)
        return dict(
            x=x,
            time=torch.tensor([500.0]),
            text=text,
            image=torch.randn(1, 257, 1280),
            control=torch.randn(1, 96, 2, 4, 4),
        )


def theirs(model: Any, kind: str) -> torch.Tensor:
    i = inputs(kind)
    more = dict(clip_fea=i["image"]) if kind == "i2v" else {}
    more |= dict(vace_context=i["control"][None].movedim(0, 1), vace_strength=[1.0]) if kind == "vace" else {}
    return model(i["x"], i["time"], i["text"], **more)


def ours(model: Any, kind: str) -> torch.Tensor:
    i = inputs(kind)
    more = dict(encoder_hidden_states_image=i["image"]) if kind == "i2v" else {}
    more |= dict(control_hidden_states=i["control"]) if kind == "vace" else {}
    with torch.no_grad():
        return model(
            hidden_states=i["x"], timestep=i["time"], encoder_hidden_states=i["text"], return_dict=False, **more
        )[0]


def differ(file: Path, kind: str, file_kind: str) -> tuple[float, float, Any, Any]:
    """(largest differences of one forward to the host's, and networks, with weights kept small and widened)."""
    model = native(kind)
    numbers = KINDS[file_kind](file, model.state_dict())
    with as_written(model, numbers):
        expected = theirs(model, kind)
    assert expected.abs().max() > 0.1
    kept, wide = read_network(wan_files, file), read_network(wan_files, file, small=False)
    return (*((ours(network, kind) - expected).abs().max().item() for network in (kept, wide)), kept, wide)
