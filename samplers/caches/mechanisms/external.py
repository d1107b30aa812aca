"""Another library's cache: it decides and stores; here its decision is only watched."""

from __future__ import annotations

from torch import Tensor

from .base import Forward, Mechanism


class External(Mechanism):
    """Records whether the last block's attention was computed."""

    def forward(self, forward: Forward) -> Tensor:
        assert forward.stacks is not None
        block = getattr(forward.network, forward.stacks.lists[-1])[-1]
        attention = block.attn1 if hasattr(block, "attn1") else block.attn
        calls: list[bool] = []
        handle = attention.to_q.register_forward_pre_hook(lambda *_: calls.append(True))
        try:
            output = forward.compute()
        finally:
            handle.remove()
        forward.record(bool(calls))
        return output
