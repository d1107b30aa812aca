"""Single files of HunyuanVideo and Mochi, written by the host's own classes, compute here what they compute there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers.loaders import single_file_utils
from reelwire.loaders.families.hunyuan_video import checkpoint as hunyuan_video_files
from reelwire.loaders.families.mochi import checkpoint as mochi_files
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.weights.entry import Entry
from reelwire.loaders.weights.format import Weights
from reelwire.loaders.weights.modules import check_fit
from reelwire.loaders.weights.safetensors import read_file
from reelwire.loaders.weights.stored import Stored
from reelwire.tests.support.engine.words import refuses
from reelwire.tests.support.files.configs import NATIVE, read
from reelwire.tests.support.files.files import KINDS, SMALL, plain, read_network
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.tests.support.files.native_hunyuan_mochi import (
    FILES,
    NAMES,
    differ,
    hunyuan,
    kl_config,
    mochi,
    mochi_vae,
    ours,
    published,
    theirs,
    unchanged,
)
from reelwire.training.tiny_models import seeded

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
VARIANTS = ["hunyuan_video/t2v-13b", "hunyuan_video/i2v-13b-concat", "hunyuan_video/i2v-13b-replace", "mochi/1-preview"]


NETWORKS = [(kind, file_kind) for kind in ("t2v", "mochi") for file_kind in KINDS]


@pytest.mark.parametrize(
    ("kind", "file_kind"), [*NETWORKS, ("concat", "fp32"), ("replace", "fp32"), ("replace", "scaled fp8, old")]
)
def test_a_network_computes_what_the_host_computes(tmp_path: Path, kind: str, file_kind: str) -> None:
    name = {"replace": "hunyuan_video_v2_replace_image_to_video.safetensors"}.get(kind, "network.safetensors")
    difference, network = differ(tmp_path / name, kind, file_kind)
    stored = sum(isinstance(layer, Stored) for layer in network.modules())
    assert (stored > 5) == (file_kind in SMALL)
    assert difference < (2e-3 if "GGUF" in file_kind else 1e-4)


def test_comfyuis_own_names(tmp_path: Path) -> None:
    model, file = hunyuan(), tmp_path / "saved.safetensors"
    old = {key.replace("_norm.weight", "_norm.scale"): value for key, value in model.state_dict().items()}
    plain(file, old, prefix="model.model.")
    expected = theirs(model, "hunyuan_video")
    assert (ours(read_network(hunyuan_video_files, file), "hunyuan_video") - expected).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "kind", "condition"),
    [
        ("hunyuan_video_t2v_720p_bf16", "t2v", None),
        ("hunyuan_video_image_to_video_720p_bf16", "concat", "latent_concat"),
        ("hunyuan_video_v2_replace_image_to_video_720p_bf16", "t2v", "token_replace"),
        ("HunyuanVideo-I2V", "t2v", "token_replace"),
    ],
)
def test_the_variant(name: str, kind: str, condition: str | None) -> None:
    weights = hunyuan_video_files.transformer(entries_of(hunyuan(kind), published), {"file": f"{name}.safetensors"})
    assert weights is not None
    config = weights.config
    assert config["image_condition_type"] == condition
    assert (config["num_layers"], config["num_single_layers"], config["num_refiner_layers"]) == (2, 2, 2)
    assert (config["num_attention_heads"], config["attention_head_dim"], config["guidance_embeds"]) == (
        2,
        128,
        kind == "t2v",
    )


@pytest.mark.parametrize("family", FILES)
def test_diffusers_names_pass(tmp_path: Path, family: str) -> None:
    model, file, again = hunyuan() if family == "hunyuan_video" else mochi(), tmp_path / "a.safetensors", tmp_path / "b"
    plain(file, model.state_dict())
    network = read_network(FILES[family], file)
    plain(again, network.state_dict())
    assert (ours(read_network(FILES[family], again), family) - theirs(model, family)).abs().max() < 1e-4


# ---------------------------------------------------------------- VAEs


@unchanged
def hunyuan_vae() -> Any:
    with host_classes(), seeded(1):
        from comfy.ldm.models.autoencoder import AutoencoderKL

        vae = AutoencoderKL(ddconfig=kl_config(32, (1, 1, 2, 2), 1), embed_dim=16)
        randomised(vae)
    return vae


def read_vae(family: str, file: Path) -> Any:
    weights = FILES[family].vae(read_file(file)[0])
    assert isinstance(weights, Weights)
    return weights.build(torch.float32, False, "", lambda *_: None)


def test_hunyuans_vae_computes_what_the_host_computes(tmp_path: Path) -> None:
    """One frame: for more of them the host's attention looks ahead, diffusers' does not."""
    model, file = hunyuan_vae(), tmp_path / "hunyuan_video_vae_bf16.safetensors"
    plain(file, model.state_dict())
    vae = read_vae("hunyuan_video", file)
    with seeded(3), torch.no_grad():
        frame, latent = torch.rand(1, 3, 1, 16, 32) * 2 - 1, torch.randn(1, 16, 1, 2, 4)
        encoded = (vae.encode(frame).latent_dist.mode() - model.encode(frame)).abs().max()
        decoded, expected = vae.decode(latent).sample, model.decode(latent)
    difference = (decoded - expected).abs().max()
    assert expected.abs().max() > 0.1
    assert max(encoded, difference) < 1e-4
    plain(tmp_path / "diffusers.safetensors", vae.state_dict())  # Tencent's own file has these names
    again = read_vae("hunyuan_video", tmp_path / "diffusers.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in vae.state_dict().items())


def as_the_host_computes(vae: Any) -> None:
    """The host drops surplus frames after each block, diffusers after the last; its encoder's attention looks ahead."""
    vae.drop_last_temporal_frames = False
    for block in vae.decoder.up_blocks:
        block.register_forward_hook(lambda block, _, out: (out[0][:, :, block.temporal_expansion - 1 :], out[1]))
    for module in vae.encoder.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def test_mochis_vae_computes_what_the_host_computes(tmp_path: Path) -> None:
    model, file = mochi_vae(), tmp_path / "mochi_vae.safetensors"
    plain(file, model.state_dict())
    vae = read_vae("mochi", file)
    plain(tmp_path / "diffusers.safetensors", vae.state_dict())
    as_the_host_computes(vae)
    with seeded(3), torch.no_grad():
        frames, latent = torch.rand(1, 3, 7, 16, 24) * 2 - 1, torch.randn(1, 12, 2, 2, 3)
        encoded = (vae.encode(frames).latent_dist.mode() - model.encoder(frames).mode()).abs().max()
        decoded, expected = vae.decode(latent).sample, model.decoder(latent)
    assert decoded.shape == expected.shape
    difference = (decoded - expected).abs().max()
    assert expected.abs().max() > 0.1
    assert max(encoded, difference) < 1e-4
    again = read_vae("mochi", tmp_path / "diffusers.safetensors")
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in vae.state_dict().items())


