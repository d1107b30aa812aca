"""The denoiser of Mochi 1, whose network predicts video - noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...denoiser import SMALLEST, Denoiser, Factor, Network
from .attention import joint_attention


@dataclass
class MochiDenoiser(Denoiser):
    """MochiPipeline, whose network predicts video - noise. Latents keep the network's dtype between the steps.

    text: (embeddings, mask) per branch.
    lengths: tokens of the prompt in each row of the branch.
    """

    text: Mapping[str, tuple[Tensor, Tensor]]
    lengths: Mapping[str, tuple[int, ...]]
    float32_steps = True

    def scalings(self, step: int) -> tuple[Factor, Factor]:
        return 1.0, max(self.schedule.sigmas[step], SMALLEST)

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        batch = 2 if branch == "cond_uncond" else 1
        text, mask = self.text[branch]
        time = self.schedule.timesteps[step]
        if not self.schedule.inverted:  # the network is told the share of the video
            time = 1000 - time
        with joint_attention(network).reading(self.lengths[branch]):
            return self.forward(
                network,
                step,
                branch,
                hidden_states=torch.cat([latents] * batch),
                encoder_hidden_states=text,
                encoder_attention_mask=mask,
                timestep=time.expand(batch).to(latents.dtype),
            ).float()

    def model_output(self, prediction: Tensor, step: int) -> Tensor:
        return -prediction

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        return stepped.to(latents.dtype)

    def finish(self, latents: Tensor) -> Tensor:
        return latents.float()
