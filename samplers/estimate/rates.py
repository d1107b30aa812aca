"""How fast this machine multiplies: a short measurement of products and attention in a model's own shapes."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from ...loaders.common.peaks import UNFUSED
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from .flops import dtype_of

SECONDS = 0.5  # for each of the two
FIRST, MOST = 256, 16384  # tokens of the first try, and of the largest
MOST_BYTES = 512 << 20  # on the device, whatever the model
LONG_ENOUGH = 0.05  # seconds of one call, from which on its start no longer counts
HEAD = 128  # channels of a head of attention where a network names none (Wan, HunyuanVideo and Mochi have 128)


def measure(model: VideoModel, request: Request, device: torch.device, seconds: float = SECONDS) -> tuple[float, float]:
    """Operations a second of (matrix products, attention) on a device, as the network of a complete request has them.

    Takes about twice `seconds`, and `needed` bytes there.
    """
    hidden, dtype = model.facts.hidden_size, dtype_of(model)
    most, heads = _most_tokens(model, request, device), max(hidden // HEAD, 1)
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


def needed(model: VideoModel, request: Request, device: torch.device) -> int:
    """The most bytes that `measure` holds on a device: MOST_BYTES, or more where a network is so wide that FIRST tokens
    take more."""
    return _held(model, _most_tokens(model, request, device), device)


def _most_tokens(model: VideoModel, request: Request, device: torch.device) -> int:
    """Those of the request, as far as the bytes allow."""
    tokens = min(model.facts.tokens(request.width, request.height, request.frames), MOST)
    while tokens > FIRST and _held(model, tokens, device) > MOST_BYTES:
        tokens = max(tokens * 7 // 8, FIRST)
    return tokens


def _held(model: VideoModel, tokens: int, device: torch.device) -> int:
    """Bytes of the weight, and of the larger of a product (rows, and results four times as wide) and an attention
    (queries, results, and scores with their softmax where nothing fuses them)."""
    hidden, item = model.facts.hidden_size, dtype_of(model).itemsize
    scores = 2 * max(hidden // HEAD, 1) * tokens**2 if device.type in UNFUSED else 0
    return item * (4 * hidden**2 + max(5 * hidden * tokens, 2 * hidden * tokens + scores))


def _rate(
    make: Callable[[int], Callable[[], Tensor]], operations: Callable[[int], int], most: int, seconds: float
) -> float:
    """Operations a second, with as many tokens as it takes for one call to be long enough."""
    tokens = min(FIRST, most)
    call = make(tokens)
    _timed(call, 1)  # warms up
    while _timed(call, 1) < LONG_ENOUGH and tokens < most:
        tokens = min(2 * tokens, most)
        del call  # before there are larger tensors
        call = make(tokens)
        _timed(call, 1)
    count = max(1, round(seconds / _timed(call, 1)))
    return operations(tokens) * count / _timed(call, count)


def _timed(call: Callable[[], Tensor], count: int) -> float:
    """Seconds of so many calls, until their numbers are there."""
    begin = time.perf_counter()
    for _ in range(count - 1):
        call()  # nothing holds one result while the next is made
    float(call().flatten()[0])  # waits for the device, whatever it is
    return time.perf_counter() - begin
