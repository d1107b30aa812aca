"""Strangers' videos at a node's input: refused in words before their frames are decoded, whatever their headers say."""

from __future__ import annotations

import importlib
import struct
import sys
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reelwire.loaders.common.video_files import PIXEL_BYTES, check_frames_of, check_sound_of, picture_notes
from reelwire.loaders.messages import InputError
from reelwire.tests.support.files.bad_files import cut

SMALL = 2**30  # bytes of RAM that the tests pretend to have


class StopError(Exception):
    """What the host raises where somebody has pressed stop."""


@pytest.fixture(scope="module")
def arrivals(comfyui: Path) -> Iterator[Any]:
    """nodes/host/arrivals.py with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    yield importlib.import_module("reelwire.nodes.host.arrivals")
    sys.path.remove(str(comfyui))


def film(
    path: Path,
    count: int = 8,
    size: tuple[int, int] = (64, 48),
    rate: int = 25,
    codec: str = "mpeg4",
    channels: int = 0,
) -> None:
    """A video of black frames, with silence beside it where it has channels."""
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=rate)
        stream.width, stream.height = size
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        sound: Any = container.add_stream("pcm_s16le", rate=48000, layout=f"{channels} channels") if channels else None
        frame = av.VideoFrame.from_ndarray(np.zeros((size[1], size[0], 3), np.uint8), format="rgb24")
        for number in range(count):
            frame.pts, frame.time_base = number, Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
        if sound is not None:
            silence = np.zeros((1, 1024 * channels), np.int16)
            piece = av.AudioFrame.from_ndarray(silence, format="s16", layout=f"{channels} channels")
            piece.sample_rate, piece.pts = 48000, 0
            container.mux(sound.encode(piece))
            container.mux(sound.encode(None))


def patched(path: Path, box: bytes, offset: int, value: bytes) -> None:
    """Overwrite bytes in an mp4, so far behind the name of its last box of this kind."""
    data = bytearray(path.read_bytes())
    at = data.rindex(box) + len(box) + offset
    data[at : at + len(value)] = value
    path.write_bytes(data)


def sound_alone(path: Path) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("pcm_s16le", rate=48000, layout="stereo")
        piece = av.AudioFrame.from_ndarray(np.zeros((1, 2048), np.int16), format="s16", layout="stereo")
        piece.sample_rate, piece.pts = 48000, 0
        container.mux(stream.encode(piece))
        container.mux(stream.encode(None))


def lies(box: bytes, offset: int, value: bytes) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        film(path)
        patched(path, box, offset, value)

    return write


def damaged(keep: float) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        film(path)
        cut(path, path, int(path.stat().st_size * keep))

    return write


PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nhttp://localhost:9/a.ts\n#EXT-X-ENDLIST\n"
BAD: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "empty": ("a.mp4", lambda path: path.write_bytes(b"")),
    "no video": ("a.mp4", lambda path: path.write_bytes(b"no video" * 99)),
    "a playlist": ("a.m3u8", lambda path: path.write_text(PLAYLIST)),
    "a playlist that says it is none": ("a.mp4", lambda path: path.write_text(PLAYLIST)),
    "a list of files": ("a.mp4", lambda path: path.write_text("ffconcat version 1.0\nfile /etc/passwd\n")),
    "sound alone": ("a.mov", sound_alone),
    "cut in its head": ("a.mp4", damaged(0.02)),
    "cut before its index": ("a.mp4", damaged(0.5)),
    "more frames than there is room for": ("a.mkv", lambda path: film(path, 400, (640, 480))),
    "a size that nothing has": ("a.mkv", lambda path: film(path, 1, (4096, 16), codec="mpeg4")),
}
# places in an mp4 -> a lie; each is read as it is, or refused in words
LIES: dict[str, Callable[[Path], None]] = {
    "2**31 frames": lies(b"stsz", 8, struct.pack(">I", 2**31)),
    "2**31 frames of a byte": lies(b"stsz", 4, struct.pack(">II", 1, 2**31)),
    "no frames": lies(b"stsz", 8, struct.pack(">I", 0)),
    "16384 a side": lies(b"mp4v", 24, struct.pack(">HH", 16384, 16384)),
    "65535 a side": lies(b"mp4v", 24, struct.pack(">HH", 65535, 65535)),
    "no side": lies(b"mp4v", 24, struct.pack(">HH", 0, 0)),
    "no clock": lies(b"mdhd", 12, struct.pack(">I", 0)),
    "a fast clock": lies(b"mdhd", 12, struct.pack(">I", 2**32 - 1)),
    "no duration": lies(b"mdhd", 16, struct.pack(">I", 0)),
    "an endless duration": lies(b"mdhd", 16, struct.pack(">I", 2**32 - 1)),
    "steps of 2**32": lies(b"stts", 12, struct.pack(">I", 2**32 - 1)),
    "a table of 2**32 entries": lies(b"stts", 4, struct.pack(">I", 2**32 - 1)),
    "frames far behind the end": lies(b"stco", 8, struct.pack(">I", 2**32 - 1)),
    "an unknown codec": lies(b"mp4v", -4, b"zzzz"),
    "a million frames a second": lambda path: film(path, 8, rate=1_000_000, codec="mjpeg"),
    "a frame a second": lambda path: film(path, 8, rate=1),
}


def check(path: Path, span: tuple[float, float] = (0.0, 0.0), room: int = SMALL) -> int:
    """How many packets were looked at."""
    import av

    looks = 0

    def stop() -> None:
        nonlocal looks
        looks += 1

    with av.open(str(path), "r") as file:
        check_sound_of("source", file, stop)
    with av.open(str(path), "r") as file:
        check_frames_of("source", file, span, room, stop)
    return looks


@pytest.mark.parametrize("kind", BAD)
def test_a_bad_video_is_told(arrivals: Any, tmp_path: Path, kind: str) -> None:
    from comfy_api.latest import InputImpl

    name, write = BAD[kind]
    write(tmp_path / name)
    began = time.process_time()
    video = InputImpl.VideoFromFile(str(tmp_path / name))

    def look() -> None:
        with arrivals.opened_video(video, "source") as file:
            check_frames_of("source", file, (0.0, 0.0), SMALL, lambda: None)

    with pytest.raises(InputError) as refused:
        look()
    assert refused.value.name == "source"
    assert refused.value.remedy
    assert len(str(refused.value)) < 500
    assert time.process_time() - began < 2


@pytest.mark.parametrize("codec", ["h264", "libx265", "mpeg4", "mjpeg"])
@pytest.mark.parametrize("count", [1, 2])
def test_as_few_frames_as_a_decoder_waits_for(tmp_path: Path, codec: str, count: int) -> None:
    """Those that come out when it hears that no more will come are frames."""
    film(tmp_path / "a.mkv", count, codec=codec)
    assert check(tmp_path / "a.mkv") >= count


def notes_of(path: Path) -> list[str]:
    import av

    with av.open(str(path), "r") as file:
        return [note.key for note in picture_notes("source", file, lambda: None)]


def test_what_the_host_does_not_hand_on_of_frames(tmp_path: Path) -> None:
    """Pixels that are not square, and frames at uneven times; of even ones at any rate nothing."""
    import av

    def made(name: str, times: list[int], base: Fraction, shape: Fraction | None = None) -> list[str]:
        with av.open(str(tmp_path / name), "w") as file:
            stream = file.add_stream("mpeg4", rate=24)
            stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
            stream.codec_context.time_base = base
            if shape is not None:
                stream.codec_context.sample_aspect_ratio = shape
            for time in times:
                frame = av.VideoFrame.from_ndarray(np.full((48, 64, 3), time % 250, np.uint8), format="rgb24")
                frame.pts, frame.time_base = time, base
                file.mux(stream.encode(frame))
            file.mux(stream.encode())
        return notes_of(tmp_path / name)

    even, ntsc = list(range(12)), Fraction(1001, 30000)
    assert made("even.mp4", even, Fraction(1, 24)) == []
    assert made("ntsc.mkv", even, ntsc) == []  # its milliseconds are 33 and 34
    assert made("wide.mp4", even, Fraction(1, 24), Fraction(2)) == ["source_not_square"]
    assert made("square.mp4", even, Fraction(1, 24), Fraction(1)) == []
    assert made("uneven.mkv", [0, 1, 2, 3, 7, 8, 9, 10, 11, 20], Fraction(1, 24)) == ["source_uneven"]


@pytest.mark.parametrize("kind", LIES)
def test_a_header_that_lies(tmp_path: Path, kind: str) -> None:
    import av

    LIES[kind](tmp_path / "a.mp4" if "second" not in kind else tmp_path / "a.mov")
    path = next(tmp_path.iterdir())
    began = time.process_time()
    try:
        assert check(path) < 100
    except InputError as refused:
        assert str(refused).startswith("source = ")  # noqa: PT017 - either is right
    except av.error.FFmpegError:
        pass  # of the test's own call
    assert time.process_time() - began < 2


def test_frames_are_counted_and_not_believed(tmp_path: Path) -> None:
    film(tmp_path / "a.mkv", 40)
    frame = 64 * 48 * PIXEL_BYTES
    check(tmp_path / "a.mkv", room=42 * frame)
    with pytest.raises(InputError, match="39 frames of 64x48"):
        check(tmp_path / "a.mkv", room=38 * frame)
    check(tmp_path / "a.mkv", (0.0, 1.0), 30 * frame)
    with pytest.raises(InputError):
        check(tmp_path / "a.mkv", (0.0, 1.0), 20 * frame)
    check(tmp_path / "a.mkv", (1.2, 0.0), 20 * frame)


def test_counting_ends_when_somebody_asks(tmp_path: Path) -> None:
    import av

    film(tmp_path / "a.mkv", 40)
    looks = 0

    def stop() -> None:
        nonlocal looks
        looks += 1
        if looks == 20:
            raise StopError

    with av.open(str(tmp_path / "a.mkv"), "r") as file, pytest.raises(StopError):
        check_frames_of("source", file, (0.0, 0.0), SMALL, stop)


@pytest.mark.parametrize("channels", [1, 2, 3, 16, 64])
def test_sound_of_any_channels(tmp_path: Path, channels: int) -> None:
    """Decoded, or refused in words before anything is sampled."""
    film(tmp_path / "a.mov", channels=channels)
    try:
        check(tmp_path / "a.mov")
    except InputError as refused:
        assert channels > 8, str(refused)  # noqa: PT017 - either is right
