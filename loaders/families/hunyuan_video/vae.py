"""The HunyuanVideo VAE, streamed: what AutoencoderKLHunyuanVideo computes, in overlapping tiles of time.

Its norms and its attention see a whole tile, so the tiles must be the reference's (framewise coding, its default).
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...parts import Network
from ...vae.streaming import Pieces, regroup


def decode_pieces(vae: Network, latents: Pieces) -> Pieces:
    """AutoencoderKLHunyuanVideo.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W].

    Clips of up to a tile (16 frames) are decoded whole. Later tiles begin one latent frame early, whose frame is left
    out, and fade in over the last 4 frames of the tile before (_temporal_tiled_decode).
    """
    frames, ratio = list(latents), vae.temporal_compression_ratio  # latents are small
    length, stride = (n // ratio for n in (vae.tile_sample_min_num_frames, vae.tile_sample_stride_num_frames))
    stride_frames = vae.tile_sample_stride_num_frames
    overlap = vae.tile_sample_min_num_frames - stride_frames
    decode = lambda parts: vae.decoder(vae.post_quant_conv(torch.cat(parts, 2)))
    if not vae.use_framewise_decoding or len(frames) <= length:
        yield from decode(frames).split(ratio, 2)
        return
    before, left = None, (len(frames) - 1) * ratio + 1
    for start in range(0, len(frames) - 1, stride):  # a last latent frame alone would add nothing
        tile = decode(frames[start : start + length + 1])
        tile = tile if before is None else vae.blend_t(before, tile[:, :, 1:], overlap)
        shown = tile[:, :, : min(stride_frames + (before is None), left)]
        yield from shown.split(ratio, 2) if shown.shape[2] else ()
        before, left = tile, left - shown.shape[2]


def encode_pieces(vae: Network, pixels: Pieces, count: int) -> Pieces:
    """AutoencoderKLHunyuanVideo.encode of `count` frames [1, 3, n, H, W] as pieces of moments [1, 2C, m, h, w].

    Clips of up to a tile (16 frames) are encoded whole. Later tiles lose the latent of their first frame and fade in
    over what the tile before has left (_temporal_tiled_encode).
    """
    length, stride, ratio = (
        vae.tile_sample_min_num_frames,
        vae.tile_sample_stride_num_frames,
        vae.temporal_compression_ratio,
    )
    latent_stride, overlap = stride // ratio, (length - stride) // ratio
    encode = lambda frames: vae.quant_conv(vae.encoder(frames))
    if not vae.use_framewise_encoding or count <= length:
        yield from map(encode, regroup(pixels, count, count))
        return
    before = None
    for tile in map(encode, _tiles(pixels, length + 1, stride, ratio)):
        tile = tile if before is None else vae.blend_t(before, tile[:, :, 1:], overlap)
        yield tile[:, :, : latent_stride + (before is None)]
        before = tile


def _tiles(pixels: Pieces, length: int, stride: int, ratio: int) -> Pieces:
    """The frames i to i + length for i = 0, stride, 2 stride ...; not a last one with no latent beside its first
    frame's."""
    waiting: list[Tensor] = []
    for frame in regroup(pixels, 1, 1):
        waiting.append(frame)
        if len(waiting) == length:
            tile, waiting = [torch.cat(waiting, 2)], waiting[stride:]
            yield tile.pop()
    while len(waiting) > ratio:
        tile, waiting = [torch.cat(waiting, 2)], waiting[stride:]
        yield tile.pop()
