"""Every call into ComfyUI: folders, files and pictures here; memory, progress and what is said in modules of their own."""

from __future__ import annotations

import json
import logging
import os
import time
import uuid
from pathlib import Path
from typing import Any

import comfy
import comfy.latent_formats
import comfy.model_management as mm
import folder_paths
import torch
from comfy.cli_args import args
from einops import rearrange
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...loaders.files import write_whole
from ...loaders.messages import InputError, message
from ...loaders.spec import spec_of
from ...loaders.video_model import VideoModel
from .machine import machine as machine
from .machine import shortage as shortage
from .memory import HostMemory as HostMemory
from .memory import free_ram as free_ram
from .memory import make_room as make_room
from .notes import extended as extended
from .notes import serve_refusals as serve_refusals
from .notes import speaking as speaking
from .notes import valid as valid
from .progress import Interrupted as Interrupted
from .progress import progress as progress
from .progress import stop_if_asked as stop_if_asked
from .report import Report as Report

BUNDLED = Path(__file__).parents[2] / "loaders" / "bundled"
AUTO = "auto"
PRECISIONS = (AUTO, "bfloat16", "float16", "float32")
UPSAMPLER = "LatentUpsamplePipeline"
LONGEST_NAME = 200  # bytes; most file systems take 255, and a counter and an ending follow


def precision(name: str) -> str:
    """The torch dtype's name for a precision choice; "auto" is bfloat16 where the card computes in it, else float32."""
    if name != AUTO:
        return name
    return "bfloat16" if mm.should_use_bf16(mm.get_torch_device()) else "float32"


def attention() -> str:
    """The kernel that the host was told to compute attention with (sage, flash, xformers, split or quad), in the order in
    which it looks for them; empty where it is PyTorch's own."""
    switches = {
        "sage": mm.sage_attention_enabled(),
        "flash": mm.flash_attention_enabled(),
        "xformers": mm.xformers_enabled(),
        "split": args.use_split_cross_attention,
        "quad": args.use_quad_cross_attention,
    }
    return next((name for name, on in switches.items() if on), "")


# ---------------------------------------------------------------- folders


def bundled_models(family: str) -> dict[str, Path]:
    return {f"bundled/{p.name}": p for p in sorted(BUNDLED.glob(f"tiny_{family}*"))}


def checkpoints(family: str = "") -> dict[str, Path]:
    """Choices of a loader -> paths: the bundled models, diffusers folders, and single files.

    Without a family, all that there are: a wrong choice is then told by what it is.
    """
    start = spec_of(family).pipeline if family else ""
    pipelines = {name: (path, pipeline_of(path)) for name, path in diffusers_folders().items()}
    folders = {
        name: path
        for name, (path, pipeline) in pipelines.items()
        if pipeline.startswith(start) and not pipeline.endswith(UPSAMPLER)
    }
    return bundled_models(family) | folders | files("diffusion_models") | files("checkpoints") | gguf_files()


def where(family: str) -> str:
    """Where a loader finds its checkpoints."""
    bundled = ", or the bundled tiny model" if bundled_models(family) else ""
    return f"A file in models/diffusion_models or models/checkpoints (safetensors, GGUF), or a diffusers folder in models/diffusers{bundled}"


def diffusers_folders() -> dict[str, Path]:
    found = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        for folder, _, names in os.walk(root, followlinks=True):
            if "model_index.json" in names:
                found[f"diffusers/{Path(folder).relative_to(root).as_posix()}"] = Path(folder)
    return dict(sorted(found.items()))


def upsamplers() -> dict[str, Path]:
    """Folders with a latent upsampler for LTX-Video."""
    return {name: path for name, path in diffusers_folders().items() if pipeline_of(path).endswith(UPSAMPLER)}


