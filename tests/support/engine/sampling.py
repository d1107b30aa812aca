"""Sampling a request in one call, as tests ask for it."""

from __future__ import annotations

from typing import Any

from reelwire.loaders.request import Conditioning, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers import denoise
from reelwire.samplers.plan import plan
from torch import Tensor


def sample(model: VideoModel, conditioning: Conditioning, request: Request, *callbacks: Any, **named: Any) -> Tensor:
    """Latents of a request, planned and sampled. callbacks: as those of `denoise.sample`."""
    return denoise.sample(model, conditioning, plan(model, request), *callbacks, **named)
