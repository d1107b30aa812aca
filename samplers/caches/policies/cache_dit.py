"""cache-dit's DBCache (https://github.com/vipshop/cache-dit), where that package is installed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from ....loaders.facts import Stacks
from ....loaders.messages import InputError, message
from ....loaders.parts import Network
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ...kernels import CACHE_DIT
from ..policy import Policy, RunUnderWay
from .external import ExternalCache, changed

if TYPE_CHECKING:
    from cache_dit import BlockAdapter, DBCacheConfig


@dataclass(frozen=True, kw_only=True)
class CacheDiT(ExternalCache):
    """first_blocks: that are computed in every step."""

    threshold: float = 0.0
    first_blocks: int = 1

    title: ClassVar[str] = "cache-dit"
    position: ClassVar[int | None] = 8
    tooltip: ClassVar[str] = "where that package is installed"

    def check_model(self, model: VideoModel) -> None:
        super().check_model(model)
        if lack := CACHE_DIT.lack():
            raise InputError("policy", self.title, lack, message("or_other_policy", source=CACHE_DIT.source))

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        if model.guidance.method != "cfg" or (model.guidance.start, model.guidance.end) != (0, 1):
            raise InputError("policy", self.title, message("cache_dit_counts"), message("use_plain_guidance"))
        return self, ()

    @contextmanager
    def enabled(
        self, network: Network, run: RunUnderWay, stacks: Stacks | None, steps: int, batched: bool
    ) -> Iterator[None]:
        import cache_dit
        from cache_dit import TaylorSeerCalibratorConfig

        assert stacks is not None
        one_pass = batched or run.denoiser.guidance <= 1
        adapter = _adapter(network, stacks)
        calibrator = TaylorSeerCalibratorConfig(taylorseer_order=self.order) if self.order else None
        cache_dit.enable_cache(adapter, cache_config=self._config(steps, one_pass), calibrator_config=calibrator)
        try:
            yield
        finally:
            cache_dit.disable_cache(adapter)

    def _config(self, steps: int, one_pass: bool) -> DBCacheConfig:
        """DBCache's config. one_pass: both branches of guidance go in one forward pass, or there is one alone."""
        from cache_dit import DBCacheConfig

        return DBCacheConfig(
            Fn_compute_blocks=self.first_blocks,
            max_warmup_steps=self.warmup,
            max_continuous_cached_steps=self.longest or -1,
            enable_separate_cfg=not one_pass,
            num_inference_steps=steps,
            **changed(residual_diff_threshold=self.threshold),
        )


def _adapter(network: Network, stacks: Stacks) -> BlockAdapter:
    """cache-dit's description of a network's blocks."""
    from cache_dit import BlockAdapter, ForwardPattern

    lists = [network.get_submodule(name) for name in stacks.lists]
    pattern = ForwardPattern.Pattern_0 if stacks.pairs else ForwardPattern.Pattern_2
    return BlockAdapter(
        transformer=network,
        blocks=lists,
        forward_pattern=[pattern] * len(lists),
        check_forward_pattern=False,
    )
