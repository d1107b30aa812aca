"""First-block cache: the first block tells whether the others changed.

Of ParaAttention (https://github.com/chengzeyi/ParaAttention), with two rules that its reports of collapsed video ask
for: a warm-up, and a limit to the reused steps in a row.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ....loaders.messages import InputError, message
from ....loaders.video_model import VideoModel
from ..mechanisms.blocks import BLOCK
from ..policy import Policy
from ..state import BranchState, StepContext


@dataclass(frozen=True, kw_only=True)
class FirstBlock(Policy):
    """threshold: of the change of the first block's residual since the last computed step, as a share of its size."""

    threshold: float = 0.08
    longest: int = 3
    warmup: int = 2

    title: ClassVar[str] = "first block"
    position: ClassVar[int | None] = 4
    signal: ClassVar[str] = BLOCK
    always_computed: ClassVar[int] = 1
    compare_to_previous_step: ClassVar[bool] = False

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        return distance is not None and distance < self.threshold

    def check_model(self, model: VideoModel) -> None:
        if model.stacks is None:
            rule = message("unet_no_stack", title=model.title)
            raise InputError("policy", self.title, rule, message("use_plan_or_fora"))
        if model.facts.layers < 2:
            rule = message("single_block", variant=model.variant)
            raise InputError("policy", self.title, rule, message("use_easycache"))
