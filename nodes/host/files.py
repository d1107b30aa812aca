"""Files that a run reads and writes: images of the input folder, latents that outlive a failure."""

from __future__ import annotations

import json
import os
import stat
import time
import uuid
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import torch
from comfy_api.latest import io
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...loaders.files import make_folder, read_whole, write_new
from ...loaders.messages import CheckpointError, InputError, message
from ...loaders.video_model import VideoModel
from .outputs import metadata, output_folder

if TYPE_CHECKING:
    from PIL.Image import Image

_ORIENTATION = 0x0112  # of Exif
_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}  # orientation -> dimensions that run backwards
Latent = dict[str, Any]  # the host's LATENT: "samples", and what comes with them


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
    path = input_file(name)
    try:
        return read_picture(path)
    except (OSError, ValueError, SyntaxError) as error:
        value, rule = message("image_value", name=repr(name)), message("unreadable_picture", error=error)
        raise InputError("timeline", value, rule, message("save_anew")) from error


def read_picture(path: str) -> Tensor:
    """A picture as [1, H, W, 3] in 0..1, upright, without its alpha. Raises OSError or ValueError where it cannot be
    read."""
    from PIL import Image, ImageOps

    with Image.open(path) as image:
        if _is_deep(image):
            return _deep(path, int(image.getexif().get(_ORIENTATION, 1)))
        pixels = ImageOps.exif_transpose(image).convert("RGB")
    return torch.tensor(bytearray(pixels.tobytes()), dtype=torch.uint8).view(1, pixels.height, pixels.width, 3) / 255


def _is_deep(image: Image) -> bool:
    """Whether a picture has more than 8 bits a channel, which Pillow cuts or scales wrongly."""
    raw = next((str(tile[3]) for tile in getattr(image, "tile", ())), "")
    return image.mode[0] in "IF" or "16" in raw


def _deep(path: str, orientation: int) -> Tensor:
    """A picture of more than 8 bits a channel. orientation: as Exif numbers them."""
    import av

    with av.open(path, "r") as file:
        frame = next(file.decode(video=0), None)
    if frame is None:
        raise ValueError(message("no_pixels"))
    pixels = torch.from_numpy(frame.to_ndarray(format="rgb48le").astype("float32")) / 65535
    pixels = pixels.transpose(0, 1) if orientation > 4 else pixels
    return pixels.flip(_FLIPS.get(orientation, ())).contiguous()[None]


# ---------------------------------------------------------------- latents that outlive a failure


def saved_latents() -> dict[str, Path]:
    """Latents that failed decodes have left, newest first. (The host empties its temporary folder when it starts.)"""
    times = dict[Path, float]()
    for path in (output_folder() / "reelwire" / "latents").glob("*.safetensors"):
        with suppress(OSError):  # another process has used it up, or a link leads nowhere
            status = path.stat()
            if stat.S_ISREG(status.st_mode):
                times[path] = status.st_mtime
    return {path.name: path for path in sorted(times, key=lambda path: times[path], reverse=True)}


def save_latents(latent: Latent, cls: type[io.ComfyNode]) -> Path:
    """Write a LATENT to a new file, whole or not at all; raises OSError."""
    folder = output_folder() / "reelwire" / "latents"
    family = latent.get("reelwire", {}).get("family", "latents")
    path = folder / f"{family}_{time.strftime('%Y%m%d_%H%M%S')}_{uuid.uuid4().hex[:8]}.safetensors"
    note = {"reelwire": json.dumps(latent["reelwire"])} if "reelwire" in latent else {}  # to decode them, it is needed
    samples = latent["samples"].contiguous().cpu()
    make_folder(folder)
    return write_new(path, save({"samples": samples}, {**metadata(cls, None), **note}))


def read_latents(path: Path) -> Latent:
    """A LATENT from a file of `save_latents`; raises CheckpointError where it is damaged."""
    try:
        content = read_whole(path, follow=True)
        header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
        note = header.get("__metadata__", {}).get("reelwire")  # not there for latents that stock nodes made
        return {"samples": load(content)["samples"]} | ({"reelwire": json.loads(note)} if note else {})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError, SafetensorError) as error:
        rule = message("latents_damaged", file=path.name, error=error)
        raise CheckpointError(rule, message("choose_another_file")) from error


def latents_of(model: VideoModel, latent: Latent) -> Tensor:
    """The `samples` of a LATENT as this model's latents [1, C, t, h, w]; as they are where they cannot be that."""
    samples: Tensor = latent["samples"]
    fits = samples.ndim in (4, 5) and samples.shape[1] == model.facts.channels
    images = samples.ndim == 4 and model.facts.temporal_ratio > 1
    return model.from_host(samples) if fits and not images else samples
