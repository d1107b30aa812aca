"""The families: one folder each, imported when it is first asked for, so that one that fails takes down only itself."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ..parts import Memory, Recipe
from ..video_model import VideoModel

FAMILIES = tuple(sorted(path.parent.name for path in Path(__file__).parent.glob("*/__init__.py")))


def family(name: str) -> type[VideoModel]:
    """The class of a family's models."""
    module = import_module(f".{name}", __package__)
    own = (kind for kind in vars(module).values() if getattr(kind, "__module__", "") == module.__name__)
    return next(kind for kind in own if isinstance(kind, type) and issubclass(kind, VideoModel))


def load(recipe: Recipe, memory: Memory) -> VideoModel:
    """The model that a recipe describes; no weights are read yet. Raises CheckpointError for files that cannot be
    it."""
    return family(recipe.family).load(recipe, memory)
