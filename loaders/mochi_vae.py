"""The Mochi decoder, streamed: what AutoencoderKLMochi.decode computes, in constant memory.

Its convolutions are causal and its norms see one frame at a time, so a chain of generators is exact. diffusers' own
framewise decode pads the frames' edges in another way and gives other pictures.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from .streaming import Delay, Pieces, convolve, drop_first

Network = Any  # diffusers modules, whose attributes are untyped


def decode_pieces(vae: Network, latents: Pieces) -> Pieces:
    """AutoencoderKLMochi.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W]."""
    decoder = vae.decoder
    pieces: Pieces = (decoder.conv_in(frame) for frame in latents)
    for block in (decoder.block_in, *decoder.up_blocks, decoder.block_out):
        for resnet in block.resnets:
            pieces = _resnet(resnet, pieces)
        if hasattr(block, "proj"):
            pieces = _upsample(block, pieces)
    pixels = (_linear(decoder.proj_out, decoder.nonlinearity(x)) for x in pieces)
    return drop_first(vae.temporal_compression_ratio - 1 if vae.drop_last_temporal_frames else 0, pixels)


def _linear(layer: Network, x: Tensor) -> Tensor:
    return layer(x.movedim(1, -1)).movedim(-1, 1)


def _conv(conv: Network, pieces: Pieces) -> Pieces:
    """CogVideoXCausalConv3d with pad_mode "replicate"."""
    edges = (conv.width_pad, conv.width_pad, conv.height_pad, conv.height_pad, 0, 0)
    return convolve(lambda x: conv.conv(F.pad(x, edges, mode="replicate")), conv.time_kernel_size, True, pieces)


def _resnet(block: Network, pieces: Pieces) -> Pieces:
    """MochiResnetBlock3D.forward."""
    skip = Delay()

    def first() -> Pieces:
        for x in pieces:
            skip.put(x)
            yield block.nonlinearity(block.norm1(x))

    second = (block.nonlinearity(block.norm2(x)) for x in _conv(block.conv1, first()))
    for x in _conv(block.conv2, second):
        yield x + skip.take(x.shape[2])


def _upsample(block: Network, pieces: Pieces) -> Pieces:
    """The end of MochiUpBlock3D.forward: channels become time and space."""
    for x in pieces:
        sizes = dict(st=block.temporal_expansion, sh=block.spatial_expansion, sw=block.spatial_expansion)
        yield rearrange(_linear(block.proj, x), "b (c st sh sw) t h w -> b c (t st) (h sh) (w sw)", **sizes)
