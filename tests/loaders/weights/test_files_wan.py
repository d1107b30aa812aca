"""Wan's single files, written by the host's own classes, compute here what they compute there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.weights.format import Weights
from reelwire.loaders.weights.safetensors import read_file
from reelwire.loaders.weights.stored import Stored
from reelwire.tests.support.files.files import KINDS, SMALL, gguf, plain, read_network, scaled_fp8
from reelwire.tests.support.files.native import host_classes, randomised
from reelwire.tests.support.files.native_wan import differ, native, ours
from reelwire.training.tiny_models import seeded
from safetensors.torch import load_file, save_file


@pytest.mark.parametrize("kind", ["t2v", "i2v", "vace"])
@pytest.mark.parametrize("file_kind", KINDS)
def test_a_file_computes_what_the_host_computes(tmp_path: Path, kind: str, file_kind: str) -> None:
    *differences, kept, wide = differ(tmp_path / "wan.safetensors", kind, file_kind)
    stored = sum(isinstance(layer, Stored) for layer in kept.modules())
    assert (stored > 20) == (file_kind in SMALL)
    assert not any(isinstance(layer, Stored) for layer in wide.modules())
    assert max(differences) < (2e-3 if "GGUF" in file_kind else 1e-4)


def test_diffusers_names_pass(tmp_path: Path) -> None:
    model = read_network(wan_files, _file(tmp_path, native("t2v")))
    again = tmp_path / "diffusers.safetensors"
    plain(again, model.state_dict())
    assert torch.equal(ours(read_network(wan_files, again), "t2v"), ours(model, "t2v"))


def _file(folder: Path, model: Any) -> Path:
    file = folder / "wan.safetensors"
    plain(file, model.state_dict())
    return file


def test_unknown_scales_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "wan.safetensors"
    scaled_fp8(file, native("t2v").state_dict())
    state = load_file(file)
    layer = "blocks.0.self_attn.q"
    for extra, message in (
        ({f"{layer}.weight_scale_2": torch.ones(1)}, "weight_scale_2"),
        ({"blocks.9.x.scale_weight": torch.ones(1)}, "fits no fp8 weight"),
        ({f"{layer}.scale_weight": torch.ones(7)}, "fits no fp8 weight"),
    ):
        save_file(state | extra, tmp_path / "odd.safetensors")
        with pytest.raises(CheckpointError, match=message):
            read_network(wan_files, tmp_path / "odd.safetensors")
    save_file({k: v for k, v in state.items() if k != f"{layer}.scale_weight"}, file)
    read_network(wan_files, file)  # a layer in plain fp8 among scaled ones is what it says
    scaled_fp8(file, native("t2v").state_dict(), new=True)
    save_file({k: v for k, v in load_file(file).items() if k != f"{layer}.weight_scale"}, file)
    with pytest.raises(CheckpointError, match=f"{layer}.comfy_quant without a scale"):
        read_network(wan_files, file)


def test_damaged_gguf_files_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "wan.gguf"
    gguf(file, native("t2v").state_dict())
    whole = file.read_bytes()
    for size in (8, 200, len(whole) // 2, len(whole) - 50):
        file.write_bytes(whole[:size])
        with pytest.raises(CheckpointError, match=r"wan.gguf .*damaged"):
            read_network(wan_files, file)


@pytest.mark.parametrize("release", ["2.1", "2.2"])
def test_vaes(tmp_path: Path, release: str) -> None:
    """Both compute what the host's classes compute, encoding and decoding."""
    with host_classes(), seeded(3):
        from comfy.ldm.wan.vae import WanVAE
        from comfy.ldm.wan.vae2_2 import WanVAE as WanVAE22

        common = dict(dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])
        model = (
            WanVAE(dim=8, z_dim=16, **common) if release == "2.1" else WanVAE22(dim=8, dec_dim=16, z_dim=48, **common)
        )
        state = randomised(model)
    file = tmp_path / "vae.safetensors"
    save_file(state, file)
    weights = wan_files.vae(read_file(file)[0])
    assert isinstance(weights, Weights)
    mine: Any = weights.build(torch.float32, False, "", lambda *_: None)
    with seeded(4), torch.no_grad():
        pixels = torch.rand(1, 3, 5, 32, 32) * 2 - 1
        z = model.encode(pixels)
        assert (mine.encode(pixels).latent_dist.mode() - z).abs().max() < 1e-4
        assert (mine.decode(z).sample - model.decode(z).clamp(-1, 1)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("name", "changes", "variant"),
    [
        ("wan2.1_t2v_1.3B_bf16", {"num_layers": 30}, "2.1-t2v-1.3b"),
        ("wan2.1_t2v_14B_fp8_scaled", {}, "2.1-t2v-14b"),
        ("wan2.2_t2v_high_noise_14B_fp8_scaled", {}, "2.2-t2v-a14b"),
        ("Wan2_1-I2V-14B-480P_fp8", {"in_channels": 36, "image_dim": 1280}, "2.1-i2v-14b-480p"),
        ("wan2.1_i2v_720p_14B_bf16", {"in_channels": 36, "image_dim": 1280}, "2.1-i2v-14b-720p"),
        ("wan2.2_i2v_low_noise_14B_fp16", {"in_channels": 36}, "2.2-i2v-a14b"),
        ("wan2.2_ti2v_5B_fp16", {"in_channels": 48, "out_channels": 48, "num_layers": 30}, "2.2-ti2v-5b"),
        ("Wan2_1-Fun-Control-14B", {"in_channels": 48, "image_dim": 1280}, "2.1-fun-control-14b"),
        ("x", {"in_channels": 48, "image_dim": 1280, "num_layers": 30}, "2.1-fun-control-1.3b"),
        ("x", {"in_channels": 36, "image_dim": 1280, "num_layers": 30}, "2.1-fun-inp-1.3b"),
        ("wan2.1_fun_inp_14B", {"in_channels": 36, "image_dim": 1280}, "2.1-fun-inp-14b"),
        ("wan2.2_fun_control_high_noise_14B", {"in_channels": 52}, "2.2-fun-control-a14b"),
        ("wan2.2_fun_inpaint_high_noise_14B", {"in_channels": 36}, "2.2-fun-inp-a14b"),
        ("x", {"in_channels": 148, "out_channels": 48, "num_layers": 30}, "2.2-fun-control-5b"),
        ("x", {"in_channels": 100, "out_channels": 48, "num_layers": 30}, "2.2-fun-inp-5b"),
        (
            "wan2.1_flf2v_720p_14B_fp16",
            {"in_channels": 36, "image_dim": 1280, "pos_embed_seq_len": 514},
            "2.1-flf2v-14b-720p",
        ),
        ("wan2.1_vace_14B_fp16", {"vace_layers": [0]}, "2.1-vace-14b"),
        ("wan2.1_vace_1.3B", {"vace_layers": [0], "num_layers": 30}, "2.1-vace-1.3b"),
    ],
)
def test_variants(name: str, changes: dict[str, Any], variant: str) -> None:
    config = {"in_channels": 16, "out_channels": 16, "num_layers": 40, "image_dim": None, "pos_embed_seq_len": None}
    assert wan_files.FORMAT.variant is not None
    assert wan_files.FORMAT.variant({"transformer": {**config, **changes}}, name) == variant
