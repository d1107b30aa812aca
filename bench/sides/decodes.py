"""The VAEs that bench/native.py compares: the host's own classes at reduced width, and the latents that they decode."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from reelwire.bench.sides.cases import CASES
from reelwire.loaders.families.svd import checkpoint as svd_files
from reelwire.tests.support.files.native import svd_vae
from reelwire.tests.support.files.native_hunyuan_mochi import mochi_vae
from reelwire.tests.support.files.native_ltx import COMMON, OLD_ENCODER
from reelwire.tests.support.files.native_svd_cogvideox import native_cogvideox_vae
from torch import Tensor


def _wan() -> Any:
    from comfy.ldm.wan.vae import WanVAE

    return WanVAE(dim=32, z_dim=16, dim_mult=[1, 2, 4, 4], temperal_downsample=[False, True, True])


def _ltx() -> Any:
    """The structure of 0.9.0, whose decoder adds no noise."""
    from comfy.ldm.lightricks.vae.causal_video_autoencoder import VideoVAE

    widths = dict(latent_channels=128, encoder_base_channels=32, decoder_base_channels=32)
    vae = VideoVAE(config={**COMMON, **widths, "blocks": OLD_ENCODER})
    vae.per_channel_statistics.get_buffer("mean-of-means").zero_()
    vae.per_channel_statistics.get_buffer("std-of-means").fill_(1.0)
    return vae


def _hunyuan_video() -> Any:
    from comfy.ldm.models.autoencoder import AutoencoderKL

    config = dict(
        double_z=True,
        z_channels=16,
        resolution=256,
        in_channels=3,
        out_ch=3,
        ch=32,
        ch_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        attn_resolutions=[],
        dropout=0.0,
        conv3d=True,
        time_compress=4,
    )
    return AutoencoderKL(ddconfig=config, embed_dim=16)


def _cogvideox() -> Any:
    return native_cogvideox_vae("cpu", block_out_channels=(32, 64, 64, 128), layers_per_block=3)


def _whole(vae: Any, latents: Tensor) -> Tensor:
    return vae.decode(latents)


def _decoder(vae: Any, latents: Tensor) -> Tensor:
    return vae.decoder(latents)


def _as_images(vae: Any, latents: Tensor) -> Tensor:
    """SVD's frames are a batch."""
    return vae.decode(latents[0].movedim(1, 0))


@dataclass(frozen=True)
class Decode:
    """One clip. make: the host's VAE; latents: [C, t, h, w]; call: the host's decode; reader: of its file."""

    family: str
    make: Callable[[], Any]
    latents: tuple[int, int, int, int]
    call: Callable[[Any, Tensor], Tensor] = _whole
    dtype: torch.dtype = torch.float32

    @property
    def reader(self) -> Any:
        return CASES[self.family].reader if self.family in CASES else svd_files

    @property
    def tiny(self) -> str:
        """The tiny model whose other parts we load."""
        return CASES[self.family].tiny if self.family in CASES else "tiny-svd"


DECODES = {
    "wan": Decode("wan", _wan, (16, 9, 16, 16)),
    "ltx": Decode("ltx", _ltx, (128, 7, 8, 8)),
    "ltx, 33 frames": Decode("ltx", _ltx, (128, 5, 8, 8)),
    "ltx, 97 frames, bfloat16": Decode("ltx", _ltx, (128, 13, 8, 8), dtype=torch.bfloat16),
    "hunyuan_video": Decode("hunyuan_video", _hunyuan_video, (16, 5, 16, 16)),
    "hunyuan_video, one tile of time": Decode("hunyuan_video", _hunyuan_video, (16, 4, 16, 16)),
    "hunyuan_video, 33 frames": Decode("hunyuan_video", _hunyuan_video, (16, 9, 16, 16)),
    "cogvideox": Decode("cogvideox", _cogvideox, (16, 5, 16, 16)),
    "mochi": Decode("mochi", mochi_vae, (12, 4, 12, 12), _decoder),
    "svd": Decode("svd", lambda: svd_vae(64, (1, 2, 4, 4), 2), (4, 14, 16, 16), _as_images),
}
