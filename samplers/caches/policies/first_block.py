"""First-block cache (ParaAttention, https://github.com/chengzeyi/ParaAttention): the first block tells whether the others changed.

With two rules that its reports of collapsed video ask for: a warm-up, and a limit to the reused steps in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..policy import At, Policy, State


@dataclass(frozen=True, kw_only=True)
class FirstBlock(Policy):
    """threshold: of the change of the first block's residual since the last computed step, as a share of its size."""

    threshold: float = 0.08
    longest: int = 3
    warmup: int = 2

    title: ClassVar[str] = "first block"
    signal: ClassVar[str] = "block"
    always: ClassVar[int] = 1
    anew: ClassVar[bool] = False

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        return moved is not None and moved < self.threshold

    def suits(self, model: VideoModel) -> None:
        if model.stacks is None:
            raise InputError(
                "policy", self.title, message("unet_no_stack", title=model.title), message("use_plan_or_fora")
            )
        if model.facts.layers < 2:
            raise InputError(
                "policy", self.title, message("single_block", variant=model.variant), message("use_easycache")
            )

    def fit(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        self.suits(model)
        return self, ()
