"""Every write of the pack: files that are whole or not there, names that are taken once, and locks that a crash opens.

A file is written as a `Part`: under a random name that nothing can have planted, created exclusively, and locked by the
operating system for as long as its writer lives. Once all of it is on disk it gets its final name, by `replace` where
the name is ours alone, by `take` where others may want it too. What a kill leaves is removed by the next writer in that
folder, as nobody holds its lock. No write follows a link, and no read waits for a pipe.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import re
import secrets
import socket
import stat
import struct
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import count
from pathlib import Path

from .messages import CheckpointError as CheckpointError
from .messages import cause_unwritten as cause_unwritten
from .messages import message
from .messages import why_unwritten as why_unwritten

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MARK = "reelwire.lock"  # in a folder that is ours
PART = re.compile(r"\.[0-9a-f]{16}\.reelwire-part")
_COUNTER = re.compile(r"_(\d+)_(?=\.[^.]*$)")
# of a file that is no link, does not wait for whoever writes into a pipe, and is not handed to child processes
_FLAGS = sum(getattr(os, name, 0) for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_BINARY"))
_FOLLOWING = _FLAGS - getattr(os, "O_NOFOLLOW", 0)
_FAR = 2**40  # where a byte is locked on Windows, whose locks keep others from reading what they cover
_BUSY = (errno.EACCES, errno.EAGAIN, errno.EDEADLK)
_TRIES = 100
_IN_THE_WAY = (errno.EACCES, errno.EPERM, errno.EBUSY)
_WAITS = (0.02, 0.1, 0.3)  # seconds between tries
_HOLDER_BYTES = 4096
_PAUSE = 0.02  # seconds between two tries to take a lock
PATIENCE = 10.0  # seconds that a short lock is waited for

_NO_SYNC = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)  # of a file system that keeps no promise about power cuts
_TOO_LONG = (3, 206)  # what Windows says of a file with a name that is too long: no such path, name too long
PROOF = bytes(2**12)  # what is written to see whether a file can be: an empty one takes no room


# ---------------------------------------------------------------- reading


def is_plain(path: Path, alone: bool = False) -> bool:
    """Whether a path is a file itself: no link, pipe, folder or device. alone: and it has no other name."""
    try:
        status = os.lstat(path)
    except (OSError, ValueError):
        return False
    return stat.S_ISREG(status.st_mode) and not (alone and status.st_nlink > 1)


def read_whole(path: Path, most: int | None = None, follow: bool = False) -> bytes:
    """The content of a plain file, at most `most` bytes of it; follow: a link to one will do.

    Raises OSError for anything else, at once. Nothing of it is mapped: a file that is cut meanwhile ends no process.
    """
    if not (follow or is_plain(path)) and os.path.lexists(path):
        raise OSError(errno.EINVAL, message("not_plain_file", file=path.name))
    descriptor = os.open(path, os.O_RDONLY | (_FOLLOWING if follow else _FLAGS))
    with open(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, message("not_plain_file", file=path.name))
        return stream.read(-1 if most is None else most)


# ---------------------------------------------------------------- writing


class Part:
    """A file on its way, locked by this process. path: its random name."""

    def __init__(self, folder: Path) -> None:
        for _ in range(_TRIES):
            self.path = folder / f".{secrets.token_hex(8)}.reelwire-part"
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666)
            if _lock(self._descriptor) is not False and _is_open(self.path, self._descriptor):
                return
            os.close(self._descriptor)  # somebody who clears up thought that its writer was dead
        raise OSError(errno.EBUSY, message("not_lockable", folder=folder.name))

    def write(self, content: bytes) -> None:
        """Append bytes."""
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]

    def sync(self) -> None:
        """Wait until its bytes are on disk, where its file system can say so."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise

    def replace(self, path: Path) -> None:
        """Give it a name, in place of a file that may have it; a link of that name is replaced, not followed."""
        self._finish()
        _patiently(partial(os.replace, self.path, path))
        _sync_folder(path.parent)

    def take(self, path: Path) -> Path:
        """Give it this name, or the first one after it that nothing has; returns which. Nothing is ever replaced."""
        self._finish()
        for name in names_from(path):
            with suppress(FileExistsError):
                _patiently(partial(_rename_to_free, self.path, name))
                _sync_folder(name.parent)
                return name
        raise AssertionError

    def _finish(self) -> None:
        self.sync()
        if sys.platform == "win32":
            self._close()  # an open file has no other name there

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            with suppress(OSError):
                os.close(descriptor)

    def remove(self) -> None:
        """Close it, and remove what has got no final name."""
        if sys.platform == "win32":
            self._close()
        remove(self.path)
        self._close()


@contextmanager
def part_beside(path: Path) -> Iterator[Part]:
    """A part for what will have this name or one like it; what dead writers have left in that folder is removed."""
    clear_parts(path.parent)
    part = Part(path.parent)
    try:
        yield part
    finally:
        part.remove()


