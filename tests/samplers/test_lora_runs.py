"""Whole runs with LoRAs: on some steps or blocks, compiled, and on weights that are held small."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.lora import LoRA, read_lora
from reelwire.loaders.weights.stored import Stored, unpack, widen
from reelwire.samplers.plan import plan
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.models import needed
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.engine.words import worded
from reelwire.tests.support.files.loras import State, network_of
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file
from torch import Tensor

WIDE, STEPS = 24, 4


def forms() -> State:
    """Layers with a LoRA, a DoRA by outputs and by inputs, a LoKr and a LoHa, and a modulation."""
    query, key, value, out = (f"lora_unet_blocks_1_self_attn_{name}" for name in "qkvo")
    low = lambda name: {
        f"{name}.lora_down.weight": torch.randn(2, WIDE) * 0.2,
        f"{name}.lora_up.weight": torch.randn(WIDE, 2) * 0.2,
    }
    with seeded(2):
        state = low("lora_unet_blocks_0_self_attn_q") | low(query) | low(key)
        state |= {f"{query}.dora_scale": torch.rand(WIDE, 1), f"{key}.dora_scale": torch.rand(1, WIDE)}
        state |= {f"{value}.lokr_w1": torch.randn(4, 4) * 0.2, f"{value}.lokr_w2": torch.randn(6, 6) * 0.2}
        for number in "12":
            state |= {
                f"{out}.hada_w{number}_a": torch.randn(WIDE, 2) * 0.3,
                f"{out}.hada_w{number}_b": torch.randn(2, WIDE) * 0.3,
            }
        return state | {"diffusion_model.blocks.2.diff_m": torch.randn(1, 6, WIDE) * 0.1}


@pytest.fixture(scope="module")
def wan(tiny_models: Path) -> VideoModel:
    return load(Recipe("wan", "", files_of(tiny_models / "tiny-wan2.1-t2v"), "float32"), PlainMemory())


@pytest.fixture(scope="module")
def lora(wan: VideoModel, tmp_path_factory: pytest.TempPathFactory) -> LoRA:
    file = tmp_path_factory.mktemp("loras") / "forms.safetensors"
    save_file(forms(), file)
    return LoRA(file, 1.0, 1.0, read_lora(file, wan.checkpoint, network_of(wan)).deltas)


def run(model: VideoModel, *loras: LoRA, **changes: Any) -> Tensor:
    model = replace(model, loras=loras, **changes)
    return sample(model, model.encode("a red circle", "", ()), Request(**{**needed(model), "seed": 3, "steps": STEPS}))


def test_shares_of_the_steps_add_up_to_all_of_them(wan: VideoModel, lora: LoRA) -> None:
    halves = replace(lora, end=0.5), replace(lora, start=0.5)
    whole = run(wan, lora)
    assert torch.equal(run(wan, *halves), whole)
    assert torch.equal(run(wan, *halves[::-1]), whole)
    first = run(wan, halves[0])
    assert not torch.equal(first, whole)
    assert not torch.equal(first, run(wan))


def test_a_share_without_a_step_is_said(wan: VideoModel, lora: LoRA) -> None:
    nothing = replace(wan, loras=(replace(lora, start=0.3, end=0.4),))
    request = Request(**{**needed(wan), "steps": STEPS})
    (note,) = [note for note in plan(nothing, request).notes if getattr(note, "key", "") == "lora_no_step"]
    assert worded(note).values["steps"] == STEPS
    assert torch.equal(run(wan, *nothing.loras), run(wan))


def test_a_block_of_nothing_is_no_block(wan: VideoModel, lora: LoRA, tmp_path: Path) -> None:
    without = {key: value for key, value in forms().items() if "blocks_1_" not in key}
    save_file(without, tmp_path / "x.safetensors")
    deltas = read_lora(tmp_path / "x.safetensors", wan.checkpoint, network_of(wan)).deltas
    off = replace(lora, factors={name: 0.0 for name in lora.deltas if name.startswith("blocks.1.")})
    assert torch.equal(run(wan, off), run(wan, LoRA(tmp_path / "x.safetensors", 1.0, 1.0, deltas)))
    half = replace(lora, factors=dict.fromkeys(lora.deltas, 0.5))
    assert torch.equal(run(wan, half), run(wan, replace(lora, strength=0.5)))


def test_compiled_blocks_have_them_too(wan: VideoModel, lora: LoRA) -> None:
    loras = replace(lora, end=0.5), replace(lora, strength=0.5)
    speed = Speed(compile=True, compiler="eager", whole=True)
    assert (run(wan, *loras, speed=speed) - run(wan, *loras)).abs().max() < 1e-5


@pytest.mark.parametrize("storage", ["fp8", "int8"])
def test_weights_that_are_held_small(tiny_models: Path, lora: LoRA, storage: str) -> None:
    """As on the same numbers in float32, which no layer was merged with."""
    files = files_of(tiny_models / "tiny-wan2.1-t2v")
    small, plain = (load(Recipe("wan", "", files, "float32", s), PlainMemory()) for s in (storage, ""))
    with small.use("transformer") as stored, plain.use("transformer") as network:
        held = {name: layer for name, layer in stored.named_modules() if isinstance(layer, Stored)}
        assert {"blocks.1.attn1.to_q", "blocks.1.attn1.to_k"} <= held.keys()
        for name, layer in held.items():
            numbers = widen(unpack(layer.weight, layer.places), layer.coding, torch.float32)
            network.get_submodule(name).weight.data = numbers
    expected = run(plain, lora)
    assert (run(small, lora) - expected).abs().max() < 1e-4 * max(1.0, expected.abs().max().item())
