"""LTX-Video's latent upsamplers on disk: diffusers folders that hold `latent_upsampler` (LTXLatentUpsamplePipeline)."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from torch import nn

from ...messages import CheckpointError, message
from ...parts import Part, Progress
from ...weights.bundle import read_part
from ...weights.modules import build, fitting

KIND = "LTXLatentUpsamplerModel"


def load_upsampler(folder: Path, channels: int, dtype: str) -> Part:
    """The upsampler of a folder, for latents of so many channels; no weights are read yet."""
    weights = read_part(folder / "latent_upsampler")
    if weights.kind != KIND or weights.config.get("in_channels") != channels:
        kind = message("kind_channels", kind=weights.kind, channels=weights.config.get("in_channels"))
        raise CheckpointError(
            message("upsampler_wrong", folder=folder.name, kind=kind),
            message("upsampler_needed", kind=KIND, channels=channels),
        )

    def make() -> nn.Module:
        from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

        return LTXLatentUpsamplerModel.from_config(dict(weights.config))

    fitting(make, weights.entries)

    def load(progress: Progress) -> nn.Module:
        return build(make, weights.entries, getattr(torch, dtype), progress)

    return weights.part(f"upsampler of {folder.name}", partial(load), ("transformer",))
