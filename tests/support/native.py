"""VAEs in the host's own layout, with random weights, and the same weights as diffusers folders for us."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from reelwire.tests.support.native_ltx import COMMON, OLD_ENCODER
from reelwire.training.tiny_models import new, seeded
from safetensors.torch import load_file, save_file


@dataclass(frozen=True)
class Native:
    """One family whose VAE the host computes as diffusers does. make: (native file, folder to fill) -> None."""

    loader: str
    tiny: str
    frames: int
    make: Callable[[Path, Path], None]
    pictured: bool = False


@contextmanager
def host_classes() -> Iterator[None]:
    sys.path.insert(0, os.environ["COMFYUI_DIR"])
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    yield
    sys.path.remove(os.environ["COMFYUI_DIR"])


def randomised(module: Any) -> dict[str, torch.Tensor]:
    """The weights of a module, all set anew: the host leaves some of them as memory happened to be."""
    for name, value in module.named_parameters():
        wide = value.squeeze().ndim > 1
        scale, middle = (0.3 / value[0].numel() ** 0.5, 0.0) if wide else (0.03, 0.0 if name.endswith("bias") else 1.0)
        value.data = middle + torch.randn(value.shape) * scale
    return {k: v.detach().clone().contiguous() for k, v in module.state_dict().items()}


def _wan(file: Path, folder: Path) -> None:
    from diffusers import AutoencoderKLWan
    from diffusers.loaders.single_file_utils import convert_wan_vae_to_diffusers

    with host_classes(), seeded(1):
        from comfy.ldm.wan.vae import WanVAE

        weights = randomised(WanVAE(dim=8, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True]))
    save_file(weights, file)
    vae = AutoencoderKLWan(base_dim=8, dim_mult=[1, 2, 4, 4])
    vae.load_state_dict(convert_wan_vae_to_diffusers(dict(weights)))
    vae.save_pretrained(folder / "vae")


def _ltx(file: Path, folder: Path) -> None:
    """The host's class has always 128 channels, so the transformer gets as many."""
    from diffusers import AutoencoderKLLTXVideo
    from reelwire.loaders.families.ltx.checkpoint import vae as read_vae
    from reelwire.loaders.weights.safetensors import read_header

    config = {**COMMON, "latent_channels": 128, "blocks": OLD_ENCODER}
    with host_classes(), seeded(1):
        from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

        vae = VideoVAE(config=config)
        weights = randomised(vae)
    weights["per_channel_statistics.std-of-means"] = torch.linspace(0.5, 1.5, 128)
    weights["per_channel_statistics.mean-of-means"] = torch.linspace(-0.2, 0.2, 128)
    save_file(weights, file, {"config": json.dumps({"vae": config})})
    described = read_vae(read_header(file)[0])
    assert described is not None
    ours = AutoencoderKLLTXVideo.from_config(dict(described.config))
    state = load_file(file)
    ours.load_state_dict({name: state[entry.key] for name, entry in described.entries.items()})
    ours.save_pretrained(folder / "vae")
    shutil.rmtree(folder / "transformer")
    new(
        "LTXVideoTransformer3DModel",
        in_channels=128,
        out_channels=128,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=2,
        caption_channels=32,
    ).save_pretrained(folder / "transformer")


def svd_vae(channels: int, widths: tuple[int, ...], layers: int, device: str = "cpu") -> Any:
    """The host's own VAE of SVD (comfy/sd.py)."""
    common = dict(
        double_z=True,
        z_channels=4,
        resolution=256,
        in_channels=3,
        out_ch=3,
        ch=channels,
        ch_mult=[*widths],
        num_res_blocks=layers,
        attn_resolutions=[],
        dropout=0.0,
    )
    with host_classes(), seeded(1):
        from comfy.ldm.models.autoencoder import AutoencodingEngine

        part = lambda name, more: {"target": f"comfy.ldm.modules.{name}", "params": {**common, **more}}
        with torch.device(device):
            vae = AutoencodingEngine(
                regularizer_config={"target": "comfy.ldm.models.autoencoder.DiagonalGaussianRegularizer"},
                encoder_config=part("diffusionmodules.model.Encoder", {}),
                decoder_config=part("temporal_ae.VideoDecoder", {"video_kernel_size": [3, 1, 1], "alpha": 0.0}),
            )
        if device == "cpu":
            randomised(vae)
    return vae.eval().requires_grad_(False)


def _svd(file: Path, folder: Path) -> None:
    """The host's class has always 128 channels: in 16 bits 0.2 GB."""
    from reelwire.loaders.families.svd.checkpoint import vae
    from reelwire.loaders.weights.safetensors import read_file

    weights = svd_vae(128, (1, 2, 4, 4), 2).state_dict()
    save_file({k: v.half().contiguous() for k, v in weights.items()}, file)
    weights_read = vae(read_file(file)[0])
    assert weights_read is not None
    built: Any = weights_read.build(torch.float32, False, "", lambda *_: None)
    built.save_pretrained(folder / "vae")


NATIVE_VAES = {
    "wan": Native("ReelwireLoadWan", "tiny-wan2.1-t2v", 9, _wan),
    "ltx": Native("ReelwireLoadLTX", "tiny-ltx-0.9.0", 9, _ltx),
    "svd": Native("ReelwireLoadSVD", "tiny-svd", 14, _svd, pictured=True),
}


def native_folder(name: str, tiny_models: Path, models: Path) -> None:
    """models/vae/native-<name>.safetensors for the host's VAELoader, models/diffusers/native-<name> for our loader."""
    native, folder = NATIVE_VAES[name], models / "diffusers" / f"native-{name}"
    shutil.copytree(tiny_models / native.tiny, folder)
    shutil.rmtree(folder / "vae")
    (models / "vae").mkdir(exist_ok=True)
    native.make(models / "vae" / f"native-{name}.safetensors", folder)
