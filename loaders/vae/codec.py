"""What every family does with its VAE: frames -> latents -> frames, streamed and in tiles."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from einops import rearrange
from torch import Tensor

from ..common.images import cover
from ..common.peaks import CoderPeak
from ..messages import message
from ..notices import say
from .tiles import Pieces, Tile, Tiling, one_by_one, retried, tiled

if TYPE_CHECKING:
    from ..video_model import VideoModel


def _say_tiles(tiling: Tiling, count: int, ratio: int) -> None:
    """Tiles change what is encoded a little; a whole frame in parts does not."""
    if tiling.size:
        tiles = tiling.words(ratio)
        several = message("memory_frames_tiles", count=count, tiles=tiles)
        say(several if count > 1 else message("memory_picture_tiles", tiles=tiles))


class Coder(ABC):
    """The half of a Family that belongs to its VAE."""

    coders: Mapping[str, CoderPeak]  # what its VAEs hold (python bench/vae.py --bytes, python bench/memory.py)
    decode_cycle = 1, 1  # (latent frames, period) from which on each period of a streamed decode takes the same work
    rounds_encode = False  # whether a streamed encode rounds otherwise; what fits into memory is then encoded at once

    def coder(self, config: Mapping[str, Any]) -> str:
        """Which of `coders` a VAE of this config is."""
        return next(iter(self.coders))

    @abstractmethod
    def decode_pieces(self, vae: Any, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        """The VAE's latent frames [1, C, 1, h, w] -> pieces of frames [1, 3, n, H, W] in -1..1, n small, of one tile."""

    @abstractmethod
    def encode_pieces(self, vae: Any, pixels: Pieces, count: int) -> Pieces:
        """`count` frames [1, 3, 1, H, W] in -1..1 -> pieces [1, 2C, n, h, w] of the posterior's mean and log variance."""

    def to_vae(self, model: VideoModel, vae: Any, latents: Pieces, seed: int) -> Pieces:
        """Normalised latent frames [1, C, 1, h, w] -> the VAE's own."""
        return (model.facts.denormalise(frame.float()).to(vae.dtype) for frame in latents)

    def from_vae(self, model: VideoModel, vae: Any, latents: Tensor) -> Tensor:
        """The VAE's latents [1, C, t, h, w] -> normalised ones."""
        return model.facts.normalise(latents.float())

    def encode_video(
        self,
        model: VideoModel,
        vae: Any,
        frames: Tensor,
        generator: torch.Generator | None = None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Frames [T, H, W, 3] in 0..1 -> normalised latents [1, C, t, h, w]; drawn from the posterior with a generator,
        else its most likely value. size: (width, height) that each frame is made to cover; None: its own."""
        return self.from_vae(model, vae, self.vae_latents(model, vae, frames, generator, size))

    def vae_latents(
        self,
        model: VideoModel,
        vae: Any,
        frames: Tensor,
        generator: torch.Generator | None,
        size: tuple[int, int] | None = None,
    ) -> Tensor:
        """As `encode_video`, not normalised. Memory beside the frames does not grow with their number."""
        from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

        device, ratio = model.memory.device("vae"), model.facts.spatial_ratio
        width, height = size or (frames.shape[2], frames.shape[1])
        latent = height // ratio, width // ratio
        pixels = lambda part: rearrange(cover(part, width, height), "t h w c -> 1 c t h w") * 2 - 1

        whole = model.encodes_whole(len(frames), *latent)

        def moments(tiling: Tiling) -> Pieces:
            if whole and tiling == Tiling():
                return iter([vae.encode(pixels(frames).to(device, vae.dtype)).latent_dist.parameters])
            stage = lambda part, tile: self.encode_pieces(vae, (p.to(device, vae.dtype) for p in part), len(frames))
            return one_by_one(stage, lambda: map(pixels, frames.split(1)), tiling.rows(*latent))

        tiling = model.tiling(*latent, len(frames))
        tell = lambda tiling: _say_tiles(tiling, len(frames), ratio)
        tell(tiling)
        made = retried(moments, tiling, latent, 2, device, tell)
        posterior = DiagonalGaussianDistribution(torch.cat(list(made), 2))
        return posterior.mode() if generator is None else posterior.sample(generator)

    def stream_decode(self, model: VideoModel, vae: Any, latents: Pieces, rows: list[list[Tile]], seed: int) -> Pieces:
        """Normalised latent frames [1, C, 1, h, w] -> frames in order, as pieces [n, H, W, 3] in 0..1, n small."""
        device = model.memory.device("vae")
        stage = lambda part, tile: self.decode_pieces(vae, (z.to(device) for z in part), tile, seed)
        for piece in tiled(stage, self.to_vae(model, vae, latents, seed), rows):
            yield rearrange(piece, "1 c t h w -> t h w c").float().mul(0.5).add(0.5).clamp(0, 1)
