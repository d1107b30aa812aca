"""One clip on two ranks is the clip of one process, bit for bit: in all modes, with caches, and after deaths."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.parallel import Parallel
from reelwire.loaders.request import Guidance, Keyframe
from reelwire.loaders.vae.tiles import Tiling
from reelwire.samplers.caches.policies import choices
from reelwire.samplers.decode import floats, stream_frames
from reelwire.samplers.parallel.clip.local import LocalLauncher
from reelwire.samplers.parallel.clip.ranks import Group
from reelwire.samplers.parallel.clip.worker import DecodeTask, Frames
from reelwire.tests.support.engine.models import frames
from reelwire.tests.support.engine.ranks import Case, Tiny


@pytest.fixture(scope="module")
def group(tiny_models: Path) -> Iterator[Group]:
    """Two ranks on the CPU, which build what each case names."""
    pair = Group(LocalLauncher(60), Tiny(tiny_models, "tiny-wan2.1-t2v"), Parallel("", 2, "context"), ["cpu", "cpu"])
    yield pair
    pair.close()


def on_ranks(group: Group, case: Case) -> torch.Tensor:
    """The latents of the first rank."""
    results = group.run(lambda: case)
    return results[0][0]


LARGE = {"width": 128, "height": 128}  # some dozen tokens for each rank: fewer are multiplied by other kernels
KEYFRAMES = {"keyframes": (Keyframe(frames(1), 0), Keyframe(frames(1, 6), 8, 0.7))}
HUNYUAN = {"guidance": Guidance(true_scale=3.0)}
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {  # mode, model, its options, the request's changes
    "wan t2v": ("context", "tiny-wan2.1-t2v", {}, {}),
    "wan i2v": ("context", "tiny-wan2.1-i2v", {}, {}),
    "wan vace": ("context", "tiny-wan2.1-vace", {}, {}),
    "wan fun": ("context", "tiny-wan2.1-fun-control", {}, {}),
    "wan 2.2 experts": ("context", "tiny-wan2.2-t2v-a14b", {}, {}),
    "wan 2.2 5b": ("context", "tiny-wan2.2-ti2v-5b", {}, LARGE),
    "ltx masked text": ("context", "tiny-ltx-0.9.0", {}, {}),
    "ltx keyframes": ("context", "tiny-ltx-0.9.5", {}, KEYFRAMES),
    "ltx guider": ("context", "tiny-ltx-0.9.5", {"guidance": Guidance("apg")}, {}),
    "branches wan": ("branches", "tiny-wan2.1-t2v", {}, {}),
    "branches hunyuan": ("branches", "tiny-hunyuan-t2v", HUNYUAN, {}),
    "branches cogvideox": ("branches", "tiny-cogvideox-2b", {}, {}),
    "branches cogvideox i2v": ("branches", "tiny-cogvideox1.5-5b-i2v", {}, {}),
    "branches mochi": ("branches", "tiny-mochi", {}, {}),
    "branches ltx": ("branches", "tiny-ltx-0.9.5", {}, KEYFRAMES),
    "branches ltx skip": ("branches", "tiny-ltx-0.9.5", {"guidance": Guidance("skip-layer", layers=(1,))}, {}),
    "branches ltx part": ("branches", "tiny-ltx-0.9.5", {"guidance": Guidance(end=0.5)}, {}),
    "branches svd": ("branches", "tiny-svd-xt", {}, {"steps": 2}),
    "experts t2v": ("experts", "tiny-wan2.2-t2v-a14b", {}, {}),
    "experts i2v": ("experts", "tiny-wan2.2-i2v-a14b", {}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes(group: Group, tiny_models: Path, name: str) -> None:
    mode, model, options, changes = CASES[name]
    case = Case(Tiny(tiny_models, model, options), mode, changes)
    assert torch.equal(on_ranks(group, case), case.alone())


CACHED = [
    *((mode, name, "tiny-ltx-0.9.5") for mode in ("context", "branches") for name in choices() if name not in ("cache-dit", "sencache")),
    ("context", "teacache", "tiny-wan2.1-t2v"),
    ("branches", "easycache", "tiny-wan2.1-t2v"),
    ("branches", "sencache", "tiny-wan2.1-t2v"),
    ("experts", "corrected plan", "tiny-wan2.2-t2v-a14b"),
    ("experts", "first block", "tiny-wan2.2-t2v-a14b"),
]


@pytest.mark.parametrize(("mode", "name", "model"), CACHED)
def test_caches_decide_alike(group: Group, tiny_models: Path, mode: str, name: str, model: str) -> None:
    """On all ranks, and as one process does: what is computed, and the bits."""
    case = Case(Tiny(tiny_models, model, {"cache": choices()[name]()}), mode, {"steps": 12})
    (latents, seen), (_, other) = group.run(lambda: case)
    alone, expected = case.watched()
    decisions = lambda entries: [(e.part, e.branch, e.step, e.computed) for e in entries]
    mine = decisions(seen.entries) + [
        d for d in decisions(other.entries) if d[:2] not in {e[:2] for e in decisions(seen.entries)}
    ]
    assert sorted(mine) == sorted(decisions(expected))
    assert torch.equal(latents, alone)
