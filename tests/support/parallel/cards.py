"""Two ranks with a pretend card each, and what they held at most."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from reelwire.loaders.request import Parallel
from reelwire.samplers.denoise import sample
from reelwire.samplers.parallel.clip.local import LocalLauncher
from reelwire.samplers.parallel.clip.ranks import Group
from reelwire.samplers.parallel.clip.worker import SPLITS, Emit, Worker

from ..card import USUAL_SIZE
from ..card.build import library
from ..card.host import HERE
from .ranks import Case, Tiny

COUNT = 2


@dataclass(frozen=True)
class Peaked:
    """A case of which each rank tells its latents, if it has them, and the bytes that its card held at most. alone:
    every rank samples the whole of it."""

    case: Case
    alone: bool = False

    def run(self, worker: Worker, emit: Emit) -> tuple[Any, int]:
        """As a task of a group."""
        task, place, npu = self.case.task(self.case.tiny()), worker.device, torch.get_device_module("npu")
        worker.model = self.case.tiny(str(place))  # the one before goes
        worker.split = SPLITS[self.case.mode](worker.place.rank, worker.place.count, place)
        gc.collect()
        npu.reset_peak_memory_stats(place)
        if self.alone:
            latents: Any = sample(worker.model, task.conditioning, task.plan).cpu()
        else:
            latents, _ = task.run(worker, emit)
        return latents, int(npu.max_memory_allocated(place))


@contextmanager
def ranks_on_cards(tiny: Tiny, size: int = USUAL_SIZE) -> Iterator[Group]:
    """Ranks on npu:0 and npu:1. Raises build.NoCompilerError where the card cannot be built."""
    library()
    before = dict(os.environ)
    os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE / "host_path"), *filter(None, [before.get("PYTHONPATH")])])
    os.environ.update(
        REELWIRE_CARD_BYTES=str(size), REELWIRE_CARD_COUNT=str(COUNT), REELWIRE_CARD_DYNAMIC="0"
    )  # ranks have their parent's environment
    devices = [f"npu:{number}" for number in range(COUNT)]
    group = Group(LocalLauncher(60), tiny, Parallel("", COUNT, "context"), devices)
    try:
        yield group
    finally:
        group.close()
        os.environ.clear()
        os.environ.update(before)