def check_writable(path: Path, replaced: bool = False) -> None:
    """Raise OSError where a file of this name could not be written, before anything is made that goes into it.

    Proved by a part beside it that takes some bytes, as a full disk may take an empty file. replaced: the file is to
    take the place of one that has its name.
    """
    with part_beside(path) as part:
        part.write(PROOF)
        part.sync()
    try:
        status = os.lstat(path)
    except FileNotFoundError as error:
        if getattr(error, "winerror", 0) in _TOO_LONG:  # its folder is there
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG)) from error
        return
    if replaced and stat.S_ISDIR(status.st_mode):
        raise OSError(errno.EINVAL, message("not_plain_file", file=path.name))


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that is whole or not there, whatever happens meanwhile, in place of one that has the name."""
    with part_beside(path) as part:
        part.write(content)
        part.replace(path)


def write_new(path: Path, content: bytes) -> Path:
    """Write a file under this name, or the first one after it that nothing has; returns which."""
    with part_beside(path) as part:
        part.write(content)
        return part.take(path)


def names_from(path: Path) -> Iterator[Path]:
    """A name and those that follow it: clip_00003_.mp4, clip_00004_.mp4 ..., clip.mp4, clip_00001_.mp4 ..."""
    yield path
    match = _COUNTER.search(path.name)
    stem = path.name[: match.start()] if match else path.stem
    for number in count(int(match.group(1)) + 1 if match else 1):
        yield path.with_name(f"{stem}_{number:05}_{path.suffix}")


def make_folder(path: Path) -> None:
    """Make a folder, and those that it lies in, where they are not there."""
    path.mkdir(parents=True, exist_ok=True)


def make_marked_folder(path: Path) -> None:
    """Make a folder with our mark in it, both at once; nothing where there is one that holds something."""
    make_folder(path.parent)
    clear_parts(path.parent)
    for _ in range(_TRIES):
        draft = path.parent / f".{secrets.token_hex(8)}.reelwire-part"
        os.mkdir(draft)
        try:
            os.close(os.open(draft / MARK, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666))
            os.rename(draft, path)
            return
        except FileNotFoundError:
            continue  # somebody who clears up thought that its maker was dead
        except OSError as error:
            if error.errno not in (errno.EEXIST, errno.ENOTEMPTY) or (os.path.lexists(path) and not path.is_dir()):
                raise
            if path.is_dir():  # else another process has just removed it
                return
        finally:
            _clear_draft(draft)
    raise OSError(errno.EBUSY, message("not_lockable", folder=path.name))


def remove(path: Path) -> bool:
    """Remove a file or a link, not what it leads to; whether it is gone, as what cannot be removed stays."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def remove_marked_folder(folder: Path) -> None:
    """Remove a folder, at once, if nothing but our mark is in it."""
    draft = folder.with_name(f".{secrets.token_hex(8)}.reelwire-part")
    with suppress(OSError):
        if os.listdir(folder) == [MARK]:
            os.rename(folder, draft)
            _clear_draft(draft)


def clear_parts(folder: Path) -> None:
    """Remove the parts in a folder whose writers are dead."""
    with suppress(OSError):
        for name in os.listdir(folder):
            if PART.fullmatch(name):
                _clear(folder / name)


def _clear_draft(draft: Path) -> None:
    """Remove a folder that has no name yet or any more, and the mark in it."""
    remove(draft / MARK)
    with suppress(OSError):
        os.rmdir(draft)


def _clear(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        _clear_draft(path)
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDWR | _FLAGS)
        try:
            is_dead = stat.S_ISREG(os.fstat(descriptor).st_mode) and _lock(descriptor) is True
            if is_dead and sys.platform != "win32":
                os.unlink(path)
        finally:
            os.close(descriptor)
        if is_dead and sys.platform == "win32":
            os.unlink(path)


def _patiently(act: Callable[[], object]) -> None:
    """Do what a program may be in the way of for a moment, such as one that looks for viruses in what is new."""
    for wait in _WAITS:
        try:
            act()
            return
        except OSError as error:
            if error.errno not in _IN_THE_WAY:
                raise
        time.sleep(wait)
    act()


def _rename_to_free(part: Path, path: Path) -> None:
    """Give a file a name that nothing has, at once; raises FileExistsError where something has it, be it a link that
    leads nowhere."""
    if sys.platform == "win32":
        os.rename(part, path)
        return
    try:
        os.link(part, path)
    except FileExistsError:
        if not os.path.samestat(os.lstat(part), os.lstat(path)):  # else a network file system has lost the answer
            raise
    except OSError:  # where no file can have two names, as on FAT and on many network drives
        if not _rename_exclusively(part, path):
            _rename_without_links(part, path)


def _rename_exclusively(part: Path, path: Path) -> bool:
    """The same by one call of the system, which few file systems know; whether this one does."""
    library = ctypes.CDLL(None, use_errno=True)
    old, new = os.fsencode(part), os.fsencode(path)
    if hasattr(library, "renameat2"):  # Linux: from the working directory, RENAME_NOREPLACE
        result = library.renameat2(-100, old, -100, new, 1)
    elif hasattr(library, "renamex_np"):  # macOS: RENAME_EXCL
        result = library.renamex_np(old, new, 4)
    else:
        return False
    if result and ctypes.get_errno() == errno.EEXIST:
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
    return result == 0


