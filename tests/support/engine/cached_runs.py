"""Policies of caches that compute every step or skip some, and a run with a cache."""

from __future__ import annotations

from typing import Any

from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.policies.cache_dit import CacheDiT
from reelwire.samplers.caches.policies.corrected import Corrected
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.caches.policies.external import (
    DiffusersFirstBlock,
    DiffusersSeaCache,
    DiffusersTaylorSeer,
    ExternalCache,
)
from reelwire.samplers.caches.policies.first_block import FirstBlock
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.magcache import MagCache
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policies.sencache import SenCache
from reelwire.samplers.caches.policies.spectrum import Spectrum
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.caches.policy import Policy
from reelwire.tests.support.engine.models import needed
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

STEPS = 10
RATIOS = tuple(
    (part, branch, (1.0, *[0.97] * 9))
    for part in ("transformer", "transformer_2")
    for branch in ("cond", "uncond", "cond_uncond")
)
SENSITIVITIES = tuple((part, branch, (1.0,) * STEPS, (1e-3,) * STEPS) for part, branch, _ in RATIOS)
# policies that compute every step, and such that skip some
NOTHING: dict[str, Policy] = {
    "TeaCache": TeaCache(exact=True),
    "FORA": FORA(interval=1),
    "FORA, modules": FORA(interval=1, granularity="module"),
    "EasyCache": EasyCache(threshold=0.0),
    "first block": FirstBlock(threshold=0.0),
    "plan": Plan(speed=1.0),
    "corrected plan": Corrected(speed=1.0),
    "MagCache": MagCache(threshold=0.0, ratios=RATIOS),
    "Spectrum": Spectrum(window=1.0, threshold=0.0),
    "SenCache": SenCache(threshold=1e-12, early=1e-12, sensitivities=SENSITIVITIES),
}
SOME: dict[str, Policy] = {
    "TeaCache": TeaCache(threshold=1e9, longest=1),
    "TeaCache, follow": TeaCache(threshold=1e9, longest=1, order=1, warmup=2),
    "FORA": FORA(interval=2),
    "FORA, modules": FORA(interval=2, granularity="module"),
    "EasyCache": EasyCache(threshold=1e9, longest=2),
    "first block": FirstBlock(threshold=1e9),
    "plan": Plan(speed=2.0),
    "corrected plan": Corrected(speed=2.0),
    "MagCache": MagCache(threshold=1e9, longest=1, ratios=RATIOS),
    "Spectrum": Spectrum(warmup=2),
    "SenCache": SenCache(threshold=1e9, early=1e9, longest=2, sensitivities=SENSITIVITIES),
    "diffusers first block": DiffusersFirstBlock(threshold=1e9, warmup=1),
    "diffusers taylorseer": DiffusersTaylorSeer(interval=2, warmup=1),
    "diffusers seacache": DiffusersSeaCache(threshold=1e9, longest=2, warmup=1),
    "cache-dit": CacheDiT(threshold=1e9, longest=2, warmup=1),
}
OURS = [name for name, policy in SOME.items() if not isinstance(policy, ExternalCache)]


class StopError(Exception):
    """An interrupt."""


class Sampled:
    """One run of a model, and what its cache did. stop: the step after which it is interrupted."""

    def __init__(self, model: VideoModel, stop: int = 0, **changes: Any) -> None:
        inputs = {**needed(model), "seed": 3, "steps": STEPS, **changes}
        conditioning = model.encode("a red circle", "a blue square", inputs["keyframes"])
        self.stop = stop
        self.latents: Tensor = sample(model, conditioning, Request(**inputs), self._see)

    def _see(self, done: int, total: int, run: Any) -> None:
        self.run = run
        if done == self.stop:
            raise StopError

    @property
    def entries(self) -> list[Any]:
        return self.run.cache.entries

    @property
    def computed(self) -> int:
        return sum(entry.computed for entry in self.entries)
