"""The engine on a card: every tiny model, text to latents to frames, without any part of it left in RAM."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.decode import stream_frames
from reelwire.tests.support.card import Card
from reelwire.tests.support.engine.models import FIRST, MODELS, each_family, every, run
from torch import Tensor

pytestmark = [
    pytest.mark.on_card,
    pytest.mark.filterwarnings("ignore:In (CPU|NPU) autocast"),  # diffusers' Mochi asks for one everywhere
]
# float32: some of the CPU's kernels choose how they sum by where memory begins,
# which differs between two runs on the CPU, too
CLOSE = {"float32": 5e-6, "bfloat16": 0.0}


@pytest.fixture(autouse=True)
def card() -> Iterator[Card]:
    yield Card()
    gc.collect()
    assert Card().allocated() == 0, "a model left something on the card"


def open_on(device: str, folder: Path, name: str, dtype: str) -> VideoModel:
    return load(Recipe(MODELS[name], "", files_of(folder / name), dtype), PlainMemory(device))


def make(model: VideoModel, tiling: Tiling | None = None) -> tuple[Tensor, Tensor]:
    """(latents, frames), both on the CPU; the latents were made where the model computes."""
    latents = run(model)
    assert latents.device.type == model.memory.device("transformer").type
    with torch.no_grad():
        return latents.cpu(), torch.cat(list(stream_frames(model, latents, tiling=tiling)))


@pytest.mark.parametrize("dtype", CLOSE)
@every
def test_it_makes_what_the_cpu_makes(tiny_models: Path, card: Card, name: str, dtype: str) -> None:
    expected = make(open_on("cpu", tiny_models, name, dtype))
    before = card.allocations()
    result = make(open_on("npu", tiny_models, name, dtype))
    assert card.allocations() > before + 1000, "it was not made on the card"
    for ours, theirs in zip(result, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=CLOSE[dtype])


@each_family
def test_tiles_and_small_parts_too(tiny_models: Path, name: str) -> None:
    """Where what waits in between goes to RAM and comes back."""
    for tiling in (Tiling(offload_state=True), Tiling(4, True)):
        expected = make(open_on("cpu", tiny_models, name, "bfloat16"), tiling)
        result = make(open_on("npu", tiny_models, name, "bfloat16"), tiling)
        assert torch.equal(result[1], expected[1])


@each_family
def test_on_a_second_card(tiny_models: Path, name: str) -> None:
    """No part of a run strays to the first."""
    torch.ops.reelwire_card.set_count(2)
    Card(1).set_cap(1 << 30)
    expected, before = make(open_on("npu:0", tiny_models, name, "bfloat16")), Card(0).allocations()
    result = make(open_on("npu:1", tiny_models, name, "bfloat16"))
    assert Card(0).allocations() == before
    assert all(torch.equal(ours, theirs) for ours, theirs in zip(result, expected, strict=True))
    gc.collect()
    assert Card(1).allocated() == 0


def test_each_family_is_here() -> None:
    assert len(FIRST) == 6
