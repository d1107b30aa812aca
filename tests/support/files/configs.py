"""The shipped configs, the modules that they describe, and the host's own classes at the same sizes."""

from __future__ import annotations

import inspect
import re
from typing import Any

import torch
from reelwire.loaders.families import FAMILIES, family
from reelwire.loaders.spec import shipped_config, shipped_variants
from reelwire.loaders.weights.format import class_of

for _name in FAMILIES:  # each adds the classes that diffusers lacks
    family(_name)

VARIANTS = [f"{folder.parents[1].name}/{folder.name}" for folder in shipped_variants()]


def read(variant: str, name: str) -> dict[str, Any]:
    family, folder = variant.split("/")
    return shipped_config(family, folder, name)


def network(variant: str) -> str:
    return "unet" if variant.startswith("svd") else "transformer"


def build(variant: str, name: str) -> Any:
    """The module that a config describes, without memory; every key of the config must be one that its class takes."""
    config = read(variant, name)
    kind = class_of(config.pop("_class_name"))
    assert {*config} <= {*inspect.signature(kind.__init__).parameters}
    with torch.device("meta"):
        return kind(**config)


def _wan(config: dict[str, Any]) -> Any:
    from comfy.ldm.wan.model import VaceWanModel, WanModel

    width = config["num_attention_heads"] * config["attention_head_dim"]
    common = dict(
        in_dim=config["in_channels"],
        out_dim=config["out_channels"],
        dim=width,
        ffn_dim=config["ffn_dim"],
        num_heads=config["num_attention_heads"],
        num_layers=config["num_layers"],
    )
    if "vace_layers" in config:
        return lambda **o: VaceWanModel(
            vace_layers=len(config["vace_layers"]), vace_in_dim=config["vace_in_channels"], **common, **o
        )
    kind = "i2v" if config.get("image_dim") else "t2v"
    common["in_dim_ref_conv"] = config.get("reference_channels")
    return lambda **o: WanModel(kind, flf_pos_embed_token_number=config.get("pos_embed_seq_len"), **common, **o)


def _hunyuan(config: dict[str, Any]) -> Any:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    options = dict(
        in_channels=config["in_channels"],
        out_channels=16,
        vec_in_dim=768,
        context_in_dim=4096,
        hidden_size=3072,
        mlp_ratio=4.0,
        num_heads=24,
        depth=20,
        depth_single_blocks=40,
        axes_dim=[16, 56, 56],
        theta=256,
        patch_size=[1, 2, 2],
        qkv_bias=True,
        guidance_embed=config["guidance_embeds"],
        byt5=False,
        meanflow=False,
        use_cond_type_embedding=False,
        vision_in_dim=None,
        meanflow_sum=False,
    )
    return lambda **o: HunyuanVideo(image_model="hunyuan_video", **options, **o)


def _mochi(config: dict[str, Any]) -> Any:
    from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint

    options = dict(
        depth=config["num_layers"],
        num_heads=24,
        hidden_size_x=3072,
        hidden_size_y=1536,
        mlp_ratio_x=4.0,
        mlp_ratio_y=4.0,
        learn_sigma=False,
        in_channels=12,
        qk_norm=True,
        qkv_bias=False,
        out_bias=True,
        attn_drop=0.0,
        posenc_preserve_area=True,
        timestep_scale=1000.0,
        use_t5=True,
    )
    return lambda **o: AsymmDiTJoint(**options, **o)


def _ltx(config: dict[str, Any]) -> Any:
    from comfy.ldm.lightricks.model import LTXVModel

    options = dict(
        in_channels=128,
        cross_attention_dim=config["cross_attention_dim"],
        attention_head_dim=config["attention_head_dim"],
        num_attention_heads=32,
        caption_channels=4096,
        num_layers=config["num_layers"],
    )
    return lambda **o: LTXVModel(**options, **o)


# the host's names of weights -> the published files', where diffusers' converters do not know the former
PUBLISHED = {
    "wan": {r"^img_emb\.emb_pos$": "condition_embedder.image_embedder.pos_embed"},
    "hunyuan_video": {
        r"txt_in\.t_embedder\.in_layer": "txt_in.t_embedder.mlp.0",
        r"txt_in\.t_embedder\.out_layer": "txt_in.t_embedder.mlp.2",
        r"txt_in\.c_embedder\.in_layer": "txt_in.c_embedder.linear_1",
        r"txt_in\.c_embedder\.out_layer": "txt_in.c_embedder.linear_2",
        r"(time|guidance)_in\.in_layer": r"\1_in.mlp.0",
        r"(time|guidance)_in\.out_layer": r"\1_in.mlp.2",
        r"(_mod|\.modulation)\.lin\.": r"\1.linear.",
        r"_attn\.qkv\.": "_attn_qkv.",
        r"_attn\.proj\.": "_attn_proj.",
        r"(_mlp|blocks\.\d+\.mlp)\.0\.": r"\1.fc1.",
        r"(_mlp|blocks\.\d+\.mlp)\.2\.": r"\1.fc2.",
        r"_attn\.norm\.query_norm": "_attn_q_norm",
        r"_attn\.norm\.key_norm": "_attn_k_norm",
        r"\.norm\.query_norm": ".q_norm",
        r"\.norm\.key_norm": ".k_norm",
    },
}
NATIVE = {
    "wan": (_wan, "convert_wan_transformer_to_diffusers"),
    "hunyuan_video": (_hunyuan, "convert_hunyuan_video_transformer_to_diffusers"),
    "mochi": (_mochi, "convert_mochi_transformer_checkpoint_to_diffusers"),
    "ltx": (_ltx, "convert_ltx_transformer_checkpoint_to_diffusers"),
}


def rename(name: str, table: dict[str, str]) -> str:
    for pattern, replacement in table.items():
        name = re.sub(pattern, replacement, name)
    return name
