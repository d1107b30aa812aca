"""Two passes at two sizes: latents are enlarged by a network, then the sampler refines them as a source."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..loaders.common.peaks import upsampler_bytes, with_kernels
from ..loaders.devices import explained
from ..loaders.messages import message
from ..loaders.parts import Part
from ..loaders.video_model import VideoModel

LESS = message("less_to_enlarge")


def upscale(model: VideoModel, upsampler: Part, latents: Tensor, adain: float = 0.0, tone_map: float = 0.0) -> Tensor:
    """Latents [1, C, t, h, w] -> [1, C, t, 2h, 2w], both normalised (LTXLatentUpsamplePipeline).

    adain: how much of the small latents' statistics is put on the large ones (adain_factor); tone_map: how much their
    range is compressed (tone_map_compression_ratio), 0 to 1.
    """
    from diffusers import LTXLatentUpsamplePipeline

    device = model.memory.device(upsampler.name)
    room = with_kernels(upsampler_bytes(upsampler, latents, getattr(torch, model.recipe.dtype).itemsize))
    with model.use("vae") as vae:  # for its statistics alone: the upsampler's weights may send it away
        statistics = vae.latents_mean.to(device), vae.latents_std.to(device), vae.config.scaling_factor
    with torch.no_grad(), explained(message("enlarging_activity"), LESS), model.memory.use(upsampler, room) as network:
        pipeline: Any = LTXLatentUpsamplePipeline(vae=vae, latent_upsampler=network)
        small = pipeline._denormalize_latents(latents.to(device, torch.float32), *statistics).to(network.dtype)
        large = network(small)
        if adain:
            large = pipeline.adain_filter_latent(large, small, adain)
        if tone_map:
            large = pipeline.tone_map_latents(large, tone_map)
        return pipeline._normalize_latents(large, *statistics).float()
