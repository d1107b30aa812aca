"""What a rank does: it builds its model once, joins the others, and then runs one task after another.

A process of this machine serves it (child.py), or an actor of Ray: both hand over tasks and take events.
"""

from __future__ import annotations

import pickle  # nosec B403
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib import import_module
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from ....loaders.denoiser import Denoiser, DenoiserWrapper
from ....loaders.devices import empty_cache, out_of_memory
from ....loaders.families import load
from ....loaders.messages import message_of
from ....loaders.notices import heard_by
from ....loaders.parts import Argument, Kwargs, Network, PlainMemory, Recipe
from ....loaders.request import Conditioning
from ....loaders.vae.tiles import Tiling
from ....loaders.video_model import VideoModel
from ...caches.course import Course
from ...caches.runner import Entry, Runner
from ...decode import Form, stream_frames
from ...denoise import RunSoFar, Wrap, sample
from ...plan import SamplingPlan
from ...sources.inpaint import Inpainting
from .branches import BranchSplit, ExpertSplit
from .check import BACKENDS
from .context import ContextSplit
from .split import Split, agreed
from .vae import shared_tiles

SPLITS = {"context": ContextSplit, "branches": BranchSplit, "experts": ExpertSplit}
Build = Callable[[str], VideoModel]  # device -> the model there; picklable


@dataclass(frozen=True)
class Blueprint:
    """A model as another process can build it: its recipe, and the options that nodes have set."""

    recipe: Recipe
    options: Kwargs

    @classmethod
    def of(cls, model: VideoModel) -> Blueprint:
        """The blueprint of a model."""
        names = ("guidance", "loras", "speed", "host_attention", "cache", "options", "decoding")
        return cls(model.recipe, {name: getattr(model, name) for name in names})

    def __call__(self, device: str) -> VideoModel:
        """The model, with its parts on a device once they are used."""
        return replace(load(self.recipe, PlainMemory(device)), **self.options)


@dataclass(frozen=True)
class Place:
    """Where a rank stands.

    mode: of Parallel. store: where the ranks of a group find each other, as torch.distributed's init_method.
    patience: seconds that a rank waits for the others before it gives up.
    threads: of a CPU.
    """

    mode: str
    rank: int
    count: int
    store: str
    device: str = "cpu"
    patience: float = 300.0
    threads: int = 1


# ---------------------------------------------------------------- events: what a rank tells while it works


@dataclass(frozen=True)
class Computed:
    """A guided prediction was computed, the next that a cache has asked for."""

    prediction: Tensor


@dataclass(frozen=True)
class Stepped:
    """A step is done: of so many, with what there is to see."""

    done: int
    count: int
    preview: Tensor


@dataclass(frozen=True)
class Said:
    """Something that a person should hear."""

    notice: str


@dataclass(frozen=True)
class Frames:
    """The next frames of a decode."""

    piece: Tensor


@dataclass(frozen=True)
class Done:
    """A task is done on this rank."""

    result: Argument = None


@dataclass(frozen=True)
class Failed:
    """A task ended with an error."""

    error: Exception


@dataclass(frozen=True)
class Stopped:
    """A task ended because it was asked to."""


Event = Computed | Stepped | Said | Frames | Done | Failed | Stopped
Emit = Callable[[Event], None]


class StopError(Exception):
    """Ends a task whose result nobody waits for any more."""


class Task(Protocol):
    """Something that all ranks of a group do together; picklable."""

    def run(self, worker: Worker, emit: Emit) -> object:
        """Do it; what it returns travels with Done."""


# ---------------------------------------------------------------- the worker


class Worker:
    """One rank. model: as it was built. stopped: set from another thread to end the task that came last."""

    def __init__(self, build: Build, place: Place) -> None:
        attach(place.device)
        self.place, self.device, self.stopped = place, torch.device(place.device), threading.Event()
        if self.device.type == "cpu":
            torch.set_num_threads(place.threads)
        else:
            torch.get_device_module(self.device).set_device(self.device)
        dist.init_process_group(
            BACKENDS[self.device.type],
            init_method=place.store,
            rank=place.rank,
            world_size=place.count,
            timeout=timedelta(seconds=place.patience),
        )
        self.split: Split = SPLITS[place.mode](place.rank, place.count, self.device)
        self.model = build(place.device)

    def run(self, task: Task, emit: Emit) -> None:
        """Run a task to its end, whatever that is: the last event is Done, Failed or Stopped."""
        try:
            with heard_by(lambda notice: emit(Said(notice)) if self.place.rank == 0 else None):
                result = task.run(self, emit)
        except StopError:
            emit(Stopped())
        except Exception as error:  # noqa: BLE001 (it is raised where the task came from)
            emit(Failed(portable(error)))
        else:
            emit(Done(result))
        empty_cache(self.device)  # the one who asks decodes on a card of these

    def stop_if_asked(self) -> None:
        """Raise StopError on all ranks at the same place, once the first one was asked to stop."""
        if agreed(self.stopped.is_set()):
            raise StopError


