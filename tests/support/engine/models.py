"""The tiny models of all families, opened and run. A new family is a line in MODELS, and is tested without new code."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import FAMILIES, load
from reelwire.loaders.parts import Part, PlainMemory, Recipe
from reelwire.loaders.request import Control, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.tests.support.engine.sampling import sample
from reelwire.training.tiny_models import seeded
from torch import Tensor

PROMPT = "a red circle moving left"
# tiny model -> its family; of each family the first is the plainest
MODELS = {
    "tiny-hunyuan-t2v": "hunyuan_video",
    "tiny-hunyuan-i2v-concat": "hunyuan_video",
    "tiny-hunyuan-i2v-replace": "hunyuan_video",
    "tiny-wan2.1-t2v": "wan",
    "tiny-wan2.1-i2v": "wan",
    "tiny-wan2.1-flf2v": "wan",
    "tiny-wan2.1-vace": "wan",
    "tiny-wan2.1-fun-control": "wan",
    "tiny-wan2.2-t2v-a14b": "wan",
    "tiny-wan2.2-i2v-a14b": "wan",
    "tiny-wan2.2-ti2v-5b": "wan",
    "tiny-cogvideox-2b": "cogvideox",
    "tiny-cogvideox-5b": "cogvideox",
    "tiny-cogvideox-5b-i2v": "cogvideox",
    "tiny-cogvideox1.5-5b": "cogvideox",
    "tiny-cogvideox1.5-5b-i2v": "cogvideox",
    "tiny-cogvideox-fun-control": "cogvideox",
    "tiny-mochi": "mochi",
    "tiny-ltx-0.9.0": "ltx",
    "tiny-ltx-0.9.5": "ltx",
    "tiny-svd": "svd",
    "tiny-svd-xt": "svd",
}
FIRST = {family: next(n for n, f in MODELS.items() if f == family) for family in FAMILIES}
every = pytest.mark.parametrize("name", MODELS)
each_family = pytest.mark.parametrize("name", FIRST.values())


class Memory(PlainMemory):
    """Notes what is used, and what is resident meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, set[str]]] = []

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[Any]:
        with super().use(part, activations) as module:
            self.seen.append((part.name, set(self._modules)))
            yield module


def used_by(model: VideoModel) -> list[tuple[str, set[str]]]:
    """What its memory has noted."""
    assert isinstance(model.memory, Memory)
    return model.memory.seen


def open_model(folder: Path, name: str) -> VideoModel:
    return load(Recipe(MODELS[name], "", files_of(folder / name), "float32"), Memory())


def frames(count: int, seed: int = 5) -> Tensor:
    with seeded(seed):
        return torch.rand(count, 64, 64, 3)


def needed(model: VideoModel, seed: int = 5) -> dict[str, Any]:
    """The keyframes and the control without which this model does nothing."""
    places = {"first": 0, "last": -1}
    wanted = (model.facts.pictures or ((),))[0]
    keyframes = tuple(Keyframe(frames(1, seed + i), places[p]) for i, p in enumerate(wanted))
    control = Control(frames(usual(model).frames)) if getattr(model.facts, "control", False) else None
    return {"keyframes": keyframes, "control": control}


def usual(model: VideoModel) -> Request:
    return model.complete(Request())


def run(model: VideoModel, **changes: Any) -> Tensor:
    inputs = {**needed(model), "seed": 3, "steps": 4, **changes}
    conditioning = model.encode(PROMPT, "a cat", inputs["keyframes"])
    return sample(model, conditioning, Request(**inputs))


# models whose memory differs in kind
PEAK_MODELS = (
    "tiny-hunyuan-i2v-concat",
    "tiny-wan2.1-t2v",
    "tiny-wan2.1-vace",
    "tiny-cogvideox-5b",
    "tiny-mochi",
    "tiny-ltx-0.9.5",
    "tiny-svd",
)


def open_ltx(folder: Path, device: str = "cpu") -> VideoModel:
    """LTX-Video from a folder whose encoder and tokenizer lie in it."""
    files = {"checkpoint": folder, "text_encoder": folder / "text_encoder", "tokenizer": folder / "tokenizer"}
    return load(Recipe("ltx", "", files, "float32"), PlainMemory(device))


def open_plain(folder: Path, name: str, dtype: str = "float32") -> VideoModel:
    """The same with everything where it computes."""
    return load(Recipe(MODELS[name], "", files_of(folder / name), dtype), PlainMemory())
