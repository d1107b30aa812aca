"""The LTX-Video VAE, streamed: what AutoencoderKLLTXVideo computes, in constant memory.

The decoder looks ahead (its convolutions are not causal), the encoder does not; the norms are pointwise, so generators
that hold back a few frames are exact. diffusers' own framewise decode of this VAE is off by one frame.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange, reduce
from torch import Tensor

from ...parts import Network
from ...vae.streaming import Delay, Level, Pieces, convolve, drop_first, mark_last, portions, regroup, split
from ...vae.tiles import Tile

# elements and latent frames of a piece on the CPU, at most: the fastest of a few that were tried in bench/native.py
MOST = 2**21
LATENTS = 8


@dataclass
class Noise:
    """The spatial noise patterns of one decode, drawn for whole frames in the layers' order, so that tiles agree on
    them."""

    generator: torch.Generator
    tile: Tile

    def like(self, x: Tensor) -> Tensor:
        """The next pattern [H, W] for a layer's x [..., H, W]."""
        up = x.shape[-2] // self.tile.height
        whole = torch.randn([side * up for side in self.tile.whole], generator=self.generator)
        return self.tile.cut(whole).to(x)


def decode_pieces(vae: Network, latents: Pieces, time: Tensor | None, noise: Noise) -> Pieces:
    """AutoencoderKLLTXVideo.decode of latent frames [B, C, 1, h, w] as pieces [B, 3, n, H, W], n at most a latent
    frame's.

    time: decode timestep [B] of VAEs with timestep conditioning. noise: what 0.9.1 injects.
    """
    decoder = vae.decoder
    if time is not None and decoder.timestep_scale_multiplier is not None:
        time = time * decoder.timestep_scale_multiplier
    offload_state = noise.tile.offload_state  # what the layers remember waits in RAM
    large = vae.device.type == "cpu" and not offload_state  # a card is asked for the room of a latent frame (`coders`)
    start, level, unit = Level(), Level(MOST if large else 0, offload_state), 1
    pieces = _conv(decoder.conv_in, portions(mark_last(latents, start), start, level, unit, LATENTS), level)
    for block in (decoder.mid_block, *decoder.up_blocks):
        if getattr(block, "conv_in", None) is not None:
            pieces = _resnet(block.conv_in, pieces, level, time, noise)
        embedding = _embed(block, time)
        for upsampler in getattr(block, "upsamplers", None) or []:
            before, level = level, replace(level)
            unit *= upsampler.stride[0]
            pieces = portions(_upsample(upsampler, pieces, before), before, level, unit, LATENTS)
        for resnet in block.resnets:
            pieces = _resnet(resnet, pieces, level, embedding, noise)
    last = _conv(decoder.conv_out, map(lambda x: _head(decoder, x, _embed(decoder, time)), pieces), level)
    p, q = decoder.patch_size, decoder.patch_size_t
    shown = map(lambda x: rearrange(x, "b (c q r p) t h w -> b c (t q) (h p) (w r)", p=p, r=p, q=q), last)
    return split(shown, unit * q)


def encode_pieces(vae: Network, pixels: Pieces, count: int) -> Pieces:
    """AutoencoderKLLTXVideo.encode of `count` frames [B, 3, n, H, W] as pieces of moments [B, 2C, 1, h, w]."""
    encoder = vae.encoder
    p, q = encoder.patch_size, encoder.patch_size_t
    patch = lambda x: rearrange(x, "b c (t q) (h p) (w r) -> b (c q r p) t h w", p=p, r=p, q=q)
    level = Level()
    pieces = _conv(encoder.conv_in, map(patch, regroup(pixels, q, q)), level)
    for block in (*encoder.down_blocks, encoder.mid_block):
        for resnet in block.resnets:
            pieces = _resnet(resnet, pieces, level)
        for downsampler in getattr(block, "downsamplers", None) or []:
            pieces = (_downsample if hasattr(downsampler, "group_size") else _conv)(downsampler, pieces, level)
        if getattr(block, "conv_out", None) is not None:
            pieces = _resnet(block.conv_out, pieces, level)
    last = _conv(encoder.conv_out, map(lambda x: encoder.conv_act(_norm(encoder.norm_out, x)), pieces), level)
    return map(
        lambda x: torch.cat([x, x[:, -1:].repeat(1, x.shape[1] - 2, 1, 1, 1)], 1), last
    )  # one log variance for all