def _rename_without_links(part: Path, path: Path) -> None:
    """The same in two calls: an empty file holds the name for a moment."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _FLAGS, 0o666))
    try:
        os.replace(part, path)
    except OSError:
        remove(path)
        raise


def _sync_folder(folder: Path) -> None:
    """Make names outlast a power cut, where the file system can."""
    if sys.platform != "win32":
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


# ---------------------------------------------------------------- locks


class HeldError(OSError):
    """A lock that another process holds. holder: its "host", "pid" and "since", as far as they are known."""

    def __init__(self, path: Path, holder: dict[str, str]) -> None:
        super().__init__(errno.EBUSY, message("lock_held", file=path.name, **holder))
        self.holder = holder


class Lock:
    """A file that one process at a time holds; the operating system takes it back when that process ends, however.

    is_sure: False where the file system has no locks, so that others cannot be kept out.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._descriptor, self.is_sure = path, -1, True

    @property
    def is_held(self) -> bool:
        """Whether this object holds it."""
        return self._descriptor >= 0

    def acquire(self, patience: float = 0.0) -> None:
        """Take it; raises HeldError where another has it and does not let go within `patience` seconds, and OSError
        where its file cannot be written."""
        end = time.monotonic() + patience
        while not self.is_held:
            try:
                self._acquire()
            except HeldError:
                if time.monotonic() >= end:
                    raise
                time.sleep(_PAUSE)

    def _acquire(self) -> None:
        for _ in range(_TRIES):
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | _FLAGS, 0o666)
            try:
                _check_own(self.path, descriptor)
                locked = _lock(descriptor)
                if locked is False:
                    raise HeldError(self.path, _holder(descriptor))
                if _is_open(self.path, descriptor):
                    _sign(descriptor)
                    self._descriptor, self.is_sure = descriptor, locked is True
                    return
            finally:
                if descriptor != self._descriptor:
                    os.close(descriptor)
        raise HeldError(self.path, _holder_of(b""))

    def release(self, before: Callable[[], object] = lambda: None) -> None:
        """Let go of it, if it is held. before: what removes its file, which is called while it is held where an open
        file can be removed: whoever waits for it then finds that it is gone."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor < 0:
            return
        if sys.platform != "win32":
            before()
        with suppress(OSError):
            os.close(descriptor)
        if sys.platform == "win32":
            before()


@contextmanager
def alone_with(path: Path, patience: float = PATIENCE) -> Iterator[None]:
    """Keep other processes from changing a file meanwhile; raises HeldError where they do not let go in time.

    The lock is a file with the name of a part, so that what a kill leaves of it is cleared as a part is.
    """
    name = hashlib.sha256(path.name.encode()).hexdigest()[:16]
    lock = Lock(path.with_name(f".{name}.reelwire-part"))
    lock.acquire(patience)
    try:
        yield
    finally:
        lock.release(lambda: remove(lock.path))


def _lock(descriptor: int) -> bool | None:
    """Lock a file without waiting: whether it is ours now, None where its file system has no locks."""
    try:
        if sys.platform == "win32":
            os.lseek(descriptor, _FAR, os.SEEK_SET)
            try:
                msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
            finally:
                os.lseek(descriptor, 0, os.SEEK_SET)
        else:
            _lock_byte(descriptor)
    except OSError as error:
        return False if error.errno in _BUSY else None
    return True


def _lock_byte(descriptor: int) -> None:
    """Lock one byte beyond all content, as long as this descriptor is open: a lock of a whole file keeps others, and
    libraries that open it by its name, from reading and writing it on network shares (SMB)."""
    if sys.platform == "linux":
        request = struct.pack("hhqqi", fcntl.F_WRLCK, os.SEEK_SET, _FAR, 1, 0)  # struct flock
        fcntl.fcntl(descriptor, fcntl.F_OFD_SETLK, request)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _is_open(path: Path, descriptor: int) -> bool:
    """Whether a name still leads to an open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


def _check_own(path: Path, descriptor: int) -> None:
    """Raise OSError where a lock's file is none, or has another name elsewhere: it will be written into."""
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OSError(errno.EINVAL, message("not_plain_file", file=path.name))


def _sign(descriptor: int) -> None:
    """Write who holds a lock."""
    holder = {"host": socket.gethostname(), "pid": str(os.getpid()), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
    os.ftruncate(descriptor, 0)
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, json.dumps(holder).encode())


def _holder(descriptor: int) -> dict[str, str]:
    try:
        os.lseek(descriptor, 0, os.SEEK_SET)
        return _holder_of(os.read(descriptor, _HOLDER_BYTES))
    except OSError:
        return _holder_of(b"")


def _holder_of(content: bytes) -> dict[str, str]:
    """Who a lock's file says holds it; a question mark where it does not say it."""
    try:
        stored = json.loads(content)
    except (ValueError, RecursionError):
        stored = {}
    values = stored if isinstance(stored, dict) else {}
    return {name: str(values.get(name, "?"))[:80] for name in ("host", "pid", "since")}
