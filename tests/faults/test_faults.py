"""What a fault at any write leaves: the short form of `python -m tests.faults`, and what strangers may have planted."""

from __future__ import annotations

import errno
import importlib
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.files import (
    MARK,
    PART,
    HeldError,
    Lock,
    Part,
    alone_with,
    cause_unwritten,
    clear_parts,
    names_from,
    read_whole,
    why_unwritten,
    write_new,
    write_whole,
)
from reelwire.loaders.messages import InputError, message, texts
from reelwire.samplers.long.job import ENDING, Job
from reelwire.tests.support.faults.layer import Layer, ended, failing, in_child
from reelwire.tests.support.faults.points import INPUTS, SIZE, WINDOWS, Decode, Film, keys, latents, nodes_of
from reelwire.tests.support.faults.table import table

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="fork, signals and links")
BUSY = 4
module = importlib.import_module("reelwire.loaders.files")


@pytest.fixture(scope="module")
def nodes(comfyui: Path) -> Any:
    return nodes_of(comfyui)


@pytest.fixture
def job(tmp_path: Path) -> Job:
    return Job(tmp_path / f"film{ENDING}")


def tree(folder: Path) -> dict[str, bytes]:
    """Every file in a folder and below, with its content."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_nothing_is_lost_at_any_write(comfyui: Path) -> None:
    rows = list(table(comfyui, short=True))
    bad = [f"{row.point}, {row.fault}: {row.notes}" for row in rows if not row.is_good]
    assert bad == []
    assert {row.point for row in rows if row.words} == {"long video", "decode to file", "calibration"}


# ---------------------------------------------------------------- names


def test_each_process_gets_a_name_of_its_own(tmp_path: Path) -> None:
    def run(number: int) -> Callable[[], object]:
        return lambda: write_new(tmp_path / "clip_00009_.mp4", bytes([number]) * 1000)

    assert [ended(child) for child in [in_child(run(number)) for number in range(12)]] == [0] * 12
    contents = [path.read_bytes() for path in tmp_path.iterdir()]
    assert sorted(contents) == [bytes([number]) * 1000 for number in range(12)]
    assert {path.name for path in tmp_path.iterdir()} == {f"clip_{n:05}_.mp4" for n in range(9, 21)}


@pytest.mark.parametrize("error", ["EPERM", "EOPNOTSUPP", "ENOTSUP", "ENOSYS", "EINVAL", "EMLINK", "EXDEV", "EACCES"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_disk_on_which_no_file_has_two_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, exclusive: bool
) -> None:
    """As on FAT, and on many network drives: the name is still taken once, and nothing is replaced.

    exclusive: whether the system can rename to a name that nothing has.
    """
    monkeypatch.setattr(module, "_WAITS", ())
    if not exclusive:
        monkeypatch.setattr(module, "_rename_exclusively", lambda part, path: False)
    (tmp_path / "a.txt").write_bytes(b"another's")
    for content in (b"1", b"2"):
        with Layer(failing(error), 0, ("link",)):
            write_new(tmp_path / "b.txt", content)
    assert tree(tmp_path) == {"a.txt": b"another's", "b.txt": b"1", "b_00001_.txt": b"2"}


@pytest.mark.parametrize("kind", ["file", "folder", "link", "link to nothing"])
def test_an_exclusive_rename_replaces_nothing(tmp_path: Path, elsewhere: Path, kind: str) -> None:
    """Where the file system knows it, and otherwise nothing is done."""
    part, name, other = (tmp_path / each for each in ("part", "name", "other"))
    part.write_bytes(b"new")
    if not module._rename_exclusively(part, other):
        pytest.skip("this file system cannot")
    assert other.read_bytes() == b"new"
    PLANTED.get(kind, lambda path, elsewhere: path.write_bytes(b"old"))(name, elsewhere)
    before = os.lstat(name)
    with pytest.raises(FileExistsError):
        module._rename_exclusively(other, name)
    assert os.path.samestat(before, os.lstat(name))
    assert other.read_bytes() == b"new"


@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS", "EOPNOTSUPP"])
def test_a_drive_that_keeps_no_promise_about_power_cuts(tmp_path: Path, error: str) -> None:
    with Layer(failing(error), 0, ("fsync",)) as layer:
        write_new(tmp_path / "a.txt", b"1")
    assert layer.fired
    assert tree(tmp_path) == {"a.txt": b"1"}


@pytest.mark.parametrize("error", ["EACCES", "EPERM", "EBUSY"])
@pytest.mark.parametrize("act", [write_whole, write_new])
def test_a_program_that_is_in_the_way_for_a_moment(tmp_path: Path, error: str, act: Callable[..., Any]) -> None:
    """Such as one that looks for viruses in each new file."""
    with Layer(failing(error), 0, ("replace", "link")) as layer:
        act(tmp_path / "a.txt", b"1")
    assert layer.fired
    assert tree(tmp_path) == {"a.txt": b"1"}


def test_every_cause_is_said_once() -> None:
    """In the sentences that say what to do, a cause stands without a remedy of its own."""
    errors = [OSError(getattr(errno, name), "x") for name in ERRORS_OF_DISKS] + [MemoryError(), OSError(12345, "odd")]
    english = texts()
    for error in errors:
        cause, why = cause_unwritten(error), why_unwritten(error)
        assert not cause.endswith((".", " "))
        assert why.endswith(".")
        assert not {"run", "Free", "free"} & {*cause.replace(".", "").split()}, cause
        for key in ("latents_in_memory", "latents_will_not_be_kept", "window_unkept", "calibration_in_memory"):
            text = message(key, error=cause, file="f", number=1)
            assert ".." not in text
            assert len({*sentences_of(text)}) == len(sentences_of(text))
            assert english[key].count("{error}") == 1


ERRORS_OF_DISKS = (
    "ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "EPERM", "EBUSY", "ENOENT", "ENOTDIR", "EISDIR", "EEXIST", "EIO",
    "ESTALE", "ENAMETOOLONG", "ELOOP", "EMFILE", "ENOMEM",
)  # fmt: skip


def sentences_of(text: str) -> list[str]:
    return [part.strip() for part in re.split(r"(?<=[.!?]) ", text)]


@pytest.mark.parametrize(
    ("name", "after"),
    [
        ("a_00001_.mp4", "a_00002_.mp4"),
        ("a_99999_.mp4", "a_100000_.mp4"),
        ("a.b_00001_c_00007_.mp4", "a.b_00001_c_00008_.mp4"),
        ("a.mp4", "a_00001_.mp4"),
    ],
)
def test_the_name_after(name: str, after: str) -> None:
    names = names_from(Path("folder") / name)
    assert [next(names).name, next(names).name] == [name, after]


PLANTED: dict[str, Callable[[Path, Path], object]] = {
    "link": lambda path, elsewhere: path.symlink_to(elsewhere / "letter.txt"),
    "link to nothing": lambda path, elsewhere: path.symlink_to(elsewhere / "new.txt"),
    "link to a folder": lambda path, elsewhere: path.symlink_to(elsewhere),
    "hard link": lambda path, elsewhere: os.link(elsewhere / "letter.txt", path),
    "pipe": lambda path, elsewhere: os.mkfifo(path),
    "folder": lambda path, elsewhere: path.mkdir(),
    "socket": lambda path, elsewhere: os.mknod(path, 0o140600),
}


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A person's own files, which must stay as they are."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "letter.txt").write_bytes(b"dear")
    return folder


@pytest.mark.parametrize("kind", PLANTED)
def test_a_video_goes_round_what_has_its_name(nodes: Any, tmp_path: Path, elsewhere: Path, kind: str) -> None:
    output = tmp_path / "output"
    output.mkdir()
    PLANTED[kind](output / "film_00001_.mp4", elsewhere)
    film = Film(nodes)
    film.run(output)
    assert film.path == output / "film_00002_.mp4"
    assert tree(elsewhere) == {"letter.txt": b"dear"}


@pytest.mark.parametrize("kind", PLANTED)
@pytest.mark.parametrize("name", ["inputs.json", "tiling.json", "window_0000.safetensors", MARK])
def test_a_job_goes_round_what_is_in_its_folder(
    nodes: Any, tmp_path: Path, elsewhere: Path, job: Job, kind: str, name: str
) -> None:
    """Replaced or refused in words, never followed; and no pipe is waited for."""
    job.begin(INPUTS)
    job.write(1, latents(1))
    job.close()
    (job.folder / name).unlink(missing_ok=True)
    PLANTED[kind](job.folder / name, elsewhere)
    film, is_refused = Film(nodes), name in (MARK, "inputs.json") or kind == "folder"
    if is_refused:
        with pytest.raises(InputError) as refusal:
            film.run(tmp_path)
        assert keys(refusal.value.args[0]) & {"job_not_ours", "job_lost_inputs"}
    else:
        film.run(tmp_path)
        assert film.computed == [0, 2]
        assert not job.folder.exists()
    assert tree(elsewhere) == {"letter.txt": b"dear"}


@pytest.mark.parametrize("content", [{}, {"letter.txt": b"dear"}, {"inputs.json": b"{}"}, {"inputs.json": b"[1]"}])
@pytest.mark.parametrize("is_link", [False, True])
def test_somebodys_folder_is_left_alone(tmp_path: Path, job: Job, content: dict[str, bytes], is_link: bool) -> None:
    folder = tmp_path / "mine" if is_link else job.folder
    folder.mkdir()
    for name, text in content.items():
        (folder / name).write_bytes(text)
    if is_link:
        job.folder.symlink_to(folder)
    for anew in (False, True):
        with pytest.raises(InputError) as refusal:
            job.begin(INPUTS, anew)
        assert keys(refusal.value.args[0]) & {"job_not_ours", "job_is_link", "job_is_empty"}
    job.drop()
    assert tree(folder) == content
    assert folder.is_dir()


def test_somebodys_file_in_our_folder_stays(nodes: Any, tmp_path: Path, job: Job) -> None:
    job.begin(INPUTS)
    job.close()
    (job.folder / "notes.txt").write_bytes(b"good so far")
    for _ in range(2):
        Film(nodes).run(tmp_path)
        assert {*tree(job.folder)} == {"notes.txt", MARK}
    assert len(list(tmp_path.glob("*.mp4"))) == 2


@pytest.mark.parametrize("lacks", ["", "tiling.json"])
def test_a_job_of_an_older_version_goes_on(nodes: Any, tmp_path: Path, job: Job, lacks: str) -> None:
    """It has no mark of ours, but nothing other than our files."""
    job.begin(INPUTS)
    for number in range(2):
        job.write(number, latents(number))
    job.close()
    for name in (MARK, lacks):
        (job.folder / (name or "none")).unlink(missing_ok=True)
    film = Film(nodes)
    film.run(tmp_path)
    assert film.computed == [2]
    assert not job.folder.exists()


# ---------------------------------------------------------------- locks


def test_the_second_is_told_who_is_at_it(job: Job) -> None:
    job.begin(INPUTS)
    held = json.loads((job.folder / MARK).read_text())
    other = Job(job.folder)
    with pytest.raises(InputError) as refusal:
        other.begin(INPUTS, anew=True)
    assert refusal.value.name == "filename_prefix"
    assert held == {"host": os.uname().nodename, "pid": str(os.getpid()), "since": held["since"]}
    assert dict(refusal.value.rule.values) == held  # type: ignore[attr-defined]
    job.close()
    other.begin(INPUTS)
    other.close()


@pytest.mark.parametrize("content", [b"", b"[1]", b'{"pid": {"a": 1}, "host": "' + b"x" * 10**6 + b'"}', b"[" * 10**5])
def test_a_holder_that_says_nothing_useful(tmp_path: Path, content: bytes) -> None:
    lock, other = Lock(tmp_path / "lock"), Lock(tmp_path / "lock")
    lock.acquire()
    (tmp_path / "lock").write_bytes(content)
    with pytest.raises(HeldError) as refusal:
        other.acquire()
    assert all(len(value) <= 80 for value in refusal.value.holder.values())


def test_others_begin_and_end_it_meanwhile(job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever of the folder is gone when it is looked at, and is there again before the next look."""
    acquire, others = Lock.acquire, [Job(job.folder) for _ in range(3)]

    def late(self: Lock, patience: float = 0.0) -> None:
        if others and self is job._lock:
            other = others.pop()
            shutil.rmtree(job.folder)
            other.begin(INPUTS)  # a third one
            other.close()
            raise FileNotFoundError(errno.ENOENT, "gone", str(self.path))
        acquire(self, patience)

    monkeypatch.setattr(Lock, "acquire", late)
    job.begin(INPUTS)
    assert not others
    assert job._lock.is_held


