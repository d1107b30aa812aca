"""Files that are whole or not there, whatever happens meanwhile, and why one could not be written."""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path

from .messages import CheckpointError as CheckpointError
from .messages import Message, message, message_of

# what the system says -> key of what a person can do about it; a number that a system lacks is never met there
_CAUSES = {
    "disk_is_full": ("ENOSPC", "EDQUOT", "EFBIG"),
    "disk_is_read_only": ("EROFS",),
    "disk_not_allowed": ("EACCES", "EPERM", "EBUSY", "ETXTBSY"),
    "disk_went_away": ("ENOENT", "ENOTDIR", "EIO", "ESTALE", "ENXIO", "ENODEV", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN"),
    "disk_name_too_long": ("ENAMETOOLONG", "ELOOP"),
    "disk_too_many_open": ("EMFILE", "ENFILE"),
    "memory_ran_out": ("ENOMEM",),
}
_KEYS = {getattr(errno, name): key for key, names in _CAUSES.items() for name in names if hasattr(errno, name)}
_EXTERNAL = 0x20545845  # FFmpeg's AVERROR_EXTERNAL: a library of its own has failed and does not say why


def why_unwritten(error: BaseException) -> Message:
    """Why something could not be written, and what helps, of an error of Python, of FFmpeg's or of another library."""
    number = getattr(error, "errno", None)
    if isinstance(error, MemoryError):
        return message("memory_ran_out")
    if number == _EXTERNAL:
        return message("encoder_gave_up")
    if number in _KEYS:
        return message(_KEYS[number])
    return message("disk_says", error=getattr(error, "strerror", None) or message_of(error) or type(error).__name__)


def put_in_place(part: Path, path: Path) -> None:
    """Give a finished file its final name, under which it is whole after a power cut too, or not there."""
    with part.open("rb+") as file:
        os.fsync(file.fileno())
    os.replace(part, path)
    if os.name == "posix":
        folder = os.open(path.parent, os.O_RDONLY)
        with suppress(OSError):  # some network file systems cannot
            os.fsync(folder)
        os.close(folder)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whatever happens meanwhile."""
    part = path.with_name(f".{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
        put_in_place(part, path)
    finally:
        part.unlink(missing_ok=True)
