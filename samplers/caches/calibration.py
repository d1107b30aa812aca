"""One uncached run tells what every policy needs to know of a checkpoint: polynomial, ratios, and the best steps."""

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
from ..solvers import fewest_steps, run_predictions
from .policies.record import Record, Track
from .policies.teacache import Fit, published
from .policy import SHORTEST
from .store import Branch, Calibration, key_of

FEWEST_POINTS = 3  # of an expert's steps, under which nothing is fitted
DEGREES = (1, 2, 3, 4)  # of the polynomial, of which the one that forecasts best is taken


def fit_polynomial(track: Track, signal: str, threshold: float = 0.1) -> tuple[Fit, float]:
    """(a polynomial from moves of a signal to changes of the residual, its R^2), of the degree with the least error on
    left-out points."""
    x, y = _numbers(track.moves), _numbers(track.changes)[-len(track.moves) :]

    def error(degree: int) -> float:
        return float(np.mean([_left_out_error(x, y, i, degree) for i in range(len(x))]))

    degree = min((d for d in DEGREES if d < len(x) - 1), key=error)
    coefficients = np.polyfit(x, y, degree)
    left = ((np.polyval(coefficients, x) - y) ** 2).sum() / max(((y - y.mean()) ** 2).sum(), 1e-12)
    fit = Fit(
        signal,
        tuple(float(c) for c in coefficients),
        threshold,
        "calibrated",
        low=float(x.min()),
        high=float(x.max()),
    )
    return fit, float(1 - left)


def _left_out_error(x: np.ndarray, y: np.ndarray, i: int, degree: int) -> float:
    """Squared error at point i of the polynomial through all others."""
    coefficients = np.polyfit(np.delete(x, i), np.delete(y, i), degree)
    return float((np.polyval(coefficients, x[i]) - y[i]) ** 2)


def _numbers(values: list[Tensor]) -> np.ndarray:
    return torch.stack(values).double().cpu().numpy()


def observed(model: VideoModel) -> str:
    """The signal that TeaCache looks at in this family: the published one; empty on a UNet."""
    if model.stacks is None:
        return ""
    fit = published(model, False)
    return fit.signal if fit else model.checkpoint.spec.cache_signal


def calibrate(
    model: VideoModel, conditioning: Conditioning, request: Request, on_step: OnStep, sensitivity: bool = False
) -> tuple[Calibration, Tensor]:
    """(what one run of every step showed, its latents); raises InputError for too few steps.

    sensitivity: whether the network's sensitivity is measured too, which a UNet's is not; the run takes twice as long.
    """
    record = Record(observed=observed(model), sensitivity=sensitivity)
    model = replace(model, cache=record)
    prepared = plan(model, request)
    if prepared.mask is not None and not prepared.mask.any():
        raise InputError("mask", message("connected"), message("mask_keeps_all"), message("disconnect_black_mask"))
    if run_predictions(model, prepared.request) < SHORTEST:
        least = fewest_steps(model, prepared.request, SHORTEST)
        rule = message("few_steps_rule", least=SHORTEST)
        raise InputError("steps", prepared.request.steps, rule, message("use_at_least", least=least))
    latents = sample(model, conditioning, prepared, on_step)
    grams = {part: (tuple(map(tuple, record.gram(part).tolist())),) for part in record.denoised}
    branches = tuple(
        _branch(part, name, track, record.signal)
        for (part, name), track in record.tracks.items()
        if len(track.moves) > FEWEST_POINTS
    )
    return Calibration(key_of(model, prepared.request), grams, branches), latents


def _branch(part: str, name: str, track: Track, signal: str) -> Branch:
    """What one branch of one expert showed."""
    fit, quality = fit_polynomial(track, signal)
    moves = tuple(_numbers(track.moves).tolist())
    ratios = tuple(_numbers(track.ratios).tolist())
    by_latents, by_time = per_step(track.by_latents), per_step(track.by_time)
    fitted = (fit.signal, fit.coefficients, fit.low, fit.high, quality)
    return Branch(part, name, moves, ratios, *fitted, by_latents, by_time, int(bool(by_latents)))


def per_step(measured: list[Tensor]) -> tuple[float, ...]:
    """A sensitivity for each step of an expert: where there is none, as between two predictions at one time and behind
    the last step, that of the step before; empty where nothing was measured."""
    numbers: list[float] = []
    for value in [*map(float, measured), 0.0] if measured else []:
        numbers.append(value or (numbers[-1] if numbers else 0.0))
    return tuple(numbers)
