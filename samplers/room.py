"""The room that a run's steps need beside the weights: the network's forward, the sampler, and the cache."""

from __future__ import annotations

import math
from dataclasses import replace

from ..loaders.common.peaks import UNFUSED, forward_bytes, sizes
from ..loaders.request import Request
from ..loaders.video_model import VideoModel
from .caches.policy import Policy


def step_bytes(model: VideoModel, request: Request, policy: Policy | None = None, fused: bool | None = None) -> int:
    """The peak of a complete request's steps in bytes, with what its cache keeps between them.

    `devices.with_kernels` adds what cannot be counted. policy: of the cache, made ready for the request. fused: whether
    attention holds no scores; None: as on the device of the model's memory.
    """
    if fused is None:
        fused = model.memory.device("transformer").type not in UNFUSED
    return forward_bytes(model, request, fused) + cache_bytes(model, request, policy)


def cache_bytes(model: VideoModel, request: Request, policy: Policy | None) -> int:
    """What the cache of a complete request keeps at most, and what its forward holds for it; 0 without one."""
    if policy is None:
        return 0
    size = sizes(model, request)
    beginning = size.batch * (size.tokens + size.text) * size.hidden * size.item  # what went into the blocks
    holds = policy.mechanism_on(model.stacks).holds_block_inputs
    return policy.estimate(model, request) + (beginning if holds else 0)


def context_bytes(model: VideoModel, window: Request, frames: int, policy: Policy | None = None) -> int:
    """What the steps of so many frames, predicted in windows, keep more than those of one window."""
    whole, part = (sizes(model, request).latents for request in (replace(window, frames=frames), window))
    of_cache = policy.estimate(model, window) if policy is not None else 0
    return math.ceil((model.latents_stepped * part * 4 + of_cache) * (whole / part - 1))
