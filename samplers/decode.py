"""Latents -> frames, streamed: peak memory does not grow with the length of the video."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..loaders.video_model import VideoModel


def frame_count(model: VideoModel, latents: Tensor) -> int:
    """Frames that latents [1, C, t, h, w] decode to."""
    return model.facts.frames(latents.shape[2])


def stream_frames(model: VideoModel, latents: Tensor, seed: int = 0) -> Iterator[Tensor]:
    """Frames in order as pieces [n, H, W, 3] in 0..1 on the CPU, n at most a few. latents: [1, C, t, h, w], normalised.

    seed: of the noise that VAEs with timestep conditioning add. Raises ValueError for latents or frames that are not finite.
    """
    if not torch.isfinite(latents).all():
        raise ValueError(
            "The latents are not finite (NaN or infinite), so there is no video in them. Sample again with precision bfloat16 or float32."
        )
    with model.use("vae", activations=_activations(model, latents)) as vae, torch.no_grad():
        for piece in _without(model.facts.lead, model.family.stream_decode(model, vae, latents, seed)):
            if not torch.isfinite(piece).all():
                raise ValueError(
                    "The decoder made frames that are not finite. Load the model with precision bfloat16 or float32."
                )
            yield piece.cpu()


def _activations(model: VideoModel, latents: Tensor) -> int:
    """Bytes that a streaming decoder needs: about 2 KB for each pixel of a frame, whatever the length."""
    ratio = model.facts.spatial_ratio
    return latents.shape[3] * ratio * latents.shape[4] * ratio * 2048


def _without(lead: int, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
    """Leave out the first frames."""
    for piece in pieces:
        rest = piece[lead:]
        lead = max(0, lead - len(piece))
        if len(rest):
            yield rest
