"""FORA (Selvaraju et al. 2024, arXiv 2407.01425): every how many-eth step is computed, the others reuse it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..policy import At, Policy, State, of_modules

GRANULARITIES = {"stack": "blocks", "module": "module"}


@dataclass(frozen=True, kw_only=True)
class FORA(Policy):
    """interval: of computed steps, 1 computes all. granularity: "stack" keeps what all blocks do together; "module" each
    attention and each MLP, as published, which takes tens of GB on large models."""

    interval: int = 3
    granularity: str = "stack"

    title: ClassVar[str] = "FORA"

    @property
    def level(self) -> str:  # type: ignore[override]
        return GRANULARITIES[self.granularity]

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        return at.index % self.interval != 0

    def suits(self, model: VideoModel) -> None:
        if model.stacks is None and self.granularity == "module":
            raise InputError(
                "granularity", "module", message("unet_deep_as_one", title=model.title), message("use_stack")
            )

    def fit(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        self.suits(model)
        if not 1 <= self.interval <= request.steps:
            raise InputError(
                "interval",
                self.interval,
                message("run_has_steps", steps=request.steps),
                message("use_interval", most=request.steps),
            )
        return self, ()

    def estimate(self, model: VideoModel, request: Request) -> int:
        """At module granularity: what each attention and MLP gives, in every block, of the text too where both go in one."""
        whole = super().estimate(model, request)
        return whole if self.level != "module" else int(whole * of_modules(model, request))
