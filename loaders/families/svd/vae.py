"""The Stable Video Diffusion VAE: the decoder's norms see all frames at once, so it decodes a clip (14 or 25 frames)
whole; the encoder sees one frame at a time."""

from __future__ import annotations

import torch
from einops import rearrange

from ...parts import Network
from ...vae.streaming import Pieces, regroup

CHUNK, AROUND = 8, 4  # frames


def decode_pieces(vae: Network, latents: Pieces, offload_state: bool = False) -> Pieces:
    """AutoencoderKLTemporalDecoder.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, 1, H, W].

    offload_state: CHUNK frames at a time, with AROUND more at each side that only give context. That needs less memory
    and gives slightly other images (bench/vae.json says how far).
    """
    z = rearrange(torch.cat(list(latents), 2), "1 c t h w -> t c h w")
    chunk = CHUNK if offload_state else len(z)
    for start in range(0, len(z), chunk):
        before = min(start, AROUND)
        part = z[start - before : start + chunk + AROUND]
        pixels = vae.decode(part, num_frames=len(part)).sample[before : before + chunk]
        yield from rearrange(pixels, "t c h w -> 1 c t h w").split(1, 2)


def encode_pieces(vae: Network, pixels: Pieces, count: int) -> Pieces:
    """AutoencoderKLTemporalDecoder.encode of each of `count` frames [1, 3, n, H, W]: moments [1, 2C, 1, h, w]."""
    return map(lambda frame: vae.quant_conv(vae.encoder(frame[:, :, 0]))[:, :, None], regroup(pixels, 1, 1))
