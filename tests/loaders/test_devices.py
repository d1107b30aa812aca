"""What is asked of a card beside what is counted, by who keeps its memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from reelwire.loaders.common.peaks import encoder_bytes
from reelwire.loaders.devices import FRAGMENTED, KERNELS, OPTIONS, SHARE, fragments, with_kernels
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.engine.fake_peak import Imagined
from reelwire.tests.support.files.published import published
from reelwire.tests.support.host import ROOT

GIB = 2**30
MEASURED = json.loads((ROOT / "bench" / "card" / "engine.json").read_text(encoding="utf-8"))
STEPS = [(card, row) for card, rows in MEASURED.items() for row in rows if row.get("what") == "step" and "size" in row]
PARTS = [row for rows in MEASURED.values() for row in rows if "part" in row and "allocated_gib" in row]
VAES, ENCODERS = ([row for row in PARTS if row["part"] == part] for part in ("vae", "encoder"))
SIZES = {row["variant"]: tuple(map(int, row["size"].split("x"))) for _, row in STEPS}


class OnCuda(Imagined):
    """A memory that is asked alone."""

    def device(self, part: str) -> torch.device:
        return torch.device("cuda")


@pytest.fixture(scope="module")
def of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], VideoModel]:
    """The model of a variant on such a memory."""
    folder = tmp_path_factory.mktemp("published")
    return cache(lambda name: published(name, folder, OnCuda()))


VARIABLES = {name for names in OPTIONS.values() for name in names}
GROWS = "expandable_segments:True"


def keep(monkeypatch: pytest.MonkeyPatch, allocator: str, options: dict[str, str], kind: str = "cuda") -> None:
    """A card of this type whose memory this allocator keeps."""
    if not hasattr(torch, kind):
        monkeypatch.setattr(torch, kind, SimpleNamespace(), raising=False)
    monkeypatch.setattr(getattr(torch, kind), "is_available", lambda: True, raising=False)
    if kind == "cuda":
        monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: allocator)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in options.items():
        monkeypatch.setenv(name, value)


@pytest.mark.parametrize(
    ("kind", "allocator", "options", "expected"),
    [
        ("cuda", "native", {}, True),
        ("cuda", "cudaMallocAsync", {}, False),
        *(("cuda", "native", {name: GROWS}, False) for name in OPTIONS["cuda"]),
        ("cuda", "native", {"PYTORCH_CUDA_ALLOC_CONF": f"max_split_size_mb:512, {GROWS}"}, False),
        ("cuda", "native", {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments: True"}, False),
        ("cuda", "native", {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:False"}, True),
        ("cuda", "native", {"PYTORCH_CUDA_ALLOC_CONF": f"{GROWS},expandable_segments:False"}, True),
        ("cuda", "native", {"PYTORCH_ALLOC_CONF": "max_split_size_mb:512", "PYTORCH_CUDA_ALLOC_CONF": GROWS}, True),
        ("cuda", "native", {"PYTORCH_ALLOC_CONF": "", "PYTORCH_HIP_ALLOC_CONF": GROWS}, False),
        ("cuda", "native", {"PYTORCH_NPU_ALLOC_CONF": GROWS}, True),
        ("xpu", "native", {}, True),
        ("xpu", "native", {"PYTORCH_ALLOC_CONF": GROWS}, False),
        ("npu", "native", {}, True),
        ("npu", "native", {"PYTORCH_CUDA_ALLOC_CONF": GROWS}, True),
        ("npu", "native", {"PYTORCH_NPU_ALLOC_CONF": GROWS}, False),
        ("mps", "native", {}, False),  # keeps its memory in another way
        ("cpu", "native", {}, False),
    ],
)
def test_pytorchs_own_allocator_is_given_more(
    monkeypatch: pytest.MonkeyPatch, kind: str, allocator: str, options: dict[str, str], expected: bool
) -> None:
    keep(monkeypatch, allocator, options, kind)
    monkeypatch.setattr("sys.platform", "linux")
    assert fragments(kind) is expected
    assert with_kernels(GIB, kind) == pytest.approx(KERNELS + GIB * (1 + (FRAGMENTED if expected else SHARE)), abs=1)


def test_blocks_never_grow_on_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    keep(monkeypatch, "native", {"PYTORCH_ALLOC_CONF": GROWS})
    monkeypatch.setattr("sys.platform", "win32")
    assert fragments("cuda")


def test_each_part_is_asked_for_by_its_own_device(
    of: Callable[[str], VideoModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Text encoders that compute on the processor are asked for as there."""
    keep(monkeypatch, "native", {})
    model = of("svd/svd-xt")
    asked: dict[str, int] = {}
    monkeypatch.setattr(OnCuda, "device", lambda _, part: torch.device("cpu" if "encoder" in part else "cuda"))
    monkeypatch.setattr(OnCuda, "use", lambda _, part, size: nullcontext(asked.update({part.name: size})))
    for part in ("image_encoder", "vae"):
        with model.use(part, GIB):
            pass
    assert asked == {"image_encoder": with_kernels(GIB, "cpu"), "vae": with_kernels(GIB, "cuda")}
    assert asked["image_encoder"] < asked["vae"]


