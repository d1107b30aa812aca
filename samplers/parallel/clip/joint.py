"""Attention among a video's tokens and a prompt's at once: a rank has a share of the first, and all of the others.

diffusers shares out the heads of attentions that have nothing but shares. Here each rank gets all of the video's tokens
for its share of the heads, and takes these heads of the prompt.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ....loaders.parts import Args, Argument, Kwargs, Network
from .split import exchanged, gathered, redirected


class JointAttention(TorchFunctionMode):
    """PyTorch's attention, of the tokens of all ranks.

    own: how many tokens of the video this rank has. prompt_first: whether the prompt's come before them.
    """

    def __init__(self, rank: int, count: int, own: Callable[[], int], prompt_first: bool) -> None:
        super().__init__()
        self._rank, self._count, self._own, self._first = rank, count, own, prompt_first

    def __torch_function__(
        self, function: Callable[..., Argument], types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Argument:
        if function is F.scaled_dot_product_attention:
            return self._attended(*args, **(kwargs or {}))
        return function(*args, **(kwargs or {}))

    @contextmanager
    def within(self, network: Network, pattern: str) -> Iterator[None]:
        """In the attentions whose names fit a pattern, and nowhere else. What they exchange is not compiled."""
        modules = [module for name, module in network.named_modules() if re.search(pattern, name)]

        def joining(forward: Callable[..., object]) -> Callable[..., object]:
            @torch.compiler.disable
            def joined(*args: object, **kwargs: object) -> object:
                with self:
                    return forward(*args, **kwargs)

            return joined

        with redirected(modules, joining):
            yield

    def _attended(
        self, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: object
    ) -> Tensor:
        """What attention gives [B, H, n + T, D], of queries, keys and values of this shape."""
        query, key, value = (self._heads(x.transpose(1, 2)).transpose(1, 2) for x in (query, key, value))
        if attn_mask is not None:
            video, prompt = self._parts(attn_mask, 3)  # of the video every token counts
            attn_mask = self._joined(video.repeat(1, 1, 1, self._count), prompt, 3)
        attend: Callable[..., Tensor] = F.scaled_dot_product_attention
        x = attend(query, key, value, attn_mask=attn_mask, **options)
        return self._tokens(x.transpose(1, 2)).transpose(1, 2)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, n + T, H, D] -> this rank's heads of all tokens [B, N + T, H / ranks, D]."""
        video, prompt = self._parts(x, 1)
        sent = rearrange(video, "b n (r h) d -> r b n h d", r=self._count)
        whole = rearrange(exchanged(sent), "r b n h d -> b (r n) h d")
        return self._joined(whole, prompt.chunk(self._count, 2)[self._rank], 1)

    def _tokens(self, x: Tensor) -> Tensor:
        """[B, N + T, H / ranks, D] -> all heads of this rank's tokens [B, n + T, H, D]."""
        video, prompt = self._parts(x, 1, self._count)
        sent = rearrange(video, "b (r n) h d -> r b n h d", r=self._count)
        own = rearrange(exchanged(sent), "r b n h d -> b n (r h) d")
        return self._joined(own, torch.cat(gathered(prompt, self._count), 2), 1)

    def _parts(self, x: Tensor, dim: int, ranks: int = 1) -> tuple[Tensor, Tensor]:
        """(rows of the video's tokens of so many ranks, rows of the prompt's)."""
        video = self._own() * ranks
        prompt = x.shape[dim] - video
        start = prompt if self._first else 0
        return x.narrow(dim, start, video), x.narrow(dim, 0 if self._first else video, prompt)

    def _joined(self, video: Tensor, prompt: Tensor, dim: int) -> Tensor:
        return torch.cat((prompt, video) if self._first else (video, prompt), dim)
