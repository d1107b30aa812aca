"""Sampling and decoding where a model says: in this process, or on ranks that stay until nothing has been asked of them
for a while."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

from torch import Tensor

from ....loaders.messages import message
from ....loaders.request import Conditioning
from ....loaders.vae.tiles import Tiling, retried
from ....loaders.video_model import VideoModel
from ... import decode, denoise
from ...caches.runner import Runner
from ...decode import Form, floats
from ...denoise import OnStep, Wrap
from ...plan import SamplingPlan
from ...solvers import run_predictions
from ...sources.inpaint import Inpainting
from .check import kind_of, workers_of
from .local import LocalLauncher
from .ranks import Group, Launcher
from .worker import Blueprint

IDLE = 300.0  # seconds after which ranks end, and give back what they hold


class _Kept:
    """The group of the newest model that was spread. One thread uses it at a time."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.group: Group | None = None
        self._key: tuple[object, ...] = ()
        self._timer: threading.Timer | None = None

    def of(self, model: VideoModel, launcher: Launcher | None = None) -> Group:
        """The ranks for this model: those that hold it already, or new ones, started by a launcher."""
        plain = replace(model, loras=())
        key = (Blueprint.of(plain), tuple((lora, id(lora.deltas)) for lora in model.loras), model.parallel)
        self._wait_no_more()
        make_way: Callable[[], None] = getattr(model.memory, "make_way", lambda: None)
        make_way()  # what this process holds on cards, the prompts' encoder above all
        if self.group is None or key != self._key:
            self.close()
            assert model.parallel is not None
            count, kind = workers_of(model), kind_of(model)
            devices = ["cpu" if kind == "cpu" else f"{kind}:{rank}" for rank in range(count)]
            starts = launcher or LocalLauncher()
            self.group, self._key = Group(starts, Blueprint.of(model), model.parallel, devices), key
        return self.group

    def rest(self) -> None:
        """Nothing is asked of the ranks any more, until the next run."""
        self._wait_no_more()
        self._timer = threading.Timer(IDLE, self._close_idle)
        self._timer.daemon = True
        self._timer.start()

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _close_idle(self) -> None:
        if self.lock.acquire(blocking=False):
            try:
                self.close()
            finally:
                self.lock.release()

    def close(self) -> None:
        """End the ranks."""
        if self.group is not None:
            self.group.close()
            self.group = None


_kept = _Kept()
close, group_of = _kept.close, _kept.of
atexit.register(close)


def _is_spread(model: VideoModel) -> bool:
    return model.parallel is not None and model.parallel.splits_clip


def sample(
    model: VideoModel,
    conditioning: Conditioning,
    plan: SamplingPlan,
    on_step: OnStep = lambda *_: None,
    wrap: Wrap | None = None,
    inpainting: Inpainting | None = None,
) -> Tensor:
    """As `denoise.sample`, on the ranks that the model's `parallel` names, if it does."""
    if not _is_spread(model):
        around: Wrap = wrap or (lambda denoiser: denoiser)
        return denoise.sample(model, conditioning, plan, on_step, around, inpainting)
    cache = None
    if plan.policy is not None:
        predictions, batched = run_predictions(model, plan.request), model.batched_guidance
        cache = Runner(plan.policy, model.stacks, predictions, batched, expected=plan.kept)
    with _kept.lock:
        try:
            return _kept.of(model).sample(conditioning, plan, on_step, wrap, inpainting, cache)
        finally:
            _kept.rest()


def stream_frames(
    model: VideoModel,
    latents: Tensor,
    seed: int = 0,
    tiling: Tiling | None = None,
    tell: Callable[[str], None] = lambda _: None,
    smaller: Callable[[Tiling], None] = lambda _: None,
    form: Form = floats,
) -> Iterator[Tensor]:
    """As `decode.stream_frames`, with the tiles shared out among the ranks; a frame of one tile is decoded here."""
    height, width = latents.shape[3:]
    chosen = tiling or model.tiling(height, width)
    if not _is_spread(model) or sum(map(len, chosen.rows(height, width))) == 1:
        yield from decode.stream_frames(model, latents, seed, tiling, tell, smaller, form)
        return

    def shrink(less: Tiling) -> None:
        smaller(less)
        tell(message("memory_decode_goes_on", tiles=less.words(model.facts.spatial_ratio)))

    make = lambda tiling: _kept.of(model).decode(latents, seed, tiling, form)
    with _kept.lock:
        try:
            yield from retried(make, chosen, (height, width), 0, model.memory.device("vae"), shrink)
        finally:
            _kept.rest()
