"""Networks of CogVideoX, LTX-Video and SVD as the host's own classes make them, and a forward of both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families.cogvideox import checkpoint as cogvideox_files
from reelwire.loaders.families.ltx import checkpoint as ltx_files
from reelwire.loaders.families.svd import checkpoint as svd_files
from reelwire.tests.support.files.files import KINDS, as_written, read_network
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.tests.support.files.native_svd_cogvideox import COGVIDEOX, TEXT, compute, native_cogvideox, native_unet
from reelwire.training.tiny_models import seeded
from torch import Tensor

Pair = tuple[Tensor, Tensor]


def cogvideox() -> Any:
    tiny = dict(num_attention_heads=4, num_layers=2, text_embed_dim=TEXT, time_embed_dim=64)
    return native_cogvideox({**tiny, **COGVIDEOX["1.5-5b"]})


def unet_forward(ours: Any, theirs: Any) -> Pair:
    frames, time, ids = 3, torch.tensor(0.7), torch.tensor([[6.0, 127.0, 0.02]])
    with seeded(2):
        x, look = torch.randn(1, frames, 8, 8, 8), torch.randn(1, 1, TEXT)
    times = ours.add_time_proj(ids.flatten()).reshape(1, -1)
    expected = theirs(
        x[0],
        time.repeat(frames),
        look.repeat(frames, 1, 1),
        times.repeat(frames, 1),
        num_video_frames=frames,
        image_only_indicator=torch.zeros(1),
    )
    return ours(x, time, encoder_hidden_states=look, added_time_ids=ids, return_dict=False)[0][0], expected


def ltx() -> Any:
    with host_classes(), seeded(1):
        import comfy.ops
        from comfy.ldm.lightricks.model import LTXVModel

        network = LTXVModel(
            in_channels=8,
            cross_attention_dim=256,
            attention_head_dim=8,
            num_attention_heads=32,
            caption_channels=64,
            num_layers=2,
            dtype=torch.float32,
            operations=comfy.ops.disable_weight_init,
        )
        randomised(network)
    return network.eval().requires_grad_(False)


def ltx_forward(ours: Any, theirs: Any) -> Pair:
    with seeded(3):
        x, text = torch.randn(1, 8, 2, 3, 4), torch.randn(1, 6, 64)
    mine = ours(
        hidden_states=x.flatten(2).mT,
        encoder_hidden_states=text,
        timestep=torch.tensor([700.0]),
        encoder_attention_mask=torch.ones(1, 6),
        num_frames=2,
        height=3,
        width=4,
        rope_interpolation_scale=(8 / 25, 32, 32),
        return_dict=False,
    )[0]
    expected = theirs(x, torch.tensor([0.7]), text, None, frame_rate=25)
    return mine.mT.reshape(expected.shape), expected


# family -> (its reader, the host's network, one forward of both, tolerance of whole numbers)
NETWORKS = {
    "cogvideox": (cogvideox_files, cogvideox, compute, 1e-4),
    "svd": (svd_files, lambda: native_unet("tiny"), unet_forward, 5e-3),
    "ltx": (ltx_files, ltx, ltx_forward, 1e-4),
}


def differ(file: Path, family: str, file_kind: str) -> tuple[float, float, Any]:
    """(largest difference of one forward to the host's, its largest number, the network)."""
    reader, make, forward, _ = NETWORKS[family]
    theirs = make()
    numbers = KINDS[file_kind](file, theirs.state_dict())
    ours = read_network(reader, file)
    with as_written(theirs, numbers), torch.no_grad():
        mine, expected = forward(ours, theirs)
    return (mine - expected).abs().max().item(), expected.abs().max().item(), ours
