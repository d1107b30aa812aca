"""Tiny models whose networks keep their weights in eight bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import Memory
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.engine.models import needed, open_model
from reelwire.tests.support.engine.sampling import sample

# the first tiny model of each family -> by how much of the latents' spread fp8 and int8 weights may change them
SMALL = {
    "tiny-hunyuan-t2v": 0.1,
    "tiny-wan2.1-t2v": 0.1,
    "tiny-cogvideox-2b": 0.1,
    "tiny-mochi": 0.1,
    "tiny-ltx-0.9.0": 0.1,
    "tiny-svd": 0.1,
}


def stored(folder: Path, name: str, storage: str, memory: Memory) -> tuple[VideoModel, torch.Tensor]:
    """(the model, latents of a short run) with its weights in this storage."""
    model = open_model(folder, name)
    model = load(replace(model.recipe, storage=storage), memory)
    inputs = needed(model)
    conditioning = model.encode("a red circle", "", inputs["keyframes"])
    return model, sample(model, conditioning, Request(seed=1, steps=4, **inputs))
