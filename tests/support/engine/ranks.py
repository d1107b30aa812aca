"""Two ranks for all tests: processes that build whatever model a case names, and run it in whatever mode."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.parallel.clip.worker import SPLITS, Emit, SampleTask, Worker
from reelwire.samplers.plan import plan
from torch import Tensor

from .models import MODELS, PROMPT, needed


@dataclass(frozen=True)
class Tiny:
    """A tiny model with options, built in any process."""

    folder: Path
    name: str
    options: dict[str, Any] = field(default_factory=dict)
    low_noise: bool = False

    def __call__(self, device: str = "cpu") -> VideoModel:
        recipe = Recipe(MODELS[self.name], "", files_of(self.folder / self.name), "float32")
        return replace(load(recipe, PlainMemory(device)), **self.options)


@dataclass(frozen=True)
class Case:
    """A run of a tiny model on ranks. changes: of its request; dies: (rank, seconds) after which it exits."""

    tiny: Tiny
    mode: str
    changes: dict[str, Any] = field(default_factory=dict)
    negative: str = "a cat"
    counted: bool = False
    dies: tuple[int, float] | None = None

    def task(self, model: VideoModel) -> SampleTask:
        """What is sampled."""
        inputs = {**needed(model), "seed": 3, "steps": 4, **self.changes}
        conditioning = model.encode(PROMPT, self.negative, inputs["keyframes"])
        return SampleTask(conditioning, plan(model, Request(**inputs)))

    def alone(self) -> Tensor:
        """Latents of one process."""
        from reelwire.samplers.denoise import sample

        model = self.tiny()
        task = self.task(model)
        return sample(model, task.conditioning, task.plan)

    def watched(self) -> tuple[Tensor, list[Any]]:
        """(latents of one process, what its cache decided)."""
        from reelwire.samplers.denoise import sample

        model, caches = self.tiny(), list[Any]()
        task = self.task(model)
        latents = sample(model, task.conditioning, task.plan, lambda done, count, run: caches.append(run.cache))
        return latents, caches[-1].entries

    def run(self, worker: Worker, emit: Emit) -> object:
        """As a task of a group."""
        worker.model = self.tiny(worker.place.device)
        worker.split = SPLITS[self.mode](worker.place.rank, worker.place.count, worker.device)
        task = self.task(worker.model)
        if self.dies is not None and self.dies[0] == worker.place.rank:
            threading.Timer(self.dies[1], os._exit, (7,)).start()
        return task.run(worker, emit)
