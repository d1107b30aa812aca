"""A folder that no route of the host reaches, and text files in those that people fill."""

from __future__ import annotations

import os
from pathlib import Path

import folder_paths

from ....loaders.files import read_whole
from ....loaders.messages import InputError, message
from ..names import HIDDEN, LONGEST_PATH, found_in, leads_outside

MOST_BYTES = 2**20  # of a text file
ENDING = ".txt"
PRIVATE = "__"  # with which the host's folders begin that are no user's


def own_folder() -> Path:
    """In the user folder, as the host's own folders there: its routes for files of users do not lead to it."""
    return Path(folder_paths.get_system_user_directory("reelwire"))


def read_text(name: str, field: str) -> str:
    """A text file of the input folder, else of the user folder, there of the default user too; raises InputError, by
    this input, in words."""
    name = name.strip()
    names = name.replace("\\", "/").split("/")
    is_private = any(part.startswith(PRIVATE) for part in names)
    if len(name) > LONGEST_PATH or leads_outside(name) or HIDDEN.search(name) or is_private:
        raise InputError(field, repr(name[:80]), message("list_outside"), message("list_where"))
    if not name.lower().endswith(ENDING):
        raise InputError(field, repr(name[:80]), message("list_ending", ending=ENDING), message("list_where"))
    path = _found(name)
    if path is None:
        raise InputError(field, repr(name[:80]), message("list_not_there"), message("list_where"))
    try:
        content = read_whole(Path(path), MOST_BYTES + 1, follow=True)
        if len(content) > MOST_BYTES:
            raise InputError(field, name, message("list_large", most=MOST_BYTES), message("words_fewer"))
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(field, name, message("list_no_utf8"), message("list_save_utf8")) from error
    except OSError as error:
        rule = message("list_unreadable", error=error.strerror or error)
        raise InputError(field, name, rule, message("list_where")) from error


def stamp_of(name: str) -> str:
    """What changes when the text file of a name is written anew, or goes."""
    path = None if leads_outside(name) else _found(name)
    return "" if path is None else stamp(Path(path))


def stamp(path: Path) -> str:
    """What changes when a file is written; empty where there is none."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_ino} {status.st_mtime_ns} {status.st_size}"


def _found(name: str) -> str | None:
    """The path of a file that lies, by all its links too, in a folder that people fill."""
    user = folder_paths.get_user_directory()
    for folder in (folder_paths.get_input_directory(), user, os.path.join(user, "default")):
        path = found_in(folder, name)
        if os.path.isfile(path) and folder_paths.is_within_directory(folder, os.path.realpath(path)):
            return path
    return None
