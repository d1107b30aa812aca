"""The denoiser of CogVideoX: latents with the frames in front of the channels, and a table of places."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from ...denoiser import SMALLEST, Denoiser, Factor, Network
from ...facts import Facts
from ...request import Control, Request


@dataclass(frozen=True, kw_only=True)
class CogFacts(Facts):
    """What CogVideoX adds. fixed: (width, height) of models with learned positions; control: Fun-Control."""

    network: Mapping[str, Any]
    inverse_scale: bool  # pictures are scaled the wrong way round, as in training (invert_scale_latents)
    fixed: tuple[int, int] | None
    control: bool

    @property
    def largest(self) -> tuple[int, int]:
        """(width, height) in pixels that 1.5's table of positions reaches; 1.0 stretches its own to any size."""
        if self.time_patch == 1:
            return 16384, 16384
        return self.network["sample_width"] * self.spatial_ratio, self.network["sample_height"] * self.spatial_ratio


def _padding(facts: CogFacts, request: Request) -> int:
    """Latent frames in front that make their number a multiple of time_patch; dropped at the end (CogVideoX 1.5)."""
    return -facts.latent_shape(1, 1, request.frames)[2] % facts.time_patch


def _rope(facts: CogFacts, height: int, width: int, time: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Rotary positions (_prepare_rotary_positional_embeddings): 1.0 crops its native grid, 1.5 slices it."""
    from diffusers.models.embeddings import get_3d_rotary_pos_embed
    from diffusers.pipelines.cogvideo.pipeline_cogvideox import get_resize_crop_region_for_grid

    network = facts.network
    if not network.get("use_rotary_positional_embeddings"):
        return None
    patch = network["patch_size"]
    grid = height // (facts.spatial_ratio * patch), width // (facts.spatial_ratio * patch)
    base = network["sample_height"] // patch, network["sample_width"] // patch
    embed: Any = partial(
        get_3d_rotary_pos_embed, embed_dim=network["attention_head_dim"], grid_size=grid, device=device
    )
    if facts.time_patch == 1:
        return embed(crops_coords=get_resize_crop_region_for_grid(grid, base[1], base[0]), temporal_size=time)
    frames = (time + facts.time_patch - 1) // facts.time_patch
    return embed(crops_coords=None, temporal_size=frames, grid_type="slice", max_size=base)


@dataclass
class CogDenoiser(Denoiser):
    """The four pipelines, which keep their latents [1, t, C, h, w] in the network's dtype.

    text: embeddings per branch.
    condition: latents of the first frame or of the control video, beside those of the video.
    control: its range tells in which steps it lies there.
    padding: latent frames in front that are not part of the video.
    dynamic: whether the guidance scale grows along a cosine.
    """

    text: Mapping[str, Tensor]
    condition: Tensor | None
    control: Control | None
    rope: tuple[Tensor, Tensor] | None
    ofs: Tensor | None
    padding: int
    dynamic: bool
    time_dim = 1

    def scale(self, step: int) -> float | Tensor:
        if not self.dynamic:
            return self.guidance
        count = len(self.schedule)  # the reference takes the timestep for the step here
        return 1 + self.guidance * (1 - math.cos(math.pi * ((count - self.schedule.times[step]) / count) ** 5.0)) / 2

    def alpha_sigma(self, step: int) -> tuple[float, float]:
        sigma = self.schedule.sigmas[step]
        return math.sqrt(max(1 - sigma**2, 0.0)), sigma

    def scalings(self, step: int) -> tuple[Factor, Factor]:
        alpha, sigma = self.alpha_sigma(step)  # v = alpha * noise - sigma * video (Salimans and Ho 2022)
        return alpha, -max(sigma, SMALLEST)

    def condition_at(self, step: int) -> Tensor | None:
        """The condition of a prediction: outside of the control's range zeros, which add nothing to the first layer.

        That is what Alibaba PAI's Fun-Control pipelines of Wan give without a control (CogVideoX's always have one).
        """
        level, count = self.schedule.levels[step], self.schedule.level_count
        if self.condition is None or self.control is None or self.control.counts(level, count):
            return self.condition
        return torch.zeros_like(self.condition)

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        batch, condition = 2 if branch == "cond_uncond" else 1, self.condition_at(step)
        hidden_states = torch.cat([latents] * batch)
        if condition is not None:
            hidden_states = torch.cat([hidden_states, torch.cat([condition] * batch)], 2)
        return self.forward(
            network,
            step,
            branch,
            hidden_states=hidden_states,
            encoder_hidden_states=self.text[branch],
            timestep=self.schedule.timesteps[step].expand(batch),
            ofs=self.ofs,
            image_rotary_emb=self.rope,
        ).float()

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        return stepped.to(latents.dtype)

    def arranged(self, video: Tensor, beside: Tensor) -> Tensor:
        return torch.cat([beside[:, : self.padding].to(video), rearrange(video, "b c t h w -> b t c h w")], 1)

    def finish(self, latents: Tensor) -> Tensor:
        return rearrange(latents[:, self.padding :], "b t c h w -> b c t h w").float()
