"""One uncached run tells what every policy needs to know of a checkpoint: polynomial, ratios, and the best steps to compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...loaders.denoiser import Run
from ...loaders.messages import InputError, message
from ...loaders.request import Conditioning, Request
from ...loaders.video_model import VideoModel
from .policies.teacache import SIGNALS_OF, Fit, published
from .policy import FEWEST, At, Policy, State, Values, distance
from .store import Branch, Calibration, key_of

OnStep = Callable[[int, int, Run], None]

NUMBERS = 2**18  # of a clean video that stand for all
FEWEST_POINTS = 3  # of an expert's steps, under which nothing is fitted
DEGREES = (1, 2, 3, 4)  # of the polynomial, of which the one that foretells best is taken


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


# ---------------------------------------------------------------- what follows from it


def fit_polynomial(track: Track, signal: str, threshold: float = 0.1) -> tuple[Fit, float]:
    """(the polynomial of the degree whose left-out points are nearest, its R^2) from moves of a signal to changes."""
    x, y = _numbers(track.moves), _numbers(track.changes)[-len(track.moves) :]

    def missed(degree: int) -> float:
        errors = [(np.polyval(np.polyfit(np.delete(x, i), np.delete(y, i), degree), x[i]) - y[i]) ** 2 for i in range(len(x))]  # fmt: skip
        return float(np.mean(errors))

    best = min((d for d in DEGREES if d < len(x) - 1), key=missed)
    coefficients = np.polyfit(x, y, best)
    left = ((np.polyval(coefficients, x) - y) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12)
    fit = Fit(signal, tuple(float(c) for c in coefficients), threshold, "calibrated", low=float(x.min()), high=float(x.max()))  # fmt: skip
    return fit, float(1 - left)


def _numbers(values: list[Tensor]) -> np.ndarray:
    return torch.stack(values).double().cpu().numpy()


def observed(model: VideoModel) -> str:
    """The signal that TeaCache looks at in this family: the published one."""
    found = published(model, False)
    return found.signal if found else SIGNALS_OF.get(model.name, "modulated")


def calibrate(model: VideoModel, conditioning: Conditioning, request: Request, on_step: OnStep) -> tuple[Calibration, Tensor]:  # fmt: skip
    """(what one run of every step showed, its latents); raises InputError for too few steps."""
    from ..denoise import ready, sample

    request = ready(replace(model, cache=None), request)
    if request.steps < FEWEST:
        raise InputError(
            "steps", request.steps, message("few_steps_rule", steps=FEWEST), message("use_at_least", least=FEWEST)
        )
    record = Record(observed=observed(model))
    latents = sample(replace(model, cache=record), conditioning, request, on_step)
    grams = {part: (tuple(map(tuple, record.gram(part).tolist())),) for part in record.clean}
    branches = []
    for (part, name), track in record.tracks.items():
        if len(track.moves) > FEWEST_POINTS:
            fit, quality = fit_polynomial(track, record.signal)
            moves, ratios = (tuple(_numbers(seen).tolist()) for seen in (track.moves, track.ratios))
            branches.append(Branch(part, name, moves, ratios, fit.signal, fit.coefficients, fit.low, fit.high, quality))  # fmt: skip
    return Calibration(key_of(model, request), grams, tuple(branches)), latents
