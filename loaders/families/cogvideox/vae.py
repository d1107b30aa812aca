"""The CogVideoX VAE, streamed: what AutoencoderKLCogVideoX computes, two latent frames or eight frames at a time."""

from __future__ import annotations

from typing import Any

import torch

from ...vae.streaming import Pieces, regroup
from ...vae.tiles import park


def decode_pieces(vae: Any, latents: Pieces, thrifty: bool = False) -> Pieces:
    """AutoencoderKLCogVideoX.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W].

    Its norms see all frames of a batch, so the batches must be the reference's: pairs, and an odd frame joins the first.
    thrifty: what is kept of them waits in RAM between two batches.
    """
    _forget_what_is_never_read(vae)
    frames, past = list(latents), None  # latents are small; the number of them says how the first batch goes
    size = vae.num_latent_frames_batch_size
    start, end = 0, min(len(frames), size + len(frames) % size)
    while start < len(frames):
        z = torch.cat(frames[start:end], 2)
        if vae.post_quant_conv is not None:
            z = vae.post_quant_conv(z)
        pixels, past = vae.decoder(z, conv_cache=park(past, z.device))
        past = park(past, "cpu") if thrifty else past
        yield pixels
        start, end = end, end + size


def encode_pieces(vae: Any, pixels: Pieces, count: int) -> Pieces:
    """AutoencoderKLCogVideoX.encode of `count` frames [1, 3, n, H, W] as pieces of moments [1, 2C, m, h, w].

    The reference's batches: eights, of which the first takes the remainder too (a shorter clip is one batch).
    """
    size, past = vae.num_sample_frames_batch_size, None
    for frames in regroup(pixels, count if count < size else size + count % size, size):
        moments, past = vae.encoder(frames, conv_cache=past)
        yield moments if vae.quant_conv is None else vae.quant_conv(moments)


def _forget_what_is_never_read(vae: Any) -> None:
    """Convolutions one frame long need no past, yet CogVideoXCausalConv3d keeps a copy of all they see; this pad mode,
    which pads them by nothing, keeps none."""
    for layer in vae.modules():
        if getattr(layer, "time_kernel_size", 0) == 1:
            layer.pad_mode = "replicate"
