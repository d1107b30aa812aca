"""What a model's numbers must obey, and what its network is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass(frozen=True)
class Facts:
    """What the numbers of a request must obey, and what they are when nobody says. Sizes in pixels, time in frames.

    spatial_ratio: one latent pixel stands for spatial_ratio x spatial_ratio pixels.
    temporal_ratio: one latent frame stands for so many frames.
    channels: of the latents.
    size_multiple: of which width and height must be multiples.
    fps: frames per second that the model was trained with.
    hidden_size: channels of the network.
    text_width: channels of the text embeddings; 0: the model reads no text.
    prompt_tokens: that a prompt may have.
    presets: name -> values of a request; "default" has all.
    rgb: previews: colour (-1..1) = latent @ rgb[:-1] + rgb[-1]; empty: the host's.
    frame_step, frame_counts: a clip has frame_step * n + 1 frames (0: temporal_ratio), or one of frame_counts.
    discarded_frames: that are decoded before the video begins.
    pictures: the sets of keyframes that work, of "first" and "last"; None: all.
    reads_pictures: whether the text encoder reads the first frame too.
    layers: blocks of the network.
    time_patch: latent frames that are one token.
    cached_module_outputs: tensors of hidden_size that the blocks' attentions and MLPs give together, per token.
    mean, std: per channel, of the VAE's latents: vae latent = latent * std + mean; empty: alike.
    scheduler: the config of the reference pipeline's scheduler.
    """

    spatial_ratio: int
    temporal_ratio: int
    channels: int
    size_multiple: int
    fps: float
    hidden_size: int
    text_width: int
    prompt_tokens: int
    presets: Mapping[str, Mapping[str, Any]]
    rgb: tuple[tuple[float, ...], ...] = ()
    frame_step: int = 0
    frame_counts: tuple[int, ...] = ()
    discarded_frames: int = 0
    pictures: tuple[tuple[str, ...], ...] | None = ((),)
    reads_pictures: bool = False
    layers: int = 0
    time_patch: int = 1
    cached_module_outputs: int = 0
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    scheduler: Mapping[str, Any] = field(default_factory=dict)

    def latent_shape(self, width: int, height: int, frames: int) -> tuple[int, int, int, int, int]:
        """[B, C, t, h, w] of the latents of a video."""
        time = (frames + self.discarded_frames - 1) // self.temporal_ratio + 1
        return 1, self.channels, time, height // self.spatial_ratio, width // self.spatial_ratio

    def tokens(self, width: int, height: int, frames: int) -> int:
        """How many tokens the network makes of a video."""
        _, _, time, h, w = self.latent_shape(width, height, frames)
        patch = self.size_multiple // self.spatial_ratio
        return -(-time // self.time_patch) * (h // patch) * (w // patch)

    def latent_frame(self, frame: int) -> int:
        """The latent frame that a frame of the video is part of."""
        return -(-(frame + self.discarded_frames) // self.temporal_ratio)

    def frames(self, latent_frames: int) -> int:
        """Frames of the video that this many latent frames decode to."""
        return (latent_frames - 1) * self.temporal_ratio + 1 - self.discarded_frames

    def denormalise(self, latents: Tensor) -> Tensor:
        """Latents [1, C, t, h, w] as the network sees them -> as the VAE does."""
        return latents * _channels(self.std, latents) + _channels(self.mean, latents) if self.std else latents

    def normalise(self, latents: Tensor) -> Tensor:
        """Latents [1, C, t, h, w] as the VAE sees them -> as the network does."""
        return (latents - _channels(self.mean, latents)) / _channels(self.std, latents) if self.std else latents


def _channels(values: tuple[float, ...], like: Tensor) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, -1, 1, 1, 1).to(like)


@dataclass(frozen=True)
class Stacks:
    """The blocks that a network's forward runs through, for caches. lists: its attributes that hold them, in order;
    beside: a list that runs before them and gives its hints to the layers named in the config as `hinted`."""

    lists: tuple[str, ...] = ("transformer_blocks",)
    beside: str = ""
    hinted: str = ""
    pairs: bool = True  # a block gives (video, text); else the video alone

    def of(self, network: Any) -> tuple[str, ...]:
        """The lists that this network has."""
        return tuple(name for name in (self.beside, *self.lists) if name and hasattr(network, name))

    def hints_last(self, network: Any) -> bool:
        """Whether a hint is added behind the last block, so that the hints are needed in any case."""
        return len(getattr(network, self.lists[-1])) - 1 in network.config[self.hinted]


@dataclass(frozen=True)
class TokenSplit:
    """Where a network's video tokens can be cut, so that several processes have a share of them each.

    heads: key of the config that tells how many heads an attention has, which are shared out too.
    inputs: of its forward, with a row for each token [B, N, ...].
    embedders: its convolutions whose output [B, C, t, h, w] becomes tokens.
    joint_embedder: the module that is given a prompt [B, T, ..] and the video, and gives both as tokens [B, T + N, C].
    positions: the module whose outputs say where the tokens are, or the input of the forward that does.
    positions_dim: the dimension of these that counts tokens.
    attentions: a pattern of the names of the attentions among them.
    prompt: where these have the prompt's tokens, of which every process holds all: "before" or "after" the video's, or
    "apart", in other attentions.
    counted: which input of a block is a number of tokens from the video's first on.
    output: the layer behind which they are laid together.
    """

    inputs: tuple[str, ...] = ()
    embedders: tuple[str, ...] = ()
    joint_embedder: str = ""
    heads: str = "num_attention_heads"
    positions: str = "rope"
    positions_dim: int = 1
    attentions: str = r"\battn1$"
    prompt: Literal["apart", "before", "after"] = "apart"
    counted: int | None = None
    output: str = "proj_out"
