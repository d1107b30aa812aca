"""The HunyuanVideo decoder, streamed: what AutoencoderKLHunyuanVideo.decode computes, in overlapping tiles of time.

Its norms and its attention see a whole tile, so the tiles must be the reference's (framewise decoding, its default).
"""

from __future__ import annotations

from typing import Any

import torch

from .streaming import Pieces


def decode_pieces(vae: Any, latents: Pieces) -> Pieces:
    """AutoencoderKLHunyuanVideo.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W].

    Clips of up to a tile (16 frames) are decoded whole. Later tiles begin one latent frame early, whose frame is left
    out, and fade in over the last 4 frames of the tile before (_temporal_tiled_decode).
    """
    frames, ratio = list(latents), vae.temporal_compression_ratio  # latents are small
    length, stride = (n // ratio for n in (vae.tile_sample_min_num_frames, vae.tile_sample_stride_num_frames))
    overlap, kept = (
        vae.tile_sample_min_num_frames - vae.tile_sample_stride_num_frames,
        vae.tile_sample_stride_num_frames,
    )
    decode = lambda parts: vae.decoder(vae.post_quant_conv(torch.cat(parts, 2)))
    if not vae.use_framewise_decoding or len(frames) <= length:
        yield from decode(frames).split(ratio, 2)
        return
    before, left = None, (len(frames) - 1) * ratio + 1
    for start in range(0, len(frames), stride):
        tile = decode(frames[start : start + length + 1])
        tile = tile if before is None else vae.blend_t(before, tile[:, :, 1:], overlap)
        shown = tile[:, :, : min(kept + (before is None), left)]
        yield from shown.split(ratio, 2) if shown.shape[2] else ()
        before, left = tile, left - shown.shape[2]
