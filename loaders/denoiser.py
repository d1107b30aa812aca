"""The state of one denoising, and the noise levels that it steps through."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

SMALLEST = 1e-6  # share of noise: where there is none, a prediction counts for nothing and must only stay finite


@dataclass
class Run(ABC):
    """The state of one denoising, made by `VideoModel.prepare` and dropped at its end.

    latents: whatever layout the network wants. timesteps: one per step, on the latents' device; the first is the
    scheduler's number `skip`. guidance: scale of classifier-free guidance, 1 where there is none. times: the timesteps
    as plain numbers; levels: `sigma` of every step and after the last. Both are read from the card once, before the first
    step: a number that is read inside of one makes the host wait for all that the card has yet to do.
    """

    latents: Tensor
    timesteps: Tensor
    scheduler: Any
    guidance: float
    skip: int
    cache: Any = field(default=None, init=False)  # a caches.runner.Runner
    times: list[Any] = field(init=False)
    levels: list[float] = field(init=False)
    time_dim: ClassVar[int] = 2  # the latents' dimension of time

    def __post_init__(self) -> None:
        self.times = self.timesteps.tolist()
        self.levels = self.noise_levels()

    def part(self, step: int) -> str:
        """The part that makes this step."""
        return "transformer"

    def scale(self, step: int) -> float | Tensor:
        """The guidance scale of this step: a number, or a tensor that the prediction can be multiplied with."""
        return self.guidance

    def strength(self, step: int) -> float:
        """The guidance scale of this step as one number, the largest where frames have scales of their own."""
        return float(self.scale(step))

    def before(self, step: int) -> None:
        """Change `latents` at the start of a step, as families with noisy conditions do."""

    @abstractmethod
    def predict(self, network: Any, step: int, branch: str) -> Tensor:
        """The network's output for this step's latents in one branch, "cond" or "uncond", or in both, "cond_uncond"."""

    def forward(self, network: Any, step: int, branch: str, **inputs: Any) -> Tensor:
        """One call of a diffusers network inside its cache context, through the run's cache if it has one."""
        told = dict(step_index=step, num_inference_steps=len(self.timesteps), sigma=self.sigma(step))
        with network.cache_context(branch, **told) if hasattr(network, "cache_context") else nullcontext():
            if self.cache is not None:
                return self.cache.call(network, step, branch, inputs)
            return network(**inputs, return_dict=False)[0]

    def sigma(self, step: int) -> float:
        """How much noise is in the latents of this step, as its scheduler counts it; at step len(timesteps), after the last."""
        return self.levels[step]

    def noise_levels(self) -> list[float]:
        """`sigma` of every step and after the last, as the scheduler holds them."""
        return self.scheduler.sigmas[self.skip : self.skip + len(self.times) + 1].tolist()

    def mixture(self, step: int) -> tuple[float, float]:
        """(share of the video, share of the noise) in this step's latents; at step len(timesteps), after the last."""
        sigma = self.sigma(step)
        return 1 - sigma, sigma

    def line(self, step: int) -> tuple[Any, Any]:
        """(a, b) of the clean video a * latents + b * prediction: numbers, or tensors where tokens differ; b is not 0."""
        return 1.0, -max(self.sigma(step), SMALLEST)

    def to_clean(self, prediction: Tensor, step: int) -> Tensor:
        """The clean video, in the network's layout, that a prediction for this step's latents points to."""
        a, b = self.line(step)
        return a * self.latents.float() + b * prediction.float()

    def from_clean(self, clean: Tensor, step: int) -> Tensor:
        """The prediction that points to a clean video."""
        a, b = self.line(step)
        return (clean - a * self.latents.float()) / b

    @abstractmethod
    def advance(self, step: int, prediction: Tensor) -> None:
        """Take one scheduler step."""

    def finish(self) -> Tensor:
        """The latents as [B, C, T, h, w], normalised as the model sees them."""
        return self.latents

    @abstractmethod
    def preview(self) -> Tensor:
        """The clean latents [B, C, T, h, w] that the last prediction points to."""


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run as the reference pipeline tells them its scheduler: data, which any solver can follow.

    config: the scheduler's. sigmas: before shifting, None where the scheduler spaces them itself. timesteps: given
    ones, which nothing shifts. mu: of dynamic shifting.
    """

    config: Mapping[str, Any]
    steps: int
    sigmas: Any = None  # numpy arrays
    timesteps: Any = None
    mu: float | None = None
