"""The CogVideoX decoder, streamed: what AutoencoderKLCogVideoX.decode computes, two latent frames at a time."""

from __future__ import annotations

from typing import Any

import torch

from .streaming import Pieces


def decode_pieces(vae: Any, latents: Pieces) -> Pieces:
    """AutoencoderKLCogVideoX.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W].

    Its norms see all frames of a batch, so the batches must be the reference's: pairs, and an odd frame joins the first.
    """
    frames, past = list(latents), None  # latents are small; the number of them says how the first batch goes
    size = vae.num_latent_frames_batch_size
    start, end = 0, min(len(frames), size + len(frames) % size)
    while start < len(frames):
        z = torch.cat(frames[start:end], 2)
        if vae.post_quant_conv is not None:
            z = vae.post_quant_conv(z)
        pixels, past = vae.decoder(z, conv_cache=past)
        yield pixels
        start, end = end, end + size
