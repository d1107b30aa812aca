"""Two ranks for all tests: processes that build whatever model a case names, and run it in whatever mode."""

from __future__ import annotations

import os
import threading
from collections import Counter
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.decode import floats, stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.parallel.clip.worker import SPLITS, DecodeTask, Emit, SampleTask, Worker
from reelwire.samplers.plan import plan
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ..engine.models import MODELS, PROMPT, needed


@dataclass(frozen=True)
class Tiny:
    """A tiny model with options, built in any process."""

    folder: Path
    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(self, device: str = "cpu") -> VideoModel:
        recipe = Recipe(MODELS[self.name], "", files_of(self.folder / self.name), "float32")
        return replace(load(recipe, PlainMemory(device)), **self.options)


class Wire(TorchDispatchMode):
    """Counts the bytes that leave this rank in collectives."""

    def __init__(self, rank: int, count: int) -> None:
        super().__init__()
        self.rank, self.count = rank, count
        self.sent = Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, others = func.name().partition(".")[0], self.count - 1
        if name.endswith("all_to_all_single"):
            self.sent["all to all"] += args[0].nbytes * others // self.count
        elif name == "c10d::alltoall_base_":
            self.sent["all to all"] += args[1].nbytes * others // self.count
        elif name == "c10d::allgather_":
            self.sent["gather"] += args[1][0].nbytes * others
        elif name == "c10d::broadcast_" and args[2] == self.rank:
            self.sent["broadcast"] += args[0][0].nbytes * others
        return func(*args, **(kwargs or {}))


@dataclass(frozen=True)
class Case:
    """A run of a tiny model on ranks.

    changes: of its request. counted: what it returns is the bytes that were sent, by kind. dies: seconds after which
    the second rank exits, the first time: `marker` is then there.
    """

    tiny: Tiny
    mode: str
    changes: dict[str, Any] = field(default_factory=dict)
    negative: str = "a cat"
    counted: bool = False
    dies: float = 0.0
    marker: Path = Path()

    def task(self, model: VideoModel) -> SampleTask:
        """What is sampled."""
        inputs = {**needed(model), "seed": 3, "steps": 4, **self.changes}
        conditioning = model.encode(PROMPT, self.negative, inputs["keyframes"])
        return SampleTask(conditioning, plan(model, Request(**inputs)))

    def alone(self) -> Tensor:
        """Latents of one process."""
        return self.watched()[0]

    def watched(self) -> tuple[Tensor, list[Any]]:
        """(latents of one process, what its cache decided)."""
        model, caches = self.tiny(), list[Any]()
        task = self.task(model)
        latents = sample(model, task.conditioning, task.plan, lambda done, count, run: caches.append(run.cache))
        return latents, getattr(caches[-1], "entries", [])

    def run(self, worker: Worker, emit: Emit) -> object:
        """As a task of a group."""
        rank, count = worker.place.rank, worker.place.count
        worker.model, worker.split = self.tiny(worker.place.device), SPLITS[self.mode](rank, count, worker.device)
        task = self.task(worker.model)
        if self.dies and rank == 1 and not self.marker.exists():
            self.marker.touch()
            threading.Timer(self.dies, os._exit, (7,)).start()
        with Wire(rank, count) if self.counted else nullcontext() as wire:
            result = task.run(worker, emit)
        return dict(wire.sent) if wire is not None else result


@dataclass(frozen=True)
class Decoded:
    """A decode of noise in tiles on ranks. size: of the noise [1, C, t, h, w], with as many channels as there are."""

    tiny: Tiny
    size: tuple[int, int, int]
    tiling: Tiling

    def _latents(self, model: VideoModel) -> Tensor:
        return torch.randn(1, model.facts.channels, *self.size, generator=torch.Generator().manual_seed(2))

    def alone(self) -> Tensor:
        """Frames of one process."""
        model = self.tiny()
        return torch.cat([*stream_frames(model, self._latents(model), 4, self.tiling)])

    def run(self, worker: Worker, emit: Emit) -> None:
        """As a task of a group."""
        worker.model = self.tiny(worker.place.device)
        DecodeTask(self._latents(worker.model), 4, self.tiling, floats).run(worker, emit)
