"""What spatio-temporal guidance leaves out of LTX-Video's blocks (ltx-video: utils/skip_layer_strategy.py).

Its fourth strategy, "residual", changes nothing in these blocks there, whose attentions have no residual of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from torch import Tensor

from ...parts import Argument, Network


def _project(attention: Network, x: Tensor) -> Tensor:
    for layer in attention.to_out:
        x = layer(x)
    return x


def attention_values(attention: Network, hidden_states: Tensor, *_: Argument, **__: Argument) -> Tensor:
    """A processor of an attention whose tokens see themselves alone: its values go on."""
    return _project(attention, attention.to_v(hidden_states))


def attention_skip(attention: Network, hidden_states: Tensor, *_: Argument, **__: Argument) -> Tensor:
    """A processor that hands on what came in."""
    return _project(attention, hidden_states)


@contextmanager
def _processor(block: Network, processor: Callable[..., Tensor]) -> Iterator[None]:
    own = block.attn1.processor
    block.attn1.processor = processor
    try:
        yield
    finally:
        block.attn1.processor = own


@contextmanager
def _left_out(block: Network) -> Iterator[None]:
    """A block that hands on the video as it came in."""
    own = vars(block).get("forward")

    def forward(*args: Argument, **kwargs: Argument) -> Argument:
        return kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]

    block.forward = forward
    try:
        yield
    finally:
        if own is None:
            del block.forward
        else:
            block.forward = own


MODES: Mapping[str, Callable[[Network], Argument]] = {
    "attention_values": lambda block: _processor(block, attention_values),
    "attention_skip": lambda block: _processor(block, attention_skip),
    "transformer_block": _left_out,
}


@contextmanager
def perturbed(network: Network, blocks: Sequence[int], mode: str) -> Iterator[None]:
    """The network without what a mode leaves out in these blocks."""
    with ExitStack() as stack:
        for number in blocks:
            stack.enter_context(MODES[mode](network.transformer_blocks[number]))
        yield
