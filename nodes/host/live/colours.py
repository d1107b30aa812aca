"""The colours that latents stand for, by a linear map: near enough to see what a run is making."""

from __future__ import annotations

import comfy.latent_formats
import torch
from einops import rearrange
from torch import Tensor

from ....loaders.video_model import VideoModel
from .learned import learned_colours


def coloured(model: VideoModel, latents: Tensor) -> Tensor:
    """Frames [t, h, w, 3] in 0..1 of latents [1, C, t, h, w] on the CPU."""
    pixels = rearrange(latents[0].float(), "c t h w -> t h w c")
    factors = published(model)
    factors = learned_colours(model) if factors is None else factors
    if factors is None:
        return _main_axes(pixels)
    return ((pixels @ factors[:-1] + factors[-1]) / 2 + 0.5).clamp(0, 1)


def published(model: VideoModel) -> Tensor | None:
    """The colours [C + 1, 3] that come with a model or with the host, the last row a bias; None: nobody has any."""
    return torch.tensor(model.facts.rgb) if model.facts.rgb else _host_colours(model)


def _main_axes(pixels: Tensor) -> Tensor:
    """Where no colours are known: the three directions in which latents [t, h, w, C] vary most, as RGB; each points to
    where its largest number is positive, so that colours stay from step to step."""
    flat = rearrange(pixels, "t h w c -> (t h w) c")
    flat = flat - flat.mean(0)
    axes = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -3:]
    largest = axes.gather(0, axes.abs().argmax(0, keepdim=True))
    projected = flat @ (axes * largest.sign())
    return (projected / (3 * projected.std(0) + 1e-6) / 2 + 0.5).clamp(0, 1).view(*pixels.shape[:3], 3)


def _host_colours(model: VideoModel) -> Tensor | None:
    """The host's preview colours [C + 1, 3] for this model's latents, the last row a bias; None where it has none."""
    for name in model.checkpoint.spec.preview_formats:
        if not hasattr(comfy.latent_formats, name):  # another version of the host: no reason to stop a run
            continue
        form = getattr(comfy.latent_formats, name)()
        factors = form.latent_rgb_factors
        if factors and len(factors) == model.facts.channels:
            return torch.tensor([*factors, getattr(form, "latent_rgb_factors_bias", None) or [0.0, 0.0, 0.0]])
    return None
