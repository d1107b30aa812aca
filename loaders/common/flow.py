"""What flow-matching families share: latents = (1 - sigma) * video + sigma * noise."""

from __future__ import annotations

import torch
from torch import Tensor

from ..request import Request
from ..video_model import VideoModel


def mix(noise: Tensor, video: Tensor, sigma: float) -> Tensor:
    """Latents at a noise level; sigma 1 is pure noise."""
    share = torch.tensor(sigma).to(noise)
    return share * noise + (1 - share) * video.to(noise)


def encoded_source(model: VideoModel, request: Request, generator: torch.Generator | None = None) -> Tensor:
    """The source as latents [1, C, t, h, w], sampled from the posterior where a generator is given."""
    source = request.source
    assert source is not None
    if source.ndim == 5:
        return source
    with model.use("vae", model.encoding(request.width, request.height, request.frames)) as vae:
        frames = source[: request.frames]
        frames = (
            torch.cat([frames[:1]] * model.facts.discarded_frames + [frames])
            if model.facts.discarded_frames
            else frames
        )
        return model.encode_video(vae, frames, generator, (request.width, request.height))


def draw(shape: tuple[int, ...], generator: torch.Generator, like: torch.device) -> Tensor:
    """Standard normal noise, drawn on the CPU so that a seed means the same everywhere."""
    return torch.randn(shape, generator=generator).to(like)
