"""Denoisers without a network, for solvers and wrappers to be tried on."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from reelwire.loaders.denoiser import Denoiser, Network, NoiseSchedule
from reelwire.samplers.solvers import Solver, Walk
from torch import Tensor


def flow_schedule(steps: int, solver: Solver | None = None, shift: float = 1.0) -> NoiseSchedule:
    """From pure noise to none in `steps` steps, with the predictions that a solver asks for."""
    even = [1 - i / steps for i in range(steps + 1)]
    sigmas = [shift * sigma / (1 + (shift - 1) * sigma) for sigma in even]
    levels = list(range(steps)) if solver is None else solver.levels(steps)
    timesteps = torch.tensor([1000 * sigmas[i] for i in levels])
    return NoiseSchedule(None, timesteps, tuple(sigmas[i] for i in (*levels, -1)), levels=tuple(levels))


@dataclass
class Gaussian(Denoiser):
    """The exact velocity for videos whose numbers are normal with a mean and a spread: E[x0 | x] is known."""

    mean: float = 0.7
    spread: float = 0.5

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        alpha, sigma = self.alpha_sigma(step)
        variance = (alpha * self.spread) ** 2 + sigma**2
        x0 = self.mean + alpha * self.spread**2 / variance * (latents - alpha * self.mean)
        return (latents - x0) / sigma


@dataclass
class PlainRun:
    """What a solver asks for predictions: a denoiser without guidance, caches or callbacks.

    seen: the latents after each step.
    """

    denoiser: Denoiser
    predictions: list[int] = field(default_factory=list)
    seen: list[tuple[int, Tensor]] = field(default_factory=list)

    def predict(self, latents: Tensor, step: int) -> Tensor:
        self.predictions.append(step)
        return self.denoiser.predict(None, latents, step, "cond")

    def correct(self, solver: Solver, walk: Walk, latents: Tensor, step: int) -> None:
        """Nothing is gone through again."""

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        latents = self.denoiser.settle(stepped, latents, step, following)
        self.seen.append((following, latents))
        return latents
