"""Context windows: one sampling of a video longer than its network can see, for models that nothing can be handed over to.

At each step the network predicts overlapping windows, whose predictions are averaged; the noise of later windows is that
of the first, shuffled, so that they show the same scene (FreeNoise, Qiu and others 2023).
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ...loaders.denoiser import Run
from ...loaders.request import Conditioning, Request
from ...loaders.video_model import VideoModel
from ..denoise import OnStep, sample
from ..plan import plan


def sample_in_context(model: VideoModel, conditioning: Conditioning, request: Request, window: int, overlap: int, on_step: OnStep) -> Tensor:  # fmt: skip
    """Latents [1, C, t, h, w] of a request of any length, predicted in windows of `window` frames that share `overlap`."""
    facts = model.facts
    whole, seen = (facts.latent_shape(request.width, request.height, n)[2] for n in (request.frames, min(window, request.frames)))  # fmt: skip
    stride = max(seen - facts.latent_shape(1, 1, overlap)[2], facts.time_patch) // facts.time_patch * facts.time_patch
    spread = partial(_spread, more=whole - seen, stride=stride, seed=request.seed)
    prepared = plan(model, replace(request, frames=min(window, request.frames)))
    return sample(model, conditioning, prepared, on_step, spread)


def _spread(run: Run, more: int, stride: int, seed: int) -> None:
    """Give a run that was made for one window `more` latent frames of noise, and let its network see it window by window."""
    dim, inner = run.time_dim, run.predict
    length = run.latents.shape[dim]
    run.latents = shuffled(run.latents, dim, more, stride, torch.Generator("cpu").manual_seed(seed))
    starts, pyramid = [*range(0, more, stride), more], _pyramid(length).to(run.latents.device)

    def predict(network: Any, step: int, branch: str) -> Tensor:
        whole = run.latents
        total: Tensor | float = 0.0
        weight = torch.zeros(whole.shape[dim], device=whole.device)
        try:
            for start in starts:
                run.latents = whole.narrow(dim, start, length)
                total = total + _placed(inner(network, step, branch), pyramid, dim, start, whole.shape[dim])
                weight[start : start + length] += pyramid
        finally:
            run.latents = whole
        assert isinstance(total, Tensor)
        return total / _along(weight, dim, total)

    run.predict = predict


def shuffled(noise: Tensor, dim: int, more: int, stride: int, generator: torch.Generator) -> Tensor:
    """Noise with `more` frames behind it, each block of `stride` a shuffle of the frames one window earlier."""
    length = noise.shape[dim]
    while (missing := length + more - noise.shape[dim]) > 0:
        behind = noise.shape[dim] - length
        order = torch.randperm(min(stride, length), generator=generator)[:missing] + behind
        noise = torch.cat([noise, noise.index_select(dim, order.to(noise.device))], dim)
    return noise


def _placed(prediction: Tensor, weights: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A window's weighted prediction in a video of zeros. weights: of its frames."""
    shape = list(prediction.shape)
    shape[dim] = length
    whole = prediction.new_zeros(shape)
    weighted = prediction * _along(weights.to(prediction), dim, prediction)
    whole.narrow(dim, start, len(weights)).copy_(weighted)
    return whole


def _pyramid(length: int) -> Tensor:
    """Weights that grow to the middle of a window."""
    at = torch.arange(length)
    return torch.minimum(at + 1, length - at).float()


def _along(values: Tensor, dim: int, like: Tensor) -> Tensor:
    return values.view([-1 if d == dim else 1 for d in range(like.ndim)])
