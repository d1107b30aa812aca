"""Caches: nothing is changed where nothing is skipped, and a run leaves nothing behind, for every family and policy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.video_model import Request, VideoModel
from reelwire.samplers.caches.easycache import EasyCache
from reelwire.samplers.caches.external import DBCACHE, FIRST_BLOCK, SEACACHE, TAYLORSEER, External
from reelwire.samplers.caches.first_block import FirstBlock
from reelwire.samplers.caches.fora import FORA
from reelwire.samplers.caches.plan import Plan
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.caches.teacache import TeaCache
from reelwire.samplers.denoise import sample
from reelwire.tests.test_families import needed, open_model
from reelwire.training.tiny_models import MODELS
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
STEPS = 10
TRANSFORMERS = [name for name in MODELS if "upsampler" not in name and "svd" not in name]
# policies that compute every step, and such that skip some
NOTHING: dict[str, Policy] = {
    "TeaCache": TeaCache(exact=True), "FORA": FORA(interval=1), "FORA, modules": FORA(interval=1, granularity="module"),
    "EasyCache": EasyCache(threshold=0.0), "first block": FirstBlock(threshold=0.0), "plan": Plan(speed=1.0),
}  # fmt: skip
SOME: dict[str, Policy] = {
    "TeaCache": TeaCache(threshold=1e9, longest=1), "FORA": FORA(interval=2), "FORA, modules": FORA(interval=2, granularity="module"),
    "EasyCache": EasyCache(threshold=1e9, longest=2), "first block": FirstBlock(threshold=1e9), "plan": Plan(speed=2.0),
    "plan, order 2": Plan(speed=2.0, order=2),
    **{kind: External(kind=kind, threshold=1e9, interval=2, longest=2, order=1, warmup=1) for kind in (FIRST_BLOCK, TAYLORSEER, SEACACHE, DBCACHE)},
}  # fmt: skip


class Watched:
    """Samples, and remembers the run."""

    def __init__(self, model: VideoModel, **changes: Any) -> None:
        inputs = {**needed(model), "seed": 3, "steps": STEPS, **changes}
        conditioning = model.family.encode(model, "a red circle", "a blue square", inputs["keyframes"])
        self.latents: Tensor = sample(model, conditioning, Request(**inputs), self._see)

    def _see(self, done: int, total: int, run: Any) -> None:
        self.run = run

    @property
    def computed(self) -> int:
        return sum(entry.computed for entry in self.run.cache.entries)


@pytest.mark.parametrize("policy", NOTHING)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_where_nothing_is_skipped_every_bit_is_the_same(tiny_models: Path, name: str, policy: str) -> None:
    model = open_model(tiny_models, name)
    plain = Watched(model).latents
    made = Watched(replace(model, cache=NOTHING[policy]))
    assert torch.equal(made.latents, plain)
    assert made.computed == len(made.run.cache.entries)
    assert torch.equal(Watched(model).latents, plain)


@pytest.mark.parametrize("policy", SOME)
@pytest.mark.parametrize("name", TRANSFORMERS)
def test_skipping_changes_a_little_and_reruns_nothing(tiny_models: Path, name: str, policy: str) -> None:
    model = open_model(tiny_models, name)
    plain, cached = Watched(model).latents, replace(model, cache=SOME[policy])
    made = Watched(cached)
    assert 0 < made.computed < len(made.run.cache.entries)
    assert 0 < (made.latents - plain).abs().max() < 5 * plain.std()
    assert torch.equal(Watched(cached).latents, made.latents)
    assert torch.equal(Watched(model).latents, plain)
    assert not made.run.cache._states
