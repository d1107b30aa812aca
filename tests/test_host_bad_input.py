"""What cannot work is refused in words, through the host's own API, and the host lives on."""

from __future__ import annotations

import json
import resource
import shutil
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.tests.host import ROOT, Host, Prompt, node, stopped_at, workflow
from safetensors.torch import load_file, save_file

TINY = ROOT / "loaders" / "bundled" / "tiny_ltx"
NOISE = ("Traceback", "size mismatch", "shape '[", "KeyError", "NoneType", "object has no attribute")
FLIPS = range(12, 1200, 170)  # bytes of a header in which a bit is flipped
NAN = float("nan")


# ---------------------------------------------------------------- files that users have


def cut(file: Path, target: Path, size: int) -> None:
    target.write_bytes(file.read_bytes()[:size])


def flip(file: Path, target: Path, at: int) -> None:
    data = bytearray(file.read_bytes())
    data[at] ^= 1 << 2
    target.write_bytes(data)


def foreign(target: Path, *keys: str) -> None:
    save_file({key: torch.zeros(2, 2) for key in keys}, target)


def poison(folder: Path, part: str) -> None:
    """Set one weight of a part of a copy of the bundled model to NaN."""
    shutil.copytree(TINY, folder)
    file = folder / part / "diffusion_pytorch_model.safetensors"
    weights = load_file(file)
    next(w for w in weights.values() if w.is_floating_point() and w.ndim > 1).view(-1)[0] = NAN
    save_file(weights, file)


def real_ratio(folder: Path) -> None:
    """A diffusers folder whose VAE shrinks as the published ones do: 32 pixels, 8 frames."""
    from diffusers import AutoencoderKLLTXVideo

    shutil.copytree(TINY, folder, ignore=shutil.ignore_patterns("vae", "transformer", "reelwire.json"))
    torch.manual_seed(0)
    vae = AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, layers_per_block=(1,) * 5,
        decoder_layers_per_block=(1,) * 5, spatio_temporal_scaling=(True, True, True, False),
        decoder_spatio_temporal_scaling=(True, True, True, False), decoder_inject_noise=(False,) * 5, upsample_residual=(False,) * 4,
        upsample_factor=(1,) * 4, patch_size=4, patch_size_t=1, timestep_conditioning=False,
    )  # fmt: skip
    vae.save_pretrained(folder / "vae")
    transformer(96).save_pretrained(folder / "transformer")


def transformer(text_width: int) -> Any:
    from diffusers import LTXVideoTransformer3DModel

    torch.manual_seed(0)
    return LTXVideoTransformer3DModel(in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
                                      num_layers=1, caption_channels=text_width)  # fmt: skip


def single_files(folder: Path) -> None:
    """LTX-Video as one file, with the VAE inside and without, for text of width 64."""
    from diffusers import AutoencoderKLLTXVideo

    release = json.loads((ROOT / "loaders" / "configs" / "ltx" / "0.9.0-2b" / "vae.json").read_text(encoding="utf-8"))
    widths = {key: [8] * len(release[key]) for key in ("block_out_channels", "decoder_block_out_channels")}
    vae = AutoencoderKLLTXVideo.from_config(release | widths | {"latent_channels": 8})
    weights = {f"model.diffusion_model.{k}": v for k, v in transformer(64).state_dict().items()}
    save_file(weights, folder / "ltx_no_vae.safetensors")
    save_file(weights | {f"vae.{k}": v.contiguous() for k, v in vae.state_dict().items()}, folder / "ltx.safetensors")


@pytest.fixture(scope="module")
def models(host: Host) -> Host:
    """The host with every kind of broken file in its folders."""
    folders = {name: host.base / "models" / name for name in ("checkpoints", "diffusers", "text_encoders")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    checkpoints = folders["checkpoints"]
    single_files(checkpoints)
    whole = checkpoints / "ltx.safetensors"
    cut(whole, checkpoints / "zero.safetensors", 0)
    cut(whole, checkpoints / "cut_early.safetensors", 100)
    cut(whole, checkpoints / "cut_late.safetensors", whole.stat().st_size - 1)
    for at in FLIPS:
        flip(whole, checkpoints / f"flipped_{at}.safetensors", at)
    for name in ("pickle.ckpt", "pickle.pt", "pickle.safetensors"):
        torch.save({"patchify_proj.weight": torch.zeros(2, 2)}, checkpoints / name)
    foreign(checkpoints / "wan.safetensors", "blocks.0.self_attn.q.weight", "patch_embedding.weight", "head.head.weight")
    foreign(checkpoints / "hunyuan.safetensors", "double_blocks.0.img_attn_qkv.weight", "single_blocks.0.linear1.weight")
    shutil.copy(TINY / "text_encoder" / "model.safetensors", folders["text_encoders"] / "narrow.safetensors")
    real_ratio(folders["diffusers"] / "ltx_real")
    poison(folders["diffusers"] / "nan_transformer", "transformer")
    poison(folders["diffusers"] / "nan_vae", "vae")
    (host.base / "input" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"\0\0\0\rIHDR" + bytes(9))
    return host
