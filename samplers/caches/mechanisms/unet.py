"""The deep blocks of a UNet: the outermost run in every step, what the inner ones give the last one is kept.

The idea is DeepCache's (Ma et al. 2023, arXiv 2312.00858), at the interval of a policy.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn


class DeepBlock(nn.Module):
    """Stands in for an inner block during one forward; while `reuse` is on, it computes nothing."""

    block: Any
    reuse: bool

    def __init__(self, block: nn.Module, reuse: bool) -> None:
        super().__init__()
        crossed = getattr(block, "has_cross_attention", False)
        self.__dict__.update(block=block, reuse=reuse, resnets=block.resnets, has_cross_attention=crossed)

    def forward(self, hidden_states: Tensor, **inputs: Any) -> Any:
        return hidden_states if self.reuse else self.block(hidden_states, **inputs)


class DownBlock(DeepBlock):
    """It gives its states to the block of the other side too, which asks for nothing while `reuse` is on."""

    def forward(self, hidden_states: Tensor, **inputs: Any) -> Any:
        if not self.reuse:
            return self.block(hidden_states, **inputs)
        count = len(self.block.resnets) + (self.block.downsamplers is not None)
        return hidden_states, (None,) * count


class LastBlock(DeepBlock):
    """The innermost block before the outermost: what it gives is kept, or is what was kept."""

    kept: Tensor | None
    given: Tensor

    def __init__(self, block: nn.Module, kept: Tensor | None) -> None:
        super().__init__(block, kept is not None)
        self.__dict__.update(kept=kept, given=None)

    def forward(self, hidden_states: Tensor, **inputs: Any) -> Any:
        self.__dict__["given"] = self.kept if self.reuse else self.block(hidden_states, **inputs)
        return self.given


def changed(network: Any, kept: Tensor | None) -> tuple[dict[str, nn.Module], LastBlock]:
    """(the UNet's children with stand-ins in their places, the one that holds what is kept)."""
    reuse, down, up = kept is not None, list(network.down_blocks), list(network.up_blocks)
    last = LastBlock(up[-2], kept)
    return {
        "down_blocks": nn.ModuleList([down[0], *(DownBlock(block, reuse) for block in down[1:])]),
        "mid_block": DeepBlock(network.mid_block, reuse),
        "up_blocks": nn.ModuleList([*(DeepBlock(block, reuse) for block in up[:-2]), last, up[-1]]),
    }, last