def test_a_folder_that_goes_while_it_is_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rename, path = os.rename, tmp_path / "film"
    errors = [OSError(errno.ENOTEMPTY, "full"), OSError(errno.EEXIST, "there")]

    def taken(source: Any, target: Any) -> None:
        if errors:
            raise errors.pop()
        rename(source, target)

    monkeypatch.setattr(os, "rename", taken)
    module.make_marked_folder(path)
    assert tree(tmp_path) == {f"film/{MARK}": b""}


def test_a_lock_ends_with_its_process(tmp_path: Path, job: Job) -> None:
    def hold() -> None:
        job.begin(INPUTS)
        job.write(0, latents(0))
        (tmp_path / "ready").touch()
        time.sleep(60)

    child = in_child(hold)
    while not (tmp_path / "ready").exists():
        time.sleep(0.01)
    with pytest.raises(InputError):
        Job(job.folder).begin(INPUTS)
    os.kill(child, signal.SIGKILL)
    ended(child)
    later = Job(job.folder)
    later.begin(INPUTS)
    assert torch.equal(later.read(0), latents(0))  # type: ignore[arg-type]
    later.close()


def test_no_record_of_two_hosts_is_lost(tmp_path: Path) -> None:
    file = tmp_path / "count.json"
    write_whole(file, b"0")

    def add() -> None:
        for _ in range(10):
            with alone_with(file):
                write_whole(file, str(int(read_whole(file)) + 1).encode())

    assert [ended(child) for child in [in_child(add) for _ in range(4)]] == [0] * 4
    assert tree(tmp_path) == {"count.json": b"40"}


