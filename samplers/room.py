"""The room that a run's steps need beside the weights: the network's forward, the sampler, and the cache."""

from __future__ import annotations

from ..loaders.peaks import forward_bytes
from ..loaders.video_model import Request, VideoModel
from .caches.runner import planned


def step_bytes(model: VideoModel, request: Request) -> int:
    """The peak of a complete request's steps in bytes, what a cache keeps between them included."""
    return forward_bytes(model, request) + cache_bytes(model, request)


def cache_bytes(model: VideoModel, request: Request) -> int:
    """What the cache of a complete request keeps at most; 0 without one."""
    policy, _ = planned(model, request)
    return 0 if policy is None else policy.estimate(model, request)
