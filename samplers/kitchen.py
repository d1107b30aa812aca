"""comfy-kitchen's kernels for attention, in the place of PyTorch's own: 8 bits, and sparse.

The sparse one is Sol-Attn (arXiv 2607.24027): each block of 64 queries sees the blocks of keys that a look at their
means finds worth it, and of each other block one mean. ComfyUI's own node of it begins at a fifth of the run and at
12,288 tokens; so does this one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from ..loaders.video_model import VideoModel

BLOCK = 64  # tokens
HEAD = 128  # channels of a head, which the kernel is made for
FEWEST = 12_288  # tokens from which on it is faster than all pairs
DENSE = 0.2  # share of the run's predictions that see all pairs: what is large in the video is decided there
TEXT = 10  # blocks for a joint sequence's prompt, at most 540 rows (HunyuanVideo's I2V); all see them, and they all


Attention = Callable[..., Tensor]  # of [B, H, N, D], with the arguments of PyTorch's
ALL_PAIRS: Attention = F.scaled_dot_product_attention


class Kitchen(NamedTuple):
    """attention: in the place of PyTorch's; begin: to be told of each prediction, its number and how many there are."""

    attention: Attention
    begin: Callable[[int, int], None]


def dense_predictions(count: int) -> int:
    """How many of a run's predictions see all pairs."""
    return math.ceil(DENSE * count)


def int8_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: float | None
) -> Tensor:
    """Queries, keys and values in 8 bits; masks as they are."""
    from comfy_kitchen import int8_attention as compute

    if options.get("dropout_p") or options.get("is_causal"):  # no video network asks for either
        return ALL_PAIRS(query, key, value, attn_mask, **options)
    eight_bits: Tensor = compute(query, key, value, scale=options.get("scale"), attn_mask=attn_mask)
    return eight_bits


class Sparse:
    """Self-attention of long sequences, sparse once the first predictions are made.

    text_first: whether the prompt of a joint sequence lies before its video, or behind.
    """

    def __init__(self, text_first: bool, fewest: int) -> None:
        self.dense = True
        self._text_first, self._fewest = text_first, fewest

    def begin(self, prediction: int, count: int) -> None:
        """Whether the prediction that is made next sees all pairs."""
        self.dense = prediction < dense_predictions(count)

    def attention(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: float | None
    ) -> Tensor:
        """Sparse where that is meant and can be."""
        tokens, channels = query.shape[-2:]
        plain = attn_mask is None and not (options.get("dropout_p") or options.get("is_causal"))
        alike = query.shape == key.shape == value.shape
        if self.dense or not (plain and alike) or tokens < self._fewest or channels > HEAD:
            return ALL_PAIRS(query, key, value, attn_mask, **options)
        return self._compute(query, key, value, options.get("scale") or channels**-0.5)

    def _compute(self, query: Tensor, key: Tensor, value: Tensor, scale: float) -> Tensor:
        """Narrow heads are filled up with zeros, which change no product."""
        from comfy_kitchen import sol_attn

        tokens, channels = query.shape[-2:]
        blocks = math.ceil(tokens / BLOCK)
        text = [0, min(TEXT, blocks)] if self._text_first else [max(blocks - TEXT, 0), blocks]
        rows = [x.transpose(1, 2) for x in (query, key, value)]
        if channels < HEAD:
            rows = [F.pad(x, (0, HEAD - channels)) for x in rows]
        sparse: Tensor = sol_attn(*rows, scale=scale, sink_blocks=text, sink_q=text)
        return sparse[..., :channels].transpose(1, 2)


def _sparse(model: VideoModel) -> Kitchen:
    sparse = Sparse(model.text_first, FEWEST)
    return Kitchen(sparse.attention, sparse.begin)


KITCHENS: dict[str, Callable[[VideoModel], Kitchen]] = {
    "int8_attention": lambda model: Kitchen(int8_attention, lambda number, count: None),
    "sol_attn": _sparse,
}
