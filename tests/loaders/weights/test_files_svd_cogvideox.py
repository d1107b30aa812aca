"""Single files of Stable Video Diffusion and CogVideoX, as the host's classes write them, compute the same here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families.cogvideox import checkpoint as cogvideox_files
from reelwire.loaders.families.svd import checkpoint as svd_files
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.spec import shipped_config
from reelwire.loaders.weights.entry import Entry
from reelwire.loaders.weights.format import Weights
from reelwire.loaders.weights.modules import check_fit
from reelwire.loaders.weights.safetensors import read_file
from reelwire.tests.support.files.configs import VARIANTS, build, network, read
from reelwire.tests.support.files.files import plain, read_network
from reelwire.tests.support.files.native import host_classes, svd_vae
from reelwire.tests.support.files.native_networks import unet_forward
from reelwire.tests.support.files.native_svd_cogvideox import (
    COGVIDEOX,
    TEXT,
    compute,
    native_cogvideox,
    native_cogvideox_vae,
    native_unet,
)
from reelwire.training.tiny_models import seeded
from torch import Tensor

TOWER: dict[str, Any] = dict(
    hidden_size=160,
    intermediate_size=320,
    num_hidden_layers=2,
    num_attention_heads=2,
    image_size=28,
    patch_size=14,
    num_channels=3,
    hidden_act="gelu",
    layer_norm_eps=1e-5,
    projection_dim=48,
    model_type="clip_vision_model",
)


def built(weights: Weights | None) -> Any:
    assert weights is not None
    return weights.build(torch.float32, False, "", lambda *_: None)


def far(ours: Tensor, theirs: Tensor) -> float:
    assert ours.shape == theirs.shape
    assert theirs.abs().max() > 0.1
    return float((ours - theirs).abs().max())


# ---------------------------------------------------------------- Stable Video Diffusion


def test_svds_unet(tmp_path: Path) -> None:
    theirs, file = native_unet("tiny"), tmp_path / "svd_xt.safetensors"
    plain(file, theirs.state_dict(), prefix="model.diffusion_model.")
    ours = read_network(svd_files, file)
    assert (ours.config.num_frames, list(ours.config.num_attention_heads)) == (25, [1, 2, 2])
    call = lambda: unet_forward(ours, theirs)[0]
    _, expected = unet_forward(ours, theirs)
    assert far(call(), expected) < 5e-3
    for name, layer in ours.named_modules():  # all that differs: the constant that keeps GroupNorm from dividing by 0
        if isinstance(layer, torch.nn.GroupNorm) and "res_block" in name:
            layer.eps = 1e-5
    assert far(call(), expected) < 1e-4


def test_svds_vae(tmp_path: Path) -> None:
    theirs, file = svd_vae(32, (1, 2, 2), 2), tmp_path / "svd.safetensors"
    plain(file, theirs.state_dict())
    ours = built(svd_files.vae(read_file(file)[0]))
    with seeded(2):
        pixels, z = torch.rand(2, 3, 16, 16) * 2 - 1, torch.randn(3, 4, 4, 4)
    assert far(ours.encode(pixels).latent_dist.parameters, theirs.encode(pixels, unregularized=True)[0]) < 1e-4
    assert far(ours.decode(z, num_frames=3).sample, theirs.decode(z)) < 1e-4


@pytest.mark.parametrize("layout", ["open_clip", "transformers"])
def test_svds_picture_encoder(tmp_path: Path, layout: str) -> None:
    file = tmp_path / "svd.safetensors"
    written = open_clip_tower()
    with host_classes():
        import comfy.ops
        from comfy.clip_model import CLIPVisionModelProjection
        from comfy.clip_vision import convert_to_transformers

        theirs = CLIPVisionModelProjection(TOWER, torch.float32, "cpu", comfy.ops.manual_cast).eval()
        converted = convert_to_transformers(dict(written), "visual.")
    result = theirs.load_state_dict({k: v for k, v in converted.items() if not k.startswith("ln_final")}, strict=False)
    assert not result.missing_keys
    plain(file, written if layout == "open_clip" else theirs.state_dict())
    ours = built(svd_files.image_encoder(read_file(file)[0]))
    with seeded(2), torch.no_grad():
        pixels = torch.randn(2, 3, 28, 28)
        assert far(ours(pixels).image_embeds, theirs(pixel_values=pixels)[2]) < 1e-4


def open_clip_tower() -> dict[str, Tensor]:
    """Random weights under open_clip's names, with what SVD's files keep of the text tower beside it."""
    wide, inner, layers = TOWER["hidden_size"], TOWER["intermediate_size"], TOWER["num_hidden_layers"]
    shapes: dict[str, tuple[int, ...]] = {
        "class_embedding": (wide,),
        "positional_embedding": (5, wide),
        "proj": (wide, 48),
        "conv1.weight": (wide, 3, 14, 14),
    }
    pairs: dict[str, tuple[int, ...]] = {"ln_pre": (wide,), "ln_post": (wide,)}
    for layer in (f"transformer.resblocks.{i}." for i in range(layers)):
        pairs |= {
            f"{layer}ln_1": (wide,),
            f"{layer}ln_2": (wide,),
            f"{layer}attn.out_proj": (wide, wide),
            f"{layer}mlp.c_fc": (inner, wide),
            f"{layer}mlp.c_proj": (wide, inner),
        }
        shapes |= {f"{layer}attn.in_proj_weight": (3 * wide, wide), f"{layer}attn.in_proj_bias": (3 * wide,)}
    shapes |= {f"{k}.weight": v for k, v in pairs.items()} | {f"{k}.bias": v[:1] for k, v in pairs.items()}
    with seeded(1):
        tensors = {
            f"visual.{k}": torch.randn(v) * (0.3 / v[-1] ** 0.5 if len(v) > 1 else 0.5) for k, v in shapes.items()
        }
    return tensors | {"ln_final.weight": torch.ones(48), "logit_scale": torch.tensor(1.0)}


# ---------------------------------------------------------------- CogVideoX


@pytest.mark.parametrize("variant", COGVIDEOX)
def test_cogvideox(tmp_path: Path, variant: str) -> None:
    tiny = dict(num_attention_heads=3, num_layers=2, text_embed_dim=TEXT, time_embed_dim=64)
    theirs, file = native_cogvideox({**tiny, **COGVIDEOX[variant]}), tmp_path / f"CogVideoX-{variant}.safetensors"
    plain(file, theirs.state_dict(), prefix="model.diffusion_model.")
    ours, again = read_network(cogvideox_files, file), tmp_path / f"{variant}-again.safetensors"
    same = {**shipped_config("cogvideox", variant, "transformer"), **tiny, **COGVIDEOX[variant]}
    assert {k: v for k, v in ours.config.items() if k in same} == {**same, "_class_name": ours.config["_class_name"]}
    assert far(*compute(ours, theirs)) < 1e-4
    plain(again, ours.state_dict())  # the same under diffusers' names
    assert far(*compute(read_network(cogvideox_files, again), theirs)) < 1e-4


def test_cogvideox_for_inpainting_is_refused(tmp_path: Path) -> None:
    for config in (dict(in_channels=48, num_attention_heads=3), dict(in_channels=32, num_attention_heads=30)):
        entries = of(native_cogvideox({**config, "num_layers": 1}, "meta"), tmp_path)
        with pytest.raises(
            CheckpointError, match=rf"x.safetensors is .* takes {config['in_channels']} channels.*Use one of these"
        ):
            cogvideox_files.transformer(entries, {"file": "x.safetensors"})


def test_cogvideoxs_vae(tmp_path: Path) -> None:
    """The host's encoder and decoder go through frames in pieces of their own; one frame is alike."""
    theirs, file = (
        native_cogvideox_vae("cpu", block_out_channels=(32, 32, 32, 64), layers_per_block=1),
        tmp_path / "cogvideox_vae.safetensors",
    )
    plain(file, theirs.state_dict())
    ours = built(cogvideox_files.vae(read_file(file)[0]))
    with seeded(2):
        pixels, z = torch.rand(1, 3, 1, 32, 32) * 2 - 1, torch.randn(1, 16, 1, 4, 4)
    assert far(ours.encode(pixels).latent_dist.mode(), theirs.encode(pixels)) < 1e-4
    assert far(ours.decode(z).sample, theirs.decode(z)) < 1e-4