def test_a_file_system_without_locks_is_told(job: Job, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:

    def no_locks(*_: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("reelwire.loaders.files._lock_byte", no_locks)
    job.begin(INPUTS)
    assert "no locks" in caplog.text
    job.drop()
    assert not job.folder.exists()


# ---------------------------------------------------------------- parts


def test_parts_of_the_dead_alone_are_removed(tmp_path: Path, elsewhere: Path) -> None:
    alive = Part(tmp_path)
    names = [f".{digit * 16}.reelwire-part" for digit in "abcd"]
    (tmp_path / names[0]).write_bytes(b"of one that was killed")
    (tmp_path / names[1]).symlink_to(elsewhere / "letter.txt")
    os.mkfifo(tmp_path / names[2])
    (tmp_path / names[3]).mkdir()
    (tmp_path / names[3] / "letter.txt").write_bytes(b"dear")
    clear_parts(tmp_path)
    assert {p.name for p in tmp_path.iterdir() if PART.fullmatch(p.name)} == {alive.path.name, *names[1:]}
    assert tree(elsewhere) == {"letter.txt": b"dear"}
    alive.remove()
    assert not alive.path.exists()


# ---------------------------------------------------------------- reading, and the clock


@pytest.mark.parametrize("kind", ["pipe", "folder", "link", "socket"])
def test_what_is_no_plain_file_is_not_read(tmp_path: Path, elsewhere: Path, kind: str) -> None:
    PLANTED[kind](tmp_path / "file", elsewhere)
    with pytest.raises(OSError, match=r"not a plain file"):
        read_whole(tmp_path / "file")


def test_latents_among_pipes_and_links_to_nothing(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.files, "output_folder", lambda: tmp_path)
    folder = tmp_path / "reelwire" / "latents"
    folder.mkdir(parents=True)
    os.mkfifo(folder / "pipe.safetensors")
    (folder / "link.safetensors").symlink_to(folder / "none")
    (folder / "a.safetensors").write_bytes(b"")
    (folder / "folder.safetensors").mkdir()
    assert list(nodes.files.saved_latents()) == ["a.safetensors"]


@pytest.mark.parametrize("lost", ["removed meanwhile", "no room at first", "no room at all"])
def test_latents_are_kept_where_they_can_be(nodes: Any, tmp_path: Path, lost: str) -> None:
    """When the decode fails, and not only before it."""
    decode = Decode(nodes)

    def run() -> None:
        with decode._output(tmp_path), nodes.files.latents_on_disk(decode.latent, decode.cls):
            if lost == "removed meanwhile":
                shutil.rmtree(tmp_path / "reelwire")
            raise ValueError(message("no_pixels"))

    times = {"removed meanwhile": 0, "no room at first": 1, "no room at all": 2}[lost]
    with every_write_fails("ENOSPC", times), pytest.raises(RuntimeError) as refusal:
        run()
    kept = decode.kept(tmp_path)
    assert len(kept) == (lost != "no room at all")
    expected = "latents_kept" if kept else "latents_in_memory"
    assert expected in keys(refusal.value.args[0])
    assert all(name in str(refusal.value) for name in kept)
    assert decode.whole(tmp_path, b"")


@contextmanager
def every_write_fails(error: str, times: int) -> Iterator[None]:
    """The first so many writes fail."""
    write, left = os.write, [times]

    def fail(*args: Any) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(getattr(errno, error), os.strerror(getattr(errno, error)))
        return write(*args)

    os.write = fail
    try:
        yield
    finally:
        os.write = write


def test_an_output_folder_that_is_removed_while_a_video_is_written(nodes: Any, tmp_path: Path) -> None:
    output = tmp_path / "output"
    output.mkdir()

    def pieces() -> Iterator[torch.Tensor]:
        for number in range(WINDOWS):
            yield (latents(number)[0] * 255).byte()
        shutil.rmtree(output)

    with pytest.raises(OSError, match="film_00001_") as refusal:
        nodes.file.write_video(output / "film_00001_.mp4", pieces(), SIZE, 24.0, 30, {})
    assert keys(refusal.value.args[0]) == {"file_unwritten", "disk_went_away"}


@pytest.mark.parametrize("when", [0, 2**31 + 10**9, -(10**8)])
def test_the_times_of_files_do_not_matter(nodes: Any, tmp_path: Path, job: Job, when: int) -> None:
    job.begin(INPUTS)
    for number in range(WINDOWS):
        job.write(number, latents(number))
    job.close()
    for path in (*job.folder.iterdir(), job.folder):
        os.utime(path, (when, when))
    film = Film(nodes)
    film.run(tmp_path)
    assert film.computed == []
    assert not job.folder.exists()


def test_a_video_that_is_not_whole_is_found_out(nodes: Any, tmp_path: Path) -> None:
    film = Film(nodes)
    film.run(tmp_path)
    content, count = film.path.read_bytes(), WINDOWS * latents(0).shape[1]
    nodes.file.check_video(film.path, count, SIZE)
    with pytest.raises(OSError, match=str(count)):
        nodes.file.check_video(film.path, count + 1, SIZE)
    with pytest.raises(OSError, match="0 frames"):
        nodes.file.check_video(film.path, count, SIZE[::-1])
    for share in (0, 1, 100, len(content) // 2, len(content) - 200):
        film.path.write_bytes(content[:share])
        with pytest.raises(OSError, match=str(count)):
            nodes.file.check_video(film.path, count, SIZE)
