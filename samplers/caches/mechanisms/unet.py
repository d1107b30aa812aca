"""The deep blocks of a UNet: the outermost run in every step, what the inner ones give the last one is stored.

The idea is DeepCache's (Ma et al. 2023, arXiv 2312.00858), at the interval of a policy.
"""

from __future__ import annotations

from torch import Tensor, nn

from ....loaders.common.peaks import branches
from ....loaders.parts import Network
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from .base import Forward, Mechanism, exchanged, item_bytes


class DeepBlocks(Mechanism):
    """Stores what the second outermost block gives the outermost one."""

    def forward(self, forward: Forward) -> Tensor:
        stored = forward.forecast()[0] if forward.decide(None) else None
        children, last = _proxies(forward.network, stored)
        with exchanged(forward.network, children):
            output = forward.compute()
        if stored is None:
            forward.store((last.output,), {})
        return output

    @classmethod
    def stored_bytes(cls, model: VideoModel, request: Request, values: int, signals: int) -> int:
        _, _, time, height, width = model.facts.latent_shape(request.width, request.height, request.frames)
        return (
            values * time * height * width * 2 * model.facts.hidden_size * item_bytes(model) * branches(model, request)
        )


class DeepBlock(nn.Module):
    """Stands in for an inner block during one forward pass; while `reuse` is on, it computes nothing."""

    block: Network
    reuse: bool

    def __init__(self, block: nn.Module, reuse: bool) -> None:
        super().__init__()
        cross_attention = getattr(block, "has_cross_attention", False)
        self.__dict__.update(block=block, reuse=reuse, resnets=block.resnets, has_cross_attention=cross_attention)

    def forward(self, hidden_states: Tensor, **inputs: object) -> object:
        return hidden_states if self.reuse else self.block(hidden_states, **inputs)


class DownBlock(DeepBlock):
    """It gives its states to the block of the other side too, which asks for nothing while `reuse` is on."""

    def forward(self, hidden_states: Tensor, **inputs: object) -> object:
        if not self.reuse:
            return self.block(hidden_states, **inputs)
        count = len(self.block.resnets) + (self.block.downsamplers is not None)
        return hidden_states, (None,) * count


class LastBlock(DeepBlock):
    """The innermost block before the outermost: its `output` is stored, or is what was stored."""

    stored: Tensor | None
    output: Tensor

    def __init__(self, block: nn.Module, stored: Tensor | None) -> None:
        super().__init__(block, stored is not None)
        self.__dict__.update(stored=stored, output=None)

    def forward(self, hidden_states: Tensor, **inputs: object) -> Tensor:
        self.__dict__["output"] = self.stored if self.reuse else self.block(hidden_states, **inputs)
        return self.output


def _proxies(network: Network, stored: Tensor | None) -> tuple[dict[str, nn.Module], LastBlock]:
    """(the UNet's children with stand-ins in their places, the one whose output is stored)."""
    reuse, down, up = stored is not None, list(network.down_blocks), list(network.up_blocks)
    last = LastBlock(up[-2], stored)
    return {
        "down_blocks": nn.ModuleList([down[0], *(DownBlock(block, reuse) for block in down[1:])]),
        "mid_block": DeepBlock(network.mid_block, reuse),
        "up_blocks": nn.ModuleList([*(DeepBlock(block, reuse) for block in up[:-2]), last, up[-1]]),
    }, last
