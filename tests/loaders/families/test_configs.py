"""The shipped configs at their real sizes, on the meta device: complete, and the shapes that the host's own classes have."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.facts import Facts
from reelwire.loaders.families import FAMILIES
from reelwire.loaders.spec import FOLDER, shipped_config, shipped_variants
from reelwire.tests.support.native import host_classes

VARIANTS = [f"{folder.parents[1].name}/{folder.name}" for folder in shipped_variants()]
every = pytest.mark.parametrize("variant", VARIANTS)
# tensors of the network, and parameters in billions, as published or counted in the host's own classes
SIZES = {
    "hunyuan_video/t2v-13b": (1264, 12.82), "hunyuan_video/i2v-13b-concat": (1260, 12.81), "hunyuan_video/i2v-13b-replace": (1264, 12.82),
    "wan/2.1-t2v-1.3b": (825, 1.42), "wan/2.1-t2v-14b": (1095, 14.29), "wan/2.1-i2v-14b-480p": (1303, 16.40), "wan/2.1-i2v-14b-720p": (1303, 16.40),
    "wan/2.1-flf2v-14b-720p": (1304, 16.40), "wan/2.1-vace-1.3b": (1264, 2.15), "wan/2.1-vace-14b": (1331, 17.34), "wan/2.2-t2v-a14b": (1095, 14.29),
    "wan/2.2-i2v-a14b": (1095, 14.29), "wan/2.2-ti2v-5b": (825, 5.00), "mochi/1-preview": (1071, 10.03),
    "cogvideox/2b": (None, 1.69), "cogvideox/5b": (None, 5.57), "cogvideox/5b-i2v": (None, 5.57), "cogvideox/1.5-5b": (None, 5.57),
    "cogvideox/1.5-5b-i2v": (None, 5.57), "cogvideox/fun-1.1-5b-control": (None, 5.57), "svd/svd": (None, 1.52), "svd/svd-xt": (None, 1.52),
    "ltx/0.9.0-2b": (715, 1.92), "ltx/0.9.1-2b": (715, 1.92), "ltx/0.9.5-2b": (715, 1.92), "ltx/0.9.6-2b-dev": (715, 1.92), "ltx/0.9.6-2b-distilled": (715, 1.92),
    "ltx/0.9.8-2b-distilled": (715, 1.92), "ltx/0.9.7-13b-dev": (1215, 13.04), "ltx/0.9.7-13b-distilled": (1215, 13.04), "ltx/0.9.8-13b-dev": (1215, 13.04),
    "ltx/0.9.8-13b-distilled": (1215, 13.04),
}  # fmt: skip
FRAME_STEPS = {"hunyuan_video": 4, "wan": 4, "cogvideox": 8, "mochi": 6, "ltx": 8, "svd": 1}


def read(variant: str, name: str) -> dict[str, Any]:
    return shipped_config(*variant.split("/"), name)


def network(variant: str) -> str:
    return "unet" if variant.startswith("svd") else "transformer"


def build(variant: str, name: str) -> Any:
    """The module that a config describes, without memory; every key of the config must be one that its class takes."""
    import diffusers

    config = read(variant, name)
    kind = getattr(diffusers, config.pop("_class_name"))
    assert {*config} <= {*inspect.signature(kind.__init__).parameters}
    with torch.device("meta"):
        return kind(**config)


def shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def test_every_family_and_variant_is_listed() -> None:
    assert {*SIZES} == {*VARIANTS}
    assert {variant.split("/")[0] for variant in VARIANTS} == {*FAMILIES}


@every
def test_names_and_shapes_are_complete(variant: str) -> None:
    module, (tensors, billions) = build(variant, network(variant)), SIZES[variant]
    assert tensors in (None, len(module.state_dict()))
    assert sum(p.numel() for p in module.parameters()) / 1e9 == pytest.approx(billions, abs=0.006)
    vae = build(variant, "vae")
    if variant.startswith("wan/2.1"):
        assert len(vae.state_dict()) == 194
    channels = vae.config.get("z_dim") or vae.config["latent_channels"]
    assert len(vae.config.get("latents_mean") or [0] * channels) == channels


@every
def test_scheduler_and_presets(variant: str) -> None:
    import diffusers

    config, told, family = read(variant, "scheduler"), read(variant, "defaults"), variant.split("/")[0]
    kind = getattr(diffusers, config.pop("_class_name"))
    assert {*config} <= {*inspect.signature(kind.__init__).parameters}
    fields = set(Facts.__dataclass_fields__) | {"boundary", "per_token_time", "conditioned", "distilled_timesteps"}
    assert {*told} <= fields
    for preset in told["presets"].values():
        asked = {**told["presets"]["default"], **preset}
        multiple = 64 if family == "svd" else 32 if family == "ltx" or "ti2v" in variant else 16
        assert asked["width"] % multiple == asked["height"] % multiple == 0
        assert (asked["frames"] - 1) % FRAME_STEPS[family] == 0
        assert asked["frames"] in told.get("frame_counts", [asked["frames"]])
        assert asked["steps"] > 0
        assert asked["guidance"] >= 1


@every
def test_its_sources_are_named(variant: str) -> None:
    family, name = variant.split("/")
    sources = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    section = sources.split(f"## {family}\n")[1].split("\n## ")[0]
    assert f"`{name}`" in section


# ---------------------------------------------------------------- the host's own classes through diffusers' converters


def _wan(config: dict[str, Any]) -> Any:
    from comfy.ldm.wan.model import VaceWanModel, WanModel

    width = config["num_attention_heads"] * config["attention_head_dim"]
    common = dict(in_dim=config["in_channels"], out_dim=config["out_channels"], dim=width, ffn_dim=config["ffn_dim"],
                  num_heads=config["num_attention_heads"], num_layers=config["num_layers"])  # fmt: skip
    if "vace_layers" in config:
        return lambda **o: VaceWanModel(vace_layers=len(config["vace_layers"]), vace_in_dim=config["vace_in_channels"], **common, **o)  # fmt: skip
    kind = "i2v" if config.get("image_dim") else "t2v"
    return lambda **o: WanModel(kind, flf_pos_embed_token_number=config.get("pos_embed_seq_len"), **common, **o)


def _hunyuan(config: dict[str, Any]) -> Any:
    from comfy.ldm.hunyuan_video.model import HunyuanVideo

    told = dict(in_channels=config["in_channels"], out_channels=16, vec_in_dim=768, context_in_dim=4096, hidden_size=3072, mlp_ratio=4.0,
                num_heads=24, depth=20, depth_single_blocks=40, axes_dim=[16, 56, 56], theta=256, patch_size=[1, 2, 2], qkv_bias=True,
                guidance_embed=config["guidance_embeds"], byt5=False, meanflow=False, use_cond_type_embedding=False, vision_in_dim=None,
                meanflow_sum=False)  # fmt: skip
    return lambda **o: HunyuanVideo(image_model="hunyuan_video", **told, **o)


def _mochi(config: dict[str, Any]) -> Any:
    from comfy.ldm.genmo.joint_model.asymm_models_joint import AsymmDiTJoint

    told = dict(depth=config["num_layers"], num_heads=24, hidden_size_x=3072, hidden_size_y=1536, mlp_ratio_x=4.0, mlp_ratio_y=4.0,
                learn_sigma=False, in_channels=12, qk_norm=True, qkv_bias=False, out_bias=True, attn_drop=0.0, posenc_preserve_area=True,
                timestep_scale=1000.0, use_t5=True)  # fmt: skip
    return lambda **o: AsymmDiTJoint(**told, **o)


def _ltx(config: dict[str, Any]) -> Any:
    from comfy.ldm.lightricks.model import LTXVModel

    told = dict(in_channels=128, cross_attention_dim=config["cross_attention_dim"], attention_head_dim=config["attention_head_dim"],
                num_attention_heads=32, caption_channels=4096, num_layers=config["num_layers"])  # fmt: skip
    return lambda **o: LTXVModel(**told, **o)


# the host's names of weights -> the published files', where diffusers' converters do not know the former
PUBLISHED = {
    "wan": {r"^img_emb\.emb_pos$": "condition_embedder.image_embedder.pos_embed"},
    "hunyuan_video": {
        r"txt_in\.t_embedder\.in_layer": "txt_in.t_embedder.mlp.0", r"txt_in\.t_embedder\.out_layer": "txt_in.t_embedder.mlp.2",
        r"txt_in\.c_embedder\.in_layer": "txt_in.c_embedder.linear_1", r"txt_in\.c_embedder\.out_layer": "txt_in.c_embedder.linear_2",
        r"(time|guidance)_in\.in_layer": r"\1_in.mlp.0", r"(time|guidance)_in\.out_layer": r"\1_in.mlp.2",
        r"(_mod|\.modulation)\.lin\.": r"\1.linear.", r"_attn\.qkv\.": "_attn_qkv.", r"_attn\.proj\.": "_attn_proj.",
        r"(_mlp|blocks\.\d+\.mlp)\.0\.": r"\1.fc1.", r"(_mlp|blocks\.\d+\.mlp)\.2\.": r"\1.fc2.",
        r"_attn\.norm\.query_norm": "_attn_q_norm", r"_attn\.norm\.key_norm": "_attn_k_norm",
        r"\.norm\.query_norm": ".q_norm", r"\.norm\.key_norm": ".k_norm",
    },
}  # fmt: skip
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


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.split("/")[0] in NATIVE])
def test_the_hosts_own_class_has_the_same_shapes(comfyui: Path, variant: str) -> None:
    """Each written by others than the config: a wrong width, depth or channel count cannot pass."""
    from diffusers.loaders import single_file_utils

    describe, converter = NATIVE[variant.split("/")[0]]
    with host_classes():
        import comfy.ops

        make = describe(read(variant, "transformer"))
        native = make(device="meta", dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init).state_dict()
    published = {rename(name, PUBLISHED.get(variant.split("/")[0], {})): value for name, value in native.items()}
    converted = getattr(single_file_utils, converter)(published)
    assert shapes(converted) == shapes(build(variant, "transformer").state_dict())