def _embed(block: Network, time: Tensor | None) -> Tensor | None:
    if getattr(block, "time_embedder", None) is None or time is None:
        return time
    embedding = block.time_embedder(
        timestep=time.flatten(), resolution=None, aspect_ratio=None, batch_size=len(time), hidden_dtype=time.dtype
    )
    return embedding.view(len(time), -1, 1, 1, 1)


def _conv(conv: Network, pieces: Pieces, level: Level) -> Pieces:
    return convolve(conv.conv, conv.kernel_size[0], conv.is_causal, pieces, level, conv.conv.stride[0])


def _norm(norm: Network, x: Tensor) -> Tensor:
    return norm(x.movedim(1, -1)).movedim(-1, 1)


def _resnet(
    block: Network, pieces: Pieces, level: Level, time: Tensor | None = None, noise: Noise | None = None
) -> Pieces:
    """LTXVideoResnetBlock3d.forward: the residual path waits for the look-ahead of the two convolutions."""
    skip = Delay(level.offload_state)
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

    def enter(x: Tensor) -> Tensor:
        skip.put(x)
        return activate(block.norm1, x, 0)

    def through(rest: Tensor) -> Tensor:
        rest = rest if block.norm3 is None else _norm(block.norm3, rest)
        return rest if block.conv_shortcut is None else block.conv_shortcut.conv(rest)

    inner = _inject(block.per_channel_scale1, _conv(block.conv1, map(enter, pieces), level), noise)
    outer = _conv(block.conv2, map(lambda x: activate(block.norm2, x, 1), inner), level)
    return map(lambda x: skip.add_to(x, through), _inject(block.per_channel_scale2, outer, noise))


def _inject(scale: Tensor | None, pieces: Pieces, noise: Noise | None) -> Pieces:
    """Noise injection of 0.9.1: one spatial pattern for the whole clip."""
    if scale is None:
        return pieces
    assert noise is not None
    patterns = list[Tensor]()

    def inject(x: Tensor) -> Tensor:
        patterns[:] = patterns or [noise.like(x)[None]]
        return x + (patterns[0] * scale)[None, :, None]

    return map(inject, pieces)


def _upsample(block: Network, pieces: Pieces, level: Level) -> Pieces:
    """LTXVideoUpsampler3d.forward: depth to space and time, without the frames that the first one would gain."""
    skip, (t, h, w) = Delay(level.offload_state), block.stride
    spread = lambda x: rearrange(x, "b (c t h w) f y x -> b c (f t) (y h) (x w)", t=t, h=h, w=w)

    def enter(x: Tensor) -> Tensor:
        if block.residual:
            skip.put(spread(x).repeat(1, t * h * w // block.upscale_factor, 1, 1, 1))
        return x

    def leave(x: Tensor) -> Tensor:
        return skip.add_to(x) if block.residual else x

    return drop_first(t - 1, map(leave, map(spread, _conv(block.conv, map(enter, pieces), level))))


def _downsample(block: Network, pieces: Pieces, level: Level) -> Pieces:
    """LTXVideoDownsampler3d.forward: space and time to depth, beside the mean of the inputs that fall into one channel.

    The first frame counts twice where time is halved.
    """
    skip, begun, (t, h, w) = Delay(), False, block.stride
    gather = lambda x: rearrange(x, "b c (f t) (y h) (x w) -> b (c t h w) f y x", t=t, h=h, w=w)

    def enter(x: Tensor) -> Tensor:
        nonlocal begun
        x, begun = x if begun else torch.cat([x[:, :, : t - 1], x], 2), True
        skip.put(x)
        return x

    def leave(x: Tensor) -> Tensor:
        rest = torch.cat([*skip.take(t, x.device)], 2)
        return gather(x) + reduce(gather(rest), "b (c g) f y x -> b c f y x", "mean", g=block.group_size)

    return map(leave, regroup(_conv(block.conv, map(enter, pieces), level), t, t))


def _head(decoder: Network, x: Tensor, embedding: Tensor | None) -> Tensor:
    x = _norm(decoder.norm_out, x)
    if decoder.time_embedder is not None and embedding is not None:
        table = embedding.unflatten(1, (2, -1)) + decoder.scale_shift_table[None, ..., None, None, None]
        shift, scale = table.unbind(1)
        x = x * (1 + scale) + shift
    return decoder.conv_act(x)
