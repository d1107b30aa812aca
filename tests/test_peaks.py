"""What is asked for beside the weights against what was counted: within 15%, and never under by more than 5%.

Networks of published size without numbers run through the pack's own sampler, encoders and VAEs (fake_peak.py). Here a few
variants that differ in kind; `python bench/memory.py` takes every one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.bundle import files_of
from reelwire.loaders.families import load
from reelwire.loaders.peaks import WIDENED, encode_bytes, forward_bytes, weight_bytes, with_kernels
from reelwire.loaders.storage import Stored
from reelwire.loaders.tiles import Tiling
from reelwire.loaders.video_model import PlainMemory, Recipe, VideoModel
from reelwire.samplers.caches.fora import FORA
from reelwire.samplers.room import step_bytes
from reelwire.tests.support.fake_peak import Imagined, coder_peaks, counted, encoder_peaks, fitted, step_peak
from reelwire.tests.support.published import published

UNDER, OVER = 0.95, 1.15
# family/variant -> sizes beside its default: a middle one, and one so small that texts count more than the video
STEPS: dict[str, tuple[dict[str, Any], ...]] = {
    "wan/2.1-t2v-1.3b": (dict(width=640, height=352, frames=49), dict(width=256, height=256, frames=9)),
    "wan/2.1-vace-1.3b": (dict(width=256, height=256, frames=9),),
    "wan/2.2-ti2v-5b": (dict(width=256, height=256, frames=9),),
    "hunyuan_video/t2v-13b": (dict(width=640, height=368, frames=61),),
    "cogvideox/5b": (dict(frames=9),),
    "mochi/1-preview": (dict(width=256, height=256, frames=7),),
    "ltx/0.9.5-2b": (dict(width=1216, height=704), dict(pictured=True)),
    "svd/svd": (dict(width=512, height=320),),
}


def close(asked: int, counted: int) -> None:
    assert UNDER * counted <= asked <= OVER * counted, f"{asked / counted:.3f} of {counted / 2**20:.1f} MiB"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the published folders are made."""
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def of(sparse: Path) -> Any:
    made: dict[str, VideoModel] = {}
    return lambda name: made.setdefault(name, published(name, sparse, Imagined()))


@pytest.mark.parametrize("name", STEPS)
def test_a_step(of: Any, name: str) -> None:
    model = of(name)
    for changes in ({}, *STEPS[name]):
        model.memory.peaks.clear()
        counted = step_peak(model, **changes)
        close(forward_bytes(model, model.complete(fitted(model, **changes))), counted)


@pytest.mark.parametrize(
    "name", ["wan/2.1-t2v-1.3b", "hunyuan_video/t2v-13b", "cogvideox/5b", "ltx/0.9.5-2b", "svd/svd"]
)
def test_encoders(of: Any, name: str) -> None:
    model = of(name)
    for part, (asked, most) in encoder_peaks(model).items():
        close(encode_bytes(model)[part], most)
        assert asked == with_kernels(encode_bytes(model)[part])


@pytest.mark.parametrize(
    "name", ["wan/2.1-t2v-1.3b", "wan/2.2-ti2v-5b", "cogvideox/5b", "mochi/1-preview", "ltx/0.9.5-2b", "svd/svd"]
)
def test_coders(of: Any, name: str) -> None:
    for expected, most in coder_peaks(of(name)).values():
        close(expected, most)


@pytest.mark.parametrize("name", ["wan/2.1-t2v-1.3b", "mochi/1-preview"])
def test_tiles_of_an_encoder_keep_nothing_of_each_other(of: Any, name: str) -> None:
    """They are encoded one after another, so that a quarter of the frame takes little more than a quarter of the room."""
    model = of(name)
    whole, quarter = (coder_peaks(model, tiling)["encode"][1] for tiling in (Tiling(), Tiling(30, True)))
    assert quarter < 0.5 * whole


@pytest.mark.parametrize("granularity", ["stack", "module"])
def test_a_step_with_a_cache(of: Any, granularity: str) -> None:
    """What a cache keeps, with what its forward holds for it; the values of before make room for the new ones."""
    model = replace(of("wan/2.1-t2v-1.3b"), cache=FORA(interval=2, granularity=granularity))
    size = dict(width=256, height=256, frames=33)
    model.memory.peaks.clear()
    counted = step_peak(model, steps=10, **size)
    close(step_bytes(model, model.complete(fitted(model, steps=10, **size))), counted)


def test_weights_as_they_are_held(tiny_models: Path) -> None:
    """Counted in the modules themselves, with and without storage in 8 bits."""
    for name, family in (("tiny-wan2.1-t2v", "wan"), ("tiny-ltx-0.9.5", "ltx"), ("tiny-hunyuan-t2v", "hunyuan_video")):
        for storage in ("", "fp8"):
            model = load(Recipe(family, "", files_of(tiny_models / name), "bfloat16", storage), PlainMemory())
            for part in model.parts:
                with model.use(part) as module:
                    held = sum(t.nbytes for t in module.parameters())
                assert weight_bytes(model, part) == pytest.approx(held, rel=0.03), (name, part, storage)


def test_bytes_that_are_widened_count(tiny_models: Path) -> None:
    """A layer in 8 bits takes its weight in full while it runs."""
    model = load(Recipe("wan", "", files_of(tiny_models / "tiny-wan2.1-t2v"), "bfloat16", "int8"), PlainMemory())
    with model.use("transformer") as network:
        layer = next(module for module in network.modules() if isinstance(module, Stored)).to("meta")
    with counted() as live:
        layer(torch.zeros(1, layer.in_features, dtype=torch.bfloat16, device="meta"))
    assert (
        2 * layer.in_features * layer.out_features
        <= live.peak
        <= 1.05 * WIDENED * layer.in_features * layer.out_features
    )
