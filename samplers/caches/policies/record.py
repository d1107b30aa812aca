"""Computes every step and records what a calibration needs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..mechanisms.base import Mechanism
from ..mechanisms.blocks import Blocks
from ..mechanisms.sensitivity import Sensitivity
from ..policy import Policy
from ..state import BranchState, StepContext, Values, distance

NUMBERS = 2**18  # of an x0 prediction that stand for all


@dataclass
class Track:
    """What was measured of one branch of one expert, all still on the card.

    moves: how far the signal moved in each step.
    changes: how far the residual did.
    ratios: of the residual's size to that of the step before.
    by_latents, by_time: how sensitive the network was in the step before, where that is measured.
    """

    moves: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)
    ratios: list[Tensor] = field(default_factory=list)
    by_latents: list[Tensor] = field(default_factory=list)
    by_time: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Record(Policy):
    """observed: the signal that is measured.
    sensitivity: whether the network's sensitivity is measured too, by one more forward pass a step.

    tracks: by expert and branch.
    denoised: by expert, some numbers of the x0 of each step.
    picked: by expert, which numbers, on the card.
    """

    observed: str = "modulated"
    sensitivity: bool = False
    tracks: dict[tuple[str, str], Track] = field(default_factory=dict, compare=False)
    denoised: dict[str, list[Tensor]] = field(default_factory=dict, compare=False)
    picked: dict[str, Tensor] = field(default_factory=dict, compare=False)

    title: ClassVar[str] = "calibration"
    position: ClassVar[int | None] = None

    @property
    def mechanism(self) -> type[Mechanism]:  # type: ignore[override]
        """By what is measured."""
        return Sensitivity if self.sensitivity else Blocks

    @property
    def signal(self) -> str:  # type: ignore[override]
        """The one that is observed."""
        return self.observed

    @property
    def stored_signals(self) -> int:
        return 1

    def pays(self, predictions: int) -> bool:
        return True  # it leaves nothing out

    def may_skip(self, state: BranchState, context: StepContext) -> bool:
        return False

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        raise AssertionError("every step is computed")

    def on_computed(
        self, state: BranchState, context: StepContext, values: Values, observed: Mapping[str, Tensor]
    ) -> None:
        if context.number:
            return  # skip-layer guidance computes a branch twice, the second time without some blocks
        track = self.tracks.setdefault((context.part, context.branch), Track())
        residual = values[0].detach()
        rows = residual.reshape(-1, residual.shape[-1]) if residual.ndim == 3 else residual.reshape(1, -1)
        if not state.history:
            return
        before = state.history[-1][1][0].reshape(rows.shape)
        track.changes.append(distance(rows, before))
        track.ratios.append((rows.float().norm(dim=-1) / before.float().norm(dim=-1).clamp(min=1e-12)).mean())
        if state.distance is not None:
            track.moves.append(state.distance)
        if observed:
            track.by_latents.append(observed["by latents"])
            track.by_time.append(observed["by time"])

    def on_prediction(self, part: str, denoised: Callable[[], Tensor]) -> None:
        flat = denoised().flatten()
        if part not in self.picked:
            order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
            self.picked[part] = order[:NUMBERS].to(flat.device)
        self.denoised.setdefault(part, []).append(flat[self.picked[part]])

    def gram(self, part: str) -> np.ndarray:
        """Scalar products [n, n] of an expert's x0 predictions, the last one's length being 1."""
        rows = torch.stack(self.denoised[part]).double().cpu()
        products = (rows @ rows.T).numpy()
        return products / max(products[-1, -1], 1e-30)
