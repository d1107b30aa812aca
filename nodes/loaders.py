"""One loader node per family: all give the same VIDEO_MODEL."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..loaders.sources import ENCODERS
from ..loaders.video_model import InputError, Recipe
from . import host
from .types import VideoModelType

# part -> the host's folder that holds such files, and what an input for it says
_FOLDERS = {
    "text_encoder": "text_encoders",
    "text_encoder_2": "text_encoders",
    "image_encoder": "clip_vision",
    "vae": "vae",
}
_TOLD = {"text_encoder": "The text encoder, as a file", "text_encoder_2": "CLIP-L, as a file", "image_encoder": "CLIP vision, as a file", "vae": "The VAE, as a file"}  # fmt: skip


class _Loader(io.ComfyNode):
    """What the loaders share. family: as in loaders/families.py."""

    family: str

    @classmethod
    def schema(cls, node_id: str, title: str, description: str, aliases: list[str], more: list[Any] = []) -> io.Schema:  # noqa: B006
        return io.Schema(
            node_id=node_id, display_name=f"Load {title}", category="Reelwire/loaders", description=description,
            search_aliases=["video model", *aliases],
            inputs=[
                io.Combo.Input("checkpoint", options=list(host.checkpoints(cls.family)), tooltip=host.where(cls.family)),
                *more,
                *(cls._part(part) for part in (*ENCODERS[cls.family], "vae")),
                io.Combo.Input("precision", options=list(host.PRECISIONS), default=host.AUTO, optional=True, advanced=True,
                               tooltip="auto: bfloat16 where the card computes in it, else float32"),
            ],
            outputs=[VideoModelType.Output(display_name="model")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def _part(cls, part: str) -> Any:
        told = f"{_TOLD[part]}. auto: the one that comes with the checkpoint, else the only one in models/{_FOLDERS[part]} that fits"  # fmt: skip
        options = [host.AUTO, *host.files(_FOLDERS[part])]
        return io.Combo.Input(part, options=options, default=host.AUTO, optional=True, advanced=True, tooltip=told)

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        return host.valid(checkpoint, lambda: host.choose("checkpoint", checkpoint, host.checkpoints()))

    @classmethod
    def fingerprint_inputs(cls, **inputs: str) -> list[float]:
        """Load again when a file was replaced."""
        known = {name: path for kind in {*_FOLDERS.values()} for name, path in host.files(kind).items()}
        known |= host.checkpoints()
        return [host.changed(known[name]) for name in inputs.values() if name in known]

    @classmethod
    def execute(cls, checkpoint: str, precision: str = host.AUTO, **parts: str) -> io.NodeOutput:
        from ..loaders.families import family, load
        from ..loaders.sources import complete

        chosen = {"checkpoint": host.choose("checkpoint", checkpoint, host.checkpoints())}
        offered = {part: host.files(folder) for part, folder in _FOLDERS.items()}
        chosen |= {part: host.choose(part, name, cls.choices(part, offered)) for part, name in parts.items() if name != host.AUTO}  # fmt: skip
        files = complete(cls.family, family(cls.family).title, chosen, offered, host.tokenizers())
        model = load(Recipe(cls.family, "", files, host.precision(precision)), host.HostMemory())
        model = replace(model, host_attention=host.attention())
        beside = [f"{part}: {files[part].name}" for part in _FOLDERS if part in files and files[part].is_file()]
        told = "; ".join([f"{model.family.title} {model.variant}, {model.recipe.dtype}", *beside])
        report = host.Report(cls)
        report.tell(told, level=logging.INFO)
        return io.NodeOutput(model, ui=report.ui())

    @classmethod
    def choices(cls, part: str, offered: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
        return dict(offered[part])


class LoadHunyuanVideo(_Loader):
    family = "hunyuan_video"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadHunyuanVideo", "HunyuanVideo",
                          "Loads HunyuanVideo 13B: text to video, and image to video of both kinds. Reads English and Chinese.",
                          ["tencent", "hunyuan"])  # fmt: skip


class LoadWan(_Loader):
    family = "wan"

    @classmethod
    def define_schema(cls) -> io.Schema:
        low = io.Combo.Input("low_noise_checkpoint", options=[host.AUTO, *host.checkpoints(cls.family)], default=host.AUTO, optional=True, advanced=True,
                             tooltip="Wan 2.2-A14B: the low-noise expert, where it lies in another folder. auto: the checkpoint's own")  # fmt: skip
        return cls.schema("ReelwireLoadWan", "Wan",
                          "Loads Wan 2.1 (text, image, first and last frame, VACE) and Wan 2.2 (A14B with two experts, TI2V-5B). Reads English and Chinese.",
                          ["alibaba", "wan2.1", "wan2.2", "vace"], [low])  # fmt: skip

    @classmethod
    def execute(cls, checkpoint: str, precision: str = host.AUTO, low_noise_checkpoint: str = host.AUTO, **parts: str) -> io.NodeOutput:  # fmt: skip
        if low_noise_checkpoint == checkpoint:
            raise InputError("low_noise_checkpoint", low_noise_checkpoint, "This is the checkpoint itself.", "Choose auto, or the other expert.")  # fmt: skip
        return super().execute(checkpoint, precision, low_noise=low_noise_checkpoint, **parts)

    @classmethod
    def choices(cls, part: str, offered: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
        return host.checkpoints() if part == "low_noise" else super().choices(part, offered)


class LoadCogVideoX(_Loader):
    family = "cogvideox"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadCogVideoX", "CogVideoX",
                          "Loads CogVideoX 2B, 5B and 1.5-5B (text or image to video) and Fun-Control. It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL.",
                          ["zhipu", "cog", "fun control"])  # fmt: skip


class LoadMochi(_Loader):
    family = "mochi"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadMochi", "Mochi 1",
                          "Loads Mochi 1. It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL.",
                          ["genmo"])  # fmt: skip


class LoadSVD(_Loader):
    family = "svd"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadSVD", "Stable Video Diffusion",
                          "Loads Stable Video Diffusion (14 frames) and SVD-XT (25): sets one picture in motion. It reads no text, prompts are ignored.",
                          ["svd", "stability", "image to video"])  # fmt: skip


class LoadLTX(_Loader):
    family = "ltx"

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadLTX", "LTX-Video",
                          "Loads LTX-Video 0.9.0 to 0.9.8 (2B, 13B, distilled). It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL (the bundled tiny model reads both).",
                          ["ltxv", "lightricks"])  # fmt: skip


NODES = [LoadHunyuanVideo, LoadWan, LoadCogVideoX, LoadMochi, LoadLTX, LoadSVD]
