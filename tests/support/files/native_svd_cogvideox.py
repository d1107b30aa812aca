"""Networks of SVD and CogVideoX as the host's own classes make them, and a forward of the host's and of ours."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.training.tiny_models import seeded
from torch import Tensor

TEXT, TOKENS = 32, 226  # width of text, and its length where a table of positions fixes it
VIDEO = dict(
    use_spatial_transformer=True,
    use_linear_in_transformer=True,
    num_heads=-1,
    num_head_channels=64,
    num_classes="sequential",
    use_temporal_attention=True,
    use_temporal_resblock=True,
    extra_ff_mix_layer=True,
    use_spatial_context=True,
    legacy=False,
    merge_strategy="learned_with_images",
    merge_factor=0.0,
    video_kernel_size=[3, 1, 1],
    image_size=32,
    in_channels=8,
    out_channels=4,
)  # what the host tells of every SVD file (comfy/model_detection.py)
UNETS = {
    "tiny": dict(
        model_channels=64,
        channel_mult=(1, 2, 2),
        num_res_blocks=[1, 1, 1],
        transformer_depth=[1, 1, 0],
        transformer_depth_middle=1,
        transformer_depth_output=[1, 1, 1, 1, 0, 0],
        context_dim=TEXT,
        adm_in_channels=96,
    ),
    "published": dict(
        model_channels=320,
        channel_mult=(1, 2, 4, 4),
        num_res_blocks=[2] * 4,
        transformer_depth=[1] * 6 + [0] * 2,
        transformer_depth_middle=1,
        transformer_depth_output=[1] * 9 + [0] * 3,
        context_dim=1024,
        adm_in_channels=768,
    ),
}
COGVIDEOX = {
    "2b": dict(),
    "5b": dict(num_layers=31, use_rotary_positional_embeddings=True),
    "5b-i2v": dict(in_channels=32, use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True),
    "fun-1.1-5b-control": dict(in_channels=32, use_rotary_positional_embeddings=True),
    "1.5-5b": dict(patch_size_t=2, use_rotary_positional_embeddings=True, sample_height=300, sample_width=300),
    "1.5-5b-i2v": dict(
        in_channels=32,
        patch_size_t=2,
        use_rotary_positional_embeddings=True,
        sample_height=300,
        sample_width=300,
        ofs_embed_dim=64,
    ),
}


def native_unet(size: str, device: str = "cpu") -> Any:
    with host_classes(), seeded(1):
        import comfy.ops
        from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

        unet = UNetModel(
            **VIDEO, **UNETS[size], device=device, dtype=torch.float32, operations=comfy.ops.disable_weight_init
        )
        if device == "cpu":
            randomised(unet)
    return unet.eval().requires_grad_(False)


def native_cogvideox(config: Mapping[str, Any], device: str = "cpu") -> Any:
    with host_classes(), seeded(1):
        import comfy.ops
        from comfy.ldm.cogvideo.model import CogVideoXTransformer3DModel as Native

        taken = {k: v for k, v in config.items() if k in inspect.signature(Native.__init__).parameters}
        with torch.device(device):
            made = Native(**taken, device=device, dtype=torch.float32, operations=comfy.ops.disable_weight_init)
        if device == "cpu":
            randomised(made)
            if config.get("use_learned_positional_embeddings"):
                made.patch_embed.pos_embedding[:, TOKENS:].normal_()
    return made.eval().requires_grad_(False)


def compute(ours: Any, theirs: Any) -> tuple[Tensor, Tensor]:
    """One step of both, with the host's positions.

    diffusers computes others for CogVideoX 1.0, and takes learned ones for 49 frames alone.
    """
    config = ours.config
    learned, frames = config.use_learned_positional_embeddings, config.patch_size_t or 1
    high, wide = (60, 90) if learned else (4, 6)
    with seeded(2):
        x, text = torch.randn(1, config.in_channels, frames, high, wide), torch.randn(1, TOKENS, TEXT)
    time, ofs = torch.tensor([500.0]), torch.tensor([2.0]) if config.ofs_embed_dim else None
    rope = theirs._get_rotary_emb(high // 2, wide // 2, 1, "cpu") if config.use_rotary_positional_embeddings else None
    computed = theirs.patch_embed._get_positional_embeddings
    ours.patch_embed._get_positional_embeddings = lambda h, w, t, device: (
        ours.patch_embed.pos_embedding[:, : TOKENS + x.shape[-1] * x.shape[-2] // 4] if learned else computed(h, w, t)
    )
    mine = ours(x.movedim(2, 1), text, time, ofs=ofs, image_rotary_emb=rope, return_dict=False)[0]
    return mine.movedim(1, 2), theirs(x, time, text, ofs=ofs)


def native_cogvideox_vae(device: str, **config: Any) -> Any:
    with host_classes(), seeded(1):
        from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX

        with torch.device(device):
            vae = AutoencoderKLCogVideoX(**config)
        if device == "cpu":
            randomised(vae)
    return vae.eval().requires_grad_(False)
