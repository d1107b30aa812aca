"""Speed's trim_text: the rows behind a prompt's end are left out; what differs is rounding, and that by so much."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Guidance
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.long.context import sample_in_context
from reelwire.samplers.speed import Speed
from reelwire.tests.support.cached_runs import OURS, SOME, Sampled, StopError
from reelwire.tests.support.models import MODELS, needed, usual
from torch import Tensor

ON, OFF = Speed(trim_text=True), Speed()
# the largest difference of latents, in their standard deviations; measured: 1.4e-6 and 4e-2
BOUNDS = {"float32": 1e-5, "bfloat16": 8e-2}
TRIMS = ["tiny-hunyuan-t2v", "tiny-hunyuan-i2v-concat", "tiny-hunyuan-i2v-replace", "tiny-ltx-0.9.0", "tiny-ltx-0.9.5"]


@pytest.fixture(scope="module")
def opened(tiny_models: Path) -> Any:
    return cache(
        lambda name, dtype="float32": load(Recipe(MODELS[name], "", files_of(tiny_models / name), dtype), PlainMemory())
    )


def both_branches(model: VideoModel) -> VideoModel:
    """With a negative prompt of another length than the prompt's."""
    return replace(model, guidance=Guidance(true_scale=4.0)) if getattr(model.facts, "embedded", False) else model


def difference(model: VideoModel, fast: VideoModel, **changes: Any) -> float:
    expected, made = (Sampled(m, **changes).latents for m in (model, fast))
    return float((made - expected).abs().max() / expected.std())


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("name", TRIMS)
def test_the_same_latents_but_for_rounding(opened: Any, name: str, dtype: str) -> None:
    model = both_branches(opened(name, dtype))
    off = replace(model, speed=OFF)
    assert torch.equal(Sampled(off, guidance=4.0).latents, Sampled(model, guidance=4.0).latents)
    assert 0 < difference(model, replace(model, speed=ON), guidance=4.0) < BOUNDS[dtype]


@pytest.mark.parametrize("name", ["tiny-hunyuan-t2v", "tiny-hunyuan-i2v-replace", "tiny-ltx-0.9.0"])
def test_the_network_gets_no_padding_and_no_mask(opened: Any, name: str) -> None:
    model = replace(both_branches(opened(name)), speed=ON)
    seen, attention = list[tuple[int, Any]](), "attn" if "hunyuan" in name else "attn2"
    look = lambda module, args, kwargs: seen.append(
        (kwargs["encoder_hidden_states"].shape[1], kwargs["attention_mask"])
    )
    assert model.stacks is not None
    with model.use("transformer") as network:
        blocks = [block for stack in model.stacks.lists for block in getattr(network, stack)]
        handles = [getattr(block, attention).register_forward_pre_hook(look, with_kwargs=True) for block in blocks]
        try:
            Sampled(model, guidance=1.0)  # LTX-Video's branches share a batch, and the shorter text keeps a mask in it
        finally:
            for handle in handles:
                handle.remove()
    branches = model.encode("a red circle", "a blue square", needed(model)["keyframes"]).branches
    lengths = {int(read["mask"].sum()) for read in branches.values()}
    assert {rows for rows, _ in seen} == (lengths if "hunyuan" in name else {int(branches["cond"]["mask"].sum())})
    assert max(lengths) < branches["cond"]["mask"].shape[1]
    assert all(mask is None for _, mask in seen)


@pytest.mark.parametrize("policy", OURS)
@pytest.mark.parametrize("name", ["tiny-hunyuan-t2v", "tiny-ltx-0.9.0"])
def test_with_a_cache(opened: Any, name: str, policy: str) -> None:
    model = replace(both_branches(opened(name)), cache=SOME[policy])
    assert difference(model, replace(model, speed=ON), guidance=4.0) < BOUNDS["float32"]


@pytest.mark.parametrize("name", ["tiny-hunyuan-i2v-concat", "tiny-hunyuan-i2v-replace", "tiny-ltx-0.9.5"])
def test_with_compiled_blocks(opened: Any, name: str) -> None:
    model = both_branches(opened(name))
    fast = replace(model, speed=Speed(compile=True, compiler="eager", whole=True, trim_text=True))
    assert difference(model, fast, guidance=4.0) < BOUNDS["float32"]
    assert torch.equal(Sampled(model).latents, Sampled(model).latents)


def test_in_context_windows(opened: Any) -> None:
    model = opened("tiny-hunyuan-t2v")
    request, conditioning = replace(usual(model), frames=17, steps=4), model.encode("a red circle", "")
    long = lambda model: sample_in_context(model, conditioning, request, 9, 5, lambda *_: None)
    expected: Tensor = long(model)
    assert 0 < (long(replace(model, speed=ON)) - expected).abs().max() < BOUNDS["float32"] * expected.std()


def test_nothing_of_it_stays(opened: Any) -> None:
    """After the run the network's blocks are as they were, after an error too."""
    model = opened("tiny-hunyuan-t2v")
    before = Sampled(model).latents
    with pytest.raises(StopError):
        Sampled(replace(model, speed=ON), stop=2)
    assert torch.equal(Sampled(model).latents, before)


@pytest.mark.parametrize("name", ["tiny-wan2.1-t2v", "tiny-cogvideox-2b", "tiny-mochi", "tiny-svd"])
def test_where_it_means_nothing_it_is_refused(opened: Any, name: str) -> None:
    with pytest.raises(InputError, match=r"trim_text = on: .*Switch it off"):
        Sampled(replace(opened(name), speed=ON))
