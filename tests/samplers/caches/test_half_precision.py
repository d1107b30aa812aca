"""Caches in half precision: where steps are skipped, the others see latents as exact as without a cache."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.denoiser import DenoiserWrapper
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.solvers import TABLES
from reelwire.tests.support.engine.cached_runs import NOTHING, SOME
from reelwire.tests.support.engine.models import PROMPT, frames, needed, open_plain
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one
STEPS = 10
TYPES = {
    "tiny-hunyuan-t2v": "bfloat16",
    "tiny-wan2.2-t2v-a14b": "float16",
    "tiny-cogvideox-5b": "bfloat16",
    "tiny-mochi": "bfloat16",
    "tiny-ltx-0.9.5": "bfloat16",
    "tiny-svd": "float16",
}
TABLE = {"tiny-cogvideox-5b": "zero terminal SNR", "tiny-ltx-0.9.5": "distilled flow", "tiny-svd": "EDM"}
SOLVERS = [(name, sampler) for name in TYPES for sampler in TABLES[TABLE.get(name, "flow")] if sampler != "distilled"]
REFUSED = (
    "TeaCache",
    "EasyCache",
    "first block",
    "MagCache",
    "SenCache",
    "modules",
    "diffusers",
    "cache-dit",
)  # by SVD


@pytest.fixture(scope="module")
def opened(tiny_models: Path) -> Any:
    return cache(lambda name: open_plain(tiny_models, name, TYPES[name]))


def works(name: str, policy: str) -> bool:
    return "svd" not in name or not any(word in policy for word in REFUSED)


def run(model: VideoModel, policy: Policy | None, **changes: Any) -> tuple[Tensor, dict[int, torch.dtype]]:
    """(latents, the type of those that each computed step has seen)."""
    types = dict[int, torch.dtype]()

    class Watched(DenoiserWrapper):
        def predict(self, network: Any, latents: Tensor, step: int, branch: str) -> Tensor:
            types[step] = latents.dtype
            return super().predict(network, latents, step, branch)

    inputs = {**needed(model), "seed": 3, "steps": STEPS, **changes}
    conditioning = model.encode(PROMPT, "a cat", inputs["keyframes"])
    latents = sample(replace(model, cache=policy), conditioning, Request(**inputs), wrap=Watched)
    assert latents.isfinite().all()
    return latents, types


def as_without(model: VideoModel, policy: Policy, **changes: Any) -> None:
    plain, of_all = run(model, None, **changes)
    cached, of_some = run(model, policy, **changes)
    assert len(of_all) >= STEPS
    assert of_some == {step: of_all[step] for step in of_some} != {}
    assert not torch.equal(cached, plain)


@pytest.mark.parametrize(
    ("name", "policy"), [(name, policy) for name in TYPES for policy in SOME if works(name, policy)]
)
def test_a_computed_step_sees_what_it_sees_without_a_cache(opened: Any, name: str, policy: str) -> None:
    as_without(opened(name), SOME[policy])


@pytest.mark.parametrize(("name", "sampler"), SOLVERS)
def test_so_it_does_with_every_solver(opened: Any, name: str, sampler: str) -> None:
    for policy in ("plan", "corrected plan"):
        as_without(opened(name), SOME[policy], sampler=sampler)


@pytest.mark.parametrize("name", ["tiny-hunyuan-t2v", "tiny-wan2.2-t2v-a14b"])
def test_so_it_does_under_a_mask(opened: Any, name: str) -> None:
    mask = torch.ones(1, 64, 64)
    mask[:, :, :32] = 0
    for policy in ("plan", "corrected plan"):
        as_without(opened(name), SOME[policy], source=frames(9), frames=9, mask=mask)


@pytest.mark.parametrize("name", TYPES)
def test_where_nothing_is_skipped_every_bit_is_the_same(opened: Any, name: str) -> None:
    plain, _ = run(opened(name), None)
    for policy in ("plan", "corrected plan"):
        assert torch.equal(run(opened(name), NOTHING[policy])[0], plain)
