"""One loader node per family: all give the same VIDEO_MODEL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from comfy_api.latest import io

from ..loaders.checkpoints import CheckpointError
from ..loaders.video_model import InputError, Recipe
from . import host
from .types import VideoModelType


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
                io.Combo.Input("precision", options=list(host.PRECISIONS), default=host.AUTO, optional=True, advanced=True,
                               tooltip="auto: bfloat16 where the card computes in it, else float32"),
            ],
            outputs=[VideoModelType.Output(display_name="model")],
        )  # fmt: skip

    @classmethod
    def validate_inputs(cls, checkpoint: str) -> bool | str:
        try:
            host.choose("checkpoint", checkpoint, host.checkpoints())
        except ValueError as error:
            return str(error)
        return True

    @classmethod
    def fingerprint_inputs(cls, **inputs: str) -> list[float]:
        """Load again when a file was replaced."""
        known = host.checkpoints() | host.files("text_encoders") | host.files("vae")
        return [host.changed(known[name]) for name in inputs.values() if name in known]

    @classmethod
    def execute(cls, checkpoint: str, precision: str = host.AUTO) -> io.NodeOutput:
        return cls.load(checkpoint, precision)

    @classmethod
    def load(cls, checkpoint: str, precision: str, **more: Path) -> io.NodeOutput:
        from ..loaders.bundle import files_of
        from ..loaders.families import load

        source = host.choose("checkpoint", checkpoint, host.checkpoints())
        recipe = Recipe(cls.family, "", {**files_of(source), **more}, host.precision(precision))
        return io.NodeOutput(load(recipe, host.HostMemory()))


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
    def execute(
        cls, checkpoint: str, low_noise_checkpoint: str = host.AUTO, precision: str = host.AUTO
    ) -> io.NodeOutput:
        if low_noise_checkpoint == host.AUTO:
            return cls.load(checkpoint, precision)
        if low_noise_checkpoint == checkpoint:
            raise InputError("low_noise_checkpoint", low_noise_checkpoint, "This is the checkpoint itself.", "Choose auto, or the other expert.")  # fmt: skip
        low = host.choose("low_noise_checkpoint", low_noise_checkpoint, host.checkpoints())
        return cls.load(checkpoint, precision, low_noise=low)


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
        text = io.Combo.Input("text_encoder", options=[host.AUTO, *host.files("text_encoders")], default=host.AUTO, optional=True, advanced=True,
                              tooltip="T5-XXL. auto: the folder's own, else the T5-XXL file in models/text_encoders")  # fmt: skip
        vae = io.Combo.Input("vae", options=[host.AUTO, *host.files("vae")], default=host.AUTO, optional=True, advanced=True,
                             tooltip="auto: the one that comes with the checkpoint")  # fmt: skip
        return cls.schema("ReelwireLoadLTX", "LTX-Video",
                          "Loads LTX-Video 0.9.0 to 0.9.8 (2B, 13B, distilled) from a diffusers folder or a single file. It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL (the bundled tiny model reads both).",
                          ["ltxv", "lightricks"], [text, vae])  # fmt: skip

    @classmethod
    def execute(
        cls, checkpoint: str, text_encoder: str = host.AUTO, vae: str = host.AUTO, precision: str = host.AUTO
    ) -> io.NodeOutput:
        from ..loaders.ltx_files import read_ltx

        source, files = host.choose("checkpoint", checkpoint, host.checkpoints()), {}
        if vae != host.AUTO:
            files["vae"] = host.choose("vae", vae, host.files("vae"))
        read_ltx(source, files.get("vae"))  # what is wrong with the checkpoint is told before what is missing beside it
        text = _text_encoder(source, text_encoder)
        return cls.load(checkpoint, precision, **files, text_encoder=text, tokenizer=_tokenizer(source, text))


def _text_encoder(source: Path, chosen: str) -> Path:
    if chosen != host.AUTO:
        return host.choose("text_encoder", chosen, host.files("text_encoders"))
    if (source / "text_encoder").is_dir():
        return source / "text_encoder"
    found = {
        name: path
        for name, path in host.files("text_encoders").items()
        if "t5xxl" in name.lower() and "umt5" not in name.lower()
    }
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise CheckpointError(f"text_encoder = auto: {', '.join(found)} could all serve. Choose one of them.")
    raise CheckpointError(
        f"{source.name} holds no text encoder. Put t5xxl_fp16.safetensors (9.8 GB) or t5xxl_fp8_e4m3fn.safetensors (4.9 GB), "
        "published as comfyanonymous/flux_text_encoders, into models/text_encoders."
    )


def _tokenizer(source: Path, text_encoder: Path) -> Path:
    """The tokenizer folder beside the text encoder that is used, else the host's T5 tokenizer."""
    beside = source / "tokenizer"
    return beside if beside.is_dir() and text_encoder.parent == source else host.t5_tokenizer()


NODES = [LoadHunyuanVideo, LoadWan, LoadCogVideoX, LoadMochi, LoadLTX, LoadSVD]
