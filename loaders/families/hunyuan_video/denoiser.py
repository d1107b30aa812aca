"""The denoisers of HunyuanVideo: text, and images by channels or by tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ...denoiser import Denoiser, Network
from ...facts import Facts


@dataclass(frozen=True, kw_only=True)
class HunyuanFacts(Facts):
    """What HunyuanVideo adds. image: "latent_concat", "token_replace" or "" (text alone); embedded: the network is told
    the guidance scale, so that one forward does for two."""

    image: str
    embedded: bool


@dataclass
class HunyuanDenoiser(Denoiser):
    """HunyuanVideoPipeline.

    text: "text", "mask" and "pooled" per branch.
    embedded: the guidance scale for the network, where it reads one.
    dtype: the network's.
    first: the first frame's latents [1, C, 1, h, w] of image-to-video.
    """

    text: Mapping[str, Mapping[str, Tensor]]
    embedded: Tensor | None
    dtype: torch.dtype
    first: Tensor | None

    def hidden_states(self, latents: Tensor) -> Tensor:
        """The latents and what is given beside them, as the network takes them in."""
        return latents

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        if branch == "cond_uncond":  # the branches' texts differ in length, so they cannot share a batch
            return torch.cat([self.predict(network, latents, step, name) for name in ("uncond", "cond")])
        text = self.text[branch]
        return self.forward(
            network,
            step,
            branch,
            hidden_states=self.hidden_states(latents).to(self.dtype),
            guidance=self.embedded,
            timestep=self.schedule.timesteps[step].expand(1).to(latents.dtype),
            encoder_hidden_states=text["text"],
            encoder_attention_mask=text["mask"],
            pooled_projections=text["pooled"],
        )


@dataclass
class HunyuanConcatDenoiser(HunyuanDenoiser):
    """Image-to-video by channels: latents, the first frame in its place, and a mask that says where that is."""

    def hidden_states(self, latents: Tensor) -> Tensor:
        assert self.first is not None
        image = torch.zeros_like(latents)
        image[:, :, :1] = self.first
        mask = torch.zeros_like(latents[:, :1])
        mask[:, :, 0] = 1
        return torch.cat([latents, image, mask], 1)


@dataclass
class HunyuanReplaceDenoiser(HunyuanDenoiser):
    """Image-to-video by tokens: the first latent frame is given and stays; only the others are denoised."""

    def hidden_states(self, latents: Tensor) -> Tensor:
        assert self.first is not None
        return torch.cat([self.first, latents[:, :, 1:]], 2)

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        return self.hidden_states(stepped)

    def finish(self, latents: Tensor) -> Tensor:
        return self.hidden_states(latents)
