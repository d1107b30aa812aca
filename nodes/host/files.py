"""Files that a run reads and writes: names in the output folder, images of the input folder, latents, metadata."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from pathlib import Path
from typing import Any

import folder_paths
import torch
from comfy_api.latest import io
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...loaders.files import write_whole
from ...loaders.messages import CheckpointError, InputError, message
from ...loaders.video_model import VideoModel

Latent = dict[str, Any]  # the host's LATENT: "samples", and what comes with them
LONGEST_NAME = 200  # bytes; most file systems take 255, and a counter and an ending follow


# ---------------------------------------------------------------- the output folder


def output_folder() -> Path:
    """The host's output folder."""
    return Path(folder_paths.get_output_directory())


def check_prefix(prefix: str) -> None:
    """Raise InputError for a file name prefix that cannot be written inside the output folder."""
    remedy = message("use_prefix")
    output = folder_paths.get_output_directory()
    target = os.path.normpath(os.path.join(output, os.path.dirname(prefix)))
    if os.path.isabs(prefix) or not folder_paths.is_within_directory(output, target):
        raise InputError("filename_prefix", prefix, message("outside_output"), remedy)
    if not os.path.basename(prefix) or "\0" in prefix or max(map(len, prefix.encode().split(b"/"))) > LONGEST_NAME:
        raise InputError("filename_prefix", repr(prefix[:40]), message("no_file_name"), remedy)


def output_file(prefix: str, suffix: str, width: int, height: int) -> tuple[Path, str]:
    """(a new file in the output folder, its subfolder) for a file name prefix."""
    check_prefix(prefix)
    output = folder_paths.get_output_directory()
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(prefix, output, width, height)
    return Path(folder) / f"{name}_{counter:05}_{suffix}", subfolder


def beside_output(prefix: str, suffix: str) -> Path:
    """A name in the output folder that stays the same for a prefix, whatever the time that it may ask for."""
    return Path(os.path.normpath(output_folder() / f"{prefix}{suffix}"))


def metadata(cls: type[io.ComfyNode], latent: Latent) -> dict[str, str]:
    """What goes into a file beside its content: prompt, workflow, and how the latents were made."""
    values = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {}), "reelwire": latent.get("reelwire")}
    return {name: json.dumps(value) for name, value in values.items() if value is not None}


# ---------------------------------------------------------------- the input folder


def input_file(name: str) -> str:
    """Where a file of the host's input folder lies; raises InputError where there is none."""
    folder = folder_paths.get_input_directory()
    path = os.path.normpath(os.path.join(folder, name))
    if not folder_paths.is_within_directory(folder, path) or not os.path.isfile(path):
        value = message("image_value", name=repr(name))
        raise InputError("timeline", value, message("no_input_picture"), message("put_or_keyframe"))
    return path


def input_image(name: str) -> Tensor:
    """An image of the host's input folder as [1, H, W, 3] in 0..1; raises InputError where there is none."""
    from PIL import Image, ImageOps

    path = input_file(name)
    try:
        with Image.open(path) as image:
            pixels = ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        value, rule = message("image_value", name=repr(name)), message("unreadable_picture", error=error)
        raise InputError("timeline", value, rule, message("save_anew")) from error
    return torch.tensor(bytearray(pixels.tobytes()), dtype=torch.uint8).view(1, pixels.height, pixels.width, 3) / 255


# ---------------------------------------------------------------- latents that outlive a failure


def saved_latents() -> dict[str, Path]:
    """Latents that failed decodes have left, newest first. (The host empties its temporary folder when it starts.)"""
    paths = (output_folder() / "reelwire" / "latents").glob("*.safetensors")
    return {path.name: path for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True)}


def save_latents(latent: Latent, cls: type[io.ComfyNode]) -> Path:
    """Write a LATENT to a new file, whole or not at all."""
    folder = output_folder() / "reelwire" / "latents"
    family = latent.get("reelwire", {}).get("family", "latents")
    path = folder / f"{family}_{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex[:8]}.safetensors"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(path, save({"samples": latent["samples"].contiguous().cpu()}, metadata(cls, latent)))
    except OSError as error:
        logging.warning("Reelwire: %s", message("latents_unkept", error=error.strerror or error))
    return path


def read_latents(path: Path) -> Latent:
    """A LATENT from a file of `save_latents`; raises CheckpointError where it is damaged."""
    try:
        with safe_open(path, "pt") as file:
            note = (file.metadata() or {}).get("reelwire")  # not there for latents that stock nodes made
            return {"samples": file.get_tensor("samples")} | ({"reelwire": json.loads(note)} if note else {})
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        rule = message("latents_damaged", file=path.name, error=error)
        raise CheckpointError(rule, message("choose_another_file")) from error


def latents_of(model: VideoModel, latent: Latent) -> Tensor:
    """The `samples` of a LATENT as this model's latents [1, C, t, h, w]; as they are where they cannot be that."""
    samples: Tensor = latent["samples"]
    fits = samples.ndim in (4, 5) and samples.shape[1] == model.facts.channels
    images = samples.ndim == 4 and model.facts.temporal_ratio > 1
    return model.from_host(samples) if fits and not images else samples
