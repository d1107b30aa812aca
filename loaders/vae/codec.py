"""What every family does with its VAE: frames -> latents -> frames, streamed and in tiles."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ..base import ModelBase
from ..common.images import cover
from ..messages import message
from ..notices import say
from ..parts import Config, Network
from ..request import Request
from .peak import CUDNN, CoderPeak, base_width
from .tiles import Pieces, Share, Tile, Tiling, in_turn, one_by_one, retried, tiled


def _say_tiles(tiling: Tiling, count: int, ratio: int) -> None:
    """Tiles change what is encoded a little; a whole frame in parts does not."""
    if tiling.size:
        tiles = tiling.words(ratio)
        several = message("memory_frames_tiles", count=count, tiles=tiles)
        say(several if count > 1 else message("memory_picture_tiles", tiles=tiles))


@dataclass(frozen=True)
class VideoVAE(ModelBase, ABC):
    """The half of a VideoModel that belongs to its VAE.

    coders: what its VAEs hold at their peak (python bench/vae.py --bytes, python bench/memory.py).
    decode_cycle: (latent frames, period) from which on each period of a streamed decode takes the same work.
    streamed_encode_differs: whether a streamed encode rounds otherwise; what fits into memory is then encoded at once.
    """

    coders: ClassVar[Mapping[str, CoderPeak]]
    decode_cycle: ClassVar[tuple[int, int]] = (1, 1)
    streamed_encode_differs: ClassVar[bool] = False

    @classmethod
    def coder(cls, config: Config) -> str:
        """Which of `coders` a VAE of this config is."""
        return next(iter(cls.coders))

    @classmethod
    @abstractmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        """The VAE's latent frames [1, C, 1, h, w] -> pieces of frames [1, 3, n, H, W] in -1..1, n small, of one
        tile."""

    def decode_tile(self, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        """As `decode_pieces`, with what this model's `decoding` says."""
        return self.decode_pieces(vae, latents, tile, seed)

    @classmethod
    @abstractmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        """`count` frames [1, 3, 1, H, W] in -1..1 -> pieces [1, 2C, n, h, w] of the posterior's mean and log
        variance."""

    def to_vae(self, vae: Network, latents: Pieces, seed: int) -> Pieces:
        """Normalised latent frames [1, C, 1, h, w] -> the VAE's own."""
        return (self.facts.denormalise(frame.float()).to(vae.dtype) for frame in latents)

    def from_vae(self, vae: Network, latents: Tensor) -> Tensor:
        """The VAE's latents [1, C, t, h, w] -> normalised ones."""
        return self.facts.normalise(latents.float())

    def encode_video(
        self,
        vae: Network,
        frames: Tensor,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Frames [T, H, W, 3] in 0..1 -> normalised latents [1, C, t, h, w]; drawn from the posterior with a generator,
        else its most likely value. size: (width, height) that each frame is made to cover; None: its own."""
        return self.from_vae(vae, self.vae_latents(vae, frames, generator, size))

    def vae_latents(
        self,
        vae: Network,
        frames: Tensor,
        generator: torch.Generator | None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """As `encode_video`, not normalised. Memory beside the frames does not grow with their number."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        device, ratio = self.memory.device("vae"), self.facts.spatial_ratio
        width, height = size or (frames.shape[2], frames.shape[1])
        latent = height // ratio, width // ratio
        pixels = lambda part: rearrange(cover(part, width, height), "t h w c -> 1 c t h w") * 2 - 1

        whole = self.encodes_whole(len(frames), *latent)

        def moments(tiling: Tiling) -> Pieces:
            if whole and tiling == Tiling():
                return iter([vae.encode(pixels(frames).to(device, vae.dtype)).latent_dist.parameters])
            stage = lambda part, tile: self.encode_pieces(vae, (p.to(device, vae.dtype) for p in part), len(frames))
            return one_by_one(stage, lambda: map(pixels, frames.split(1)), tiling.rows(*latent))

        tiling = self.tiling(*latent, len(frames))
        tell = lambda tiling: _say_tiles(tiling, len(frames), ratio)
        tell(tiling)
        pieces = retried(moments, tiling, latent, 2, device, tell)
        posterior = DiagonalGaussianDistribution(torch.cat(list(pieces), 2))
        return posterior.mode() if generator is None else posterior.sample(generator)

    def stream_decode(
        self, vae: Network, latents: Pieces, rows: list[list[Tile]], seed: int, share: Share = in_turn
    ) -> Pieces:
        """Normalised latent frames [1, C, 1, h, w] -> frames in order, as pieces [n, H, W, 3] in 0..1, n small. share:
        who makes which tile."""
        device = self.memory.device("vae")
        stage = lambda part, tile: self.decode_tile(vae, (z.to(device) for z in part), tile, seed)
        for piece in tiled(stage, self.to_vae(vae, latents, seed), rows, share):
            yield rearrange(piece, "1 c t h w -> t h w c").float().mul(0.5).add_(0.5).clamp_(0, 1)

    # ------------------------------------------------------------ memory

    def tiling(self, height: int, width: int, encoded: int = 0) -> Tiling:
        """The largest tiles with which the VAE's work on a frame of height x width latent pixels fits into its room."""
        tiling: Tiling | None = Tiling()
        while tiling and self.vae_bytes(tiling, height, width, encoded) > 0.8 * self.memory.room("vae"):
            best, tiling = tiling, tiling.smaller(height, width)
        return tiling or best

    def vae_bytes(self, tiling: Tiling, height: int, width: int, encoded: int = 0) -> int:
        """What the VAE needs beside its weights to encode so many frames, or (0) to decode any number."""
        return self.coder_bytes(tiling.rows(height, width), encoded)

    def encoding(self, width: int, height: int, frames: int = 1) -> int:
        """What the VAE needs to encode so many frames of width x height pixels, as its room allows."""
        size = height // self.facts.spatial_ratio, width // self.facts.spatial_ratio
        if self.encodes_whole(frames, *size):
            return self.coder_bytes(Tiling().rows(*size), frames, True)
        return self.vae_bytes(self.tiling(*size, frames), *size, frames)

    def encodes_whole(self, frames: int, height: int, width: int) -> bool:
        """Whether a clip of height x width latent pixels is encoded at once, where streaming it would round
        otherwise."""
        at_once = self.coder_bytes(Tiling().rows(height, width), frames, True)
        return self.streamed_encode_differs and at_once <= 0.8 * self.memory.room("vae")

    def coder_bytes(self, tiles: list[list[Tile]], encoded: int = 0, at_once: bool = False) -> int:
        """The peak of the VAE's work beside its weights: decoding, whatever the length of the video, or encoding so
        many frames, streamed or at once. tiles: of a frame, in rows."""
        config, facts = self.parts["vae"].config, self.facts
        peak = self.coders[self.coder(config)]
        pixels = tiles[0][0].height * tiles[0][0].width * facts.spatial_ratio**2
        streamed = peak.still if encoded == 1 else peak.encode + encoded * peak.grows
        encoding = pixels * (max(peak.still, encoded * peak.whole) if at_once else streamed)
        float32 = getattr(torch, self.recipe.dtype).itemsize == 4
        decoding = peak.decoding(pixels, tiles[0][0].offload_state, max(facts.frame_counts, default=peak.clip), float32)
        needed = encoding * (peak.full if float32 else 1) if encoded else decoding
        needed *= (base_width(config) or peak.width) / peak.width
        if self.memory.device("vae").type == "cuda":
            needed = CUDNN + needed * (1 + peak.workspaces * (encoded <= 1))
        return math.ceil(needed)

    def decode_bytes(self, request: Request) -> int:
        """The peak of decoding a complete request with the tiles that `self.tiling` chooses."""
        _, _, _, height, width = self.facts.latent_shape(request.width, request.height, request.frames)
        return self.vae_bytes(self.tiling(height, width), height, width)
