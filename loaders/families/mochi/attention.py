"""Mochi's joint attention of video and prompt: what diffusers' MochiAttnProcessor2_0 computes, without asking the card.

That processor looks for the prompt's rows in its mask in every block, and the CPU waits for the answer each time. Here
the lengths of the prompts are plain numbers, and the kernel is the one that diffusers' dispatcher is set to.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...messages import message
from ...parts import Network


class JointAttention:
    """The attention processor that all blocks of one network share.

    lengths: tokens of the prompt in each row of the batch; empty: they are read from the mask.
    """

    _attention_backend: Any = None  # both are set by diffusers' ModelMixin.set_attention_backend
    _parallel_config: Any = None

    def __init__(self) -> None:
        self.lengths: tuple[int, ...] = ()

    @contextmanager
    def reading(self, lengths: tuple[int, ...]) -> Iterator[None]:
        """Forwards of prompts of these lengths."""
        before, self.lengths = self.lengths, lengths
        try:
            yield
        finally:
            self.lengths = before

    def __call__(
        self,
        attn: Network,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Video [B, S, C] and prompt [B, T, C'] after attention; the rows behind a prompt's end stay zero."""
        layers = (attn.to_q, attn.norm_q), (attn.to_k, attn.norm_k), (attn.to_v, None)
        video = [_heads(attn, layer, norm, hidden_states) for layer, norm in layers]
        if image_rotary_emb is not None:
            video[:2] = [_rotate(x, *image_rotary_emb) for x in video[:2]]
        layers = (attn.add_q_proj, attn.norm_added_q), (attn.add_k_proj, attn.norm_added_k), (attn.add_v_proj, None)
        prompt = [_heads(attn, layer, norm, encoder_hidden_states) for layer, norm in layers]
        sizes = video[0].shape[1], prompt[0].shape[1]
        both = video[0].new_zeros(len(hidden_states), sum(sizes), attn.inner_dim)
        for row, length in enumerate(self.lengths or prompt_lengths(attention_mask)):
            both[row, : sizes[0] + length] = self._row(video, prompt, row, length)
        hidden, text = both.split(sizes, 1)  # views with gaps, as diffusers has them: a layer rounds others otherwise
        return attn.to_out[0](hidden), attn.to_add_out(text) if hasattr(attn, "to_add_out") else text

    def _row(self, video: list[Tensor], prompt: list[Tensor], row: int, length: int) -> Tensor:
        """One row's attention [S + length, C], of queries, keys and values [B, S or T, H, D]."""
        from diffusers.models.attention_dispatch import dispatch_attention_fn

        pairs = ((v[row : row + 1], p[row : row + 1, :length]) for v, p in zip(video, prompt, strict=True))
        # joined head by head, as diffusers has it: PyTorch's kernels see the same strides and give the same bits
        joined = [torch.cat([v.transpose(1, 2), p.transpose(1, 2)], 2).transpose(1, 2) for v, p in pairs]
        kernel: dict[str, Any] = dict(backend=self._attention_backend, parallel_config=self._parallel_config)
        query, key, value = joined
        return dispatch_attention_fn(query, key, value, **kernel)[0].flatten(1)


def _heads(attn: Network, layer: nn.Module, norm: nn.Module | None, x: Tensor) -> Tensor:
    """A projection of x [B, N, C] as [B, N, H, D]."""
    projected = layer(x).unflatten(2, (attn.heads, -1))
    return projected if norm is None else norm(projected)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary positions on pairs of channels of x [B, S, H, D], in float32; cos, sin: [S, H, D / 2]."""
    even, odd = x[..., 0::2].float(), x[..., 1::2].float()
    turned = (even * cos - odd * sin).to(x.dtype), (even * sin + odd * cos).to(x.dtype)
    return torch.stack(turned, -1).flatten(-2)


def prompt_lengths(mask: Tensor) -> tuple[int, ...]:
    """Tokens of each prompt of a mask [B, T]; raises ValueError where padding lies before its end."""
    lengths = tuple(map(int, mask.sum(-1)))
    if any(not row[:length].all() for row, length in zip(mask, lengths, strict=True)):
        raise ValueError(message("mochi_padding"))
    return lengths


def joint_attention(network: Network) -> JointAttention:
    """The one that all blocks of a network share; it takes its place in them when it is first asked for."""
    if not isinstance(found := getattr(network, "joint_attention", None), JointAttention):
        found = network.joint_attention = JointAttention()
        for block in network.transformer_blocks:
            block.attn1.processor = found
    return found
