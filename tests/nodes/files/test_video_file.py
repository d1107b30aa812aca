"""Video files: encoded in a thread of their own, the same bytes each time, and what happens when either side fails."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

SIZES = (96, 64), (104, 72), (200, 136)  # widths at which x264's macroblock tree differs from run to run in AVX-512


@pytest.fixture(scope="module")
def files(comfyui: Path) -> Iterator[Any]:
    """nodes/video_file.py with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import reelwire.nodes.video.file as module

    yield module
    sys.path.remove(str(comfyui))


@pytest.fixture(autouse=True)
def _no_thread_survives() -> Iterator[None]:
    before = threading.active_count()
    yield
    assert threading.active_count() == before


def clip(width: int, height: int, count: int = 40) -> Tensor:
    """A moving texture with grain [T, H, W, 3] in 8 bits."""
    noise = np.random.default_rng(0).normal(0, 4, (8, height, width, 3))
    y, x = np.mgrid[0:height, 0:width]
    shade = lambda t, c: 127 + 60 * np.sin((x + 2 * t) / 9 + c) + 50 * np.cos((y - t) / 13 + 2 * c)
    frames = (np.stack([shade(t, c) for c in range(3)], -1) + noise[t % 8] for t in range(count))
    return torch.from_numpy(np.stack([frame.clip(0, 255).astype(np.uint8) for frame in frames]))


def written(files: Any, path: Path, frames: Tensor, crf: int = 17) -> bytes:
    size = frames.shape[2], frames.shape[1]
    files.write_video(path, iter(frames.split(3)), size, 24.0, crf, {})
    return path.read_bytes()


@pytest.mark.parametrize("size", SIZES)
def test_the_same_bytes_each_time(files: Any, tmp_path: Path, size: tuple[int, int]) -> None:
    frames = clip(*size)
    contents = {written(files, tmp_path / f"{i}.mp4", frames) for i in range(16)}
    assert len(contents) == 1
    assert b"mbtree=1" in contents.pop(), "x264 does without its macroblock tree"


def test_only_processors_with_avx512_are_told_what_to_use(files: Any) -> None:
    """Names of instructions that a processor lacks would end the process."""
    from reelwire.nodes.video.formats import repeatable

    assert "AVX2" in repeatable("AVX512")["x264-params"]
    assert "AVX512" not in repeatable("AVX512")["x264-params"]
    for other in ("AVX2", "DEFAULT", "NO AVX", "SVE256"):
        assert repeatable(other) == {}


# ---------------------------------------------------------------- two threads


def pieces(count: int, size: int = 10, produced: list[int] | None = None) -> Iterator[Tensor]:
    for number in range(count):
        if produced is not None:
            produced.append(number)
        yield torch.full((size,), number, dtype=torch.uint8)


def never() -> None:
    """Nobody wants to stop."""


@pytest.mark.parametrize("most", [1, 25, 10**6])
def test_all_pieces_arrive_in_order(files: Any, most: int) -> None:
    numbers = list[int]()
    files.overlap(pieces(50), lambda stream: numbers.extend(int(piece[0]) for piece in stream), never, most)
    assert numbers == list(range(50))


@pytest.mark.parametrize(("most", "waiting"), [(25, 2), (10, 1), (1, 1)])
def test_few_bytes_wait(files: Any, most: int, waiting: int) -> None:
    """One piece is being encoded, those that fit wait, one is held until there is room."""
    produced, gate, counts = list[int](), threading.Event(), list[int]()

    def slow(stream: Iterator[Tensor]) -> None:
        for _ in stream:
            gate.wait()

    def look() -> None:
        counts.append(len(produced))
        gate.set()

    files.overlap(pieces(20, produced=produced), slow, look, most)
    assert counts[0] == 1 + waiting + 1
    assert len(produced) == 20


def test_both_work_at_the_same_time(files: Any) -> None:
    """A piece is made while the one before it is encoded: each waits for the other in the middle of its work."""
    count, meeting = 10, threading.Barrier(2, timeout=60)

    def encode(stream: Iterator[Tensor]) -> None:
        for number, _ in enumerate(stream, 1):
            if number < count:
                meeting.wait()

    def decode() -> Iterator[Tensor]:
        for number, piece in enumerate(pieces(count)):
            if number:
                meeting.wait()
            yield piece

    files.overlap(decode(), encode, never)
    assert not meeting.broken


class FailedError(Exception):
    """On purpose."""


def failing(count: int) -> Iterator[Tensor]:
    yield from pieces(count)
    raise FailedError


@pytest.mark.parametrize("count", [0, 1, 30])
def test_an_error_of_the_decoder(files: Any, count: int) -> None:
    ended = list[bool]()

    def work(stream: Iterator[Tensor]) -> None:
        try:
            list(stream)
        finally:
            ended.append(True)

    with pytest.raises(FailedError):
        files.overlap(failing(count), work, never)
    assert ended == [True]


@pytest.mark.parametrize("after", [0, 1, 5])
def test_an_error_of_the_encoder_stops_the_decoder(files: Any, after: int) -> None:
    produced = list[int]()

    def work(stream: Iterator[Tensor]) -> None:
        for number, _ in enumerate(stream):
            if number == after:
                break
        raise FailedError

    with pytest.raises(FailedError):
        files.overlap(pieces(10**6, produced=produced), work, never, 25)
    assert len(produced) < 10**5


def test_an_error_at_the_very_end_of_the_encoder(files: Any) -> None:
    """As when the disk is full while the file is closed."""

    def work(stream: Iterator[Tensor]) -> None:
        list(stream)
        raise FailedError

    with pytest.raises(FailedError):
        files.overlap(pieces(3), work, never)


@pytest.mark.parametrize("count", [1, 50])
def test_an_interrupt_does_not_wait_for_the_encoder(files: Any, count: int) -> None:
    """Neither while pieces wait, nor when all are made."""

    def slow(stream: Iterator[Tensor]) -> None:
        for _ in stream:
            time.sleep(0.4)

    def look() -> None:
        raise FailedError

    began = time.monotonic()
    with pytest.raises(FailedError):
        files.overlap(pieces(count), slow, look, 25)
    assert time.monotonic() - began < 5  # all 25 that wait take 10


@pytest.fixture
def failing_file(files: Any, tmp_path: Path) -> Callable[[Iterator[Tensor]], None]:
    """Writes pieces into a folder, and leaves nothing there."""

    def write(stream: Iterator[Tensor]) -> None:
        try:
            files.write_video(tmp_path / "clip.mp4", stream, (64, 64), 24.0, 17, {})
        finally:
            assert list(tmp_path.iterdir()) == []

    return write


def test_a_file_that_fails_while_frames_are_made_is_not_the_video(failing_file: Callable[..., None]) -> None:
    def frames() -> Iterator[Tensor]:
        yield torch.zeros(2, 64, 64, 3, dtype=torch.uint8)
        raise OSError("another file")

    with pytest.raises(RuntimeError, match=r"^another file$"):
        failing_file(frames())


def test_a_folder_that_is_gone(files: Any, tmp_path: Path) -> None:
    frames = torch.zeros(1, 64, 64, 3, dtype=torch.uint8)
    with pytest.raises(OSError, match=r"clip.mp4 could not be written: its folder .* run again"):
        written(files, tmp_path / "none" / "clip.mp4", frames)
