"""FORA (Selvaraju et al. 2024, arXiv 2407.01425): every N-th step is computed, the others reuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ...solvers import prediction_levels
from ..mechanisms.base import Mechanism
from ..mechanisms.blocks import Blocks
from ..mechanisms.modules import Modules
from ..policy import Policy
from ..state import BranchState, StepContext

GRANULARITIES: dict[str, type[Mechanism]] = {"stack": Blocks, "module": Modules}


@dataclass(frozen=True, kw_only=True)
class FORA(Policy):
    """interval: of computed steps; 1 computes all.

    granularity: "stack" stores what all blocks do together; "module" each attention and each MLP, as published, which
    takes tens of GB on large models.
    """

    interval: int = 3
    granularity: str = "stack"

    title: ClassVar[str] = "FORA"
    position: ClassVar[int | None] = None

    @property
    def mechanism(self) -> type[Mechanism]:  # type: ignore[override]
        """By the granularity."""
        return GRANULARITIES[self.granularity]

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        return context.index % self.interval != 0

    def check_model(self, model: VideoModel) -> None:
        if model.stacks is None and self.granularity == "module":
            rule = message("unet_deep_as_one", title=model.title)
            raise InputError("granularity", "module", rule, message("use_stack"))

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        levels = prediction_levels(model, request)
        count, is_asked_twice = len(levels), len({*levels}) < len(levels)
        if not 1 <= self.interval <= count:
            rule = message("run_has_predictions", count=count)
            raise InputError("interval", self.interval, rule, message("use_interval", most=count))
        halves = is_asked_twice and self.interval % 2 == 0
        return self, (message("fora_halves", sampler=request.sampler, interval=self.interval),) if halves else ()
