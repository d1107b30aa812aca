"""The denoiser: a network's view of one run, from noisy latents to the video that they point to."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .parts import Config, Network

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST = 1e-6  # sigma_t where there is no noise: a prediction counts for nothing there and must only stay finite
GUIDED = "guided"  # the branch that guidance adds: its mix of the others
Scheduler = Any  # of diffusers, whose attributes are untyped
Factor = float | Tensor  # a tensor where tokens differ


@dataclass(frozen=True)
class Schedule:
    """The noise levels of a run as the reference pipeline tells them its scheduler: data, which any solver can follow.

    config: the scheduler's.
    sigmas: before shifting, None where the scheduler spaces them itself.
    timesteps: those that nothing shifts, or None.
    mu: of dynamic shifting.
    """

    config: Config
    steps: int
    sigmas: NDArray[np.float64] | None = None
    timesteps: NDArray[np.float64] | None = None
    mu: float | None = None


@dataclass(frozen=True)
class NoiseSchedule:
    """The noise levels at which a solver asks for predictions, in order.

    scheduler: of diffusers, which they come from.
    timesteps: of each prediction, on the latents' device.
    sigmas: how much noise is in the latents of each prediction, and after the last.
    inverted: whether the timesteps count the share of the video, as in MochiPipeline, instead of the noise's.
    levels: the noise level of each prediction, counted from 0, as Heun asks twice at most of them; empty: each its own.
    times: the timesteps as plain numbers. A number that is read from the card inside of a step makes the host wait for
    all that the card has yet to do, so they are read once.
    """

    scheduler: Scheduler
    timesteps: Tensor
    sigmas: tuple[float, ...]
    inverted: bool = False
    levels: tuple[int, ...] = ()
    times: tuple[float, ...] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "times", tuple(self.timesteps.tolist()))
        object.__setattr__(self, "levels", self.levels or tuple(range(len(self.times))))

    def __len__(self) -> int:
        """How many predictions the solver asks for."""
        return len(self.times)

    @property
    def level_count(self) -> int:
        """How many noise levels there are: the steps of which `start` and `end` are shares."""
        return self.levels[-1] + 1 if self.levels else 0


@dataclass
class Denoiser(ABC):
    """A network and its inputs in one run, made by `VideoModel.prepare`. Predictions are counted by `step`.

    latents: those that the run begins with, in the layout that the network wants.
    schedule: the noise levels of all predictions.
    guidance: scale of classifier-free guidance, 1 where there is none.
    generator: has drawn `latents`, and draws the noise of solvers that add some.
    """

    latents: Tensor
    schedule: NoiseSchedule
    guidance: float
    generator: torch.Generator
    time_dim = 2  # the latents' dimension of time
    float32_steps = False  # whether latents of another type are stepped in float32

    @abstractmethod
    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        """The network's output for latents in one branch, "cond" or "uncond", or in both, "cond_uncond".

        Guidance, wrapped around it, adds the branch GUIDED."""

    def forward(self, network: Network, step: int, branch: str, **inputs: object) -> Tensor:
        """One call of a diffusers network inside its cache context."""
        place = dict(step_index=step, num_inference_steps=len(self.schedule), sigma=self.schedule.sigmas[step])
        with network.cache_context(branch, **place) if hasattr(network, "cache_context") else nullcontext():
            output: Tensor = network(**inputs, return_dict=False)[0]
            return output

    def part(self, step: int) -> str:
        """The part of the model that makes this prediction."""
        return "transformer"

    def scale(self, step: int) -> float | Tensor:
        """The guidance scale: a number, or a tensor that the prediction can be multiplied with."""
        return self.guidance

    def strength(self, step: int) -> float:
        """The guidance scale as one number, the largest where frames have scales of their own."""
        return float(self.scale(step))

    def points(self, step: int) -> bool:
        """Whether a guided prediction points to a video: CFG-Zero*'s first one is zero, whatever the network says."""
        return True

    def alpha_sigma(self, step: int) -> tuple[float, float]:
        """(alpha_t, sigma_t) of the latents alpha_t * x0 + sigma_t * noise; at step len(schedule), after the last."""
        sigma = self.schedule.sigmas[step]
        return 1 - sigma, sigma

    def scalings(self, step: int) -> tuple[Factor, Factor]:
        """(c_skip, c_out) of x0 = c_skip * latents + c_out * prediction, tensors where tokens differ; c_out != 0."""
        return 1.0, -max(self.schedule.sigmas[step], SMALLEST)

    def x0(self, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
        """The video, in the network's layout, that a prediction for these latents points to."""
        c_skip, c_out = self.scalings(step)
        return c_skip * latents.float() + c_out * prediction.float()

    def from_x0(self, x0: Tensor, latents: Tensor, step: int) -> Tensor:
        """The prediction that points from these latents to a video."""
        c_skip, c_out = self.scalings(step)
        return (x0 - c_skip * latents.float()) / c_out

    def add_noise(self, x0: Tensor, noise: Tensor, step: int) -> Tensor:
        """The latents of a prediction that hold this video, both in the network's layout."""
        alpha, sigma = self.alpha_sigma(step)
        return alpha * x0 + sigma * noise

    def arranged(self, video: Tensor, beside: Tensor) -> Tensor:
        """A video [B, C, T, h, w] in the network's layout. beside: latents of the run, which give what lies beside it;
        the inverse of `finish`."""
        return video

    def model_output(self, prediction: Tensor, step: int) -> Tensor:
        """A prediction as diffusers' schedulers count it: on flow models noise - video."""
        return prediction

    def token_times(self, step: int) -> Tensor | None:
        """The timestep of each token [B, N], where tokens differ."""
        return None

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        """The latents after a solver's step from `latents` to `stepped`, with what is given put back in its place.

        step: the prediction at whose noise level the solver began. following: the prediction that comes next.
        """
        return stepped

    def finish(self, latents: Tensor) -> Tensor:
        """Latents of the run, or the x0 of a prediction, as [B, C, T, h, w], normalised as the model sees them."""
        return latents


class DenoiserWrapper(Denoiser):
    """A denoiser around another one, whose methods it calls; subclasses change some of them."""

    def __init__(self, inner: Denoiser) -> None:
        super().__init__(inner.latents, inner.schedule, inner.guidance, inner.generator)
        self.inner = inner
        self.time_dim = inner.time_dim
        self.float32_steps = inner.float32_steps

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        return self.inner.predict(network, latents, step, branch)

    def part(self, step: int) -> str:
        return self.inner.part(step)

    def scale(self, step: int) -> float | Tensor:
        return self.inner.scale(step)

    def strength(self, step: int) -> float:
        return self.inner.strength(step)

    def points(self, step: int) -> bool:
        return self.inner.points(step)

    def alpha_sigma(self, step: int) -> tuple[float, float]:
        return self.inner.alpha_sigma(step)

    def scalings(self, step: int) -> tuple[Factor, Factor]:
        return self.inner.scalings(step)

    def add_noise(self, x0: Tensor, noise: Tensor, step: int) -> Tensor:
        return self.inner.add_noise(x0, noise, step)

    def arranged(self, video: Tensor, beside: Tensor) -> Tensor:
        return self.inner.arranged(video, beside)

    def model_output(self, prediction: Tensor, step: int) -> Tensor:
        return self.inner.model_output(prediction, step)

    def token_times(self, step: int) -> Tensor | None:
        return self.inner.token_times(step)

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        return self.inner.settle(stepped, latents, step, following)

    def finish(self, latents: Tensor) -> Tensor:
        return self.inner.finish(latents)
