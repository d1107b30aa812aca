"""Networks that lie in several files: which of them belong together, with an index and without one."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from ..messages import CheckpointError, message
from .json_files import MOST_INDEX, read_object

# as diffusion_pytorch_model-00001-of-00007.safetensors, with "fp16" behind the number or before it
SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})(?P<end>(\.[^.]+)?\.(safetensors|gguf))")
MOST_SHARDS = 1000  # a name alone can say 99999
_FILE = re.compile(r"[^/\\:\x00-\x1f]{1,200}\.safetensors")  # a name in the same folder


def is_further_shard(file: Path) -> bool:
    """Whether a file is a part of a network, but not its first."""
    match = SHARD.fullmatch(file.name)
    return match is not None and int(match["number"]) > 1


def shards_of(file: Path) -> list[Path]:
    """All files of the network that a file is a part of, itself where it is whole; raises CheckpointError where some
    are missing."""
    match = SHARD.fullmatch(file.name)
    if match is None:
        return [file]
    numbers = range(1, min(int(match["count"]), MOST_SHARDS) + 1)
    names = [f"{match['name']}-{number:05}-of-{match['count']}{match['end']}" for number in numbers]
    return _present(file.parent, names)


def files_in(folder: Path) -> list[Path]:
    """The files of the network in a folder: a whole one, else the shards of an index, else those that count themselves.

    Where there are several, of weights in 16 bits for instance, the plain name comes first. Raises CheckpointError for
    what is missing, with its names.
    """
    files = sorted(folder.glob("*.safetensors"))
    whole = [file for file in files if not SHARD.fullmatch(file.name)]
    if whole:
        return [_plainest(whole)]
    indexes = sorted(folder.glob("*.safetensors.index*.json"))
    if not files and not indexes:
        rule = message("folder_empty", parent=folder.parent.name, folder=folder.name)
        raise CheckpointError(rule, message("download_folder"))
    choices = {index: _names(index) for index in indexes}
    complete = [index for index, names in choices.items() if all((folder / name).exists() for name in names)]
    sets = [file for file in files if not is_further_shard(file) and all(_siblings(file, files))]
    if complete or (choices and not sets):
        return _present(folder, choices[_plainest(complete or indexes)])
    return shards_of(_plainest(sets or files))


def _siblings(file: Path, files: Iterable[Path]) -> Iterable[bool]:
    """For each shard of a file's set, whether it is there."""
    match, names = SHARD.fullmatch(file.name), {other.name for other in files}
    assert match is not None
    for number in range(1, int(match["count"]) + 1):
        yield f"{match['name']}-{number:05}-of-{match['count']}{match['end']}" in names


def _plainest(files: list[Path]) -> Path:
    return min(files, key=lambda file: (len(file.name), file.name))


def _names(index: Path) -> list[str]:
    """The files that an index names; raises CheckpointError for one that cannot be read, or points out of its
    folder."""
    listed = read_object(index, MOST_INDEX).get("weight_map")
    names = list(listed.values()) if isinstance(listed, dict) else []
    if not names or any(not isinstance(name, str) or not _FILE.fullmatch(name) for name in names):
        rule = message("no_entries", folder=index.parent.name, file=index.name)
        raise CheckpointError(rule, message("download_again"))
    return sorted({*names})


def _present(folder: Path, names: list[str]) -> list[Path]:
    """The files of these names; raises CheckpointError for those that are missing."""
    if missing := [name for name in names if not (folder / name).exists()]:
        rule = message("folder_lacks", parent=folder.parent.name, folder=folder.name, files=", ".join(missing))
        raise CheckpointError(rule, message("download_these"))
    return [folder / name for name in names]
