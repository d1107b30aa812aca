"""What the windows of a long video take on disk until its file is whole, and what a cache keeps of them."""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ...loaders.video_model import VideoModel
from ..caches.policy import Policy
from .plan import LongPlan

BYTES = 4  # of a number: what samplers hand over is float32, whatever the network computes in


def latent_bytes(model: VideoModel, plan: LongPlan, frames: int) -> int:
    """Bytes of the latents of so many frames in the size of a long video."""
    return BYTES * prod(model.facts.latent_shape(plan.request.width, plan.request.height, frames))


def window_bytes(model: VideoModel, plan: LongPlan) -> int:
    """Bytes of the latents of all windows; their files are longer by a header each."""
    return sum(latent_bytes(model, plan, window.frames) for window in plan.windows)


def cache_bytes(model: VideoModel, plan: LongPlan, policy: Policy) -> int:
    """What a cache keeps at most while a window is sampled, or in context windows all of them."""
    request = plan.longest.request
    if plan.mode == "context_windows":
        request = replace(request, frames=plan.request.frames)
    return policy.estimate(model, request)
