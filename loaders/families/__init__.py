"""The families by name; each is imported when it is first asked for, so that one that fails takes down only itself."""

from __future__ import annotations

from importlib import import_module

from ..parts import Memory, Recipe
from ..video_model import Family, VideoModel

FAMILIES = {
    "hunyuan_video": "HunyuanVideo",
    "wan": "Wan",
    "cogvideox": "CogVideoX",
    "mochi": "Mochi",
    "ltx": "LTX",
    "svd": "SVD",
}


def family(name: str) -> Family:
    return getattr(import_module(f".{name}", __package__), FAMILIES[name])()


def load(recipe: Recipe, memory: Memory) -> VideoModel:
    """The model that a recipe describes; no weights are read yet. Raises CheckpointError for files that cannot be it."""
    return family(recipe.family).load(recipe, memory)
