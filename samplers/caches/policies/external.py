"""Caches of other libraries, switched on for the length of a run: diffusers' own, and cache-dit where it is installed.

diffusers' TaylorSeer names attentions in a way that Wan, LTX-Video, CogVideoX and Mochi do not, and then does nothing; its
SeaCache must be told where the video is. Both are told here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from ....loaders.facts import Stacks
from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ...kernels import CACHE_DIT
from ..policy import MODULES, At, Policy, RunUnderWay, State, of_modules

FIRST_BLOCK, TAYLORSEER, SEACACHE, MAGCACHE, DBCACHE = "diffusers first block", "diffusers taylorseer", "diffusers seacache", "diffusers magcache", "cache-dit"  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class External(Policy):
    """kind: one of the names above. threshold, interval and longest mean what they mean there; ratios: of MagCache."""

    kind: str
    threshold: float = 0.0  # 0: the library's own
    interval: int = 5
    ratios: tuple[float, ...] = ()
    first_blocks: int = 1  # of cache-dit, that are computed in any case

    level: ClassVar[str] = "external"

    @property
    def title(self) -> str:  # type: ignore[override]
        return self.kind

    @property
    def memory_of(self) -> int:
        return self.order + 1 if self.kind == TAYLORSEER else 2

    def estimate(self, model: VideoModel, request: Request) -> int:
        """TaylorSeer keeps what each attention and MLP gives, with its changes; the others two values of the blocks."""
        whole = super().estimate(model, request)
        return int(whole * of_modules(model, request)) if self.kind == TAYLORSEER else whole

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        raise AssertionError("the other library decides")

    def suits(self, model: VideoModel) -> None:
        if model.stacks is None:
            raise InputError("policy", self.kind, message("unet_transformers", title=model.title), message("use_fora"))
        if self.kind == DBCACHE and (lack := CACHE_DIT.lack()):
            raise InputError("policy", self.kind, lack, message("or_other_policy", source=CACHE_DIT.source))

    def fit(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        self.suits(model)
        whole = model.guidance.method == "cfg" and (model.guidance.start, model.guidance.end) == (0, 1)
        if self.kind == DBCACHE and not whole:
            raise InputError("policy", self.kind, message("cache_dit_counts"), message("use_plain_guidance"))
        return self, ()

    @contextmanager
    def enabled(self, network: Any, run: RunUnderWay, stacks: Stacks, steps: int, batched: bool) -> Iterator[None]:
        """The network with this cache. batched: both branches of guidance go in one forward."""
        if self.kind == DBCACHE:
            with _db_cache(self, network, stacks, steps, batched and run.denoiser.guidance > 1):
                yield
            return
        network.enable_cache(_CONFIGS[self.kind](self, network, run, stacks, steps))
        try:
            yield
        finally:
            network.disable_cache()


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value}


def _first_block(policy: External, network: Any, run: RunUnderWay, stacks: Stacks, steps: int) -> Any:
    from diffusers import FirstBlockCacheConfig

    return FirstBlockCacheConfig(**_given(threshold=policy.threshold))


def _taylorseer(policy: External, network: Any, run: RunUnderWay, stacks: Stacks, steps: int) -> Any:
    from diffusers import TaylorSeerCacheConfig

    lists, modules = "|".join(stacks.of(network)), "|".join(MODULES)
    return TaylorSeerCacheConfig(
        cache_interval=policy.interval, max_order=policy.order, taylor_factors_dtype=network.dtype,
        cache_identifiers=[rf"({lists})\.\d+\.({modules})"], disable_cache_before_step=max(policy.warmup, 1),
    )  # fmt: skip


def _seacache(policy: External, network: Any, run: RunUnderWay, stacks: Stacks, steps: int) -> Any:
    from diffusers.hooks import SeaCacheConfig

    return SeaCacheConfig(raw_vision_callback=lambda *_: list(run.finish()), residual_order=policy.order,
                          **_given(threshold=policy.threshold, max_consecutive_cached=policy.longest))  # fmt: skip


def _magcache(policy: External, network: Any, run: RunUnderWay, stacks: Stacks, steps: int) -> Any:
    from diffusers import MagCacheConfig

    return MagCacheConfig(num_inference_steps=steps, mag_ratios=list(policy.ratios),
                          **_given(threshold=policy.threshold, max_skip_steps=policy.longest))  # fmt: skip


_CONFIGS: Mapping[str, Callable[[External, Any, RunUnderWay, Stacks, int], Any]] = {
    FIRST_BLOCK: _first_block, TAYLORSEER: _taylorseer, SEACACHE: _seacache, MAGCACHE: _magcache,
}  # fmt: skip


@contextmanager
def _db_cache(policy: External, network: Any, stacks: Stacks, steps: int, batched: bool) -> Iterator[None]:
    import cache_dit
    from cache_dit import BlockAdapter, DBCacheConfig, ForwardPattern, TaylorSeerCalibratorConfig

    lists = [network.get_submodule(name) for name in stacks.lists]
    pattern = ForwardPattern.Pattern_0 if stacks.pairs else ForwardPattern.Pattern_2
    adapter = BlockAdapter(transformer=network, blocks=lists, forward_pattern=[pattern] * len(lists), check_forward_pattern=False)  # fmt: skip
    config = DBCacheConfig(
        Fn_compute_blocks=policy.first_blocks, max_warmup_steps=policy.warmup, max_continuous_cached_steps=policy.longest or -1,
        enable_separate_cfg=not batched, num_inference_steps=steps, **_given(residual_diff_threshold=policy.threshold),
    )  # fmt: skip
    calibrator = TaylorSeerCalibratorConfig(taylorseer_order=policy.order) if policy.order else None
    cache_dit.enable_cache(adapter, cache_config=config, calibrator_config=calibrator)
    try:
        yield
    finally:
        cache_dit.disable_cache(adapter)
