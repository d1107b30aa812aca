"""All blocks at once: what is stored is the change that they make to the hidden states.

Block lists are exchanged for the length of a forward pass, and nothing else is touched: blocks keep their names, hooks
and compiled forms, so that LoRA, offloading and `torch.compile` know nothing of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from torch import Tensor, nn

from ....loaders.parts import Args, Argument, Kwargs
from ..signals import EMBEDDER, EMBEDDER_SIGNALS, SIGNALS
from .base import Forward, Mechanism, exchanged
from .unet import DeepBlocks

BLOCK = "block"  # signal: what the first block adds to the hidden states
LATENTS = "latents"  # signal: what goes into the network
BlockOutput = Tensor | tuple[Tensor, Tensor]  # of the video, or of the video and the text


class Blocks(Mechanism):
    """Stores the change that the blocks behind the first `always_computed` ones make together.

    whole: whether what they give is stored instead, whatever went into them.
    """

    holds_block_inputs = True
    signals = (*SIGNALS, BLOCK, LATENTS)
    whole: ClassVar[bool] = False

    @classmethod
    def on_unet(cls) -> type[Mechanism]:
        return DeepBlocks

    def forward(self, forward: Forward) -> Tensor:
        assert forward.stacks is not None
        network, stacks = forward.network, forward.stacks
        lists = stacks.of(network)
        if stacks.beside in lists and (forward.always_computed or stacks.hints_last(network)):
            lists = stacks.lists
        blocks = [block for name in lists for block in network._modules[name]]
        blocks_pass = BlocksPass(forward, last=len(blocks) - 1, whole=self.whole)
        proxies = iter([BlockProxy(blocks_pass, block, index) for index, block in enumerate(blocks)])
        children = {name: nn.ModuleList([next(proxies) for _ in network._modules[name]]) for name in lists}
        with exchanged(network, children), blocks_pass.embedder_outputs():
            return forward.compute()


class BlocksPass:
    """One forward pass, block by block. last: index of the last block; whole: see Blocks."""

    def __init__(self, forward: Forward, last: int, whole: bool) -> None:
        self.forward, self.state, self.last, self.whole = forward, forward.state, last, whole
        self.reuse = False
        self.anchor: Tensor | None = None  # the hidden states at the decision
        self.embeddings: list[Tensor] = []

    @contextmanager
    def embedder_outputs(self) -> Iterator[None]:
        """Collect what the network's embedder of time gives, where the policy's signal is one of its outputs."""
        if self.forward.signal not in EMBEDDER_SIGNALS:
            yield
            return
        collect = lambda module, args, output: self.embeddings.extend(output[:2])
        handle = self.forward.network.get_submodule(EMBEDDER).register_forward_hook(collect)
        try:
            yield
        finally:
            handle.remove()

    def run_block(self, index: int, block: nn.Module, args: Args, kwargs: Kwargs) -> BlockOutput:
        """What a block gives: its own output, or the hidden states as they came in, changed behind the last block."""
        hidden = kwargs["hidden_states"] if "hidden_states" in kwargs else args[0]
        if index == 0 and self.forward.signal == BLOCK:
            self.state.memory["entry"] = hidden
        if index == self.forward.always_computed:
            self._decide(hidden, block, args, kwargs)
        if self.reuse and index >= self.forward.always_computed:
            output = hidden if index < self.last or self.anchor is None else self._changed(self.anchor)
            return _as_block_output(output, args, kwargs, self.state.memory["pairs"][index])
        output = block(*args, **kwargs)
        self.state.memory.setdefault("pairs", {})[index] = isinstance(output, tuple)
        if index == self.last and self.anchor is not None:  # None: the policy decides behind the network's last block
            out = output[0] if isinstance(output, tuple) else output
            self.forward.store((out if self.whole else out - self.anchor,), {})
        return output

    def _decide(self, hidden: Tensor, block: nn.Module, args: Args, kwargs: Kwargs) -> None:
        """Decide whether everything after this place is computed or reused."""
        self.anchor, name, signal = hidden, self.forward.signal, None
        if name == BLOCK:
            signal = self.forward.split.all_tokens(hidden - self.state.memory.pop("entry"))
        elif name == LATENTS:
            signal = self.forward.inputs["hidden_states"]
        elif name:
            signal = SIGNALS[name](self.embeddings, block, args, kwargs, self.forward.split.all_tokens)
        self.reuse = self.forward.decide(signal)

    def _changed(self, anchor: Tensor) -> Tensor:
        """The hidden states behind the last block, by what is stored of them."""
        (stored,) = self.forward.forecast()
        return stored if self.whole else anchor + stored


class BlockProxy(nn.Module):
    """Stands in for a block during one forward pass, without owning it."""

    blocks_pass: BlocksPass
    block: nn.Module
    index: int

    def __init__(self, blocks_pass: BlocksPass, block: nn.Module, index: int) -> None:
        super().__init__()
        self.__dict__.update(blocks_pass=blocks_pass, block=block, index=index)

    def forward(self, *args: Argument, **kwargs: Argument) -> BlockOutput:
        return self.blocks_pass.run_block(self.index, self.block, args, kwargs)


def _as_block_output(hidden: Tensor, args: Args, kwargs: Kwargs, pair: bool) -> BlockOutput:
    """The hidden states in a block's form of output: alone, or with the text that came in."""
    if not pair:
        return hidden
    return hidden, kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[1]
