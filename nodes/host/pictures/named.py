"""Pictures of the input folder, which the timeline of a long video names: each file is decoded once in a run."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import lru_cache

import folder_paths
from torch import Tensor

from ....loaders.common.picture_files import picture_size, read_with_notes
from ....loaders.messages import InputError, Message, message
from ....loaders.notices import say, stop_if_asked
from ..names import check_inside, found_in

MOST_WAITING = 2**27  # bytes of pictures that wait for a run: others are decoded again when it begins
State = tuple[int, ...]
Size = tuple[int, int]

_waiting: dict[tuple[str, State, Size | None], tuple[Tensor, tuple[Message, ...]]] = {}


def input_file(name: str) -> str:
    """Where a file of the host's input folder lies; raises InputError where there is none."""
    check_inside(name)
    folder = folder_paths.get_input_directory()
    path = found_in(folder, name)
    if not folder_paths.is_within_directory(folder, path) or not os.path.isfile(path):
        value = message("image_value", name=repr(name[:200]))
        raise InputError("timeline", value, message("no_input_picture"), message("put_or_keyframe"))
    return path


def input_size(name: str) -> Size:
    """(width, height) of an image of the host's input folder, of which no pixel is read; raises InputError where there
    is none, and for one that `input_images` would refuse by its header."""
    path = input_file(name)
    with _about_picture(name):
        return _size(path, file_state(path))


@lru_cache(1024)
def _size(path: str, state: State) -> Size:
    """The same, read once for each state of the file."""
    return picture_size(path)


def input_images(names: Iterable[str], size: Size | None = None) -> dict[str, Tensor]:
    """Images of the host's input folder as [1, H, W, 3] in 0..1, by their names; what of them is not used is said.

    size: (width, height) that they shall cover; None: as they are. They wait for the next call, until
    `forget_pictures`, as far as they take MOST_WAITING bytes, so that a node that checks its inputs, waits for others
    and then runs decodes each once. Raises InputError where one is not there, or is damaged.
    """
    images = dict[str, Tensor]()
    for name in names:
        stop_if_asked()
        images[name], notes = _image(name, size)
        for note in notes:
            say(note)
    return images


def forget_pictures() -> None:
    """Free what `input_images` keeps."""
    _waiting.clear()


def file_state(path: str) -> State:
    """What changes when a file is written to, or another takes its name; raises OSError where it is gone."""
    status = os.stat(path)
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _image(name: str, size: Size | None) -> tuple[Tensor, tuple[Message, ...]]:
    """(an image, what of it is not used)."""
    path = input_file(name)
    with _about_picture(name):
        key = path, file_state(path), size
        if key not in _waiting:
            read = read_with_notes(path, size)
            if sum(pixels.nbytes for pixels, _ in _waiting.values()) + read[0].nbytes > MOST_WAITING:
                return read
            _waiting[key] = read
        return _waiting[key]


@contextmanager
def _about_picture(name: str) -> Iterator[None]:
    """Name the picture of the timeline that cannot be read."""
    try:
        yield
    except (OSError, ValueError) as error:
        value, rule = message("image_value", name=repr(name[:200])), message("unreadable_picture", error=error)
        raise InputError("timeline", value, rule, message("save_anew")) from error
