"""What a long render leaves on disk while it is under way, so that it can go on after any interruption."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from ...loaders.files import why_unwritten, write_whole
from ...loaders.messages import InputError, message
from ...loaders.parts import JsonObject
from ...loaders.vae.tiles import Tiling

ENDING = ".unfinished"
_WINDOW = "window_{}.safetensors"
Upgrade = Callable[[Mapping[str, object]], dict[str, object]]


@dataclass(frozen=True)
class Job:
    """A folder with the latents of the windows that are done, and the inputs that made them."""

    folder: Path

    def begin(self, inputs: Mapping[str, object], anew: bool = False, upgrade: Upgrade = dict) -> None:
        """Open the job for these inputs; raises InputError, naming what differs, where it was begun with others.

        anew: drop what was begun with others. upgrade: inputs that an earlier version wrote -> as this one writes them.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "inputs.json"
        begun, now = _read(path), json.loads(json.dumps(dict(inputs)))
        begun = None if begun is None else upgrade(begun)
        if not any(self.folder.glob(_WINDOW.format("*"))):  # nothing is done, so nothing is lost
            write_whole(path, json.dumps(now, indent=1, ensure_ascii=False).encode())
            self._tiling.unlink(missing_ok=True)
            return
        different = [name for name in {**(begun or {}), **now} if (begun or {}).get(name) != now.get(name)]
        if different and anew:
            self.drop()
            self.begin(inputs)
            return
        if begun is None:
            what = message("job_lost_inputs", folder=self.folder.name)
            raise InputError("unfinished", what, message("job_unknown"), message("job_start_over"))
        if different:
            changes = ", ".join(_change(name, begun.get(name), now.get(name)) for name in different)
            what = message("job_other_inputs", folder=self.folder.name, changes=changes)
            rule = message("job_rule")
            raise InputError("unfinished", what, rule, message("job_set_back"))

    def settled(self, tiling: Tiling) -> Tiling:
        """The tiles that this job was begun with, so that the frames do not depend on the memory of the moment."""
        begun = _read(self._tiling)
        if begun is not None:
            return Tiling(**begun)
        self.settle(tiling)
        return tiling

    def settle(self, tiling: Tiling) -> None:
        """Decode with these tiles from now on."""
        write_whole(self._tiling, json.dumps(asdict(tiling)).encode())

    @property
    def _tiling(self) -> Path:
        return self.folder / "tiling.json"

    def has(self, number: int) -> bool:
        """Whether the latents of a window have been written."""
        return self._file(number).exists()

    def read(self, number: int) -> Tensor | None:
        """Latents of a window; None where there are none, or the file is damaged (it is then removed)."""
        path = self._file(number)
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                latents, digest = file.get_tensor("latents"), file.metadata()["digest"]
        except (OSError, SafetensorError, KeyError, TypeError, ValueError):
            latents, digest = torch.empty(0), "unreadable"
        if _digest(latents) == digest:
            return latents
        path.unlink()
        return None

    def write(self, number: int, latents: Tensor) -> None:
        """Keep the latents of a window, whole or not at all."""
        latents = latents.contiguous().cpu()
        try:
            write_whole(self._file(number), save({"latents": latents}, {"digest": _digest(latents)}))
        except (OSError, MemoryError) as error:
            raise OSError(message("window_unkept", number=number + 1, error=why_unwritten(error))) from error

    def drop(self) -> None:
        """Remove all that the job has kept, at once: what a kill leaves of it is no job any more."""
        gone = self.folder.with_name(f".{self.folder.name}")
        shutil.rmtree(gone, ignore_errors=True)
        with suppress(OSError):
            self.folder.rename(gone)
        for folder in (gone, self.folder):
            shutil.rmtree(folder, ignore_errors=True)

    def _file(self, number: int) -> Path:
        return self.folder / _WINDOW.format(f"{number:04}")


def _change(name: str, before: object, now: object) -> str:
    """What differs; with both values where they are numbers."""
    numbers = all(isinstance(value, (int, float)) for value in (before, now))
    return f"{name} ({before} -> {now})" if numbers else name


def _read(path: Path) -> JsonObject | None:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None  # not there, or damaged


def _digest(latents: Tensor) -> str:
    digest = hashlib.sha256(f"{latents.dtype} {list(latents.shape)}".encode())
    digest.update(latents.contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def fingerprint(tensor: Tensor) -> str:
    """A short name for what a tensor holds."""
    return _digest(tensor.contiguous().cpu())[:16]
