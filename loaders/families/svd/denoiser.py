"""The run of Stable Video Diffusion: EDM preconditioning, and a guidance scale for each frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...denoiser import SMALLEST, Run

Network = Any  # a diffusers or transformers module, whose attributes are untyped


@dataclass
class _Run(Run):
    """StableVideoDiffusionPipeline. latents: [1, T, C, h, w]; look, given: CLIP's and the VAE's view of the picture per
    branch; ids: fps, motion bucket and noise augmentation; scales: of guidance, one for each frame."""

    look: Mapping[str, Tensor]
    given: Mapping[str, Tensor]
    ids: Tensor
    scales: Tensor
    generator: torch.Generator
    clean: Tensor | None = field(default=None, init=False)
    largest: float = field(init=False)  # of the scales

    def __post_init__(self) -> None:
        super().__post_init__()
        self.largest = float(self.scales.max())

    def strength(self, step: int) -> float:
        return self.largest

    def part(self, step: int) -> str:
        return "unet"

    def scale(self, step: int) -> float | Tensor:
        return self.scales

    def mixture(self, step: int) -> tuple[float, float]:
        sigma = self.sigma(step)
        scale = 1 / math.sqrt(1 + sigma**2)
        return scale, sigma * scale

    def line(self, step: int) -> tuple[Any, Any]:
        sigma = max(self.sigma(step), SMALLEST)  # EulerDiscreteScheduler.step, v_prediction
        return 1 / (sigma**2 + 1), -sigma / math.sqrt(sigma**2 + 1)

    def predict(self, network: Network, step: int, branch: str) -> Tensor:
        batch, time = 2 if branch == "cond_uncond" else 1, self.timesteps[step]
        seen = self.scheduler.scale_model_input(torch.cat([self.latents] * batch), time)
        seen = torch.cat([seen, self.given[branch]], 2)
        ids = self.ids.repeat(batch, 1)
        return self.forward(network, step, branch, sample=seen, timestep=time, encoder_hidden_states=self.look[branch], added_time_ids=ids)  # fmt: skip

    def advance(self, step: int, prediction: Tensor) -> None:
        drawn = {"generator": self.generator} if "Ancestral" in type(self.scheduler).__name__ else {}
        stepped = self.scheduler.step(prediction, self.timesteps[step], self.latents, **drawn)
        self.latents, self.clean = stepped.prev_sample, getattr(stepped, "pred_original_sample", None)

    def finish(self) -> Tensor:
        return rearrange(self.latents, "b t c h w -> b c t h w").float()

    def preview(self) -> Tensor:
        return self.finish() if self.clean is None else rearrange(self.clean, "b t c h w -> b c t h w").float()
