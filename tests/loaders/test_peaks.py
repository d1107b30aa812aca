"""What is asked for beside the weights against what was counted: within 15%, and never under by more than 5%.

Networks of published size without numbers run through the pack's own sampler, encoders and VAEs (fake_peak.py). Here a
few variants that differ in kind; with `--all-variants` every shipped one, at its default, small, and in float32.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gguf
import pytest
import torch
from reelwire.loaders.common.peaks import encode_bytes, forward_bytes, weight_bytes, widening
from reelwire.loaders.devices import with_kernels
from reelwire.loaders.families import load
from reelwire.loaders.families.wan import checkpoint as wan_files
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.quantised import FORMATS, Coding, Quantisation
from reelwire.loaders.weights.safetensors import read_file
from reelwire.loaders.weights.stored import ALIGNED, FP8, INT8, Stored, is_ggml
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.room import step_bytes
from reelwire.tests.support.engine.fake_peak import Imagined, coder_peaks, counted, encoder_peaks, fitted, step_peak
from reelwire.tests.support.files import native_wan
from reelwire.tests.support.files.files import QUANTISED, quantised
from reelwire.tests.support.files.published import VARIANTS, published
from torch import nn

UNDER, OVER = 0.95, 1.15
BF16, FP32 = "bfloat16", "float32"
BLOCKS = ("Q8_0", "Q5_1", "Q5_0", "Q4_1", "Q4_0", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K", "IQ4_NL", "IQ4_XS")
Changes = dict[str, Any]
# family -> a size so small that texts count more than the video
SMALL: dict[str, Changes] = {
    **{family: dict(width=256, height=256, frames=9) for family in ("wan", "hunyuan_video", "ltx")},
    "cogvideox": dict(frames=9),
    "mochi": dict(width=256, height=256, frames=7),
    "svd": dict(width=512, height=320),
}
STEPS: tuple[tuple[str, str, Changes], ...] = (
    ("wan/2.1-t2v-1.3b", BF16, {}),
    ("wan/2.1-fun-inp-1.3b", BF16, SMALL["wan"]),
    ("wan/2.1-vace-1.3b", FP32, SMALL["wan"]),
    ("hunyuan_video/i2v-13b-concat", BF16, SMALL["hunyuan_video"]),
    ("cogvideox/2b", BF16, {}),
    ("ltx/0.9.8-2b-distilled", BF16, {}),
    ("ltx/0.9.0-2b", FP32, SMALL["ltx"]),
    ("svd/svd", BF16, {}),
)
ENCODERS = ("wan/2.1-t2v-1.3b", "wan/2.1-fun-inp-1.3b", "hunyuan_video/i2v-13b-concat", "cogvideox/2b", "svd/svd")
CODERS = ("wan/2.1-t2v-1.3b", "cogvideox/2b", "svd/svd")


def every_step() -> list[tuple[str, str, Changes]]:
    """Of all variants."""
    small = {name: SMALL[name.split("/")[0]] for name in VARIANTS}
    return [
        case for name in VARIANTS for case in ((name, BF16, {}), (name, BF16, small[name]), (name, FP32, small[name]))
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    whole = metafunc.config.getoption("all_variants")
    if "changes" in metafunc.fixturenames:
        cases = every_step() if whole else STEPS
        words = ["-".join([name, dtype, *(f"{k}{v}" for k, v in changes.items())]) for name, dtype, changes in cases]
        metafunc.parametrize(("name", "dtype", "changes"), cases, ids=words)
    for fixture, names in (("with_encoders", ENCODERS), ("with_coder", CODERS)):
        if fixture in metafunc.fixturenames:
            metafunc.parametrize(fixture, VARIANTS if whole else names)


def close(asked: int, counted: int) -> None:
    assert UNDER * counted <= asked <= OVER * counted, f"{asked / counted:.3f} of {counted / 2**20:.1f} MiB"


@pytest.fixture(scope="module")
def sparse(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the published folders are made."""
    return tmp_path_factory.mktemp("published")


@pytest.fixture(scope="module")
def of(sparse: Path) -> Any:
    models: dict[tuple[str, str], VideoModel] = {}

    def model(name: str, dtype: str = BF16) -> VideoModel:
        if (name, dtype) not in models:
            models[name, dtype] = published(name, sparse, Imagined(dtype), dtype)
        return models[name, dtype]

    return model


def test_a_step(of: Any, name: str, dtype: str, changes: Changes) -> None:
    model = of(name, dtype)
    model.memory.peaks.clear()
    counted = step_peak(model, **changes)
    close(forward_bytes(model, model.complete(fitted(model, **changes))), counted)


