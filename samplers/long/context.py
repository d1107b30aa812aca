"""Context windows: one sampling of a video longer than its network can see, for models that nothing is handed over to.

At each step the network predicts overlapping windows, whose predictions are averaged; the noise of later windows is
that of the first, shuffled, so that they show the same scene (FreeNoise, Qiu and others 2023).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from ...loaders.common.flow import draw
from ...loaders.denoiser import Denoiser, DenoiserWrapper, Network
from ...loaders.notices import stop_if_asked
from ...loaders.request import Conditioning, Request
from ...loaders.video_model import VideoModel
from ..denoise import OnStep
from ..loop import Circle
from ..parallel.clip.spread import sample
from ..plan import plan
from ..room import context_bytes
from ..sources.inpaint import Inpainting


def sample_in_context(
    model: VideoModel, conditioning: Conditioning, request: Request, window: int, overlap: int, on_step: OnStep
) -> Tensor:
    """Latents [1, C, t, h, w] of a complete request of any length, predicted in windows of `window` frames.

    overlap: frames that two windows share. The request's source and mask are latents of the whole video, and [t, h, w]
    of them. One that loops is seen as a circle, whose windows lie elsewhere at each step.
    """
    facts, frames = model.facts, min(window, request.frames)
    latent_frames = lambda count: facts.latent_shape(request.width, request.height, count)[2]
    stride = max(latent_frames(frames) - latent_frames(overlap), facts.time_patch)
    stride = stride // facts.time_patch * facts.time_patch
    more = latent_frames(request.frames) - latent_frames(frames)
    source, mask = request.source, request.mask
    start = source if source is not None and request.strength < 1 else None
    windows = partial(ContextWindows, more=more, stride=stride, seed=request.seed, source=start)
    circle = partial(_circled, windows, latent_frames(request.frames))
    first = None if source is None else source[:, :, : latent_frames(frames)]
    planned = plan(model, replace(request, frames=frames, source=first, mask=None, loop=False))
    beyond = context_bytes(model, planned.request, request.frames, planned.policy)
    whole = replace(planned.request, frames=request.frames)
    kept = 0 if planned.policy is None else planned.policy.estimate(model, whole)
    planned = replace(planned, room=planned.room + beyond, kept=kept)
    inpainting = None if source is None or mask is None else Inpainting(source, mask[None, None])
    return sample(model, conditioning, planned, on_step, circle if request.loop else windows, inpainting)


def _circled(windows: Callable[[Denoiser], Denoiser], frames: int, denoiser: Denoiser) -> Denoiser:
    """A denoiser that sees a video of so many latent frames in windows, and as a circle."""
    return Circle(windows(denoiser), frames)


class ContextWindows(DenoiserWrapper):
    """A denoiser of one window around which `more` latent frames lie: it predicts windows `stride` frames apart.

    source: [1, C, t, h, w], what the whole video begins with under its noise, instead of noise alone.
    """

    def __init__(self, inner: Denoiser, more: int, stride: int, seed: int, source: Tensor | None = None) -> None:
        super().__init__(inner)
        dim = inner.time_dim
        length = inner.latents.shape[dim]
        self.starts = [*range(0, more, stride), more]
        self.weights = _pyramid(length).to(inner.latents.device)
        noise = inner.latents
        if source is not None:  # there the source shines through
            noise = draw(tuple(noise.shape), torch.Generator("cpu").manual_seed(seed), noise.device)
        self.latents = shuffled(noise, dim, more, stride, torch.Generator("cpu").manual_seed(seed))
        if source is not None:
            video = inner.arranged(source.to(noise), self.latents)
            self.latents = inner.add_noise(video, self.latents, 0).to(inner.latents)

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        dim, length, count = self.time_dim, len(self.weights), latents.shape[self.time_dim]
        weight = torch.zeros(count, device=latents.device)
        total: Tensor | None = None
        for start in self.starts:
            stop_if_asked()
            prediction = self.inner.predict(network, latents.narrow(dim, start, length), step, branch)
            total = _room(prediction, dim, count) if total is None else total
            weighted = prediction * broadcast_along(self.weights.to(prediction), dim, prediction)
            part = total.narrow(dim, start, length)
            part.copy_(weighted) if len(self.starts) == 1 else part.add_(weighted)  # 0 + -0 is 0
            weight[start : start + length] += self.weights
        assert total is not None
        return total / broadcast_along(weight, dim, total)


def shuffled(noise: Tensor, dim: int, more: int, stride: int, generator: torch.Generator) -> Tensor:
    """Noise with `more` frames behind it, each block of `stride` a shuffle of the frames one window earlier."""
    length, done = noise.shape[dim], noise.shape[dim]
    whole = _room(noise, dim, length + more)
    whole.narrow(dim, 0, length).copy_(noise)
    while (missing := length + more - done) > 0:
        stop_if_asked()
        order = torch.randperm(min(stride, length), generator=generator)[:missing] + (done - length)
        whole.narrow(dim, done, len(order)).copy_(whole.index_select(dim, order.to(noise.device)))
        done += len(order)
    return whole


def _room(like: Tensor, dim: int, length: int) -> Tensor:
    """A tensor of zeros that is so long along one dimension."""
    shape = list(like.shape)
    shape[dim] = length
    return like.new_zeros(shape)


def broadcast_along(values: Tensor, dim: int, like: Tensor) -> Tensor:
    """Values [n] in a shape that multiplies a tensor along one of its dimensions."""
    return values.view([-1 if d == dim else 1 for d in range(like.ndim)])


def _pyramid(length: int) -> Tensor:
    """Weights that grow to the middle of a window."""
    frames = torch.arange(length)
    return torch.minimum(frames + 1, length - frames).float()