def attach(device: str) -> None:
    """Make PyTorch know an Ascend card, which comes by a package of its own."""
    if device.startswith("npu") and not hasattr(torch, "npu"):
        import_module("torch_npu")


def portable(error: Exception) -> Exception:
    """An error as it can travel: itself without its traceback, or what it says, of memory that ran out as PyTorch's
    own."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301 (our own)  # nosec B301
    except Exception:  # noqa: BLE001 (an error of any library, with any constructor)
        kind = torch.OutOfMemoryError if out_of_memory(error) else RuntimeError
        return kind(message_of(error))
    return error


# ---------------------------------------------------------------- tasks


@dataclass(frozen=True)
class CacheSeen:
    """What a cache did on a rank: of a Runner."""

    entries: list[Entry]
    peak: int
    courses: list[Course]
    seconds: dict[int, float]


class Remembered(DenoiserWrapper):
    """A guided denoiser, the first of whose predictions were computed before; it tells of new ones."""

    def __init__(self, inner: Denoiser, known: Iterator[Tensor], tell: Callable[[Tensor], None]) -> None:
        super().__init__(inner)
        self._known, self._tell = known, tell

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        known = next(self._known, None)
        if known is not None:
            return known.to(latents.device)
        prediction = self.inner.predict(network, latents, step, branch)
        self._tell(prediction)
        return prediction


@dataclass(frozen=True)
class SampleTask:
    """Latents of a plan. computed: guided predictions of a run that broke off, which are not computed again."""

    conditioning: Conditioning
    plan: SamplingPlan
    wrap: Wrap | None = None
    inpainting: Inpainting | None = None
    computed: list[Tensor] = field(default_factory=list)

    def run(self, worker: Worker, emit: Emit) -> tuple[Tensor | None, CacheSeen | None]:
        """(latents on the CPU, of the first rank; what the cache did)."""
        leads, caches = worker.place.rank == 0, list[Runner | None]()

        def on_step(done: int, count: int, run: RunSoFar) -> None:
            caches[:] = [run.cache]
            if leads:
                emit(Stepped(done, count, run.preview().cpu()))
            worker.stop_if_asked()

        wrap = self.wrap or (lambda denoiser: denoiser)
        on_computed = (lambda prediction: emit(Computed(prediction.cpu()))) if leads else (lambda _: None)
        known = iter(self.computed)
        remember = lambda guided: Remembered(guided, known, on_computed) if self.resumes(worker.model) else guided
        latents = sample(
            worker.model, self.conditioning, self.plan, on_step, wrap, self.inpainting, worker.split, remember
        )
        cache = next(filter(None, caches), None)
        seen = None if cache is None else CacheSeen([*cache.entries], cache.peak, [*cache.courses], cache.seconds)
        return latents.cpu() if leads else None, seen

    def resumes(self, model: VideoModel) -> bool:
        """Whether a broken run can go on from its predictions: a cache that works inside of the network stores more
        than these tell, and APG's momentum remembers what they are made of."""
        policy, guidance = self.plan.policy, model.guidance
        if guidance.method == "apg" and guidance.momentum:
            return False
        return policy is None or policy.mechanism_on(model.stacks).of_guided


@dataclass(frozen=True)
class DecodeTask:
    """Frames of latents [1, C, t, h, w] in tiles, which the ranks share; the first one lays them together."""

    latents: Tensor
    seed: int
    tiling: Tiling
    form: Form

    def run(self, worker: Worker, emit: Emit) -> None:
        """Tell of the pieces in order."""
        share = shared_tiles(worker.place.rank, worker.place.count, worker.stop_if_asked)
        for piece in stream_frames(
            worker.model, self.latents, self.seed, self.tiling, form=self.form, share=share, shrinks=False
        ):
            emit(Frames(piece))
