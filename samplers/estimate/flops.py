"""How much a run computes, by torch's own counter on networks without weights: shapes go through, no numbers do.

One forward of one branch is counted, and one more latent frame of a decode; what a run does is a multiple of these.
"""

from __future__ import annotations

import math
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ...loaders.common.peaks import EYE, reader
from ...loaders.parts import Args, Argument, Kwargs, Network
from ...loaders.request import Request
from ...loaders.vae.tiles import Tile, Tiling
from ...loaders.video_model import VideoModel
from ...loaders.weights.bundle import blank

if TYPE_CHECKING:
    from torch.utils.flop_counter import FlopCounterMode

_ONE_AT_A_TIME = threading.RLock()  # what is set for the whole process is set back as it was


@dataclass(frozen=True)
class Flops:
    """Floating point operations; a multiplication and an addition are two. attention: of those, the products of
    queries, keys and values, which kernels of their own compute."""

    total: int
    attention: int = 0

    def __add__(self, other: Flops) -> Flops:
        return Flops(self.total + other.total, self.attention + other.attention)

    def __sub__(self, other: Flops) -> Flops:
        return Flops(self.total - other.total, self.attention - other.attention)

    def __mul__(self, times: int) -> Flops:
        return Flops(self.total * times, self.attention * times)


def dtype_of(model: VideoModel) -> torch.dtype:
    """The type that a model computes in."""
    dtype: torch.dtype = getattr(torch, model.recipe.dtype)
    return dtype


def network_part(model: VideoModel) -> str:
    """The part that denoises: "transformer", or "unet"."""
    return "unet" if "unet" in model.parts else "transformer"


def forward_flops(model: VideoModel, request: Request, once: bool = True) -> Flops:
    """What the network computes in one branch of one step of a complete request.

    once: of blocks that are alike the first alone runs and counts for all of them; that changes nothing but the time.
    """
    network: Network = blank(model.parts[network_part(model)], dtype_of(model))
    inputs = model.forward_inputs(request, network.config)
    with _counting() as counted:
        others = _alike_once(network, counted) if once else []
        network(**inputs, return_dict=False)
        return sum(others, counted())


def decode_flops(model: VideoModel, request: Request, tiling: Tiling | None = None) -> Flops:
    """What the VAE computes for a complete request, in tiles (by default the whole frame at once)."""
    facts = model.facts
    vae: Network = blank(model.parts["vae"], dtype_of(model))
    _, channels, frames, height, width = facts.latent_shape(request.width, request.height, request.frames)
    tiles = Counter((tile.height, tile.width) for row in (tiling or Tiling()).rows(height, width) for tile in row)
    total = Flops(0)
    for (height, width), count in tiles.items():
        frame = torch.empty(1, channels, 1, height, width, device="meta", dtype=vae.dtype)
        tile = Tile(0, 0, height, width, (height, width), bool(tiling and tiling.offload_state))
        stage = partial(model.decode_pieces, vae, tile=tile, seed=0)
        total += _stream_flops(stage, frame, frames, *model.decode_cycle) * count
    return total