@pytest.mark.parametrize("half", ["encoder", "decoder"])
@pytest.mark.parametrize("prefix", ["", "half."])
def test_half_of_mochis_vae_is_refused(tmp_path: Path, half: str, prefix: str) -> None:
    state = getattr(mochi_vae(), half).state_dict()
    prefix = prefix.replace("half", half)
    plain(tmp_path / "half.safetensors", state, torch.float16, prefix)
    with refuses(CheckpointError, "mochi_half_vae", half=half):
        mochi_files.vae(read_file(tmp_path / "half.safetensors")[0])


# ---------------------------------------------------------------- real sizes


def entries_of(module: Any, names: Callable[[Any], Any] = dict) -> dict[str, Entry]:
    file = Path("some.safetensors")
    return {key: Entry(file, key, tuple(value.shape), "BF16") for key, value in names(module.state_dict()).items()}


def real_size(variant: str, part: str) -> Any:
    family = variant.split("/")[0]
    with host_classes(), torch.device("meta"):
        import comfy.ops
        from comfy.ldm.genmo.vae.model import VideoVAE
        from comfy.ldm.models.autoencoder import AutoencoderKL

        if part == "transformer":
            make = NATIVE[family][0](read(variant, "transformer"))
            return make(device="meta", dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init)
        config = kl_config(128, (1, 2, 4, 4), 2)
        return VideoVAE() if family == "mochi" else AutoencoderKL(ddconfig=config, embed_dim=16)


def described(variant: str, part: str) -> Weights | None:
    family = variant.split("/")[0]
    entries = entries_of(real_size(variant, part), NAMES[family] if part == "transformer" else dict)
    if part == "vae":
        return FILES[family].vae(entries)
    return FILES[family].transformer(entries, {"file": f"{variant.replace('/', '_')}_bf16.safetensors"})


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_published_sizes_have_all_their_tensors(variant: str, part: str) -> None:
    weights = described(variant, part)
    assert weights is not None
    assert weights.config == read(variant, part)
    with torch.device("meta"):
        module = getattr(diffusers, weights.kind).from_config(dict(weights.config))
    check_fit(module, weights.entries)


