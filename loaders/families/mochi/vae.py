"""The Mochi VAE, streamed: what AutoencoderKLMochi computes, in constant memory but for the encoder's attention over
time.

Its convolutions are causal and its norms see one frame at a time, so a chain of generators is exact. diffusers' own
framewise decode pads the frames' edges in another way and gives other images.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ...parts import Network
from ...vae.streaming import Delay, Level, Pieces, convolve, drop_first, regroup

MOST_PIXELS = 2**15  # that attend at once; CUDA's attention refuses larger batches (MochiDownBlock3D.forward)


def decode_pieces(vae: Network, latents: Pieces, offload_state: bool = False) -> Pieces:
    """AutoencoderKLMochi.decode of latent frames [1, C, 1, h, w] as pieces [1, 3, n, H, W].

    offload_state: what the convolutions remember waits in RAM.
    """
    decoder = vae.decoder
    pieces: Pieces = map(decoder.conv_in, latents)
    for block in (decoder.block_in, *decoder.up_blocks, decoder.block_out):
        for resnet in block.resnets:
            pieces = _resnet(resnet, pieces, offload_state)
        if hasattr(block, "proj"):
            pieces = _upsample(block, pieces)
    pixels = map(lambda x: _linear(decoder.proj_out, decoder.nonlinearity(x)), pieces)
    return drop_first(vae.temporal_compression_ratio - 1 if vae.drop_last_temporal_frames else 0, pixels)


def encode_pieces(vae: Network, pixels: Pieces, count: int) -> Pieces:
    """AutoencoderKLMochi.encode of `count` frames [1, 3, n, H, W] as pieces of moments [1, 2C, 1, h, w]."""
    encoder = vae.encoder
    pieces: Pieces = map(lambda x: _linear(encoder.proj_in, encoder.fourier_features(x)), pixels)
    for block in (encoder.block_in, *encoder.down_blocks, encoder.block_out):
        if hasattr(block, "conv_in"):
            pieces = _conv(block.conv_in, pieces)
            count = (count - 1) // block.temporal_expansion + 1
        for resnet, norm, attention in zip(block.resnets, block.norms, block.attentions, strict=True):
            pieces = _resnet(resnet, pieces)
            pieces = pieces if attention is None else _attend(norm, attention, pieces, count)
    return map(lambda x: _linear(encoder.proj_out, encoder.nonlinearity(encoder.norm_out(x))), pieces)


def _linear(layer: Network, x: Tensor) -> Tensor:
    return layer(x.movedim(1, -1)).movedim(-1, 1)


def _conv(conv: Network, pieces: Pieces, offload_state: bool = False) -> Pieces:
    """CogVideoXCausalConv3d with pad_mode "replicate"."""
    edges = (conv.width_pad, conv.width_pad, conv.height_pad, conv.height_pad, 0, 0)
    padded = lambda x: conv.conv(F.pad(x, edges, mode="replicate"))
    return convolve(
        padded, conv.time_kernel_size, True, pieces, Level(offload_state=offload_state), conv.conv.stride[0]
    )


def _resnet(block: Network, pieces: Pieces, offload_state: bool = False) -> Pieces:
    """MochiResnetBlock3D.forward."""
    skip = Delay()

    def enter(x: Tensor) -> Tensor:
        skip.put(x)
        return block.nonlinearity(block.norm1(x))

    inner = map(lambda x: block.nonlinearity(block.norm2(x)), _conv(block.conv1, map(enter, pieces), offload_state))
    return map(skip.add_to, _conv(block.conv2, inner, offload_state))


def _upsample(block: Network, pieces: Pieces) -> Pieces:
    """The end of MochiUpBlock3D.forward: channels become time and space."""
    sizes = dict(st=block.temporal_expansion, sh=block.spatial_expansion, sw=block.spatial_expansion)
    spread = "b (c st sh sw) t h w -> b c (t st) (h sh) (w sw)"
    return map(lambda x: rearrange(_linear(block.proj, x), spread, **sizes), pieces)


def _attend(norm: Network, attention: Network, pieces: Pieces, count: int) -> Pieces:
    """The attention of MochiDownBlock3D.forward: a pixel looks back over its own past, whose keys and values are kept.

    count: frames that will come.
    """
    heads = lambda x: rearrange(x, "n t (g c) -> n g t c", g=attention.heads)
    past, done = None, 0  # [2, n, g, count, c]

    def attend(frame: Tensor) -> Tensor:
        nonlocal past, done
        x = rearrange(norm(frame), "b c t h w -> (b h w) t c")
        query, key, value = (heads(to(x)) for to in (attention.to_q, attention.to_k, attention.to_v))
        past = value.new_empty(2, *value.shape[:2], count, value.shape[3]) if past is None else past
        past[0, :, :, done] = attention.norm_k(key)[:, :, 0]
        past[1, :, :, done] = value[:, :, 0]
        done += 1
        attended = _look_back(attention.norm_q(query), *past[:, :, :, :done])
        attended = attention.to_out[0](rearrange(attended, "n g t c -> n t (g c)"))
        return frame + rearrange(attended, "(b h w) t c -> b c t h w", h=frame.shape[3], w=frame.shape[4])

    return map(attend, regroup(pieces, 1, 1))


def _look_back(query: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    parts = zip(*(x.split(MOST_PIXELS) for x in (query, keys, values)), strict=True)
    return torch.cat([F.scaled_dot_product_attention(q, k, v) for q, k, v in parts])
