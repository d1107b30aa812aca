"""Windows that are computed and could not be written: each stays in memory for its own inputs, and is written later."""

from __future__ import annotations

import importlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.devices import OutOfMemory
from reelwire.loaders.messages import InputError, Message, message_of
from reelwire.loaders.vae.tiles import Tiling
from reelwire.samplers.long.job import ENDING, Job
from reelwire.tests.support.faults.layer import Layer, failing
from reelwire.tests.support.faults.points import keys
from torch import Tensor

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the layer of faults is of POSIX")
module = importlib.import_module("reelwire.samplers.long.job")
A, B = {"seed": 1, "steps": 20}, {"seed": 2, "steps": 20}


def latents(seed: int) -> Tensor:
    return torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / f"film{ENDING}"


def begun(folder: Path, inputs: dict[str, int] = A, anew: bool = False) -> Job:
    job = Job(folder)
    job.begin(inputs, anew)
    return job


def raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


MEMORY = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: not enough memory: you tried to allocate"),
    torch.OutOfMemoryError("CUDA out of memory."),
)


@pytest.mark.parametrize("error", MEMORY, ids=lambda error: type(error).__name__)
@pytest.mark.parametrize("step", ["save", "_digest", "write_whole"])
def test_memory_runs_out_at_each_step_of_a_write(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    job = begun(folder)
    job.write(0, latents(0))
    with monkeypatch.context() as patch:
        patch.setattr(module, step, raising(error))
        with pytest.raises(OutOfMemory) as refusal:
            job.write(1, latents(1))
    assert keys(message_of(refusal.value)) == {"window_unkept", "cause_memory"}
    assert job.has(1)
    assert not job.has_written(1)
    job.close()
    later = begun(folder)
    assert later.has_written(1)
    assert [later.read(number) is not None for number in range(3)] == [True, True, False]
    assert torch.equal(later.read(1), latents(1))  # type: ignore[arg-type]
    later.drop()
    assert folder not in module._unwritten


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EROFS", "EIO", "ENOENT"])
def test_a_disk_that_does_not_take_a_window(folder: Path, error: str) -> None:
    job = begun(folder)
    with Layer(failing(error), 0, ("open",)), pytest.raises(OSError) as refusal:  # noqa: PT011 - by its keys
        job.write(0, latents(0))
    assert "window_unkept" in keys(message_of(refusal.value))
    job.close()
    with Layer(failing("ENOSPC"), 0, ("write",)), pytest.raises(OSError) as again:  # noqa: PT011 - by its keys
        begun(folder)  # there is no room yet
    assert isinstance(message_of(again.value), Message)
    later = begun(folder)
    assert torch.equal(later.read(0), latents(0))  # type: ignore[arg-type]
    assert later.has_written(0)
    later.drop()


def unwritten(folder: Path, inputs: dict[str, int] = A, number: int = 0) -> None:
    """A render that ends with a window in memory."""
    job = begun(folder, inputs)
    with Layer(failing("ENOSPC"), 0, ("write",)), pytest.raises(OSError):  # noqa: PT011
        job.write(number, latents(number))
    job.close()


@pytest.mark.parametrize("with_another", [False, True])
def test_other_inputs_do_not_lose_it(folder: Path, with_another: bool) -> None:
    """Neither in a run that is refused, nor by a mistake that is set back."""
    if with_another:
        job = begun(folder)
        job.write(0, latents(0))
        job.close()
    unwritten(folder, number=1)
    with pytest.raises(InputError) as refusal:
        begun(folder, B)
    assert refusal.value.name == "unfinished"
    assert "seed" in str(refusal.value)
    job = begun(folder)
    assert torch.equal(job.read(1), latents(1))  # type: ignore[arg-type]
    job.drop()


def test_only_who_starts_over_drops_it(folder: Path) -> None:
    unwritten(folder)
    job = begun(folder, B, anew=True)
    assert not job.has(0)
    job.close()
    assert folder not in module._unwritten
    with_a = begun(folder, A)
    assert not with_a.has(0)
    with_a.drop()


@pytest.mark.parametrize("when", ["before it is written", "after it"])
def test_a_folder_that_is_removed_during_the_render(folder: Path, when: str) -> None:
    job = begun(folder)
    job.settled(Tiling(16, True))
    shutil.rmtree(folder)
    with pytest.raises(OSError, match="Window 1 ") as refusal:
        job.write(0, latents(0))
    assert keys(message_of(refusal.value)) == {"window_unkept", "cause_went_away"}
    job.close()
    later = begun(folder)
    assert torch.equal(later.read(0), latents(0))  # type: ignore[arg-type]
    if when == "after it":
        shutil.rmtree(folder)
        later.close()
        later = begun(folder)
        assert not later.has(0)
    later.drop()
    assert not folder.exists()


def test_another_host_has_begun_anew_meanwhile(folder: Path) -> None:
    """Its windows are not mixed with those in memory, which stay for their own inputs."""
    unwritten(folder, A, number=1)
    shutil.rmtree(folder)
    kept = module._unwritten.pop(folder)  # as another process would see it
    other = begun(folder, B)
    other.write(0, latents(7))
    other.close()
    module._unwritten[folder] = kept
    with pytest.raises(InputError):
        begun(folder, A)
    mine = begun(folder, B)
    assert (mine.has(0), mine.has(1)) == (True, False)
    mine.drop()
    job = begun(folder, A)
    assert torch.equal(job.read(1), latents(1))  # type: ignore[arg-type]
    job.drop()


def test_the_tiles_stay_those_that_it_was_begun_with(folder: Path) -> None:
    job = begun(folder)
    assert job.settled(Tiling(16, True)) == Tiling(16, True)
    with Layer(failing("ENOSPC"), 0, ("write",)), pytest.raises(OSError):  # noqa: PT011
        job.write(0, latents(0))
    job.close()
    later = begun(folder)
    assert later.settled(Tiling()) == Tiling(16, True)
    later.drop()


@pytest.mark.parametrize("removed", [False, True])
def test_a_window_that_fails_behind_its_last_step(folder: Path, removed: bool) -> None:
    """What the sampler gave stays in memory for its own inputs, and keeps no others from the folder."""
    job = begun(folder)
    with pytest.raises(OutOfMemory), job.holding(0, latents(0)):
        raise MemoryError
    job.close()
    if removed:
        shutil.rmtree(folder)
    later = begun(folder)
    kept = later.sampled(0)
    assert kept is not None
    assert torch.equal(kept, latents(0))
    assert not later.has(0)
    with later.holding(0, kept):
        later.write(0, kept)
    assert later.sampled(0) is None
    later.drop()
    assert folder not in module._unwritten


def test_it_keeps_no_other_inputs_from_the_folder(folder: Path) -> None:
    job = begun(folder)
    with pytest.raises(OutOfMemory), job.holding(0, latents(0)):
        raise MemoryError
    job.close()
    other = begun(folder, B)
    assert other.sampled(0) is None
    other.drop()
    assert folder not in module._unwritten


def test_a_folder_that_was_removed_refuses_nobody(folder: Path) -> None:
    """A window in memory is for the folder that its render had: who removes that begins anew with what he likes."""
    unwritten(folder)
    shutil.rmtree(folder)
    job = begun(folder, B)
    assert not job.has(0)
    job.drop()
    assert folder not in module._unwritten


def test_what_is_read_is_the_readers_own(folder: Path) -> None:
    job = begun(folder)
    with Layer(failing("ENOSPC"), 0, ("write",)), pytest.raises(OSError):  # noqa: PT011
        job.write(0, latents(0))
    for _ in range(2):
        read = job.read(0)
        assert read is not None
        assert torch.equal(read, latents(0))
        read.zero_()
    job.close()
    module._unwritten.clear()
