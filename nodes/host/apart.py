"""ComfyUI's memory manager in a worker process, in which no ComfyUI runs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import comfy.cli_args

from ...loaders.parts import Recipe
from ...loaders.video_model import VideoModel
from .memory import load_model

if TYPE_CHECKING:
    from ...samplers.parallel.worker import Opener

OF_THIS_MACHINE = {"cpu", "cuda_device", "default_device", "directml", "oneapi_device_selector"}


def opener() -> Opener:
    """Who opens models in a worker as this ComfyUI does, with the same settings."""
    from ray import cloudpickle

    from ...samplers.parallel.worker import Opener

    settings: dict[str, object] = {
        name: value
        for name, value in vars(comfy.cli_args.args).items()
        if isinstance(value, (bool, int, float, str, type(None))) and name not in OF_THIS_MACHINE
    }
    folder = str(Path(comfy.cli_args.__file__).parents[1])
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # a worker has not imported anything of ComfyUI yet
    prepare = cloudpickle.dumps(partial(_prepare, folder, settings))
    return Opener(prepare, "nodes.host.apart", "open_model")


def _prepare(folder: str, settings: dict[str, object]) -> None:
    """Make ComfyUI importable, set as the one that asks."""
    import os
    import sys

    import torch

    sys.path.insert(0, os.environ.get("REELWIRE_COMFYUI") or folder)
    from comfy.cli_args import args

    vars(args).update(settings)
    kinds = torch.cuda, getattr(torch, "xpu", None), getattr(torch, "npu", None), torch.backends.mps
    args.cpu = not any(kind is not None and kind.is_available() for kind in kinds)


def open_model(recipe: Recipe, most_on_card: float) -> VideoModel:
    """The model of a recipe, in the host's memory. In a worker."""
    return load_model(recipe, most_on_card)