@pytest.mark.parametrize(("card", "row"), STEPS, ids=lambda value: value["variant"] if isinstance(value, dict) else "")
def test_steps_measured_on_a_card_are_within_what_is_asked(card: str, row: dict[str, float]) -> None:
    """What is counted today for these variants is held to the count without numbers by test_peaks.py."""
    assert 0.9 <= row["counted_gib"] / row["allocated_gib"] <= 1.15
    assert row["allocated_gib"] * GIB <= with_kernels(int(row["counted_gib"] * GIB), "cuda")


@pytest.mark.parametrize("row", VAES, ids=lambda row: f"{row['variant']}-{row['what']}")
def test_what_vaes_held_on_a_card_is_within_what_is_asked(of: Callable[[str], VideoModel], row: dict[str, Any]) -> None:
    """cuDNN's workspaces too; a whole frame, at the size at which its step was measured."""
    model = of(row["variant"])
    width, height, frames = SIZES.get(row["variant"]) or (848, 480, 85)
    clip = {"decode": 0, "still": 1}.get(row["what"], frames)
    _, _, _, high, wide = model.facts.latent_shape(width, height, 9)
    at_once = row["what"] == "encode at once"
    counted = model.coder_bytes(Tiling().rows(high, wide), clip, at_once)
    assert row["allocated_gib"] * GIB <= with_kernels(counted, "cuda")


@pytest.mark.parametrize("row", ENCODERS, ids=lambda row: f"{row['variant']}-{row['what']}")
def test_what_encoders_held_on_a_card_is_within_what_is_asked(
    of: Callable[[str], VideoModel], monkeypatch: pytest.MonkeyPatch, row: dict[str, Any]
) -> None:
    """With transformers 5.6, whose T5 keeps the scores of its attention."""
    monkeypatch.setattr(transformers.T5EncoderModel, "_supports_sdpa", False)
    monkeypatch.setattr(transformers.UMT5EncoderModel, "_supports_sdpa", False)
    model = of(row["variant"])
    assert row["allocated_gib"] * GIB <= with_kernels(encoder_bytes(model, row["what"]), "cuda")


def test_the_scores_of_t5_count_where_they_are_kept(
    of: Callable[[str], VideoModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where transformers or the device has no kernel that keeps none: 2 or 4 bytes for each pair and head, and more."""
    model = of("wan/2.1-t2v-1.3b")
    scores = 64 * 512**2
    fused = encoder_bytes(model, "text_encoder")
    with monkeypatch.context() as patch:
        patch.setattr(OnCuda, "device", lambda *_: torch.device("mps"))
        assert encoder_bytes(model, "text_encoder") >= fused + 6 * scores
    monkeypatch.setattr(transformers.UMT5EncoderModel, "_supports_sdpa", False)
    assert encoder_bytes(model, "text_encoder") == 12 * scores + 7 * 512 * 4096 * 2
