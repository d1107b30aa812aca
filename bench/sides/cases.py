"""The networks that bench/native.py compares: few blocks at reduced width, as the host's classes take them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from reelwire.loaders.families.cogvideox import checkpoint as cogvideox_files
from reelwire.loaders.families.hunyuan_video import checkpoint as hunyuan_video_files
from reelwire.loaders.families.ltx import checkpoint as ltx_files
from reelwire.loaders.families.mochi import checkpoint as mochi_files
from reelwire.loaders.families.wan import checkpoint as wan_files

TEXT = 4096  # width of T5's and Llama's text


@dataclass(frozen=True)
class Case:
    """One family.

    host: its class in comfy.supported_models. config: the network's. latents: [C, t, h, w]. rows: of text that the
    host's nodes give. real: of them, those that a usual prompt fills. tiny: the model whose other parts a run takes.
    """

    host: str
    reader: Any
    config: Mapping[str, Any]
    latents: tuple[int, int, int, int]
    rows: int
    tiny: str
    frames: int
    size: int  # pixels of a latent one's side
    real: int = 40
    guided: bool = True
    padded: int = 0  # rows of text that our family gives its network; 0: as many as the host
    time: float = 1000.0  # what the host's network calls the first step


CASES = {
    "wan": Case(
        "WAN21_T2V",
        wan_files,
        dict(
            image_model="wan2.1",
            model_type="t2v",
            in_dim=16,
            out_dim=16,
            dim=1024,
            ffn_dim=4096,
            num_heads=8,
            num_layers=2,
            text_len=512,
            text_dim=TEXT,
        ),
        (16, 3, 32, 32),
        512,
        "tiny-wan2.1-t2v",
        9,
        8,
    ),
    "hunyuan_video": Case(
        "HunyuanVideo",
        hunyuan_video_files,
        dict(
            image_model="hunyuan_video",
            in_channels=16,
            out_channels=16,
            vec_in_dim=768,
            context_in_dim=TEXT,
            hidden_size=1024,
            mlp_ratio=4.0,
            num_heads=8,
            depth=1,
            depth_single_blocks=1,
            axes_dim=[16, 56, 56],
            theta=256,
            patch_size=[1, 2, 2],
            qkv_bias=True,
            guidance_embed=True,
            byt5=False,
            meanflow=False,
            use_cond_type_embedding=False,
            vision_in_dim=None,
            meanflow_sum=False,
        ),
        (16, 3, 48, 64),
        40,
        "tiny-hunyuan-t2v",
        9,
        8,
        guided=False,
        padded=256,
    ),
    "ltx": Case(
        "LTXV",
        ltx_files,
        dict(
            image_model="ltxv",
            in_channels=128,
            cross_attention_dim=2048,
            attention_head_dim=64,
            num_attention_heads=32,
            caption_channels=TEXT,
            num_layers=2,
        ),
        (128, 3, 16, 16),
        128,
        "tiny-ltx-0.9.0",
        17,
        32,
        padded=128,
        time=1.0,
    ),
    "mochi": Case(
        "GenmoMochi",
        mochi_files,
        dict(
            image_model="mochi_preview",
            depth=2,
            patch_size=2,
            num_heads=12,
            hidden_size_x=1536,
            hidden_size_y=768,
            mlp_ratio_x=8.0,
            mlp_ratio_y=4.0,
            learn_sigma=False,
            in_channels=12,
            qk_norm=True,
            qkv_bias=False,
            out_bias=True,
            attn_drop=0.0,
            patch_embed_bias=True,
            posenc_preserve_area=True,
            timestep_mlp_bias=True,
            attend_to_padding=False,
            timestep_scale=1000.0,
            use_t5=True,
            t5_feat_dim=TEXT,
            t5_token_length=256,
            rope_theta=10000.0,
        ),
        (12, 3, 32, 32),
        256,
        "tiny-mochi",
        13,
        8,
        time=1.0,
    ),
    "cogvideox": Case(
        "CogVideoX_T2V",
        cogvideox_files,
        dict(
            image_model="cogvideox",
            num_attention_heads=16,
            attention_head_dim=64,
            in_channels=16,
            out_channels=16,
            time_embed_dim=512,
            text_embed_dim=TEXT,
            num_layers=2,
            patch_size=2,
            patch_size_t=2,
            use_rotary_positional_embeddings=True,
            sample_height=300,
            sample_width=300,
            sample_frames=81,
        ),
        (16, 4, 32, 32),
        226,
        "tiny-cogvideox1.5-5b",
        9,
        8,
        real=226,
        time=999.0,
    ),
}
