"""Places that take no file: told in words when a node is asked what it waits for, so before anything is made for it."""

from __future__ import annotations

import errno
import importlib
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from reelwire.loaders.disk import free_bytes
from reelwire.loaders.files import PART, Lock
from reelwire.loaders.messages import InputError, Message, message_of
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.long.job import ENDING, LOCK, Job
from reelwire.tests.support.engine.models import open_model
from reelwire.tests.support.faults.layer import Layer, failing
from reelwire.tests.support.faults.points import keys

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links and mounts")
HIDDEN = SimpleNamespace(prompt={"1": {"inputs": {}}}, extra_pnginfo={}, unique_id="1")
TIMELINE = '{"prompts": [{"at": 0, "text": "a cat"}]}'


@pytest.fixture
def output(tmp_path: Path, nodes: list[Any], monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's output folder of this test."""
    import folder_paths

    (tmp_path / "output").mkdir()
    monkeypatch.setattr(folder_paths, "output_directory", str(tmp_path / "output"))
    return tmp_path / "output"


@pytest.fixture
def model(tiny_models: Path) -> VideoModel:
    return open_model(tiny_models, "tiny-ltx-0.9.5")


def asked(nodes: list[Any], name: str, **inputs: Any) -> list[str]:
    """What a node waits for."""
    node = next(node for node in nodes if node.define_schema().node_id == name)
    usual = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
    prepared = node.PREPARE_CLASS_CLONE(None)
    prepared.hidden = HIDDEN
    result: list[str] = prepared.check_lazy_status(**{**usual, **inputs})
    return result


WRITERS: dict[str, dict[str, Any]] = {
    "ReelwireDecodeToVideo": {"latent": None},
    "ReelwireLongVideo": {"timeline": TIMELINE, "source": None, "steps": 20},
}


@dataclass(frozen=True)
class Place:
    """A place that takes no file. key: of what is said; plant: makes it so; during: what else is so meanwhile."""

    prefix: str
    key: str
    plant: Callable[[Path], object] = lambda output: None
    during: Callable[[], AbstractContextManager[object]] = nullcontext


def link_outward(output: Path) -> None:
    (output.parent / "elsewhere").mkdir()
    (output / "video").symlink_to(output.parent / "elsewhere")


def loop(output: Path) -> None:
    (output / "video").symlink_to(output / "video")


def calls_fail(error: str, *names: str) -> Callable[[], AbstractContextManager[object]]:
    return lambda: Layer(failing(error), 0, names or ("open",))


PLACES: dict[str, Place] = {
    "a file in place of the folder": Place("video/x", "cause_no_folder", lambda output: (output / "video").touch()),
    "a file in place of a folder above": Place("a/b/c/x", "cause_no_folder", lambda output: (output / "a").touch()),
    "a pipe in place of the folder": Place("video/x", "cause_no_folder", lambda output: os.mkfifo(output / "video")),
    "a link out of the output folder": Place("video/x", "prefix_is_link", link_outward),
    "below a link out of it": Place("video/a/x", "prefix_is_link", link_outward),
    "behind a token": Place("video/%date:yyyy%/x", "prefix_is_link", link_outward),
    "before a size": Place("video/%width%/x", "prefix_is_link", link_outward),
    "a link in a circle": Place("video/x", "cause_name_too_long", loop),
    "a disk that is full": Place("video/x", "cause_full", during=calls_fail("ENOSPC", "write")),
    "a quota": Place("video/x", "cause_full", during=calls_fail("EDQUOT", "write")),
    "a quota, told late": Place("video/x", "cause_full", during=calls_fail("EDQUOT", "fsync")),
    "a disk that is read-only": Place("video/x", "cause_read_only", during=calls_fail("EROFS")),
    "a folder of another user": Place("video/x", "cause_not_allowed", during=calls_fail("EACCES")),
    "no folder may be made": Place("new/x", "cause_not_allowed", during=calls_fail("EACCES", "mkdir")),
    "a server that is gone": Place("video/x", "cause_went_away", during=calls_fail("ESTALE")),
    "a broken disk": Place("video/x", "cause_went_away", during=calls_fail("EIO", "fsync")),
    "too many open files": Place("video/x", "cause_too_many_open", during=calls_fail("EMFILE")),
}


@pytest.mark.parametrize("case", PLACES)
@pytest.mark.parametrize("name", WRITERS)
def test_a_place_that_takes_no_file(nodes: list[Any], output: Path, model: VideoModel, name: str, case: str) -> None:
    place, inputs = PLACES[case], {**WRITERS[name], "model": model}
    place.plant(output)
    before = {*output.rglob("*")}
    with place.during(), pytest.raises((OSError, InputError)) as refusal:
        asked(nodes, name, **inputs, filename_prefix=place.prefix)
    assert isinstance(message_of(refusal.value), Message)
    assert place.key in keys(message_of(refusal.value))
    left = {path.relative_to(output).as_posix() for path in {*output.rglob("*")} - before}
    assert not [name for name in left if PART.search(name) or name.endswith((".mp4", ENDING))]


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("prefix", ["x", "video/x", "a/b/c/x", "video/%date:yyyy-MM-dd%/x", "%width%x%height%/x"])
def test_a_place_that_takes_one(nodes: list[Any], output: Path, model: VideoModel, name: str, prefix: str) -> None:
    for _ in range(2):
        assert asked(nodes, name, **WRITERS[name], model=model, filename_prefix=prefix)
    assert [path for path in output.rglob("*") if path.is_file()] == []


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A small disk at a folder."""
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("kind", ["full", "read-only"])
def test_a_small_disk_below_the_output_folder(
    nodes: list[Any], output: Path, model: VideoModel, name: str, kind: str
) -> None:
    """An empty file goes onto a full disk, and the output folder itself is writable."""
    with mounted(output / "video", "size=64k" if kind == "full" else "ro"):
        if kind == "full":
            with pytest.raises(OSError, match="No space left"):
                (output / "video" / "big").write_bytes(bytes(2**20))
            (output / "video" / "empty").touch()
        with pytest.raises(OSError) as refusal:  # noqa: PT011 - by its key
            asked(nodes, name, **WRITERS[name], model=model, filename_prefix="video/x")
    assert keys(message_of(refusal.value)) & {"cause_full", "cause_read_only"}
    assert keys(message_of(refusal.value)) & {"output_unwritable", "job_unwritten"}


# ---------------------------------------------------------------- room for what a long video leaves under way

FRAMES = 100_001
LONG = {"timeline": TIMELINE, "filename_prefix": "video/x", "steps": 20, "frames": FRAMES}
SIZED = {"width": 768, "height": 512}


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Sets what the disk says of itself: (total, used, free), or the error that it answers with."""

    def says(answer: Any) -> None:
        def usage(folder: Path) -> Any:
            if isinstance(answer, Exception):
                raise answer
            return SimpleNamespace(**dict(zip(("total", "used", "free"), answer, strict=True)))

        monkeypatch.setattr(shutil, "disk_usage", usage)

    return says


def whole(model: VideoModel) -> int:
    """Bytes of the latents of LONG in its size."""
    return 4 * math.prod([*model.facts.latent_shape(**SIZED, frames=FRAMES)])


@pytest.mark.parametrize("awaited", ["source", "keyframes", "audio"])
@pytest.mark.parametrize("lacks", [1, 0])
def test_a_disk_that_the_windows_do_not_fit_on(
    nodes: list[Any], output: Path, model: VideoModel, disk: Callable[[Any], None], awaited: str, lacks: int
) -> None:
    """What is known of a video before anything is made for it is refused then; to the byte."""
    free = whole(model) - lacks
    disk((10**15, 10**15 - free, free))
    ask = partial(asked, nodes, "ReelwireLongVideo", **{**LONG, **SIZED, "model": model, awaited: None})
    if not lacks:
        assert awaited in ask()
        return
    with pytest.raises(InputError) as refusal:
        ask()
    assert keys(refusal.value.args[0]) >= {"disk_lacks_room", "use_less_disk"}
    assert (refusal.value.name, refusal.value.value) == ("frames", FRAMES)
    assert dict(refusal.value.rule.values)["place"] == "output/video"  # type: ignore[attr-defined]
    assert not [path for path in output.rglob("*") if path.is_file()]


def test_windows_that_are_there_take_no_more_room(
    nodes: list[Any], output: Path, model: VideoModel, disk: Callable[[Any], None]
) -> None:
    folder = output / "video" / f"x{ENDING}"
    with closing(Job(folder)) as job:
        job.begin({})
        job.write(0, torch.zeros(10**5))
    (folder / "notes.txt").write_bytes(bytes(10**5))
    there = (folder / "window_0000.safetensors").stat().st_size
    ask = partial(asked, nodes, "ReelwireLongVideo", **{**LONG, **SIZED, "model": model, "keyframes": None})
    for free, is_enough in ((whole(model) - there, True), (whole(model) - there - 1, False)):
        disk((10**15, 10**15 - free, free))
        with nullcontext() if is_enough else pytest.raises(InputError):
            ask()


@pytest.mark.parametrize("answer", [OSError(errno.ENOSYS, "x"), OSError(errno.EACCES, "x"), (0, 0, 0)])
def test_a_disk_that_does_not_say_is_tried(
    nodes: list[Any], output: Path, model: VideoModel, disk: Callable[[Any], None], answer: Any
) -> None:
    disk(answer)
    assert free_bytes(output) is None
    inputs = {**LONG, **SIZED, "model": model, "keyframes": None}
    assert asked(nodes, "ReelwireLongVideo", **inputs) == ["keyframes"]


def test_a_size_that_comes_later_is_awaited(
    nodes: list[Any], output: Path, model: VideoModel, disk: Callable[[Any], None]
) -> None:
    """A source or a clip brings it; then the node itself refuses."""
    disk((10**15, 10**15, 0))
    inputs = {**LONG, "model": model, "width": 0, "height": 0}
    for name in ("source", "extend"):
        assert asked(nodes, "ReelwireLongVideo", **inputs, **{name: None}) == [name]
    with pytest.raises(InputError):
        asked(nodes, "ReelwireLongVideo", **inputs, keyframes=None)


def test_room_that_is_held_back_is_not_counted(output: Path, disk: Callable[[Any], None]) -> None:
    disk((100, 90, 5))
    assert free_bytes(output / "not" / "there") == 5


def test_windows_that_wait_in_memory_are_written_first(
    nodes: list[Any], output: Path, model: VideoModel, disk: Callable[[Any], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the disk says: they are nowhere else."""
    folder = output / "video" / f"x{ENDING}"
    with closing(Job(folder)) as job:
        job.begin({})
        with monkeypatch.context() as full:
            full.setattr(Job, "_write", Mock(side_effect=OSError(errno.ENOSPC, "full")))
            with pytest.raises(OSError, match="full"):
                job.write(0, torch.zeros(10))
        assert job.has_late
    disk((10**15, 10**15, 0))
    assert asked(nodes, "ReelwireLongVideo", **{**LONG, **SIZED, "model": model, "keyframes": None}) == ["keyframes"]


def test_a_render_that_goes_on_keeps_its_inputs(
    nodes: list[Any], output: Path, model: VideoModel, disk: Callable[[Any], None]
) -> None:
    """So fewer frames or another folder are no way out."""
    with closing(Job(output / "video" / f"x{ENDING}")) as job:
        job.begin({})
        job.write(0, torch.zeros(10))
    disk((10**15, 10**15, 0))
    with pytest.raises(InputError) as refusal:
        asked(nodes, "ReelwireLongVideo", **{**LONG, **SIZED, "model": model, "keyframes": None})
    assert keys(refusal.value.args[0]) >= {"disk_lacks_room", "free_disk"}


# ---------------------------------------------------------------- what a long video leaves while it is under way


def somebodys(folder: Path) -> None:
    folder.mkdir()
    (folder / "letter.txt").write_text("dear")


JOBS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "a link": ("job_is_link", lambda folder: folder.symlink_to(folder.parent)),
    "a link to nothing": ("job_is_link", lambda folder: folder.symlink_to("nothing")),
    "somebody's folder": ("job_not_ours", somebodys),
    "an empty folder": ("job_is_empty", lambda folder: folder.mkdir()),
    "a file": ("cause_no_folder", lambda folder: folder.write_text("dear")),
}


@pytest.mark.parametrize("kind", JOBS)
def test_an_unfinished_render_that_is_none(nodes: list[Any], output: Path, model: VideoModel, kind: str) -> None:
    key, plant = JOBS[kind]
    plant(output / f"x{ENDING}")
    with pytest.raises((OSError, InputError)) as refusal:
        asked(nodes, "ReelwireLongVideo", **WRITERS["ReelwireLongVideo"], model=model, filename_prefix="x")
    assert key in keys(message_of(refusal.value))


def test_a_render_that_another_is_at(nodes: list[Any], output: Path, model: VideoModel) -> None:
    job, inputs = Job(output / f"x{ENDING}"), {**WRITERS["ReelwireLongVideo"], "model": model, "filename_prefix": "x"}
    job.begin({"seed": 1})
    with pytest.raises(InputError) as refusal:
        asked(nodes, "ReelwireLongVideo", **inputs)
    assert "job_held" in keys(message_of(refusal.value))
    job.close()
    assert asked(nodes, "ReelwireLongVideo", **inputs)
    assert {path.name for path in job.folder.iterdir()} == {"inputs.json", LOCK}
    job.begin({"seed": 1})
    job.close()


def test_who_looks_at_a_render_keeps_nobody_out(output: Path) -> None:
    """The lock is free again before who begins it has lost patience."""
    from threading import Timer

    job, look = Job(output / f"x{ENDING}"), Lock(output / f"x{ENDING}" / LOCK)
    job.begin({"seed": 1})
    job.close()
    look.acquire()
    Timer(0.05, look.release).start()
    job.begin({"seed": 1})
    job.close()


# ---------------------------------------------------------------- calibrations, and latents that are kept


@pytest.mark.parametrize(
    ("error", "calls", "key"),
    [
        ("EROFS", ("open",), "cause_read_only"),
        ("ENOSPC", ("write",), "cause_full"),
        ("EACCES", ("open",), "cause_not_allowed"),
    ],
)
def test_a_calibration_that_could_not_be_written(
    nodes: list[Any], output: Path, model: VideoModel, error: str, calls: tuple[str, ...], key: str
) -> None:
    with Layer(failing(error), 0, calls), pytest.raises(OSError) as refusal:  # noqa: PT011 - by its key
        asked(nodes, "ReelwireCalibrateCache", model=model, conditioning=None, steps=20)
    assert keys(message_of(refusal.value)) == {"calibration_unwritable", key}


def test_a_calibration_that_is_damaged(nodes: list[Any], output: Path, model: VideoModel) -> None:
    from reelwire.loaders.messages import CheckpointError
    from reelwire.samplers.caches.store import file_of

    file = file_of(model.recipe.files["checkpoint"])
    file.write_text("[")
    try:
        with pytest.raises(CheckpointError):
            asked(nodes, "ReelwireCalibrateCache", model=model, conditioning=None, steps=20)
        file.unlink()
        file.mkdir()
        with pytest.raises((OSError, CheckpointError)) as refusal:
            asked(nodes, "ReelwireCalibrateCache", model=model, conditioning=None, steps=20)
        assert isinstance(message_of(refusal.value), Message)
    finally:
        file.rmdir()


@pytest.mark.parametrize("name", ["ReelwireDecode", "ReelwireDecodeToVideo"])
def test_latents_that_could_not_be_kept_are_told_and_go_on(
    nodes: list[Any], output: Path, model: VideoModel, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = importlib.import_module("reelwire.nodes.host.files")
    said = list[str]()
    monkeypatch.setattr(files, "Report", lambda cls: SimpleNamespace(tell=said.append))
    inputs = {"model": model, "latent": None} | ({} if name == "ReelwireDecode" else {"filename_prefix": "video/x"})
    assert asked(nodes, name, **inputs) == ["latent"]
    assert said == []
    (output / "reelwire" / "latents").rmdir()
    (output / "reelwire" / "latents").touch()
    assert asked(nodes, name, **inputs) == ["latent"]
    assert [keys(text) for text in said] == [{"latents_will_not_be_kept", "cause_no_folder"}]
