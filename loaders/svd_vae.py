"""The Stable Video Diffusion decoder: its norms see all frames at once, so it decodes a clip (14 or 25 frames) whole."""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange

from .streaming import Pieces


def decode_pieces(vae: Any, latents: Pieces, chunk: int | None = None) -> Pieces:
    """AutoencoderKLTemporalDecoder.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, 1, H, W].

    chunk: decode_chunk_size of StableVideoDiffusionPipeline, the number of frames that are decoded together; None, its
    default, is all of them. Fewer need less memory and give other pictures.
    """
    z = rearrange(torch.cat(list(latents), 2), "1 c t h w -> t c h w")
    for part in z.split(chunk or len(z)):
        pixels = vae.decode(part, num_frames=len(part)).sample
        yield from rearrange(pixels, "t c h w -> 1 c t h w").split(1, 2)
