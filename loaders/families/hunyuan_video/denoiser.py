"""The runs of HunyuanVideo: text, and images by channels or by tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ...common.flow import FlowRun
from ...facts import Facts

Network = Any  # a diffusers or transformers module, whose attributes are untyped


@dataclass(frozen=True, kw_only=True)
class HunyuanFacts(Facts):
    """What HunyuanVideo adds. image: "latent_concat", "token_replace" or "" (text alone); embedded: the network is told
    the guidance scale, so that one forward does for two."""

    image: str
    embedded: bool


@dataclass
class _Run(FlowRun):
    """HunyuanVideoPipeline. text: "text", "mask" and "pooled" per branch; embedded: the guidance scale for the network;
    first: the first frame's latents [1, C, 1, h, w] of image-to-video."""

    text: Mapping[str, Mapping[str, Tensor]]
    embedded: Tensor | None
    dtype: torch.dtype
    first: Tensor | None

    def seen(self) -> Tensor:
        """The latents and what is given beside them, as the network takes them in."""
        return self.latents

    def predict(self, network: Network, step: int, branch: str) -> Tensor:
        if branch == "cond_uncond":  # the branches' texts differ in length, so they cannot share a batch
            return torch.cat([self.predict(network, step, name) for name in ("uncond", "cond")])
        text = self.text[branch]
        return self.forward(
            network, step, branch, hidden_states=self.seen().to(self.dtype), guidance=self.embedded,
            timestep=self.timesteps[step].expand(1).to(self.latents.dtype), encoder_hidden_states=text["text"],
            encoder_attention_mask=text["mask"], pooled_projections=text["pooled"],
        )  # fmt: skip


@dataclass
class _ConcatRun(_Run):
    """Image-to-video by channels: latents, the first frame in its place, and a mask that says where that is."""

    def seen(self) -> Tensor:
        assert self.first is not None
        given = torch.zeros_like(self.latents)
        given[:, :, :1] = self.first
        mask = torch.zeros_like(self.latents[:, :1])
        mask[:, :, 0] = 1
        return torch.cat([self.latents, given, mask], 1)


@dataclass
class _ReplaceRun(_Run):
    """Image-to-video by tokens: the first latent frame is given and stays; only the others are denoised."""

    def seen(self) -> Tensor:
        assert self.first is not None
        return torch.cat([self.first, self.latents[:, :, 1:]], 2)

    def advance(self, step: int, prediction: Tensor) -> None:
        given, rest = self.first, self.latents[:, :, 1:]
        assert given is not None
        stepped = self.scheduler.step(prediction[:, :, 1:], self.timesteps[step], rest, return_dict=False)[0]
        self.latents = torch.cat([given, stepped], 2)
        self.remember(step, torch.cat([torch.zeros_like(given), prediction[:, :, 1:]], 2))
