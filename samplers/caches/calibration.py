"""One uncached run tells what every policy needs to know of a checkpoint: polynomial, ratios, and the best steps to compute."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ...loaders.messages import InputError, message
from ...loaders.request import Conditioning, Request
from ...loaders.video_model import VideoModel
from ..denoise import OnStep, sample
from ..plan import plan
from .policies.record import Record, Track
from .policies.teacache import SIGNALS_OF, Fit, published
from .policy import FEWEST
from .store import Branch, Calibration, key_of

FEWEST_POINTS = 3  # of an expert's steps, under which nothing is fitted
DEGREES = (1, 2, 3, 4)  # of the polynomial, of which the one that foretells best is taken


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
    record = Record(observed=observed(model))
    model = replace(model, cache=record)
    prepared = plan(model, request)
    request = prepared.request
    if prepared.predictions < FEWEST:
        raise InputError(
            "steps", request.steps, message("few_steps_rule", steps=FEWEST), message("use_at_least", least=FEWEST)
        )
    latents = sample(model, conditioning, prepared, on_step)
    grams = {part: (tuple(map(tuple, record.gram(part).tolist())),) for part in record.clean}
    branches = []
    for (part, name), track in record.tracks.items():
        if len(track.moves) > FEWEST_POINTS:
            fit, quality = fit_polynomial(track, record.signal)
            moves, ratios = (tuple(_numbers(seen).tolist()) for seen in (track.moves, track.ratios))
            branches.append(Branch(part, name, moves, ratios, fit.signal, fit.coefficients, fit.low, fit.high, quality))  # fmt: skip
    return Calibration(key_of(model, request), grams, tuple(branches)), latents
