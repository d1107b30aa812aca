"""One loader node per family: all give the same VIDEO_MODEL."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from comfy_api.latest import io

from ..loaders.messages import InputError, listed, message
from ..loaders.parts import Recipe
from ..loaders.spec import spec_of
from . import host
from .effect import of_family
from .types import model_output

# part -> the host's folder that holds such files, and what an input for it says
_FOLDERS = {
    "text_encoder": "text_encoders",
    "text_encoder_2": "text_encoders",
    "image_encoder": "clip_vision",
    "vae": "vae",
}
T5 = {"text_encoder": "T5-XXL"}


class _Loader(io.ComfyNode):
    """What the loaders share. family: its folder in loaders/families; encoders: part -> what it is, for its tooltip."""

    family: str
    encoders: ClassVar[Mapping[str, str]]

    @classmethod
    def schema(
        cls,
        node_id: str,
        title: str,
        description: str,
        aliases: list[str],
        more: list[Any] = [],  # noqa: B006
        label: str = "checkpoint",
        told: str = "",
    ) -> io.Schema:
        checkpoint = io.Combo.Input(
            "checkpoint",
            options=list(host.checkpoints(cls.family)),
            display_name=label,
            tooltip=told + host.where(cls.family),
        )
        return io.Schema(
            node_id=node_id, display_name=title, category="Reelwire/loaders", description=description,
            search_aliases=["video model", "load video model", "加载模型", "视频模型", *aliases],
            inputs=[
                of_family(checkpoint, cls.family),
                *more,
                *(cls._part(part) for part in (*spec_of(cls.family).encoders, "vae")),
                io.Combo.Input("precision", options=list(host.PRECISIONS), default=host.AUTO, optional=True, advanced=True,
                               tooltip="auto: bfloat16 where the card computes in it, else float32"),
            ],
            outputs=[model_output("The model, for all other Reelwire nodes; each part is read when it is first used")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def _part(cls, part: str) -> Any:
        name = cls.encoders.get(part, "The VAE")
        told = f"{name}. auto: the one that comes with the checkpoint, else the only one in models/{_FOLDERS[part]} that fits"  # fmt: skip
        options = [host.AUTO, *host.files(_FOLDERS[part])]
        return io.Combo.Input(part, options=options, default=host.AUTO, optional=True, advanced=True, tooltip=told)

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None) -> bool | str:
        return host.valid((host.choose, "checkpoint", checkpoint, host.checkpoints()))

    @classmethod
    def fingerprint_inputs(cls, **inputs: str) -> list[float]:
        """Load again when a file was replaced."""
        known = {name: path for kind in {*_FOLDERS.values()} for name, path in host.files(kind).items()}
        known |= host.checkpoints()
        return [host.changed(known[name]) for name in inputs.values() if name in known]

    @classmethod
    def execute(cls, checkpoint: str, precision: str = host.AUTO, **parts: str) -> io.NodeOutput:
        from ..loaders.families import family, load
        from ..loaders.weights.find import complete

        chosen = {"checkpoint": host.choose("checkpoint", checkpoint, host.checkpoints())}
        offered = {part: host.files(folder) for part, folder in _FOLDERS.items()}
        chosen |= {part: host.choose(part, name, cls.choices(part, offered)) for part, name in parts.items() if name != host.AUTO}  # fmt: skip
        files = complete(family(cls.family).checkpoint, chosen, offered, host.tokenizers())
        model = load(Recipe(cls.family, "", files, host.precision(precision)), host.HostMemory())
        model = replace(model, host_attention=host.attention())
        beside = [
            message("part_file", part=part, file=files[part].name)
            for part in _FOLDERS
            if part in files and files[part].is_file()
        ]
        named = message("loaded", title=model.title, variant=model.variant, dtype=model.recipe.dtype)
        report = host.Report(cls)
        report.tell(listed([named, *beside]), level=logging.INFO)
        return io.NodeOutput(model, ui=report.ui())

    @classmethod
    def choices(cls, part: str, offered: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
        return dict(offered[part])


class LoadHunyuanVideo(_Loader):
    family = "hunyuan_video"
    encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "Llama 3 (Llava)",
        "text_encoder_2": "CLIP-L",
        "image_encoder": "Image to video: Llava's vision encoder, for a text encoder that comes without it",
    }

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadHunyuanVideo", "HunyuanVideo Loader",
                          "Loads HunyuanVideo 13B: text to video, and image to video of both kinds. Reads English and Chinese.",
                          ["tencent", "hunyuan", "混元", "腾讯"])  # fmt: skip


class LoadWan(_Loader):
    family = "wan"
    encoders: ClassVar[Mapping[str, str]] = {
        "text_encoder": "UMT5-XXL",
        "image_encoder": "Image to video with Wan 2.1: CLIP ViT-H",
    }

    @classmethod
    def define_schema(cls) -> io.Schema:
        low = io.Combo.Input("low_noise_checkpoint", options=[host.AUTO, *host.checkpoints(cls.family)], default=host.AUTO, optional=True,
                             display_name="low noise (2.2-A14B)",
                             tooltip="Wan 2.2-A14B: the low-noise expert, where it is another file or folder. auto: the checkpoint's own")  # fmt: skip
        return cls.schema("ReelwireLoadWan", "Wan Video Loader",
                          "Loads Wan 2.1 (text, image, first and last frame, VACE) and Wan 2.2 (A14B with two experts, TI2V-5B). Reads English and Chinese.",
                          ["wan", "alibaba", "wan2.1", "wan2.2", "vace", "万相", "阿里"], [low],
                          "checkpoint / high noise", "Of Wan 2.2-A14B the high-noise expert; of all others the checkpoint. ")  # fmt: skip

    @classmethod
    def validate_inputs(cls, checkpoint: str | None = None, low_noise_checkpoint: str | None = None) -> bool | str:  # type: ignore[override]
        found = host.checkpoints()
        known = {host.AUTO: Path(), **found}
        return host.valid(
            (host.choose, "checkpoint", checkpoint, found),
            (host.choose, "low_noise_checkpoint", low_noise_checkpoint, known),
            (_check_experts, checkpoint, low_noise_checkpoint),
        )

    @classmethod
    def execute(cls, checkpoint: str, precision: str = host.AUTO, low_noise_checkpoint: str = host.AUTO, **parts: str) -> io.NodeOutput:  # fmt: skip
        _check_experts(checkpoint, low_noise_checkpoint)
        return super().execute(checkpoint, precision, low_noise=low_noise_checkpoint, **parts)

    @classmethod
    def choices(cls, part: str, offered: Mapping[str, Mapping[str, Path]]) -> dict[str, Path]:
        return host.checkpoints() if part == "low_noise" else super().choices(part, offered)


def _check_experts(checkpoint: str, low_noise_checkpoint: str) -> None:
    if low_noise_checkpoint == checkpoint:
        rule, remedy = message("the_checkpoint_itself"), message("choose_other_expert")
        raise InputError("low_noise_checkpoint", low_noise_checkpoint, rule, remedy)


class LoadCogVideoX(_Loader):
    family = "cogvideox"
    encoders: ClassVar[Mapping[str, str]] = T5

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadCogVideoX", "CogVideoX Loader",
                          "Loads CogVideoX 2B, 5B and 1.5-5B (text or image to video) and Fun-Control. It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL.",
                          ["cogvideo", "zhipu", "cog", "fun control", "智谱"])  # fmt: skip


class LoadMochi(_Loader):
    family = "mochi"
    encoders: ClassVar[Mapping[str, str]] = T5

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadMochi", "Mochi Video Loader",
                          "Loads Mochi 1. It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL.",
                          ["mochi 1", "genmo"])  # fmt: skip


class LoadSVD(_Loader):
    family = "svd"
    encoders: ClassVar[Mapping[str, str]] = {"image_encoder": "CLIP ViT-H"}

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadSVD", "SVD Loader (Stable Video Diffusion)",
                          "Loads Stable Video Diffusion (14 frames) and SVD-XT (25): sets one picture in motion. It reads no text, prompts are ignored.",
                          ["svd", "stability", "image to video", "i2v", "图生视频"])  # fmt: skip


class LoadLTX(_Loader):
    family = "ltx"
    encoders: ClassVar[Mapping[str, str]] = T5

    @classmethod
    def define_schema(cls) -> io.Schema:
        return cls.schema("ReelwireLoadLTX", "LTXV Video Loader",
                          "Loads LTX-Video 0.9.0 to 0.9.8 (2B, 13B, distilled). It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL (the bundled tiny model reads both).",
                          ["ltx", "ltxv", "ltx-video", "lightricks"])  # fmt: skip


NODES = [LoadHunyuanVideo, LoadWan, LoadCogVideoX, LoadMochi, LoadLTX, LoadSVD]
