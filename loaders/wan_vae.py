"""The Wan decoder, streamed: what AutoencoderKLWan.decode computes, one latent frame at a time."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .streaming import Pieces


def decode_pieces(vae: Any, latents: Pieces) -> Pieces:
    """AutoencoderKLWan.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W] in -1..1.

    The cache of past frames is this generator's own and not the VAE's, so that runs never see one another's.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import unpatchify

    vae.clear_cache()
    past: list[Tensor | None] = [None] * len(vae._feat_map)
    for number, frame in enumerate(latents):
        seen = vae.post_quant_conv(frame)
        pixels = vae.decoder(seen, feat_cache=past, feat_idx=[0], first_chunk=number == 0)
        if vae.config.patch_size is not None:
            pixels = unpatchify(pixels, patch_size=vae.config.patch_size)
        yield pixels.clamp(-1.0, 1.0)
