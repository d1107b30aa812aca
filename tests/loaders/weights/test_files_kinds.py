"""Every kind of file for the families whose layouts have tests of their own: CogVideoX, LTX-Video, SVD."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families.cogvideox import checkpoint as cogvideox_files
from reelwire.loaders.families.ltx import checkpoint as ltx_files
from reelwire.loaders.families.svd import checkpoint as svd_files
from reelwire.loaders.weights.stored import Stored
from reelwire.tests.loaders.weights.test_files_svd_cogvideox import (
    COGVIDEOX,
    TEXT,
    compute,
    native_cogvideox,
    native_unet,
)
from reelwire.tests.support.files import KINDS, SMALL, as_written, read_network
from reelwire.tests.support.native import host_classes, randomised
from reelwire.training.tiny_models import seeded
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def _cogvideox() -> Any:
    tiny = dict(num_attention_heads=4, num_layers=2, text_embed_dim=TEXT, time_embed_dim=64)
    return native_cogvideox({**tiny, **COGVIDEOX["1.5-5b"]})


def _unet(ours: Any, theirs: Any) -> Pair:
    frames, time, ids = 3, torch.tensor(0.7), torch.tensor([[6.0, 127.0, 0.02]])
    with seeded(2):
        x, look = torch.randn(1, frames, 8, 8, 8), torch.randn(1, 1, TEXT)
    told = ours.add_time_proj(ids.flatten()).reshape(1, -1)
    expected = theirs(x[0], time.repeat(frames), look.repeat(frames, 1, 1), told.repeat(frames, 1), num_video_frames=frames,
                      image_only_indicator=torch.zeros(1))  # fmt: skip
    return ours(x, time, encoder_hidden_states=look, added_time_ids=ids, return_dict=False)[0][0], expected


def _ltx() -> Any:
    with host_classes(), seeded(1):
        import comfy.ops
        from comfy.ldm.lightricks.model import LTXVModel

        made = LTXVModel(in_channels=8, cross_attention_dim=256, attention_head_dim=8, num_attention_heads=32, caption_channels=64, num_layers=2,
                         dtype=torch.float32, operations=comfy.ops.disable_weight_init)  # fmt: skip
        randomised(made)
    return made.eval().requires_grad_(False)


def _ltx_forward(ours: Any, theirs: Any) -> Pair:
    with seeded(3):
        x, text = torch.randn(1, 8, 2, 3, 4), torch.randn(1, 6, 64)
    mine = ours(hidden_states=x.flatten(2).mT, encoder_hidden_states=text, timestep=torch.tensor([700.0]), encoder_attention_mask=torch.ones(1, 6),
                num_frames=2, height=3, width=4, rope_interpolation_scale=(8 / 25, 32, 32), return_dict=False)[0]  # fmt: skip
    expected = theirs(x, torch.tensor([0.7]), text, None, frame_rate=25)
    return mine.mT.reshape(expected.shape), expected


# family -> (its reader, the host's network, one forward of both, tolerance of whole numbers)
NETWORKS = {
    "cogvideox": (cogvideox_files, _cogvideox, compute, 1e-4),
    "svd": (svd_files, lambda: native_unet("tiny"), _unet, 5e-3),
    "ltx": (ltx_files, _ltx, _ltx_forward, 1e-4),
}


SVD_KINDS = (
    "fp8",
    "scaled fp8, new",
    "GGUF Q8_0",
    "int8 convrot",
    "nvfp4",
)  # its UNet takes long; wide kinds are in test_files_svd_cogvideox
CASES = [(family, kind) for family in NETWORKS for kind in KINDS if family != "svd" or kind in SVD_KINDS]


def differ(file: Path, family: str, file_kind: str) -> tuple[float, float, Any]:
    """(largest difference of one forward to the host's, its largest number, the network)."""
    reader, make, forward, _ = NETWORKS[family]
    theirs = make()
    numbers = KINDS[file_kind](file, theirs.state_dict())
    ours = read_network(reader, file)
    with as_written(theirs, numbers), torch.no_grad():
        mine, expected = forward(ours, theirs)
    return (mine - expected).abs().max().item(), expected.abs().max().item(), ours


@pytest.mark.parametrize(("family", "file_kind"), CASES)
def test_a_file_computes_what_the_host_computes(tmp_path: Path, family: str, file_kind: str) -> None:
    difference, largest, ours = differ(tmp_path / "network.safetensors", family, file_kind)
    stored = sum(isinstance(layer, Stored) for layer in ours.modules())
    assert (stored > 5) == (file_kind in SMALL)
    assert largest > 0.1
    assert difference < max(NETWORKS[family][3], 2e-3 if "GGUF" in file_kind else 0) * max(1.0, largest)
