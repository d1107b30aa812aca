"""What a worker process does: it builds the model of a recipe once, samples what it is given, and tells how far it is.

`call` of the bootstrap reaches the functions in OFFERED: work in one thread, the others meanwhile in another.
"""

from __future__ import annotations

import gc
import importlib
import os
import pickle  # nosec B403
import platform
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...loaders.devices import OutOfMemory, out_of_memory
from ...loaders.families import load
from ...loaders.messages import CheckpointError, InputError, Origin, RefusedError, listed, message, message_of
from ...loaders.notices import heard_by, stopped_by
from ...loaders.parts import Argument, PlainMemory, Recipe
from ...loaders.request import Conditioning
from ...loaders.video_model import VideoModel
from ..caches.report import Report, report
from ..caches.runner import Runner
from ..denoise import RunSoFar, sample
from ..plan import SamplingPlan
from .marks import Marks, other_files
from .versions import differences

MOST_NAMED = 3  # files that an error names
REFUSALS: dict[str, type[RefusedError]] = {"input": InputError, "checkpoint": CheckpointError, "refused": RefusedError}


class StoppedError(Exception):
    """Whoever wanted the work does not want it any more."""


@dataclass(frozen=True)
class Opener:
    """Who opens models in a worker where PyTorch's own memory is not to do it.

    prepare: a pickled function without arguments, run first. module, function: in the pack; takes a Recipe.
    """

    prepare: bytes
    module: str
    function: str


@dataclass(frozen=True)
class Greeting:
    """What a worker is told first. versions: of the one who asks; threads: of a CPU, so that sums agree."""

    versions: dict[str, str]
    threads: int
    opener: Opener | None = None


@dataclass(frozen=True)
class Work:
    """One sampling. marks: of the files that the model is built from."""

    recipe: Recipe
    marks: Marks
    conditioning: Conditioning
    plan: SamplingPlan


@dataclass(frozen=True)
class Done:
    """What came of a sampling. cache: what it did; seconds, peak: how long it took, and bytes at most; device: the name
    of the card, empty for a processor."""

    latents: Tensor
    cache: Report | None
    notes: tuple[str, ...]
    seconds: float
    peak: int
    machine: str
    device: str = ""


@dataclass(frozen=True)
class Failed:
    """An error, with what it takes to raise it elsewhere. kind: a key of REFUSALS, "memory", "stopped" or "other"."""

    kind: str
    words: str
    parts: tuple[Argument, ...] = ()
    node: Origin | None = None

    def error(self) -> Exception:
        """The error anew."""
        if self.kind in REFUSALS:
            rule, remedy, name, value = self.parts
            other = REFUSALS[self.kind]
            error = InputError(name, value, rule, remedy) if other is InputError else other(rule, remedy, name, value)
            error.node = self.node
            return error
        return {"memory": OutOfMemory, "stopped": StoppedError}.get(self.kind, RuntimeError)(self.words)


@dataclass(frozen=True)
class Look:
    """How far a worker is. preview: latents [1, C, 1, h, w] of the middle frame as it will be, if asked for."""

    done: int = 0
    total: int = 0
    preview: Tensor | None = None


@dataclass
class _Desk:
    """What this process has at hand. models: of the last recipe alone; wanted: whether somebody waits for a preview;
    marks: of the files that were compared last."""

    opener: Opener | None = None
    models: dict[bytes, VideoModel] = field(default_factory=dict)
    look: Look = field(default_factory=Look)
    wanted: bool = False
    stop: threading.Event = field(default_factory=threading.Event)
    cache: Runner | None = None
    marks: Marks = field(default_factory=dict)


_desk = _Desk()


def machine() -> str:
    """The name of this machine, and the process."""
    return f"{socket.gethostname()} ({os.getpid()})"


def hello(greeting: Greeting) -> tuple[str, list[str]]:
    """(the name of this machine, what is not as the one who asks has it, in words)."""
    torch.set_num_threads(greeting.threads)
    if greeting.opener is not None and _desk.opener is None:
        pickle.loads(greeting.opener.prepare)()  # noqa: S301 - as in packing.py  # nosec B301
    _desk.opener = greeting.opener
    return machine(), differences(greeting.versions)