def _stream_flops(
    stage: Callable[[Iterator[Tensor]], Iterator[Tensor]], frame: Tensor, count: int, start: int, period: int
) -> Flops:
    """What a stage computes for `count` equal frames; few of them run: each `period` from `start` on costs the same."""

    def run(frames: int) -> Flops:
        with _counting() as counted:
            for _ in stage(iter([frame] * frames)):
                pass
            return counted()

    first = start + (count - start) % period
    if count <= first + period:
        return run(count)
    few = run(first)
    return few + (run(first + period) - few) * ((count - first) // period)


def encoder_flops(model: VideoModel) -> Flops:
    """About what the text encoders compute for two prompts as long as they can be: two operations for each weight of a
    linear layer and token, of the words or of a picture."""
    return Flops(2 * 2 * sum(_products(model, name) for name in model.parts if name.startswith("text_encoder")))


def _products(model: VideoModel, name: str) -> int:
    """Weights of linear layers times the tokens that they read."""
    tensors = model.parts[name].tensors
    encoder = reader(tensors)
    words = model.facts.prompt_tokens if encoder is None else model.read_tokens(encoder)
    looked = encoder.pictures if encoder is not None and model.facts.reads_pictures else 0
    multiplied = {key: math.prod(shape) for key, shape in tensors.items() if len(shape) == 2 and not _TABLE.search(key)}
    return sum(count * (looked if EYE in key else words) for key, count in multiplied.items())


# looked up, not multiplied with; or for one token alone
_TABLE = re.compile(r"embed|^shared\.weight$|^lm_head\.")


class _WithoutNumbers(TorchFunctionMode):
    """What cannot be done without numbers: nothing is moved off the meta device, and each entry of a mask counts as
    set, as if the prompt filled its tokens."""

    def __torch_function__(
        self, func: Callable[..., Argument], types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Argument:
        if func is torch.nonzero and args[0].is_meta and args[0].ndim == 1:
            return torch.empty(len(args[0]), 1, device="meta", dtype=torch.int64)
        if func is Tensor.cpu and args[0].is_meta:
            return args[0]
        if func is Tensor.to and args[0].is_meta:
            args = tuple("meta" if isinstance(value, (str, torch.device)) else value for value in args)
        return func(*args, **(kwargs or {}))


@contextmanager
def _counting() -> Iterator[Callable[[], Flops]]:
    """torch's counter, with new tensors on the meta device. Yields what tells the count so far."""
    from torch.utils.flop_counter import FlopCounterMode

    # it knows no meta device; types make no difference here
    with _ONE_AT_A_TIME:
        autocast: Callable[..., AbstractContextManager[object]] = torch.autocast

        def without_meta(kind: str, *more: object, **named: object) -> AbstractContextManager[object]:
            return nullcontext() if kind == "meta" else autocast(kind, *more, **named)

        torch.autocast = without_meta  # type: ignore[misc, assignment]
        try:
            with torch.no_grad(), torch.device("meta"), _WithoutNumbers(), FlopCounterMode(display=False) as counter:
                yield lambda: _read(counter)
        finally:
            torch.autocast = autocast  # type: ignore[misc, assignment]


def _read(counter: FlopCounterMode) -> Flops:
    """Without numbers attention is computed as two batched products, which nothing else in these networks is."""
    counts = counter.get_flop_counts().get("Global", {})
    return Flops(sum(counts.values()), sum(n for op, n in counts.items() if "bmm" in str(op) or "attention" in str(op)))


def _alike_once(network: nn.Module, counted: Callable[[], Flops]) -> list[Flops]:
    """Change a network that is dropped afterwards: of the blocks of its lists that are alike, and are called alike, the
    first runs and the others give what it gave.

    The list that is returned holds, after a forward, what each block that did not run would have computed.
    """
    others: list[Flops] = []
    first: dict[object, tuple[object, Flops]] = {}

    def once(block: nn.Module, kind: object) -> Callable[..., object]:
        def forward(*args: object, **kwargs: object) -> object:
            key = kind, _shapes((args, kwargs))
            if key in first:
                others.append(first[key][1])
                return first[key][0]
            before, skipped = counted(), len(others)
            output = type(block).forward(block, *args, **kwargs)
            first[key] = output, sum(others[skipped:], counted() - before)
            return output

        return forward

    for blocks in [module for module in network.modules() if isinstance(module, nn.ModuleList)]:
        for block in blocks:
            weights = tuple((name, value.shape) for name, value in block.named_parameters())
            if weights:
                block.forward = once(block, (type(block), weights))
    return others


def _shapes(nest: object) -> tuple[object, ...]:
    """What decides about the shapes that a call gives."""
    from torch.utils._pytree import tree_leaves

    return tuple(leaf.shape if isinstance(leaf, Tensor) else str(leaf) for leaf in tree_leaves(nest))
