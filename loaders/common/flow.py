"""What flow-matching families share: latents = (1 - sigma) * video + sigma * noise, and the network predicts noise - video."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..denoiser import Run
from ..request import Request
from ..video_model import VideoModel


@dataclass
class FlowRun(Run):
    """A run of a flow-matching model; remembers the last velocity for the preview."""

    velocity: Tensor | None = field(default=None, init=False)
    left: float = field(default=1.0, init=False)  # sigma of the latents

    def advance(self, step: int, prediction: Tensor) -> None:
        self.latents = self.scheduler.step(prediction, self.timesteps[step], self.latents, return_dict=False)[0]
        self.remember(step, prediction)

    def remember(self, step: int, prediction: Tensor) -> None:
        self.velocity, self.left = prediction, self.sigma(step + 1)

    def clean(self) -> Tensor:
        """The video that the last velocity points to, in the network's layout."""
        return self.latents if self.velocity is None else self.latents - self.left * self.velocity

    def preview(self) -> Tensor:
        return self.clean()


def skipped(steps: int, request: Request) -> int:
    """How many steps video-to-video leaves out (get_timesteps of diffusers' video-to-video pipelines)."""
    if request.source is None:
        return 0
    return max(steps - min(int(steps * request.strength), steps), 0)


def begin(scheduler: Any, request: Request) -> tuple[Tensor, int]:
    """(the timesteps of this run, how many the scheduler has before them)."""
    skip = skipped(len(scheduler.timesteps), request)
    scheduler.set_begin_index(skip)
    return scheduler.timesteps[skip:], skip


def mix(noise: Tensor, video: Tensor, sigma: Tensor) -> Tensor:
    """Latents at a noise level; sigma 1 is pure noise."""
    sigma = sigma.to(noise)
    return sigma * noise + (1 - sigma) * video.to(noise)


def encoded_source(model: VideoModel, request: Request, generator: torch.Generator | None = None) -> Tensor:
    """The source as latents [1, C, t, h, w], sampled from the posterior where a generator is given."""
    source = request.source
    assert source is not None
    if source.ndim == 5:
        return source
    with model.use("vae", model.encoding(request.width, request.height, request.frames)) as vae:
        frames = source[: request.frames]
        frames = (
            torch.cat([frames[:1]] * model.facts.discarded_frames + [frames])
            if model.facts.discarded_frames
            else frames
        )
        return model.encode_video(vae, frames, generator, (request.width, request.height))


def draw(shape: tuple[int, ...], generator: torch.Generator, like: torch.device) -> Tensor:
    """Standard normal noise, drawn on the CPU so that a seed means the same everywhere."""
    return torch.randn(shape, generator=generator).to(like)