def work(job: Work) -> Done | Failed:
    """Sample; an error of it, as it can travel."""
    _desk.stop.clear()
    _desk.look, _desk.cache = Look(), None
    try:
        return _sampled(job)
    except Exception as error:  # noqa: BLE001 - it is raised where somebody waits
        return failed(error)
    finally:
        _desk.cache = None


def failed(error: Exception) -> Failed:
    """An error as it can travel."""
    words = message_of(error)
    if isinstance(error, RefusedError):
        kind = next(name for name, kind in REFUSALS.items() if isinstance(error, kind))
        return Failed(kind, words, (error.rule, error.remedy, error.name, error.value), error.node)
    if isinstance(error, StoppedError):
        return Failed("stopped", words)
    if out_of_memory(error):
        return Failed("memory", words)
    return Failed("other", words or type(error).__name__)


def _sampled(job: Work) -> Done:
    began, notes = time.monotonic(), list[str]()
    _compare(job.marks)
    model = _model(job.recipe)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    with heard_by(notes.append), stopped_by(_stop_if_asked):
        latents = sample(model, job.conditioning, job.plan, _on_step).cpu()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    return Done(latents, _report(), tuple(notes), time.monotonic() - began, peak_bytes(), machine(), device)


def _compare(marks: Marks) -> None:
    """Raise CheckpointError, naming this machine and the files, where those here are others."""
    if _desk.marks == marks:
        return
    if wrong := other_files(marks):
        rule = message("worker_files", machine=platform.node(), files=listed(wrong[:MOST_NAMED]), count=len(wrong))
        raise CheckpointError(rule, message("worker_files_remedy"))
    _desk.marks = marks


def _model(recipe: Recipe) -> VideoModel:
    """The model of a recipe; with another one's options its weights stay, and with other files all is dropped."""
    bare = pickle.dumps(
        (recipe.family, sorted(recipe.files.items()), recipe.dtype, recipe.storage, recipe.most_on_card)
    )
    if bare not in _desk.models:
        _desk.models.clear()
        plain = Recipe(recipe.family, recipe.variant, recipe.files, recipe.dtype, recipe.storage)
        _desk.models[bare] = _opened(plain, recipe.most_on_card)
    return _desk.models[bare].with_options(recipe)


def _opened(recipe: Recipe, most_on_card: float) -> VideoModel:
    if _desk.opener is None:
        return load(recipe, PlainMemory("cuda" if torch.cuda.is_available() else "cpu"))
    root = __name__.rpartition(".samplers.")[0]
    opened: Callable[[Recipe, float], VideoModel] = getattr(
        importlib.import_module(f"{root}.{_desk.opener.module}"), _desk.opener.function
    )
    return opened(recipe, most_on_card)


def _stop_if_asked() -> None:
    if _desk.stop.is_set():
        raise StoppedError


def _on_step(done: int, total: int, run: RunSoFar) -> None:
    _stop_if_asked()
    preview = _desk.look.preview
    if _desk.wanted:
        preview, _desk.wanted = _middle(run.preview()), False
    _desk.look, _desk.cache = Look(done, total, preview), run.cache


def _middle(latents: Tensor) -> Tensor:
    """The middle frame, which is all that a preview shows."""
    place = latents.shape[2] // 2
    return latents[:, :, place : place + 1].cpu()


def _report() -> Report | None:
    return None if _desk.cache is None else report(_desk.cache)


def peak_bytes() -> int:
    """The most that this process has held: on the card, else in RAM."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def look(wants_preview: bool) -> Look:
    """How far the work is; a preview comes with a later look."""
    seen = _desk.look
    if seen.preview is not None:
        _desk.look = Look(seen.done, seen.total)
    _desk.wanted = wants_preview
    return seen


def halt() -> None:
    """Stop the work at its next step."""
    _desk.stop.set()


def rest() -> None:
    """Give all memory back; the next work reads its model anew."""
    _desk.models.clear()
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


OFFERED: dict[str, Callable[..., object]] = {"hello": hello, "work": work, "look": look, "halt": halt, "rest": rest}