def test_encoders(of: Any, with_encoders: str) -> None:
    model = of(with_encoders)
    for part, (asked, most) in encoder_peaks(model).items():
        close(encode_bytes(model)[part], most)
        assert asked == with_kernels(encode_bytes(model)[part], "meta")


def test_coders(of: Any, with_coder: str) -> None:
    for expected, most in coder_peaks(of(with_coder)).values():
        close(expected, most)


@pytest.mark.parametrize("name", ["wan/2.1-t2v-1.3b"])
def test_tiles_of_an_encoder_keep_nothing_of_each_other(of: Any, name: str) -> None:
    """They are encoded one after another, so that a quarter of the frame takes about a quarter of the room."""
    model = of(name)
    whole, quarter = (coder_peaks(model, tiling, frames=3)["encode"][1] for tiling in (Tiling(), Tiling(30, True)))
    assert quarter < 0.5 * whole


@pytest.mark.parametrize("granularity", ["stack", "module"])
def test_a_step_with_a_cache(of: Any, granularity: str) -> None:
    """What a cache keeps, with what its forward holds for it; the values of before make room for the new ones."""
    model = replace(of("wan/2.1-t2v-1.3b"), cache=FORA(interval=2, granularity=granularity))
    size: dict[str, Any] = dict(width=256, height=256, frames=33)
    model.memory.peaks.clear()
    counted = step_peak(model, steps=6, **size)
    close(step_bytes(model, model.complete(fitted(model, steps=6, **size))), counted)


def test_weights_as_they_are_held(tiny_models: Path) -> None:
    """Counted in the modules themselves, with and without storage in 8 bits."""
    for name, family in (("tiny-wan2.1-t2v", "wan"), ("tiny-ltx-0.9.5", "ltx"), ("tiny-hunyuan-t2v", "hunyuan_video")):
        for storage in ("", "fp8"):
            model = load(Recipe(family, "", files_of(tiny_models / name), "bfloat16", storage), PlainMemory())
            for part in model.parts:
                with model.use(part) as module:
                    size = sum(t.nbytes for t in module.parameters())
                    layers = [layer for layer in module.modules() if isinstance(layer, Stored)]
                aligned = ALIGNED * len(layers)
                assert abs(size - aligned / 2 - weight_bytes(model, part)) <= 0.01 * size + aligned / 2, (name, part)


def stored(kind: str, rows: int = 1024, columns: int = 2048) -> Stored:
    """A layer of this kind without numbers."""
    make, quantisation = partial(torch.empty, dtype=torch.int8, device="meta"), Quantisation()
    if is_ggml(kind):
        count, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[kind]]
        tensors = {"weight": make(rows, columns // count * size)}
    else:
        known = FORMATS.get(kind)
        block, per_byte = (known.block, known.per_byte) if known else (0, 1)
        tensors = {"weight": make(rows, columns // per_byte)}
        if known is None or known.scales.get("scale"):
            tensors["scale"] = make(1 if block else rows, dtype=torch.float32)
        if block:
            tensors["block_scale"] = make(rows * columns // block, dtype=torch.uint8)
        quantisation = Quantisation(rotation=256 if known and known.rotates else 0)
    return Stored(nn.Linear(columns, rows, False, device="meta"), tensors, Coding(kind, (rows, columns), quantisation))


@pytest.mark.parametrize("kind", [*FP8, INT8, *FORMATS, *BLOCKS])
def test_what_stored_weights_are_widened_to_counts(kind: str) -> None:
    layer = stored(kind)
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        with counted() as live:
            layer(torch.zeros(1, layer.in_features, dtype=dtype, device="meta"))
        close(int(widening(kind, dtype) * layer.in_features * layer.out_features), live.peak)


@pytest.mark.parametrize("kind", QUANTISED)
def test_weights_in_the_hosts_formats_count_as_small_as_they_are(tmp_path: Path, tiny_models: Path, kind: str) -> None:
    """But for the room of alignment and of a tile of block scales for each layer."""
    file = tmp_path / "small.safetensors"
    base = load(Recipe("wan", "", files_of(tiny_models / "tiny-wan2.1-t2v"), BF16), PlainMemory())
    quantised(file, native_wan.native("t2v").state_dict(), kind)
    weights = wan_files.transformer(read_file(file)[0], {"file": file.name})
    assert weights is not None
    part = weights.part("transformer", lambda progress: weights.build(torch.bfloat16, True, "", progress))
    model = replace(base, parts={"transformer": part})
    with model.use("transformer") as module:
        layers = [layer for layer in module.modules() if isinstance(layer, Stored)]
        size = sum(t.nbytes for t in module.parameters())
    assert -0.02 * size <= size - weight_bytes(model, "transformer") <= 4096 * len(layers)
