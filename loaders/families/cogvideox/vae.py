"""The CogVideoX VAE, streamed: what AutoencoderKLCogVideoX computes, two latent frames or eight frames at a time."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ...parts import Network
from ...vae.streaming import Pieces, regroup
from ...vae.tiles import to_device


def decode_pieces(vae: Network, latents: Pieces, offload_state: bool = False) -> Pieces:
    """AutoencoderKLCogVideoX.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W].

    Its norms see all frames of a batch, so the batches must be the reference's: pairs, and an odd frame joins the
    first. offload_state: what is kept of them waits in RAM between two batches.
    """
    frames = list(latents)  # latents are small; the number of them says how the first batch goes
    conv_cache = None
    size = vae.num_latent_frames_batch_size
    start, end = 0, min(len(frames), size + len(frames) % size)
    while start < len(frames):
        z = torch.cat(frames[start:end], 2)
        if vae.post_quant_conv is not None:
            z = vae.post_quant_conv(z)
        with _no_needless_copies(vae):  # not across a yield: the VAE is shared, and tiles take turns
            pixels, conv_cache = vae.decoder(z, conv_cache=to_device(conv_cache, z.device))
        conv_cache = to_device(conv_cache, "cpu") if offload_state else conv_cache
        yield pixels
        start, end = end, end + size


def encode_pieces(vae: Network, pixels: Pieces, count: int) -> Pieces:
    """AutoencoderKLCogVideoX.encode of `count` frames [1, 3, n, H, W] as pieces of moments [1, 2C, m, h, w].

    The reference's batches: eights, of which the first takes the remainder too (a shorter clip is one batch).
    """
    size = vae.num_sample_frames_batch_size
    conv_cache = None
    for frames in regroup(pixels, count if count < size else size + count % size, size):
        moments, conv_cache = vae.encoder(frames, conv_cache=conv_cache)
        yield moments if vae.quant_conv is None else vae.quant_conv(moments)


@contextmanager
def _no_needless_copies(vae: Network) -> Iterator[None]:
    """The VAE without the copies of their inputs that convolutions one frame long keep and never read: the pad mode
    "replicate", which pads them by nothing, keeps none (CogVideoXCausalConv3d.forward)."""
    layers = [layer for layer in vae.modules() if getattr(layer, "time_kernel_size", 0) == 1]
    modes = [layer.pad_mode for layer in layers]
    for layer in layers:
        layer.pad_mode = "replicate"
    try:
        yield
    finally:
        for layer, mode in zip(layers, modes, strict=True):
            layer.pad_mode = mode
