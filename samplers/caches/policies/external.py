"""Caches of other libraries, switched on for the steps of an expert: what they share, and diffusers' own.

diffusers' TaylorSeer knows attentions by names that Wan, LTX-Video, CogVideoX and Mochi do not have, and then does
nothing; its SeaCache asks where the video is. Both get their answers here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from ....loaders.facts import Stacks
from ....loaders.messages import InputError, message
from ....loaders.parts import Network
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..mechanisms.external import External
from ..mechanisms.modules import MODULES, module_outputs
from ..policy import Policy, RunUnderWay
from ..state import BranchState, StepContext


@dataclass(frozen=True, kw_only=True)
class ExternalCache(Policy):
    """A cache that decides and stores by itself. Options mean what they mean there; 0 is the library's own."""

    order: int = 1
    warmup: int = 3

    position: ClassVar[int | None] = None
    mechanism = External
    unused: ClassVar[tuple[str, ...]] = ("start", "end")

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        raise AssertionError("the other library decides")

    def check_model(self, model: VideoModel) -> None:
        if model.stacks is None:
            rule = message("unet_transformers", title=model.title)
            raise InputError("policy", self.title, rule, message("use_fora"))

    def count_cached(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        return self.guess_computed(steps)

    def estimate(self, model: VideoModel, request: Request) -> int:
        return self.mechanism.stored_bytes(model, request, 2, 0)


@dataclass(frozen=True, kw_only=True)
class DiffusersCache(ExternalCache):
    """A cache of diffusers, switched on by a config."""

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        if model.guidance.method == "skip-layer":
            raise InputError("policy", self.title, message("one_pass_a_branch"), message("use_plain_guidance"))
        if model.batched_guidance and 0 < model.guidance.start < model.guidance.end < 1:
            raise InputError("policy", self.title, message("branch_rests"), message("use_plain_guidance"))
        return self, ()

    @abstractmethod
    def config(self, network: Network, run: RunUnderWay, stacks: Stacks, steps: int) -> object:
        """diffusers' config of this cache for the steps of an expert."""

    @contextmanager
    def enabled(
        self, network: Network, run: RunUnderWay, stacks: Stacks | None, steps: int, batched: bool
    ) -> Iterator[None]:
        assert stacks is not None
        network.enable_cache(self.config(network, run, stacks, steps))
        try:
            yield
        finally:
            network.disable_cache()


@dataclass(frozen=True, kw_only=True)
class DiffusersFirstBlock(DiffusersCache):
    """diffusers' FirstBlockCache, of ParaAttention."""

    threshold: float = 0.0

    title: ClassVar[str] = "diffusers first block"
    position: ClassVar[int | None] = 5
    unused: ClassVar[tuple[str, ...]] = ("start", "end", "longest", "order")

    def config(self, network: Network, run: RunUnderWay, stacks: Stacks, steps: int) -> object:
        from diffusers import FirstBlockCacheConfig

        return FirstBlockCacheConfig(**changed(threshold=self.threshold))


@dataclass(frozen=True, kw_only=True)
class DiffusersTaylorSeer(DiffusersCache):
    """interval: of computed steps."""

    interval: int = 5

    title: ClassVar[str] = "diffusers taylorseer"
    position: ClassVar[int | None] = 6
    unused: ClassVar[tuple[str, ...]] = ("start", "end", "longest")

    def config(self, network: Network, run: RunUnderWay, stacks: Stacks, steps: int) -> object:
        from diffusers import TaylorSeerCacheConfig

        lists, modules = "|".join(stacks.of(network)), "|".join(MODULES)
        return TaylorSeerCacheConfig(
            cache_interval=self.interval,
            max_order=self.order,
            taylor_factors_dtype=network.dtype,
            cache_identifiers=[rf"({lists})\.\d+\.({modules})"],
            disable_cache_before_step=max(self.warmup, 1),
        )

    def estimate(self, model: VideoModel, request: Request) -> int:
        """It stores the outputs of every attention and MLP, with their changes."""
        one = self.mechanism.stored_bytes(model, request, self.order + 1, 0)
        return int(one * module_outputs(model, request))


@dataclass(frozen=True, kw_only=True)
class DiffusersSeaCache(DiffusersCache):
    """diffusers' SeaCache: compares spectra of the x0 predictions."""

    threshold: float = 0.0

    title: ClassVar[str] = "diffusers seacache"
    position: ClassVar[int | None] = 7

    def config(self, network: Network, run: RunUnderWay, stacks: Stacks, steps: int) -> object:
        from diffusers.hooks import SeaCacheConfig

        options = changed(threshold=self.threshold, max_consecutive_cached=self.longest)
        return SeaCacheConfig(raw_vision_callback=lambda *_: list(run.finish()), residual_order=self.order, **options)


@dataclass(frozen=True, kw_only=True)
class DiffusersMagCache(DiffusersCache):
    """ratios: a number for each step."""

    threshold: float = 0.0
    ratios: tuple[float, ...] = ()

    title: ClassVar[str] = "diffusers magcache"
    position: ClassVar[int | None] = None

    def config(self, network: Network, run: RunUnderWay, stacks: Stacks, steps: int) -> object:
        from diffusers import MagCacheConfig

        options = changed(threshold=self.threshold, max_skip_steps=self.longest)
        return MagCacheConfig(num_inference_steps=steps, mag_ratios=list(self.ratios), **options)


def changed(**options: float) -> dict[str, float]:
    """The options that are not 0."""
    return {name: value for name, value in options.items() if value}
