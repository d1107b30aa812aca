"""The denoiser of Stable Video Diffusion: EDM preconditioning, and a guidance scale for each frame."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from einops import rearrange
from torch import Tensor

from ...denoiser import SMALLEST, Denoiser, Factor, Network


@dataclass
class SVDDenoiser(Denoiser):
    """StableVideoDiffusionPipeline. latents: [1, T, C, h, w].

    embeds, image_latents: of the picture by CLIP and by the VAE, per branch.
    ids: fps, motion bucket and noise augmentation.
    scales: of guidance, one for each frame.
    """

    embeds: Mapping[str, Tensor]
    image_latents: Mapping[str, Tensor]
    ids: Tensor
    scales: Tensor
    largest: float = field(init=False)  # of the scales

    def __post_init__(self) -> None:
        self.largest = float(self.scales.max())

    def strength(self, step: int) -> float:
        return self.largest

    def part(self, step: int) -> str:
        return "unet"

    def scale(self, step: int) -> float | Tensor:
        return self.scales

    def alpha_sigma(self, step: int) -> tuple[float, float]:
        return 1.0, self.schedule.sigmas[step]  # the network alone sees them scaled

    def scalings(self, step: int) -> tuple[Factor, Factor]:
        sigma = max(self.schedule.sigmas[step], SMALLEST)  # EulerDiscreteScheduler.step, v_prediction
        return 1 / (sigma**2 + 1), -sigma / math.sqrt(sigma**2 + 1)

    def arranged(self, video: Tensor, beside: Tensor) -> Tensor:
        return rearrange(video, "b c t h w -> b t c h w")

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        batch, time = 2 if branch == "cond_uncond" else 1, self.schedule.timesteps[step]
        scaled = self.schedule.scheduler.scale_model_input(torch.cat([latents] * batch), time)
        return self.forward(
            network,
            step,
            branch,
            sample=torch.cat([scaled, self.image_latents[branch]], 2),
            timestep=time,
            encoder_hidden_states=self.embeds[branch],
            added_time_ids=self.ids.repeat(batch, 1),
        )

    def finish(self, latents: Tensor) -> Tensor:
        return rearrange(latents, "b t c h w -> b c t h w").float()
