"""One loader node per family, each a row of a table: all give the same VIDEO_MODEL."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from comfy_api.latest import io

from ..loaders.messages import InputError, inputs_named, listed, message
from ..loaders.parts import Recipe
from ..loaders.video_model import VideoModel
from . import host
from .effect import of_family
from .types import model_output, node_schema

# part -> the host's folder that holds such files
FOLDERS = {
    "text_encoder": "text_encoders",
    "text_encoder_2": "text_encoders",
    "image_encoder": "clip_vision",
    "vae": "vae",
}
NONE = "none"
ENGLISH_ONLY = "It reads English: Chinese lies outside the vocabulary of its text encoder, T5-XXL"
T5 = {"text_encoder": "T5-XXL"}


@dataclass(frozen=True)
class Row:
    """The loader of one family.

    node, family, title, description, aliases: as people see them; `family` is the folder in loaders/families.
    encoders: part -> what it is, in the order of the inputs.
    low_noise: whether it takes a second checkpoint, of the low-noise expert.
    module: what else of its network may lie in another file; empty: nothing does.
    """

    node: str
    family: str
    title: str
    description: str
    aliases: tuple[str, ...]
    encoders: Mapping[str, str]
    low_noise: bool = False
    module: str = ""


ROWS = (
    Row(
        node="ReelwireLoadHunyuanVideo",
        family="hunyuan_video",
        title="HunyuanVideo Loader",
        description="Loads HunyuanVideo 13B: text to video, and image to video of both kinds. Reads English and "
        "Chinese.",
        aliases=("tencent", "hunyuan", "混元", "腾讯"),
        encoders={
            "text_encoder": "Llama 3 (Llava)",
            "text_encoder_2": "CLIP-L",
            "image_encoder": "Image to video: Llava's vision encoder, for a text encoder that comes without it",
        },
    ),
    Row(
        node="ReelwireLoadWan",
        family="wan",
        title="Wan Video Loader",
        description="Loads Wan 2.1 (text, image, first and last frame, VACE), Wan 2.2 (A14B with two experts, "
        "TI2V-5B), and Fun-Control and Fun-InP of both. Reads English and Chinese.",
        aliases=("wan", "alibaba", "wan2.1", "wan2.2", "vace", "fun control", "fun inpaint", "万相", "阿里"),
        encoders={"text_encoder": "UMT5-XXL", "image_encoder": "Image to video with Wan 2.1: CLIP ViT-H"},
        low_noise=True,
        module="A file with VACE's layers alone, which make Wan2.1-VACE of a Wan2.1-T2V checkpoint",
    ),
    Row(
        node="ReelwireLoadCogVideoX",
        family="cogvideox",
        title="CogVideoX Loader",
        description=f"Loads CogVideoX 2B, 5B and 1.5-5B (text or image to video) and Fun-Control. {ENGLISH_ONLY}.",
        aliases=("cogvideo", "zhipu", "cog", "fun control", "智谱"),
        encoders=T5,
    ),
    Row(
        node="ReelwireLoadMochi",
        family="mochi",
        title="Mochi Video Loader",
        description=f"Loads Mochi 1. {ENGLISH_ONLY}.",
        aliases=("mochi 1", "genmo"),
        encoders=T5,
    ),
    Row(
        node="ReelwireLoadLTX",
        family="ltx",
        title="LTXV Video Loader",
        description="Loads LTX-Video 0.9.0 to 0.9.8 (2B, 13B, distilled). "
        f"{ENGLISH_ONLY} (the bundled tiny model reads both).",
        aliases=("ltx", "ltxv", "ltx-video", "lightricks"),
        encoders=T5,
    ),
    Row(
        node="ReelwireLoadSVD",
        family="svd",
        title="SVD Loader (Stable Video Diffusion)",
        description="Loads Stable Video Diffusion (14 frames) and SVD-XT (25): sets one picture in motion. It reads "
        "no text, prompts are ignored.",
        aliases=("svd", "stability", "image to video", "i2v", "图生视频"),
        encoders={"image_encoder": "CLIP ViT-H"},
    ),
)


class Loader(io.ComfyNode):
    """What the loaders share; each is a subclass with its row."""

    row: ClassVar[Row]

    @classmethod
    def define_schema(cls) -> io.Schema:
        row = cls.row
        return node_schema(
            row.node,
            row.title,
            "loaders",
            row.description,
            ["video model", "load video model", "加载模型", "视频模型", *row.aliases],
            [*_checkpoint_inputs(row), *_part_inputs(row), _precision_input(), *_module_inputs(row)],
            [model_output("The model, for all other Reelwire nodes; each part is read when it is first used")],
        )

    @classmethod
    def validate_inputs(
        cls, checkpoint: str | None = None, low_noise_checkpoint: str | None = None, vace_module: str | None = None
    ) -> bool | str:
        checkpoints = host.checkpoints()
        return host.valid(
            (host.choose, "checkpoint", checkpoint, checkpoints),
            (host.choose, "low_noise_checkpoint", low_noise_checkpoint, {host.AUTO: Path(), **checkpoints}),
            (host.choose, "vace_module", vace_module, {NONE: Path(), **checkpoints}),
            (_check_experts, checkpoint, low_noise_checkpoint),
        )

    @classmethod
    def fingerprint_inputs(cls, **inputs: str) -> list[float]:
        """Load again when a file was replaced."""
        paths = {name: path for folder in {*FOLDERS.values()} for name, path in host.files(folder).items()}
        paths |= host.checkpoints()
        return [host.modified(paths[name]) for value in map(str, inputs.values()) if (name := host.meant(value, paths))]

    @classmethod
    def execute(
        cls,
        checkpoint: str,
        precision: str = host.AUTO,
        low_noise_checkpoint: str = host.AUTO,
        vace_module: str = NONE,
        **parts: str,
    ) -> io.NodeOutput:
        model = cls.model_of(checkpoint, precision, low_noise_checkpoint, vace_module, **parts)
        files = model.recipe.files
        single = [part for part in FOLDERS if part in files and files[part].is_file()]
        lines = [message("part_file", part=inputs_named(part), file=files[part].name) for part in single]
        loaded = message("loaded", title=model.title, variant=model.variant, dtype=model.recipe.dtype)
        report = host.Report(cls)
        report.tell(listed([loaded, *lines]), level=logging.INFO)
        for note in model.file_notes():
            report.tell(note, level=logging.INFO)
        return io.NodeOutput(model, ui=report.ui())

    @classmethod
    def model_of(
        cls,
        checkpoint: str,
        precision: str = host.AUTO,
        low_noise_checkpoint: str = host.AUTO,
        vace_module: str = NONE,
        **parts: str,
    ) -> VideoModel:
        """The model that the inputs stand for, of which headers alone are read; raises InputError, CheckpointError."""
        from ..loaders.families import family
        from ..loaders.weights.find import complete

        _check_experts(checkpoint, low_noise_checkpoint)
        checkpoints = host.checkpoints()
        offered = {part: host.files(folder) for part, folder in FOLDERS.items()}
        choices = {**offered, "low_noise": checkpoints, "module": checkpoints}
        chosen = {"checkpoint": host.choose("checkpoint", checkpoint, checkpoints)}
        for part, name in {**parts, "low_noise": low_noise_checkpoint, "module": vace_module}.items():
            if name not in (host.AUTO, NONE):
                chosen[part] = host.choose(part, name, choices[part])
        name = cls.row.family
        files = complete(family(name).checkpoint, chosen, offered, host.tokenizers())
        model = host.load_model(Recipe(name, "", files, host.precision(precision)))
        return replace(model, host_attention=host.attention())


def _checkpoint_inputs(row: Row) -> list[io.Input]:
    """The checkpoint, and where a family has two experts, the other one's."""
    options, places = list(host.checkpoints(row.family)), host.checkpoint_places(row.family)
    label, first = "checkpoint", ""
    if row.low_noise:
        label = "checkpoint / high noise"
        first = "Of Wan 2.2-A14B the high-noise expert; of all others the checkpoint. "
    checkpoint = io.Combo.Input("checkpoint", options=options, display_name=label, tooltip=first + places)
    other = io.Combo.Input(
        "low_noise_checkpoint",
        options=[host.AUTO, *options],
        default=host.AUTO,
        optional=True,
        display_name="low noise (2.2-A14B)",
        tooltip="Wan 2.2-A14B: the low-noise expert, where it is another file or folder. auto: the checkpoint's own",
    )
    return [of_family(checkpoint, row.family), *([other] if row.low_noise else [])]


