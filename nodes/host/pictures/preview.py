"""Small pictures of what is being made."""

from __future__ import annotations

from typing import TYPE_CHECKING

import comfy.latent_formats
import torch
from comfy.cli_args import args
from einops import rearrange
from torch import Tensor

from ....loaders.video_model import VideoModel

if TYPE_CHECKING:
    from PIL.Image import Image


def frame_preview(frame: Tensor) -> Image:
    """A PIL image of a frame [H, W, 3] in 0..1 or in 8 bits, no larger than ComfyUI's --preview-size."""
    from PIL import Image

    if frame.dtype != torch.uint8:
        frame = (frame.float().clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(frame.cpu().numpy())
    image.thumbnail((args.preview_size, args.preview_size))
    return image


def latent_preview(model: VideoModel, latents: Tensor) -> Image:
    """A PIL image of the middle frame of latents [1, C, t, h, w] by their linear colours."""
    colours = torch.tensor(model.facts.rgb) if model.facts.rgb else _host_colours(model)
    middle = rearrange(latents[0, :, latents.shape[2] // 2].float().cpu(), "c h w -> h w c")
    if colours is None:
        return frame_preview(_main_axes(middle))
    return frame_preview((middle @ colours[:-1] + colours[-1]) / 2 + 0.5)


def _main_axes(latent: Tensor) -> Tensor:
    """Where no colours are known: the three directions in which a latent frame [h, w, C] varies most, as RGB."""
    flat = rearrange(latent, "h w c -> (h w) c")
    flat = flat - flat.mean(0)
    axes = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -3:]
    projected = flat @ axes
    return (projected / (3 * projected.std(0) + 1e-6) / 2 + 0.5).view(*latent.shape[:2], 3)


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
