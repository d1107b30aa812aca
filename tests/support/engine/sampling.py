"""Sampling a request in one call, as tests ask for it."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.request import Conditioning, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers import denoise
from reelwire.samplers.plan import plan
from torch import Tensor


def sample(model: VideoModel, conditioning: Conditioning, request: Request, *callbacks: Any, **named: Any) -> Tensor:
    """Latents of a request, planned and sampled. callbacks: as those of `denoise.sample`."""
    return denoise.sample(model, conditioning, plan(model, request), *callbacks, **named)


class _ReadyError(Exception):
    """A denoiser is there."""


def started(model: VideoModel, conditioning: Conditioning, request: Request) -> Denoiser:
    """The denoiser of a request before its first step."""
    ready = list[Denoiser]()

    def stop(denoiser: Denoiser) -> Denoiser:
        ready.append(denoiser)
        raise _ReadyError

    with suppress(_ReadyError):
        sample(model, conditioning, request, wrap=stop)
    (denoiser,) = ready
    return denoiser