def _part_inputs(row: Row) -> list[io.Input]:
    """The encoders and the VAE, where the checkpoint comes without them."""
    return [
        io.Combo.Input(
            part,
            options=[host.AUTO, *host.files(FOLDERS[part])],
            default=host.AUTO,
            optional=True,
            advanced=True,
            tooltip=f"{title}. auto: the one that comes with the checkpoint, else the only one in "
            f"models/{FOLDERS[part]} that fits",
        )
        for part, title in {**row.encoders, "vae": "The VAE"}.items()
    ]


def _module_inputs(row: Row) -> list[io.Input]:
    """What else of the network may lie in another file."""
    if not row.module:
        return []
    options = [NONE, *(name for name in host.checkpoints(row.family) if not name.startswith("diffusers/"))]
    tooltip = f"{row.module}. none: the checkpoint as it is"
    return [io.Combo.Input("vace_module", options=options, default=NONE, optional=True, advanced=True, tooltip=tooltip)]


def _precision_input() -> io.Input:
    """The type in which the networks compute."""
    return io.Combo.Input(
        "precision",
        options=list(host.PRECISIONS),
        default=host.AUTO,
        optional=True,
        advanced=True,
        tooltip="auto: bfloat16 where the card computes in it, else float32",
    )


def _check_experts(checkpoint: str, low_noise_checkpoint: str) -> None:
    """Raise InputError where both experts are the same file."""
    if low_noise_checkpoint == checkpoint:
        rule, remedy = message("the_checkpoint_itself"), message("choose_other_expert")
        raise InputError("low_noise_checkpoint", low_noise_checkpoint, rule, remedy)


def _node(row: Row) -> type[Loader]:
    """The node of one row."""
    return type(row.node.removeprefix("Reelwire"), (Loader,), {"__doc__": row.description, "row": row})


NODES = [_node(row) for row in ROWS]