# ---------------------------------------------------------------- published sizes


def of(module: Any, file: Path) -> dict[str, Entry]:
    return {k: Entry(file, k, tuple(v.shape), "F16") for k, v in module.state_dict().items()}


def fits(weights: Weights | None) -> None:
    assert weights is not None
    with torch.device("meta"):
        check_fit(weights.module(), weights.entries)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.startswith(("svd", "cogvideox"))])
def test_published_sizes_have_all_their_tensors(variant: str, tmp_path: Path) -> None:
    """The host's classes at their real sizes: no tensor missing, unexpected or misshapen, and the shipped config."""
    family, name = variant.split("/")
    module: Any
    if family == "svd":
        module, theirs, vae = svd_files, native_unet("published", "meta"), svd_vae(128, (1, 2, 4, 4), 2, "meta")
    else:
        module, theirs, vae = (
            cogvideox_files,
            native_cogvideox(read(variant, "transformer"), "meta"),
            native_cogvideox_vae("meta"),
        )
    weights = module.transformer(of(theirs, tmp_path), {"file": f"{name.replace('-', '_')}.safetensors"})
    fits(weights)
    assert weights.config == read(variant, network(variant))
    described = module.vae(of(vae, tmp_path))
    fits(described)
    varies = ("scaling_factor", "invert_scale_latents")
    assert {k: v for k, v in described.config.items() if k not in varies} == {
        k: v for k, v in read(variant, "vae").items() if k not in varies
    }


