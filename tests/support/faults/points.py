"""What the product writes, each as a small run that can be made again, and that knows what it must not lose."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from reelwire.loaders.files import PART
from reelwire.loaders.messages import Message, message_of
from reelwire.loaders.vae.tiles import Tiling
from reelwire.samplers.caches import store
from reelwire.samplers.long.job import ENDING, Job
from torch import Tensor

WINDOWS, FRAMES, SIZE = 3, 4, (64, 48)  # windows of a film, frames of each, width and height
INPUTS = {"seed": 1, "prompt 1": [0, "一只猫"]}
NOTE = {"family": "ltx", "seed": 3}


def nodes_of(comfyui: Path) -> SimpleNamespace:
    """What of nodes/ writes, with ComfyUI's modules in this process."""
    if str(comfyui) not in sys.path:
        sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    names = ("video.file", "decoding", "host.files", "host.outputs")
    modules = (importlib.import_module(f"reelwire.nodes.{name}") for name in names)
    return SimpleNamespace(**{name.rpartition(".")[2]: module for name, module in zip(names, modules, strict=True)})


def keys(text: str) -> set[str]:
    """The keys of a message and of those in it; none of a text that is no message."""
    if not isinstance(text, Message):
        return set()
    return {text.key}.union(*(keys(value) for value in text.values.values() if isinstance(value, str)))


def parts(folder: Path) -> list[str]:
    """Temporary files in a folder and below."""
    return [str(path) for path in folder.rglob("*") if PART.fullmatch(path.name) or path.name.endswith(".part")]


def latents(number: int) -> Tensor:
    """What a window of the film is computed to."""
    return torch.rand(1, FRAMES, SIZE[1], SIZE[0], 3, generator=torch.Generator().manual_seed(number))


class Film:
    """A long video: its lock, inputs, tiles, windows, video file, and the end of its folder."""

    name = "long video"

    def __init__(self, nodes: Any) -> None:
        self._nodes, self.computed, self.path = nodes, list[int](), Path()

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def run(self, folder: Path) -> None:
        """Make the film, or go on with it."""
        job = Job(folder / f"film{ENDING}")
        with closing(job):
            job.begin(INPUTS)
            job.settled(Tiling())
            pieces = iter([self._window(job, number) for number in range(WINDOWS)])
            self.path, _ = self._nodes.file.write_video(folder / "film_00001_.mp4", pieces, SIZE, 24.0, 30, {})
            job.drop()

    def _window(self, job: Job, number: int) -> Tensor:
        window = job.read(number) if job.has(number) else None
        if window is None:
            window = latents(number)
            self.computed.append(number)
            job.write(number, window)
        return (window[0] * 255).byte()

    def whole(self, folder: Path, expected: bytes) -> bool:
        """Whether no file is under its final name but those that are whole."""
        return all(path.read_bytes() == expected for path in folder.glob("*.mp4"))

    def result(self, folder: Path) -> bytes:
        """What the last run has made."""
        return self.path.read_bytes()

    def lost(self, folder: Path, error: BaseException | None) -> int:
        """Windows that were computed again, after a run that failed and the next one that did not."""
        return max(0, len(self.computed) - (WINDOWS if error is not None else 2 * WINDOWS))

    def left(self, folder: Path) -> list[str]:
        """What should not be there once a run has succeeded."""
        return [*parts(folder), *(str(path) for path in folder.glob(f"*{ENDING}"))]


class Decode:
    """Latents that are kept while they are decoded into a video file."""

    name = "decode to file"

    def __init__(self, nodes: Any) -> None:
        self._nodes, self.path = nodes, Path()
        self.cls = SimpleNamespace(hidden=SimpleNamespace(prompt={}, extra_pnginfo={}, unique_id="1"))
        self.latent = {"samples": latents(7), "reelwire": NOTE}

    @contextmanager
    def _output(self, folder: Path) -> Iterator[None]:
        """This folder is the host's output folder meanwhile."""
        modules = self._nodes.files, self._nodes.decoding.host
        before = [module.output_folder for module in modules]
        for module in modules:
            module.output_folder = lambda: folder
        try:
            yield
        finally:
            for module, original in zip(modules, before, strict=True):
                module.output_folder = original

    def prepare(self, folder: Path) -> None:
        """Nothing."""

    def run(self, folder: Path) -> None:
        """Decode into a new file of a folder."""
        frames = iter([(latents(7)[0] * 255).byte()])
        with self._output(folder), self._nodes.files.latents_on_disk(self.latent, self.cls):
            self.path, _ = self._nodes.file.write_video(folder / "clip_00001_.mp4", frames, SIZE, 24.0, 30, {})

    def kept(self, folder: Path) -> dict[str, Path]:
        """Latents that are on disk."""
        with self._output(folder):
            return dict(self._nodes.files.saved_latents())

    def whole(self, folder: Path, expected: bytes) -> bool:
        """Whether no file is under its final name but those that are whole."""
        kept = (self._nodes.files.read_latents(path)[0] for path in self.kept(folder).values())
        videos = all(path.read_bytes() == expected for path in folder.glob("*.mp4"))
        return videos and all(torch.equal(each["samples"], latents(7)) and each["reelwire"] == NOTE for each in kept)

    def result(self, folder: Path) -> bytes:
        """What the last run has made."""
        return self.path.read_bytes()

    def lost(self, folder: Path, error: BaseException | None) -> int:
        """1 where a run failed and did not say where the latents are, or they are not there."""
        if error is None or "latents_in_memory" in keys(message_of(error)):
            return 0
        return int(not any(name in str(error) for name in self.kept(folder)))

    def left(self, folder: Path) -> list[str]:
        """What should not be there once a run has succeeded."""
        return parts(folder)


class Calibrate:
    """Calibrations beside a checkpoint, one after another."""

    name = "calibration"

    def __init__(self, nodes: Any) -> None:
        self.count = 0

    def prepare(self, folder: Path) -> None:
        """A checkpoint with one record."""
        (folder / "model.safetensors").write_bytes(bytes(100))
        store.add(folder / "model.safetensors", self._calibration(0))

    def run(self, folder: Path) -> None:
        """Add one more; the node goes on where it cannot be written."""
        checkpoint = folder / "model.safetensors"
        self.count += 1
        store.add(checkpoint, self._calibration(self.count))

    def _calibration(self, steps: int) -> store.Calibration:
        gram = ((1.0, float(steps)), (float(steps), 1.0))
        return store.Calibration(store.Key(steps, "euler", 1.0, 1.0, 8), {"transformer": (gram,)})

    def whole(self, folder: Path, expected: bytes) -> bool:
        """Whether the file holds what it held, or one more."""
        return [*self.result(folder)] in ([0], [0, 1])

    def result(self, folder: Path) -> bytes:
        """Which records there are."""
        checkpoint = folder / "model.safetensors"
        file = store.file_of(checkpoint)
        stored = store._stored(file, store._state(file), store.fingerprint(checkpoint))
        return bytes(c.key.steps for c in stored)

    def lost(self, folder: Path, error: BaseException | None) -> int:
        """How many of all that were added are known no more."""
        return self.count + 1 - len(store.read(folder / "model.safetensors"))

    def left(self, folder: Path) -> list[str]:
        """What should not be there once a run has succeeded."""
        return parts(folder)


POINTS: tuple[Callable[[Any], Any], ...] = (Film, Decode, Calibrate)