@pytest.mark.parametrize("variant", ["hunyuan_video/t2v-13b", "mochi/1-preview"])
def test_every_row_goes_where_diffusers_own_converter_puts_it(variant: str) -> None:
    """Each row of each tensor is a number of its own."""
    weights, converter = described(variant, "transformer"), NATIVE[variant.split("/")[0]][1]
    assert weights is not None
    rows, total = {}, 0
    for key, entry in entries_of(real_size(variant, "transformer"), NAMES[variant.split("/")[0]]).items():
        rows[key] = torch.arange(total, total := total + entry.shape[0])
    expected = getattr(single_file_utils, converter)(dict(rows))
    assert {*expected} == {*weights.entries}
    for name, entry in weights.entries.items():
        parts = [rows[entry.key][start:end] for start, end in entry.rows] or [rows[entry.key]]
        assert torch.equal(torch.cat(parts), expected[name]), name


@pytest.mark.parametrize("family", FILES)
def test_some_layers_are_renamed_as_in_the_whole_network(family: str) -> None:
    """As a LoRA has them."""
    entries = entries_of(hunyuan() if family == "hunyuan_video" else mochi(), NAMES[family])
    whole = FILES[family].renamed(entries)
    some = {key: entry for key, entry in entries.items() if "linear1" in key or "qkv" in key or "mlp" in key}
    assert len(some) > 10
    assert FILES[family].renamed(some) == {name: e for name, e in whole.items() if e.key in some}


# ---------------------------------------------------------------- other files


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_other_families_are_not_taken(part: str) -> None:
    networks = (
        {"hunyuan_video": hunyuan, "mochi": mochi}
        if part == "transformer"
        else {"hunyuan_video": hunyuan_vae, "mochi": mochi_vae}
    )
    for family, make in networks.items():
        entries = entries_of(make())
        for reader, module in FILES.items():
            weights_of = [module.transformer(entries, {}), module.vae(entries)]
            taken = [bool(weights) for weights in weights_of]
            assert taken == [reader == family and part == "transformer", reader == family and part == "vae"]


@pytest.mark.parametrize("key", ["patchify_proj.weight", "decoder.conv_in.conv.weight", "blocks.0.self_attn.q.weight"])
def test_strangers_are_not_taken(key: str) -> None:
    entries = {key: Entry(Path("a.safetensors"), key, (4, 4), "F32")}
    for module in FILES.values():
        assert module.transformer(entries, {}) is None
        assert module.vae(entries) is None
        assert module.vae({}) is None


def test_other_channels_are_refused() -> None:
    entries = entries_of(hunyuan())
    entries["img_in.proj.weight"] = entries["img_in.proj.weight"].reshape(256, 32, 1, 2, 2)
    with refuses(CheckpointError, "hunyuan_channels", "hunyuan_channels_remedy", channels=32):
        hunyuan_video_files.transformer(entries, {})


def test_other_heads_need_to_be_stated() -> None:
    entries = entries_of(hunyuan())
    narrow = {key: e.reshape(64) if "query_norm" in key or "key_norm" in key else e for key, e in entries.items()}
    with pytest.raises(CheckpointError, match="heads of 64 channels"):
        hunyuan_video_files.transformer(narrow, {"config": "[]"})
    stated = {"config": json.dumps({"transformer": {"rope_axes_dim": [8, 28, 28], "num_layers": 9}})}
    weights = hunyuan_video_files.transformer(narrow, stated)
    assert weights is not None
    config = weights.config
    assert (config["num_attention_heads"], config["rope_axes_dim"], config["num_layers"]) == (4, [8, 28, 28], 2)


@pytest.mark.parametrize(
    ("make", "key", "message"),
    [
        (hunyuan, "double_blocks.0.img_attn.norm.query_norm.weight", "transformer_blocks.0.attn.norm_q.weight"),
        (hunyuan_vae, "decoder.conv_out.conv.weight", "decoder.conv_out.conv.weight"),
        (mochi, "x_embedder.proj.weight", "patch_embed.proj.weight"),
        (mochi_vae, "decoder.output_proj.weight", "decoder.proj_out.weight"),
    ],
)
def test_what_is_missing_is_told(make: Callable[[], Any], key: str, message: str) -> None:
    entries = entries_of(make())
    del entries[key]
    with pytest.raises(CheckpointError, match=f"some.safetensors lacks {message}: it is incomplete"):
        [read for module in FILES.values() for read in (module.transformer(entries, {}), module.vae(entries))]
