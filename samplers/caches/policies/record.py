"""Computes every step and notes what it sees, for a calibration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ..policy import At, Policy, State, Values, distance

NUMBERS = 2**18  # of a clean video that stand for all


@dataclass
class Track:
    """What was seen of one branch of one expert. moves: how far the signal went in each step; changes: how far the
    residual did; ratios: of its size to that of the step before. All still on the card."""

    moves: list[Tensor] = field(default_factory=list)
    changes: list[Tensor] = field(default_factory=list)
    ratios: list[Tensor] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Record(Policy):
    """Computes every step and notes what it sees: `tracks` by expert and branch, and by expert the clean videos, of which
    some numbers stand for all."""

    observed: str = "modulated"
    tracks: dict[tuple[str, str], Track] = field(default_factory=dict, compare=False)
    clean: dict[str, list[Tensor]] = field(default_factory=dict, compare=False)
    picked: dict[str, Tensor] = field(default_factory=dict, compare=False)  # which numbers, on the card

    title: ClassVar[str] = "calibration"

    @property
    def signal(self) -> str:  # type: ignore[override]
        return self.observed

    @property
    def memory_of(self) -> int:
        return 2

    def allowed(self, state: State, at: At) -> bool:
        return False

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        raise AssertionError("every step is computed")

    def learn(self, state: State, at: At, values: Values, seen: Mapping[str, Tensor]) -> None:
        track, residual = self._track(at), values[0].detach()
        flat = residual.reshape(-1, residual.shape[-1]) if residual.ndim == 3 else residual.reshape(1, -1)
        if state.kept:
            before = state.kept[-1][1][0].reshape(flat.shape)
            track.changes.append(distance(flat, before))
            track.ratios.append((flat.float().norm(dim=-1) / before.float().norm(dim=-1).clamp(min=1e-12)).mean())
            if state.moved is not None:
                track.moves.append(state.moved)

    def watch(self, part: str, clean: Tensor) -> None:
        """Told the clean video that each step's guided prediction points to."""
        flat = clean.flatten()
        if part not in self.picked:
            order = torch.randperm(len(flat), generator=torch.Generator().manual_seed(0))
            self.picked[part] = order[:NUMBERS].to(flat.device)
        self.clean.setdefault(part, []).append(flat[self.picked[part]])

    def gram(self, part: str) -> np.ndarray:
        """Scalar products [n, n] of the clean videos of an expert's steps, the last one's length being 1."""
        rows = torch.stack(self.clean[part]).double().cpu()
        products = (rows @ rows.T).numpy()
        return products / max(products[-1, -1], 1e-30)

    def _track(self, at: At) -> Track:
        return self.tracks.setdefault((at.part, at.branch), Track())