def pipeline_of(folder: Path) -> str:
    """The pipeline that a diffusers folder names; nothing where it is damaged, which the loader will tell."""
    try:
        return str(json.loads((folder / "model_index.json").read_text(encoding="utf-8"))["_class_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def files(kind: str) -> dict[str, Path]:
    """Files of one of the host's model folders by the name that a combo shows."""
    names = folder_paths.get_filename_list(kind)
    return {f"{kind}/{name}": Path(path) for name in names if (path := folder_paths.get_full_path(kind, name))}


def gguf_files() -> dict[str, Path]:
    """GGUF files beside the diffusion models; the host's own list leaves them out."""
    roots = map(Path, folder_paths.get_folder_paths("diffusion_models"))
    found = ((root, path) for root in roots for path in sorted(root.rglob("*.gguf")))
    return {f"diffusion_models/{path.relative_to(root).as_posix()}": path for root, path in found}


def choose(name: str, value: str, choices: dict[str, Path]) -> Path:
    if value not in choices:
        raise InputError(
            name,
            value,
            message("not_among_models"),
            message("put_model"),
        )
    return choices[value]


def changed(path: Path) -> float:
    """When a file, or anything inside a folder, was last written."""
    return max((p.stat().st_mtime for p in path.rglob("*")), default=0.0) if path.is_dir() else path.stat().st_mtime


def calibrated() -> float:
    """When a checkpoint was last calibrated."""
    from ...samplers.caches.store import file_of

    found = (file_of(path) for path in checkpoints().values())
    return max((file.stat().st_mtime for file in found if file.exists()), default=0.0)


def tokenizers() -> dict[str, Path]:
    """Kind of text encoder -> the tokenizer that ComfyUI brings along for it."""
    folder = Path(comfy.__path__[0])
    return {"t5": folder / "text_encoders" / "t5_tokenizer", "clip": folder / "sd1_tokenizer", "llama": folder / "text_encoders" / "llama_tokenizer"}  # fmt: skip


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


def output_folder() -> Path:
    return Path(folder_paths.get_output_directory())


def metadata(cls: Any, latent: dict[str, Any]) -> dict[str, str]:
    """What goes into a file beside its content: prompt, workflow, and how the latents were made."""
    told = {"prompt": cls.hidden.prompt, **(cls.hidden.extra_pnginfo or {}), "reelwire": latent.get("reelwire")}
    return {k: json.dumps(v) for k, v in told.items() if v is not None}


# ---------------------------------------------------------------- latents that outlive a failure


def input_file(name: str) -> str:
    """Where a file of the host's input folder lies; raises InputError where there is none."""
    folder = folder_paths.get_input_directory()
    path = os.path.normpath(os.path.join(folder, name))
    if not folder_paths.is_within_directory(folder, path) or not os.path.isfile(path):
        raise InputError(
            "timeline", message("image_value", name=repr(name)), message("no_input_picture"), message("put_or_keyframe")
        )
    return path


def input_picture(name: str) -> Tensor:
    """A picture of the host's input folder as [1, H, W, 3] in 0..1; raises InputError where there is none."""
    from PIL import Image, ImageOps

    path = input_file(name)
    try:
        with Image.open(path) as image:
            pixels = ImageOps.exif_transpose(image).convert("RGB")
    except OSError as error:
        raise InputError(
            "timeline",
            message("image_value", name=repr(name)),
            message("unreadable_picture", error=error),
            message("save_anew"),
        ) from error
    return torch.tensor(bytearray(pixels.tobytes()), dtype=torch.uint8).view(1, pixels.height, pixels.width, 3) / 255


def kept_files() -> dict[str, Path]:
    """Latents that failed decodes have kept, newest first. (The host empties its temporary folder when it starts.)"""
    found = (output_folder() / "reelwire" / "latents").glob("*.safetensors")
    return {path.name: path for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)}


def keep_latents(latent: dict[str, Any], cls: Any) -> Path:
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


def read_latents(path: Path) -> dict[str, Any]:
    """A LATENT from a file of `keep_latents`; raises CheckpointError where it is damaged."""
    from ...loaders.messages import CheckpointError

    try:
        with safe_open(path, "pt") as file:
            told = (file.metadata() or {}).get("reelwire")  # not there for latents that stock nodes made
            return {"samples": file.get_tensor("samples")} | ({"reelwire": json.loads(told)} if told else {})
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            message("latents_damaged", file=path.name, error=error), message("choose_another_file")
        ) from error


def samples(model: VideoModel, latent: dict[str, Any]) -> Tensor:
    """The `samples` of a LATENT as this model's latents [1, C, t, h, w]; as they are where they cannot be that."""
    held = latent["samples"]
    fits = held.ndim in (4, 5) and held.shape[1] == model.facts.channels
    pictures = held.ndim == 4 and model.facts.temporal_ratio > 1
    return model.from_host(held) if fits and not pictures else held


# ---------------------------------------------------------------- previews


def frame_picture(frame: Tensor) -> Any:
    """A PIL image of a frame [H, W, 3] in 0..1 or in 8 bits, no larger than ComfyUI's --preview-size."""
    from PIL import Image

    if frame.dtype != torch.uint8:
        frame = (frame.float().clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(frame.cpu().numpy())
    image.thumbnail((args.preview_size, args.preview_size))
    return image


def latent_picture(model: VideoModel, latents: Tensor) -> Any:
    """A quick look at the middle frame of latents [1, C, t, h, w] by their linear colours."""
    colours = torch.tensor(model.facts.rgb) if model.facts.rgb else _host_colours(model)
    middle = rearrange(latents[0, :, latents.shape[2] // 2].float().cpu(), "c h w -> h w c")
    if colours is None:
        return frame_picture(_main_axes(middle))
    return frame_picture((middle @ colours[:-1] + colours[-1]) / 2 + 0.5)


def _main_axes(latent: Tensor) -> Tensor:
    """Where nobody knows the colours: the three directions in which a latent frame [h, w, C] varies most, as red, green, blue."""
    flat = rearrange(latent, "h w c -> (h w) c")
    flat = flat - flat.mean(0)
    axes = torch.linalg.eigh(flat.T @ flat).eigenvectors[:, -3:]
    seen = flat @ axes
    return (seen / (3 * seen.std(0) + 1e-6) / 2 + 0.5).view(*latent.shape[:2], 3)


def _host_colours(model: VideoModel) -> Tensor | None:
    for name in model.checkpoint.spec.preview_formats:
        form = getattr(comfy.latent_formats, name)()
        factors = form.latent_rgb_factors
        if factors and len(factors) == model.facts.channels:
            return torch.tensor([*factors, getattr(form, "latent_rgb_factors_bias", None) or [0.0, 0.0, 0.0]])
    return None
