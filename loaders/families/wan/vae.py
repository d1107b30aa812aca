"""The Wan VAE, streamed: what AutoencoderKLWan computes, one latent frame at a time."""

from __future__ import annotations

from torch import Tensor

from ...parts import Network
from ...vae.streaming import Pieces, regroup
from ...vae.tiles import to_device


def decode_pieces(vae: Network, latents: Pieces, offload_state: bool = False) -> Pieces:
    """AutoencoderKLWan.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W] in -1..1.

    The cache of past frames is this generator's own and not the VAE's, so that runs never see one another's.
    offload_state: it waits in RAM between two frames.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    vae.clear_cache()
    past: list[Tensor | None] = [None] * len(vae._feat_map)
    for number, frame in enumerate(latents):
        z = vae.post_quant_conv(frame)
        past = to_device(past, z.device)
        pixels = vae.decoder(z, feat_cache=past, feat_idx=[0], first_chunk=number == 0)
        if vae.config.patch_size is not None:
            pixels = unpatchify(pixels, patch_size=vae.config.patch_size)
        past = to_device(past, "cpu") if offload_state else past
        yield pixels.clamp(-1.0, 1.0)


def encode_pieces(vae: Network, pixels: Pieces, count: int) -> Pieces:
    """AutoencoderKLWan.encode of `count` frames [1, 3, n, H, W] as pieces of moments [1, 2C, 1, h, w].

    The first frame alone, then fours; their cache is this generator's own.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import patchify

    past: list[Tensor | None] = [None] * vae._cached_conv_counts["encoder"]
    for frames in regroup(pixels, 1, 4):
        if vae.config.patch_size is not None:
            frames = patchify(frames, patch_size=vae.config.patch_size)
        yield vae.quant_conv(vae.encoder(frames, feat_cache=past, feat_idx=[0]))
