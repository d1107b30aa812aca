"""Files that a run reads and writes: images of the input folder, latents that outlive a failure."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import folder_paths
from comfy_api.latest import io
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...loaders.common.picture_files import picture_size, read_picture
from ...loaders.files import write_whole
from ...loaders.messages import CheckpointError, InputError, message
from ...loaders.notices import say
from ...loaders.video_model import VideoModel
from .names import check_inside, found_in
from .outputs import metadata, output_folder

Latent = dict[str, Any]  # the host's LATENT: "samples", and what comes with them


# ---------------------------------------------------------------- the input folder


def input_file(name: str) -> str:
    """Where a file of the host's input folder lies; raises InputError where there is none."""
    check_inside(name)
    folder = folder_paths.get_input_directory()
    path = found_in(folder, name)
    if not folder_paths.is_within_directory(folder, path) or not os.path.isfile(path):
        value = message("image_value", name=repr(name[:200]))
        raise InputError("timeline", value, message("no_input_picture"), message("put_or_keyframe"))
    return path


def input_size(name: str) -> tuple[int, int]:
    """(width, height) of an image of the host's input folder, of which no pixel is read; raises InputError where there
    is none, and for one that `input_image` would refuse by its header."""
    path = input_file(name)
    with _about_picture(name):
        return picture_size(path)


def input_image(name: str, size: tuple[int, int] | None = None) -> Tensor:
    """An image of the host's input folder as [1, H, W, 3] in 0..1; raises InputError where there is none.

    size: (width, height) that it shall cover; None: as it is.
    """
    path = input_file(name)
    with _about_picture(name):
        return read_picture(path, size, say)


@contextmanager
def _about_picture(name: str) -> Iterator[None]:
    """Name the picture of the timeline that cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        value, rule = message("image_value", name=repr(name[:200])), message("unreadable_picture", error=error)
        raise InputError("timeline", value, rule, message("save_anew")) from error


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
        note = (
            {"reelwire": json.dumps(latent["reelwire"])} if "reelwire" in latent else {}
        )  # to decode them, it is needed
        samples = latent["samples"].contiguous().cpu()
        write_whole(path, save({"samples": samples}, {**metadata(cls, None), **note}))
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
