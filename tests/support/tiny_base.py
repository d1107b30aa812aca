"""A base directory for a ComfyUI, with all tiny models and files."""

from __future__ import annotations

import os
from pathlib import Path

from reelwire.training import tiny_files
from reelwire.training.tiny_models import MODELS, make


def comfyui_folder() -> Path:
    """Where ComfyUI is: what COMFYUI_DIR names, else where `run.py test` puts it."""
    return Path(os.environ.get("COMFYUI_DIR") or Path(__file__).parents[2] / ".reelwire" / "ComfyUI")


def tiny_base(base: Path) -> Path:
    """The directory, filled."""
    (base / "models" / "diffusers").mkdir(parents=True, exist_ok=True)
    for name in MODELS:
        make(name, base / "models" / "diffusers")
    for name in tiny_files.FILES:
        tiny_files.make(name, base / "models")
    return base
