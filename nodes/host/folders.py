"""Where models lie: what a loader offers, in the host's model folders and in this pack."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path

import comfy
import folder_paths

from ...loaders.messages import CheckpointError, InputError, either, message
from ...loaders.spec import spec_of
from ...loaders.weights.json_files import read_object

BUNDLED = Path(__file__).parents[2] / "loaders" / "bundled"
UPSAMPLER = "LatentUpsamplePipeline"
WITH_GGUF = ("diffusion_models", "text_encoders")


def bundled_models(family: str) -> dict[str, Path]:
    """The tiny models of a family that come with the pack."""
    return {f"bundled/{path.name}": path for path in sorted(BUNDLED.glob(f"tiny_{family}*"))}


def checkpoints(family: str = "") -> dict[str, Path]:
    """Choices of a loader -> paths: the bundled models, diffusers folders, and single files.

    Without a family, all that there are: a wrong choice is then refused by what it is.
    """
    beginning = spec_of(family).pipeline if family else ""
    folders = {}
    for name, path in diffusers_folders().items():
        pipeline = pipeline_of(path)
        if pipeline.startswith(beginning) and not pipeline.endswith(UPSAMPLER):
            folders[name] = path
    return bundled_models(family) | folders | files("diffusion_models") | files("checkpoints")


def checkpoint_places(family: str) -> str:
    """Where a loader finds its checkpoints, for its tooltip."""
    bundled = ", or the bundled tiny model" if bundled_models(family) else ""
    files_in = "A file in models/diffusion_models or models/checkpoints (safetensors, GGUF)"
    return f"{files_in}, or a diffusers folder in models/diffusers{bundled}"


def diffusers_folders() -> dict[str, Path]:
    """The folders with a model_index.json in models/diffusers, at any depth."""
    folders = {}
    for root in map(Path, folder_paths.get_folder_paths("diffusers")):
        walked = set[str]()
        for folder, inner, names in os.walk(root, followlinks=True):
            place = os.path.realpath(folder)
            if place in walked:  # a link back to a folder above would lead round for ever
                inner.clear()
                continue
            walked.add(place)
            if "model_index.json" in names:
                folders[f"diffusers/{Path(folder).relative_to(root).as_posix()}"] = Path(folder)
    return dict(sorted(folders.items()))


def upsamplers() -> dict[str, Path]:
    """Folders with a latent upsampler for LTX-Video."""
    return {name: path for name, path in diffusers_folders().items() if pipeline_of(path).endswith(UPSAMPLER)}


def pipeline_of(folder: Path) -> str:
    """The pipeline that a diffusers folder names; empty where its index is damaged, which the log says."""
    file = folder / "model_index.json"
    try:
        state = file.stat()
    except OSError:
        return ""
    return _pipeline(file, state.st_mtime_ns, state.st_size)


@lru_cache(1024)
def _pipeline(file: Path, modified: int, size: int) -> str:
    """The same, read once for each state of the file."""
    try:
        name = read_object(file).get("_class_name")
    except CheckpointError as error:
        logging.warning("Reelwire: %s", message("passed_over", file=file.parent.name, error=error.rule))
        return ""
    return name if isinstance(name, str) else ""


def files(kind: str) -> dict[str, Path]:
    """Files of one of the host's model folders by the name that a combo shows."""
    names = folder_paths.get_filename_list(kind)
    listed = {f"{kind}/{name}": Path(path) for name in names if (path := folder_paths.get_full_path(kind, name))}
    return listed | (gguf_files(kind) if kind in WITH_GGUF else {})


def gguf_files(kind: str) -> dict[str, Path]:
    """GGUF files of one of the host's model folders; the host's own list leaves them out."""
    roots = [Path(root) for root in folder_paths.get_folder_paths(kind)]
    paths = [(root, path) for root in roots for path in sorted(root.rglob("*.gguf")) if path.is_file()]
    return {f"{kind}/{path.relative_to(root).as_posix()}": path for root, path in paths}


def choose(name: str, value: str, choices: dict[str, Path]) -> Path:
    """The path of a choice, see `meant`; raises InputError for one that is not offered, with those that are near it."""
    known = meant(value, choices)
    if known is None:
        near = _ending(value, choices) or get_close_matches(_slashed(value), choices, 2)
        remedy = message("did_you_mean", key=either(*near)) if near else message("put_model")
        raise InputError(name, value, message("not_among_models"), remedy)
    return choices[known]


def meant(value: str, choices: Iterable[str]) -> str | None:
    """The choice that a name stands for: itself, with the slashes of another system, or without the folders before it,
    as other nodes name it, where one alone ends so; None where there is none."""
    offered = list(choices)
    ending = _ending(value, offered)
    whole = next((name for name in (value, _slashed(value)) if name in offered), None)
    return whole if whole is not None else ending[0] if len(ending) == 1 else None


def _slashed(name: str) -> str:
    return name.replace("\\", "/")


def _ending(name: str, choices: Iterable[str]) -> list[str]:
    return [choice for choice in choices if name and choice.endswith(f"/{_slashed(name)}")]


def modified(path: Path) -> float:
    """When a file, or anything inside a folder, was last written."""
    paths = [path, *path.rglob("*")] if path.is_dir() else [path]
    return max(map(_written, paths))


def _written(path: Path) -> float:
    """When a file was last written; 0 for one that is gone, or a link to nowhere."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def last_calibration() -> float:
    """When a checkpoint was last calibrated."""
    from ...samplers.caches.store import file_of

    return max((_written(file_of(path)) for path in checkpoints().values()), default=0.0)


def tokenizers() -> dict[str, Path]:
    """Kind of text encoder -> the tokenizer that ComfyUI brings along for it."""
    folder = Path(comfy.__path__[0])
    return {
        "t5": folder / "text_encoders" / "t5_tokenizer",
        "clip": folder / "sd1_tokenizer",
        "llama": folder / "text_encoders" / "llama_tokenizer",
    }
