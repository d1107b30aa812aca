"""How fast this machine multiplies: a short measurement of products and attention in a model's own shapes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ..loaders.video_model import Request, VideoModel

SECONDS = 0.5  # for each of the two
FIRST, MOST = 256, 16384  # tokens of the first try, and of the largest
LONG_ENOUGH = 0.05  # seconds of one call, from which on its start no longer counts
HEAD = 128  # channels of a head of attention where a network names none (Wan, HunyuanVideo and Mochi have 128)


def measure(model: VideoModel, request: Request, device: torch.device, seconds: float = SECONDS) -> tuple[float, float]:
    """Operations a second of (matrix products, attention) on a device, as the network of a complete request has them.

    Takes about twice `seconds`, and at most some hundred MB there.
    """
    hidden, dtype = model.facts.width, getattr(torch, model.recipe.dtype)
    most = min(model.facts.tokens(request.width, request.height, request.frames), MOST)
    heads = max(hidden // HEAD, 1)
    weight = torch.randn(4 * hidden, hidden, device=device, dtype=dtype)

    def product(tokens: int) -> Callable[[], Tensor]:
        rows = torch.randn(tokens, hidden, device=device, dtype=dtype)
        return lambda: F.linear(rows, weight)

    def attention(tokens: int) -> Callable[[], Tensor]:
        q = torch.randn(1, heads, tokens, hidden // heads, device=device, dtype=dtype)
        return lambda: F.scaled_dot_product_attention(q, q, q)

    with torch.inference_mode():
        return (
            _rate(product, lambda n: 2 * n * hidden * 4 * hidden, most, seconds),
            _rate(attention, lambda n: 4 * n * n * hidden, most, seconds),
        )


def _rate(
    make: Callable[[int], Callable[[], Tensor]], operations: Callable[[int], int], most: int, seconds: float
) -> float:
    """Operations a second, with as many tokens as it takes for one call to be long enough."""
    tokens = min(FIRST, most)
    call = make(tokens)
    _timed(call, 1)  # warms up
    while _timed(call, 1) < LONG_ENOUGH and tokens < most:
        tokens = min(2 * tokens, most)
        call = make(tokens)
        _timed(call, 1)
    count = max(1, round(seconds / _timed(call, 1)))
    return operations(tokens) * count / _timed(call, count)


def _timed(call: Callable[[], Tensor], count: int) -> float:
    """Seconds of so many calls, until their numbers are there."""
    begin = time.perf_counter()
    for _ in range(count):
        result = call()
    float(result.flatten()[0])  # waits for the device, whatever it is
    return time.perf_counter() - begin
