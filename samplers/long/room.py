"""What the windows of a long video take on disk until its file is whole."""

from __future__ import annotations

from math import prod

from ...loaders.video_model import VideoModel
from .plan import LongPlan

BYTES = 4  # of a number: what samplers hand over is float32, whatever the network computes in


def latent_bytes(model: VideoModel, plan: LongPlan, frames: int) -> int:
    """Bytes of the latents of so many frames in the size of a long video."""
    return BYTES * prod(model.facts.latent_shape(plan.request.width, plan.request.height, frames))


def window_bytes(model: VideoModel, plan: LongPlan) -> int:
    """Bytes of the latents of all windows; their files are longer by a header each."""
    return sum(latent_bytes(model, plan, window.frames) for window in plan.windows)
