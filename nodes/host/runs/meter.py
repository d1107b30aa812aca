"""How long sampling and decoding took, and the most that they held on the card."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Protocol, cast

import comfy.model_management as mm
import torch

from ....loaders.video_model import VideoModel
from ..memory import Patcher, patchers_of

RUN = "reelwire_run"  # of a LATENT: a Run. It goes into no file: the same inputs make the same file


@dataclass(frozen=True)
class Run:
    """What a video has cost so far.

    sampling, decoding: seconds, with loading weights, without reading the prompt.
    peak: bytes on the card, without other models that ComfyUI kept there all the time; 0 where nobody counts them.
    device: what computed it.
    """

    sampling: float = 0.0
    decoding: float = 0.0
    peak: int = 0
    device: str = ""

    @property
    def seconds(self) -> float:
        """All of it."""
        return self.sampling + self.decoding

    def after(self, earlier: Run) -> Run:
        """Both together, where this one has made more of what another one had made."""
        sampling, decoding = earlier.sampling + self.sampling, earlier.decoding + self.decoding
        return Run(sampling, decoding, max(earlier.peak, self.peak), self.device or earlier.device)


class _Counter(Protocol):
    """The module of torch for a kind of card that counts its allocations."""

    def reset_peak_memory_stats(self, device: torch.device) -> None: ...

    def max_memory_allocated(self, device: torch.device) -> int: ...


class Meter:
    """Measures from now on what a node does with a model."""

    def __init__(self, model: VideoModel) -> None:
        self._model, self._device, self._began = model, model.memory.device("transformer"), time.monotonic()
        self._counter = _counter(self._device)
        if self._counter is not None:
            self._counter.reset_peak_memory_stats(self._device)

    @property
    def seconds(self) -> float:
        """Since it was made."""
        return time.monotonic() - self._began

    def run(self) -> Run:
        """What it has cost until now, as sampling."""
        return self._on(Run(sampling=self.seconds))

    def noted(self, source: object, apart: Run | None = None) -> dict[str, Run]:
        """For a LATENT that is made until now, what it has cost with that of the LATENT that it is made from; nothing
        where that one does not say it. apart: what it has cost where another process has made it."""
        made = self.run() if apart is None else apart
        if not isinstance(source, Mapping):
            return {RUN: made}
        earlier = run_of_latent(source)
        return {} if earlier is None else {RUN: made.after(earlier)}

    def joined(self, apart: Sequence[Run], waited: float) -> Run:
        """What a video has cost of which other processes have sampled the parts. waited: seconds for which nothing else
        was done here."""
        own = self._on(Run(decoding=max(self.seconds - waited, 0.0)))
        return reduce(lambda earlier, run: run.after(earlier), apart, own)

    def decoded(self, latent: object) -> Run | None:
        """What the video of a LATENT has cost until now; None where that one does not say what sampling has cost."""
        earlier = run_of_latent(latent)
        return None if earlier is None else self._on(replace(earlier, decoding=earlier.decoding + self.seconds))

    def _on(self, run: Run) -> Run:
        name = "" if self._device.type == "cpu" else str(mm.get_torch_device_name(self._device))
        return replace(run, peak=max(run.peak, self._peak()), device=name)

    def _peak(self) -> int:
        """Bytes; more than it needed where another model was sent away meanwhile, never less."""
        if self._counter is None:
            return 0
        own = patchers_of(self._model)
        others = [each.model for each in mm.current_loaded_models if each.device == self._device]
        kept = sum(_in_torch(patcher) for patcher in others if not any(patcher is each for each in own))
        outside = sum(int(patcher.loaded_size()) - _in_torch(patcher) for patcher in own)
        return int(self._counter.max_memory_allocated(self._device)) - kept + outside


def _in_torch(patcher: Patcher) -> int:
    """Bytes of a part on the card that torch has allocated; the host can hold others itself."""
    return int(getattr(patcher.model, "model_loaded_weight_memory", 0)) if patcher is not None else 0


def _counter(device: torch.device) -> _Counter | None:
    """What counts the allocations on a device; None for a processor and for cards that do not."""
    module = None if device.type == "cpu" else getattr(torch, device.type, None)
    return cast(_Counter, module) if hasattr(module, "max_memory_allocated") else None


def run_of_latent(latent: object) -> Run | None:
    """What latents have cost; None where they do not say it."""
    run = latent.get(RUN) if isinstance(latent, Mapping) else None
    return run if isinstance(run, Run) else None
