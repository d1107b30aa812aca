"""LTX-Video's latent upsamplers: diffusers folders that hold `latent_upsampler`, and what they compute."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ...common.peaks import upsampler_bytes
from ...devices import explained, with_kernels
from ...messages import CheckpointError, message
from ...parts import Part, Progress
from ...weights.bundle import read_part
from ...weights.format import add_class
from ...weights.json_files import excerpt
from ...weights.modules import build
from .denoiser import LTXModel

KIND = "LTXLatentUpsamplerModel"


def _model() -> type[nn.Module]:
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    kind: type[nn.Module] = LTXLatentUpsamplerModel
    return kind


add_class(KIND, _model)


def load_upsampler(folder: Path, channels: int, dtype: str) -> Part:
    """The upsampler of a folder, for latents of so many channels; no weights are read yet."""
    needed = message("upsampler_needed", kind=KIND, channels=channels)

    def wrong(kind: str) -> CheckpointError:
        return CheckpointError(message("upsampler_wrong", folder=folder.name, kind=kind), needed)

    weights = read_part(folder / "latent_upsampler", (KIND,), lambda kind: wrong(excerpt(kind)))
    taken = weights.config.get("in_channels")
    if taken != channels:
        raise wrong(message("kind_channels", kind=KIND, channels=taken))
    weights.check()

    def load(progress: Progress) -> nn.Module:
        return build(weights.module, weights.entries, getattr(torch, dtype), progress)

    return weights.part(f"upsampler of {folder.name}", partial(load), ("transformer",))


def upscale(model: LTXModel, upsampler: Part, latents: Tensor, adain: float, tone_map: float) -> Tensor:
    """Latents [1, C, t, h, w] -> [1, C, t, 2h, 2w], both normalised (LTXLatentUpsamplePipeline).

    adain: how much of the small latents' statistics is put on the large ones (adain_factor); tone_map: how much their
    range is compressed (tone_map_compression_ratio), 0 to 1.
    """
    from diffusers import LTXLatentUpsamplePipeline

    device = model.memory.device(upsampler.name)
    counted = upsampler_bytes(upsampler, latents, getattr(torch, model.recipe.dtype).itemsize)
    room = with_kernels(counted, device.type)
    with model.use("vae") as vae:  # for its statistics alone: the upsampler's weights may send it away
        statistics = vae.latents_mean.to(device), vae.latents_std.to(device), vae.config.scaling_factor
    with (
        torch.no_grad(),
        explained(message("enlarging_activity"), message("less_to_enlarge")),
        model.memory.use(upsampler, room) as network,
    ):
        pipeline: Any = LTXLatentUpsamplePipeline(vae=vae, latent_upsampler=network)
        small = pipeline._denormalize_latents(latents.to(device, torch.float32), *statistics).to(network.dtype)
        large = network(small)
        if adain:
            large = pipeline.adain_filter_latent(large, small, adain)
        if tone_map:
            large = pipeline.tone_map_latents(large, tone_map)
        return pipeline._normalize_latents(large, *statistics).float()


def tone_mapped(latents: Tensor, compression: float) -> Tensor:
    """Normalised latents with less range: large values are shrunk (tone_map_latents of ltx-video). compression: 0 to
    1."""
    if not compression:
        return latents
    share = 0.75 * compression
    return latents * (1 - 0.8 * share * torch.sigmoid(4 * share * (latents.abs() - 1)))
