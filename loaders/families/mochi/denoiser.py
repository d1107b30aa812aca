"""The run of Mochi 1, whose network predicts video - noise."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...common.flow import FlowRun
from ...denoiser import SMALLEST

Network = Any  # a diffusers or transformers module, whose attributes are untyped


@dataclass
class _Run(FlowRun):
    """MochiPipeline. Latents keep the network's dtype between the steps.

    text: (embeddings, mask) per branch; lengths: tokens of the prompt in each row of the branch.
    """

    text: Mapping[str, tuple[Tensor, Tensor]]
    lengths: Mapping[str, tuple[int, ...]]

    def inverted(self) -> bool:
        """Whether the scheduler counts as the reference pipeline does; other solvers count the usual way."""
        return bool(self.scheduler.config.get("invert_sigmas"))

    def sigma(self, step: int) -> float:
        stated = super().sigma(step)
        return 1.0 - stated if self.inverted() else stated

    def line(self, step: int) -> tuple[Any, Any]:
        return 1.0, max(self.sigma(step), SMALLEST)  # it predicts video - noise

    def predict(self, network: Network, step: int, branch: str) -> Tensor:
        batch = 2 if branch == "cond_uncond" else 1
        text, mask = self.text[branch]
        time = self.timesteps[step] if self.inverted() else 1000 - self.timesteps[step]
        with network.joint_attention.reading(self.lengths[branch]):
            return self.forward(
                network, step, branch, hidden_states=torch.cat([self.latents] * batch), encoder_hidden_states=text,
                encoder_attention_mask=mask, timestep=time.expand(batch).to(self.latents.dtype),
            ).float()  # fmt: skip

    def advance(self, step: int, prediction: Tensor) -> None:
        dtype, latents = self.latents.dtype, self.latents.float()
        towards = prediction if self.inverted() else -prediction
        self.latents = self.scheduler.step(towards, self.timesteps[step], latents, return_dict=False)[0].to(dtype)
        self.remember(step, -prediction)

    def finish(self) -> Tensor:
        return self.latents.float()

    def preview(self) -> Tensor:
        return self.clean().float()
