"""What a long render leaves on disk while it is under way, so that it can go on after any interruption."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ...loaders.devices import OutOfMemory, out_of_memory
from ...loaders.files import (
    MARK,
    PART,
    HeldError,
    Lock,
    cause_unwritten,
    check_writable,
    is_plain,
    make_folder,
    make_marked_folder,
    read_whole,
    remove,
    remove_marked_folder,
    write_whole,
)
from ...loaders.messages import InputError, inputs_named, message, series
from ...loaders.notices import say
from ...loaders.parts import JsonObject
from ...loaders.vae.tiles import Tiling
from ...loaders.weights.json_files import MOST_INDEX, parse_object

ENDING = ".unfinished"
LOCK = MARK  # proves that a folder is ours, and says who is at it
_INPUTS, _TILING = "inputs.json", "tiling.json"
_WINDOW_NAME = "window_{:04}.safetensors"
_WINDOW = re.compile(r"window_\d{4,}\.safetensors")
_OURS = re.compile(rf"{LOCK}|{_INPUTS}|{_TILING}|{_WINDOW.pattern}|{PART.pattern}|\.[\w.]+\.part")
_NOBODYS = re.compile(r"\.DS_Store|\._.*|Thumbs\.db|desktop\.ini|\.nfs[0-9a-f]+")  # what systems put everywhere
_OF_A_RENDER = {"places of windows", "negative prompt", "steps"}  # inputs by which a job of older versions is known
_unwritten: dict[Path, list[Late]] = {}  # folder -> what the disk did not take
TRIES = 100
MOMENT = 0.2  # seconds that another process may look at a job that it does not begin
Upgrade = Callable[[Mapping[str, object]], dict[str, object]]


@dataclass(frozen=True)
class Late:
    """Windows of one render that the disk did not take, by their numbers, and the inputs that made them.

    sampled: those that failed between their last step and the disk, as the sampler gave them.
    """

    inputs: JsonObject
    windows: dict[int, Tensor] = field(default_factory=dict)
    sampled: dict[int, Tensor] = field(default_factory=dict)


class Job:
    """A folder with the latents of the windows that are done, and the inputs that made them.

    One process at a time has it; what it cannot write it keeps in memory, and writes when the job is begun again.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = Lock(folder / LOCK)
        self._late = Late({})
        self._is_new = False  # whether there was no folder when this was opened

    def check(self) -> None:
        """Raise what `begin` would, of the folder alone, before that is made which the render is made of: InputError
        where it is not one of ours or another process is at it, OSError, in words, where it cannot be written."""
        with self._explained():
            make_folder(self.folder.parent)
            if os.path.lexists(self.folder):
                self._open()
                check_writable(self.folder / _WINDOW_NAME.format(0))
                self.close()
            else:
                check_writable(self.folder)

    def begin(self, inputs: Mapping[str, object], anew: bool = False, upgrade: Upgrade = dict) -> None:
        """Open the job for these inputs; raises InputError, naming what differs, where it was begun with others, where
        another process is at it, and where the folder is not one of ours.

        anew: drop what was begun with others. upgrade: inputs that an earlier version wrote -> as this one writes them.
        """
        with self._explained():
            self._open()
            self._begin(json.loads(json.dumps(dict(inputs))), anew, upgrade)

    def close(self) -> None:
        """Let other processes go on with it."""
        self._lock.release()

    def _open(self) -> None:
        """Make the folder and lock it, once it is proved to be ours."""
        for left in reversed(range(TRIES)):
            if self._lock.is_held:
                return
            try:
                if not os.path.lexists(self.folder):
                    make_marked_folder(self.folder)
                    self._is_new = True
                self._check_owner()
                self._acquire()
            except FileNotFoundError:  # another process has just done with it, and a third may have begun it since
                if not left:
                    raise

    def _acquire(self) -> None:
        try:
            self._lock.acquire(MOMENT)
        except HeldError as error:
            what = message("job_of", folder=self.folder.name)
            raise InputError(
                "filename_prefix", what, message("job_held", **error.holder), message("job_wait")
            ) from error
        if not self._lock.is_sure:
            say(message("job_unlocked", folder=self.folder.name))

    def _begin(self, now: JsonObject, anew: bool, upgrade: Upgrade) -> None:
        path, is_on_disk = self.folder / _INPUTS, any(map(_WINDOW.fullmatch, os.listdir(self.folder)))
        late = self._wanted_late(now)
        mine = next((each for each in late if each.inputs == now), None)
        stored = _read(path)
        begun = None if stored is None else upgrade(stored)
        if not is_on_disk and late:  # nothing is done but what is in memory
            begun = (mine or late[-1]).inputs
        if begun == now or not (is_on_disk or late):
            self._late = mine or Late(now)
            if not is_on_disk:
                write_whole(path, json.dumps(now, indent=1, ensure_ascii=False).encode())
            if not (is_on_disk or mine):
                remove(self._tiling)
            self._write_late()
        elif anew:
            _unwritten.pop(self.folder, None)
            self._empty()
            self._begin(now, False, upgrade)
        else:
            self._refuse(begun, now)

    def _wanted_late(self, now: JsonObject) -> list[Late]:
        """What is left to write of these inputs, and the whole windows of others, which are refused for them: but not
        where a person has removed the folder since."""
        others, self._is_new = not self._is_new, False
        late = [each for each in _unwritten.pop(self.folder, ()) if each.inputs == now or (others and each.windows)]
        if late:
            _unwritten[self.folder] = late
        return late

    def _refuse(self, begun: JsonObject | None, now: JsonObject) -> None:
        """Raise InputError for what is done with other inputs, or with inputs that nobody knows any more."""
        if begun is None:
            what = message("job_lost_inputs", folder=self.folder.name)
            raise InputError("unfinished", what, message("job_unknown"), message("job_start_over"))
        different = [name for name in {**begun, **now} if begun.get(name) != now.get(name)]
        changes = series(_change(name, begun.get(name), now.get(name)) for name in different)
        what = message("job_other_inputs", folder=self.folder.name, changes=changes)
        raise InputError("unfinished", what, message("job_rule"), message("job_set_back"))

    def _check_owner(self) -> None:
        """Raise InputError where the folder is a link, or holds what this pack has not put there."""
        if os.path.islink(self.folder):
            rule = message("job_is_link")
        elif strange := self._strange():
            rule = message("job_not_ours", names=", ".join(name[:40] for name in strange[:3]))
        elif not os.listdir(self.folder):
            rule = message("job_is_empty")
        else:
            return
        raise InputError("filename_prefix", message("job_of", folder=self.folder.name), rule, message("job_elsewhere"))

    def _strange(self) -> list[str]:
        """What in the folder is not ours, or keeps us from writing; with our lock in it, what else it holds is left
        alone."""
        if not self.folder.is_dir():
            return []
        names = sorted(name for name in os.listdir(self.folder) if not _NOBODYS.fullmatch(name))
        if LOCK in names:
            odd = [name for name in names if _OURS.fullmatch(name) and _is_folder(self.folder / name)]
            return odd if is_plain(self.folder / LOCK, alone=True) else [LOCK]
        of_older_version = any(map(_WINDOW.fullmatch, names)) or _read(self.folder / _INPUTS, _OF_A_RENDER)
        ours = filter(_OURS.fullmatch, names if of_older_version else ())
        return sorted({*names} - {name for name in ours if is_plain(self.folder / name)})

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Say in words why the folder cannot be written; a job that is refused is let go."""
        try:
            yield
        except OSError as error:
            self.close()
            words = message("job_unwritten", folder=self.folder.name, error=cause_unwritten(error))
            raise OSError(words) from error
        except BaseException:
            self.close()
            raise

    def settled(self, tiling: Tiling) -> Tiling:
        """The tiles that this job was begun with, so that the frames do not depend on the memory of the moment."""
        begun = _read(self._tiling)
        if begun is not None:
            return Tiling(**begun)
        self.settle(tiling)
        return tiling

    def settle(self, tiling: Tiling) -> None:
        """Decode with these tiles from now on."""
        with self._explained():
            write_whole(self._tiling, json.dumps(asdict(tiling)).encode())

    @property
    def _tiling(self) -> Path:
        return self.folder / _TILING

    def has(self, number: int) -> bool:
        """Whether the latents of a window are kept, on disk or in memory."""
        return number in self._late.windows or self.has_written(number)

    def has_written(self, number: int) -> bool:
        """Whether the latents of a window are on disk."""
        return os.path.lexists(self._file(number))

    @property
    def has_late(self) -> bool:
        """Whether windows wait in memory for room on the disk."""
        return any(each.windows for each in _unwritten.get(self.folder, ()))

    @property
    def bytes_written(self) -> int:
        """Of all windows that are on disk, whatever inputs they were made with: what is not used is removed first."""
        sizes = list[int]()
        for path in self.folder.glob("window_*"):
            if _WINDOW.fullmatch(path.name):
                with suppress(OSError):  # another process has just removed it
                    sizes.append(path.lstat().st_size)
        return sum(sizes)

    def read(self, number: int) -> Tensor | None:
        """Latents of a window; None where there are none, or the file is damaged (it is then removed)."""
        if number in self._late.windows:
            return self._late.windows[number].cpu().clone()  # whoever changes it does not change what is kept
        path = self._file(number)
        if not os.path.lexists(path):
            return None
        latents = _latents(path)
        if latents is None:
            remove(path)
        return latents

    def write(self, number: int, latents: Tensor) -> None:
        """Keep the latents of a window, whole or not at all: in memory, and an OSError or OutOfMemory that says so,
        where they cannot be written."""
        try:
            self._write(number, latents)
        except Exception as error:
            is_memory = out_of_memory(error)
            if not (is_memory or isinstance(error, OSError)):
                raise
            self._late.windows[number] = latents
            self._remember_late()
            kind, cause = (OutOfMemory, MemoryError()) if is_memory else (OSError, error)
            raise kind(message("window_unkept", number=number + 1, error=cause_unwritten(cause))) from error

    def sampled(self, number: int) -> Tensor | None:
        """What the sampler gave for a window that failed behind it, on whatever device; None where there is none."""
        return self._late.sampled.get(number)

    @contextmanager
    def holding(self, number: int, latents: Tensor) -> Iterator[None]:
        """Keep what the sampler gave for a window in memory where what follows fails, until it is done."""
        try:
            yield
        except BaseException as error:
            if number in self._late.windows:  # it is whole, and only the disk did not take it, as the error says
                raise
            self._late.sampled[number] = latents
            self._remember_late()
            if not (isinstance(error, Exception) and out_of_memory(error)):
                raise
            words = message("window_unkept", number=number + 1, error=cause_unwritten(MemoryError()))
            raise OutOfMemory(words) from error
        self._late.sampled.pop(number, None)

    def _remember_late(self) -> None:
        late = _unwritten.setdefault(self.folder, [])
        if not any(each is self._late for each in late):
            late.append(self._late)

    def _write(self, number: int, latents: Tensor) -> None:
        latents = latents.contiguous().cpu()
        write_whole(self._file(number), save({"latents": latents}, {"digest": _digest(latents)}))

    def _write_late(self) -> None:
        """Write what could not be written before."""
        for number in [*self._late.windows]:
            self._write(number, self._late.windows[number])
            del self._late.windows[number]
        self._forget_late()

    def _forget_late(self) -> None:
        """Let go of the windows in memory, but for those that are not whole."""
        self._late.windows.clear()
        rest = [each for each in _unwritten.pop(self.folder, ()) if each is not self._late or each.sampled]
        if rest:
            _unwritten[self.folder] = rest

    def drop(self) -> None:
        """Remove all that the job has kept, and nothing else; what a kill leaves of it goes on as it is."""
        if self._lock.is_held:  # else it is not ours to remove
            with suppress(OSError):  # its video is there
                self._empty()
            self._lock.release(lambda: remove_marked_folder(self.folder))

    def _empty(self) -> None:
        """Remove its files: the inputs last, and only if all else is gone, which is of no use without them."""
        self._late.sampled.clear()
        self._forget_late()
        names = sorted(filter(_OURS.fullmatch, os.listdir(self.folder)), key=lambda name: name == _INPUTS)
        for name in names:
            if name != LOCK and not remove(self.folder / name):
                return

    def _file(self, number: int) -> Path:
        return self.folder / _WINDOW_NAME.format(number)


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _latents(path: Path) -> Tensor | None:
    """What a window's file holds; None where it is damaged, or is no file."""
    try:
        content = read_whole(path)
        size = int.from_bytes(content[:8], "little")
        digest = parse_object(content[8 : 8 + size])["__metadata__"]["digest"]
        latents = load(content)["latents"]
        return latents if _digest(latents) == digest else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError, OverflowError):
        return None


def _change(name: str, before: object, now: object) -> str:
    """What differs; with both values where they are numbers."""
    numbers = all(isinstance(value, (int, float)) for value in (before, now))
    label = inputs_named(name)
    return message("changed_to", input=label, old=before, new=now) if numbers else label


def _read(path: Path, with_keys: Iterable[str] = ()) -> JsonObject | None:
    """A JSON object; None where it is not there, is damaged, or lacks a key."""
    try:
        stored = parse_object(read_whole(path, MOST_INDEX + 1), MOST_INDEX)
    except (OSError, ValueError, TypeError, RecursionError):
        return None
    return stored if stored.keys() >= {*with_keys} else None


def _digest(latents: Tensor) -> str:
    digest = hashlib.sha256(f"{latents.dtype} {list(latents.shape)}".encode())
    digest.update(latents.contiguous().view(torch.uint8).numpy().data)  # not copied
    return digest.hexdigest()


def fingerprint(tensor: Tensor) -> str:
    """A short name for what a tensor holds."""
    return _digest(tensor.contiguous().cpu())[:16]