def test_diffusers_names_pass_and_other_families_are_none_of_ours(tmp_path: Path) -> None:
    every = {"svd": svd_files, "cogvideox": cogvideox_files}
    for variant in (
        "svd/svd",
        "cogvideox/5b-i2v",
        "wan/2.1-t2v-1.3b",
        "ltx/0.9.5-2b",
        "mochi/1-preview",
        "hunyuan_video/t2v-13b",
    ):
        unet, vae = of(build(variant, network(variant)), tmp_path), of(build(variant, "vae"), tmp_path)
        for family, module in every.items():
            ours, config = variant.startswith(family), {"file": "x"}
            assert (getattr(module.transformer(unet, config), "entries", None) == unet) == ours
            assert (getattr(module.vae(vae), "entries", None) == vae) == ours
            assert module.transformer(vae, config) is module.vae(unet) is None
        assert svd_files.image_encoder(unet) is None


def test_image_models_of_the_same_layout_are_none_of_ours(tmp_path: Path) -> None:
    """Stable Diffusion's UNet and VAE have the same names but for those of time."""
    timed = ("time_stack", "time_mixer", "time_pos_embed", "mix_factor", "time_mix_conv")
    still = lambda module: {k: e for k, e in of(module, tmp_path).items() if not any(word in k for word in timed)}
    assert svd_files.transformer(still(native_unet("tiny", "meta")), {}) is None
    assert svd_files.vae(still(svd_vae(32, (1, 2), 2, "meta"))) is None


def test_some_layers_are_renamed_as_in_the_whole_unet(tmp_path: Path) -> None:
    """As a LoRA has them."""
    entries = of(native_unet("published", "meta"), tmp_path)
    whole = svd_files.transformer(entries, {})
    assert whole is not None
    some = {
        key: entry
        for key, entry in entries.items()
        if "attn" in key or "layers.2" in key or ".op." in key or ".conv." in key
    }
    assert len(some) > 100
    shapes = {name: entry.shape for name, entry in whole.entries.items()}
    assert svd_files.renamed(some, shapes) == {n: e for n, e in whole.entries.items() if e.key in some}
