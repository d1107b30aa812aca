"""The LTX-Video decoder, streamed: what AutoencoderKLLTXVideo.decode computes, in constant memory.

The decoder looks ahead (its convolutions are not causal) and its norms are pointwise, so generators that hold back a few
frames are exact. diffusers' own framewise decode of this VAE is off by one frame.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from .streaming import Delay, Pieces, convolve, drop_first

Network = Any  # diffusers modules, whose attributes are untyped


def decode_pieces(vae: Network, latents: Pieces, time: Tensor | None, generator: torch.Generator) -> Pieces:
    """AutoencoderKLLTXVideo.decode of latent frames [B, C, 1, h, w] as pieces [B, 3, n, H, W], n at most a latent frame's.

    time: decode timestep [B] of VAEs with timestep conditioning. generator: draws the noise that 0.9.1 injects.
    """
    decoder = vae.decoder
    if time is not None and decoder.timestep_scale_multiplier is not None:
        time = time * decoder.timestep_scale_multiplier
    pieces = _conv(decoder.conv_in, latents)
    for block in (decoder.mid_block, *decoder.up_blocks):
        if getattr(block, "conv_in", None) is not None:
            pieces = _resnet(block.conv_in, pieces, time, generator)
        embedding = _embed(block, time)
        for upsampler in getattr(block, "upsamplers", None) or []:
            pieces = _upsample(upsampler, pieces)
        for resnet in block.resnets:
            pieces = _resnet(resnet, pieces, embedding, generator)
    last = _conv(decoder.conv_out, (_head(decoder, x, _embed(decoder, time)) for x in pieces))
    p, q = decoder.patch_size, decoder.patch_size_t
    return (rearrange(x, "b (c q r p) t h w -> b c (t q) (h p) (w r)", p=p, r=p, q=q) for x in last)


def _embed(block: Network, time: Tensor | None) -> Tensor | None:
    if getattr(block, "time_embedder", None) is None or time is None:
        return time
    embedding = block.time_embedder(
        timestep=time.flatten(), resolution=None, aspect_ratio=None, batch_size=len(time), hidden_dtype=time.dtype
    )
    return embedding.view(len(time), -1, 1, 1, 1)


def _conv(conv: Network, pieces: Pieces) -> Pieces:
    return convolve(conv.conv, conv.kernel_size[0], conv.is_causal, pieces)


def _norm(norm: Network, x: Tensor) -> Tensor:
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def _resnet(block: Network, pieces: Pieces, time: Tensor | None, generator: torch.Generator) -> Pieces:
    """LTXVideoResnetBlock3d.forward: the residual path waits for the look-ahead of the two convolutions."""
    skip = Delay()
    shifts: tuple[Any, Any] = (None, None)
    scales: tuple[Any, Any] = (None, None)
    if block.scale_shift_table is not None:
        assert time is not None
        table = time.unflatten(1, (4, -1)) + block.scale_shift_table[None, ..., None, None, None]
        shift_1, scale_1, shift_2, scale_2 = table.unbind(1)
        shifts, scales = (shift_1, shift_2), (scale_1, scale_2)

    def activate(norm: Network, x: Tensor, i: int) -> Tensor:
        x = _norm(norm, x)
        return block.nonlinearity(x if shifts[i] is None else x * (1 + scales[i]) + shifts[i])

    def enter() -> Pieces:
        for x in pieces:
            skip.put(x)
            yield activate(block.norm1, x, 0)

    inner = _inject(block.per_channel_scale1, _conv(block.conv1, enter()), generator)
    outer = _conv(block.conv2, (activate(block.norm2, x, 1) for x in inner))
    for x in _inject(block.per_channel_scale2, outer, generator):
        rest = skip.take(x.shape[2])
        rest = rest if block.norm3 is None else _norm(block.norm3, rest)
        yield x + (rest if block.conv_shortcut is None else block.conv_shortcut.conv(rest))


def _inject(scale: Tensor | None, pieces: Pieces, generator: torch.Generator) -> Pieces:
    """Noise injection of 0.9.1: one spatial pattern for the whole clip."""
    noise = None
    for x in pieces:
        if scale is not None and noise is None:
            noise = torch.randn(x.shape[-2:], generator=generator).to(x)[None]
        yield x if scale is None or noise is None else x + (noise * scale)[None, :, None]


def _upsample(block: Network, pieces: Pieces) -> Pieces:
    """LTXVideoUpsampler3d.forward: depth to space and time, without the frames that the first one would gain."""
    skip, (t, h, w) = Delay(), block.stride
    spread = lambda x: rearrange(x, "b (c t h w) f y x -> b c (f t) (y h) (x w)", t=t, h=h, w=w)

    def enter() -> Pieces:
        for x in pieces:
            if block.residual:
                skip.put(spread(x).repeat(1, t * h * w // block.upscale_factor, 1, 1, 1))
            yield x

    begun = False
    for x in drop_first(t - 1, map(spread, _conv(block.conv, enter()))):
        if block.residual and not begun:
            skip.take(t - 1)
        begun = True
        yield x + skip.take(x.shape[2]) if block.residual else x


def _head(decoder: Network, x: Tensor, embedding: Tensor | None) -> Tensor:
    x = _norm(decoder.norm_out, x)
    if decoder.time_embedder is not None and embedding is not None:
        table = embedding.unflatten(1, (2, -1)) + decoder.scale_shift_table[None, ..., None, None, None]
        shift, scale = table.unbind(1)
        x = x * (1 + scale) + shift
    return decoder.conv_act(x)
