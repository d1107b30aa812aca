"""Latents -> frames, streamed: peak memory does not grow with the length of the video."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ..loaders.limits import nearest
from ..loaders.messages import InputError, either, message
from ..loaders.vae.streaming import drop_first
from ..loaders.vae.tiles import FEWEST, Share, Tiling, in_turn, retried
from ..loaders.video_model import VideoModel

Form = Callable[[Tensor], Tensor]  # what becomes of frames [n, H, W, 3] in 0..1 where they were decoded; on the CPU


def floats(frames: Tensor) -> Tensor:
    """Frames as they are."""
    return frames.cpu()


def eight_bits(frames: Tensor) -> Tensor:
    """Frames as uint8, rounded before they are brought to the CPU: a quarter of the bytes."""
    return frames.mul(255).round_().to(torch.uint8).cpu()


def sixteen_bits(frames: Tensor) -> Tensor:
    """Frames as uint16, for files that hold more than 8 bits of a colour."""
    return frames.mul(65535).round_().to(torch.int32).cpu().to(torch.uint16)


def frame_count(model: VideoModel, latents: Tensor) -> int:
    """Frames that latents [1, C, t, h, w] decode to."""
    return model.facts.frames(latents.shape[2])


def tiling_of(model: VideoModel, height: int, width: int, tile: int = 0) -> Tiling:
    """Tiles of `tile` pixels for latents of height x width, or (0) the largest that memory has room for.

    Raises InputError for tiles that are smaller than FEWEST latent pixels, or do not fall on latent pixels.
    """
    ratio = model.facts.spatial_ratio
    if tile and (tile < FEWEST * ratio or tile % ratio):
        rule = message("tile_rule", title=model.title, ratio=ratio, least=FEWEST * ratio)
        raise InputError("tile", tile, rule, message("use_tile", tile=either(*nearest(tile, FEWEST * ratio, ratio))))
    if not tile:
        return model.tiling(height, width)
    return Tiling(tile // ratio, True) if tile < max(height, width) * ratio else Tiling()


def stream_frames(
    model: VideoModel,
    latents: Tensor,
    seed: int = 0,
    tiling: Tiling | None = None,
    tell: Callable[[str], None] = lambda _: None,
    smaller: Callable[[Tiling], None] = lambda _: None,
    form: Form = floats,
    share: Share = in_turn,
    shrinks: bool = True,
) -> Iterator[Tensor]:
    """Frames in order as pieces [n, H, W, 3] in 0..1 on the CPU, n at most a few. latents: [1, C, t, h, w], normalised.

    seed: of the noise that VAEs with timestep conditioning add.
    tiling: None for what memory allows.
    tell, smaller: hear in words, and with the tiles, when they had to become smaller.
    form: how the frames are wanted.
    share: who makes which tile. shrinks: whether tiles become smaller where memory runs out.

    Raises ValueError for latents or frames that are not finite.
    """
    if not torch.isfinite(latents).all():
        raise ValueError(message("latents_hold_no_video"))
    source = lambda: iter(latents.split(1, 2))
    yield from frames_of(model, source, latents.shape[3:], seed, tiling, tell, smaller, form, share, shrinks)


def frames_of(
    model: VideoModel,
    source: Callable[[], Iterator[Tensor]],
    size: tuple[int, ...],
    seed: int,
    tiling: Tiling | None,
    tell: Callable[[str], None],
    smaller: Callable[[Tiling], None],
    form: Form,
    share: Share = in_turn,
    shrinks: bool = True,
) -> Iterator[Tensor]:
    """As `stream_frames`, of latent frames [1, C, 1, h, w] that a source makes one after another.

    source: called anew where memory ran out on the way, and must then give the same frames; size: (h, w).
    """
    height, width = size
    tiling = tiling or model.tiling(height, width)

    def make(tiling: Tiling) -> Iterator[Tensor]:
        with model.use("vae", activations=model.vae_bytes(tiling, height, width)) as vae, torch.no_grad():
            pieces = model.stream_decode(vae, source(), tiling.rows(height, width), seed, share)
            yield from map(form, _finite(drop_first(model.facts.discarded_frames, pieces, 0)))

    def shrink(less: Tiling) -> None:
        smaller(less)
        tell(message("memory_decode_goes_on", tiles=less.words(model.facts.spatial_ratio)))

    if not shrinks:
        return make(tiling)
    return retried(make, tiling, (height, width), 0, model.memory.device("vae"), shrink)


def _finite(pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    for piece in pieces:
        if not torch.isfinite(piece.sum()):  # of numbers in 0..1: what is not finite is none
            raise ValueError(message("frames_not_finite"))
        yield piece
