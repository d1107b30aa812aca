"""The formats of video files: what comes back of pictures, sound, rate and metadata, the same bytes each time."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import VideoReformatter
from reelwire.loaders.messages import InputError
from torch import Tensor

NAMES = ("mp4", "mp4 (H.265, 10 bit)", "webm (VP9)", "mov (ProRes 422 HQ)", "gif")
COUNT, WIDTH, HEIGHT, FPS = 20, 96, 64, 25.0
BITS = {"mp4 (H.265, 10 bit)": 10, "mov (ProRes 422 HQ)": 10}


@pytest.fixture(scope="module")
def nodes(comfyui: Path) -> Iterator[Any]:
    """The files of nodes/ with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import reelwire.nodes.video.file
    import reelwire.nodes.video.formats

    yield reelwire.nodes
    sys.path.remove(str(comfyui))


def gradient() -> Tensor:
    """Smooth moving colours [T, H, W, 3] in 0..1, finer than 8 bits."""
    t, y, x = torch.meshgrid(
        torch.arange(COUNT) / COUNT, torch.arange(HEIGHT) / HEIGHT, torch.arange(WIDTH) / WIDTH, indexing="ij"
    )
    return torch.stack([0.2 + 0.05 * (x + t), 0.5 + 0.1 * y, 0.7 - 0.2 * x * t], -1)


def write(nodes: Any, path: Path, name: str, crf: int = 4, sound: Any = None, fps: float = FPS) -> Path:
    from reelwire.samplers.decode import eight_bits, sixteen_bits

    form = nodes.video.formats.FORMATS[name]
    frames = (sixteen_bits if form.deep else eight_bits)(gradient())
    target = path.with_suffix(form.suffix)
    metadata = {"prompt": '{"1": "提示"}'}
    return Path(
        nodes.video.file.write_video(target, iter(frames.split(7)), (WIDTH, HEIGHT), fps, crf, metadata, sound, form)[0]
    )


def read(path: Path) -> tuple[np.ndarray[Any, Any], Fraction]:
    """(frames [T, H, W, 3] in 0..1 by the tags of the file, the rate)."""
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [in_rgb(frame) for frame in file.decode(stream)]
        return np.stack(frames), Fraction(stream.average_rate or 0)


def in_rgb(frame: av.VideoFrame) -> np.ndarray[Any, Any]:
    """A frame as RGB in 0..1, by the matrix that its file is tagged with."""
    tags = {} if frame.colorspace == 2 else {"src_colorspace": frame.colorspace}
    form, most = ("rgb48le", 65535) if "10le" in frame.format.name else ("rgb24", 255)
    return VideoReformatter().reformat(frame, format=form, interpolation="BILINEAR", **tags).to_ndarray() / most


def planes(frame: av.VideoFrame) -> list[np.ndarray[Any, Any]]:
    """The numbers that a frame holds, plane by plane."""
    kind = np.uint16 if "10le" in frame.format.name else np.uint8
    rows = [np.frombuffer(bytes(plane), kind).reshape(plane.height, -1)[:, : plane.width] for plane in frame.planes]
    return [row.copy() for row in rows]


@pytest.mark.parametrize("name", NAMES)
def test_pictures_rate_and_bytes(nodes: Any, tmp_path: Path, name: str) -> None:
    files = [write(nodes, tmp_path / f"{i}", name) for i in range(2)]
    assert files[0].read_bytes() == files[1].read_bytes()
    frames, rate = read(files[0])
    assert frames.shape == (COUNT, HEIGHT, WIDTH, 3)
    assert rate == FPS
    most = 0.02 if name == "gif" else 0.001 if name in BITS else 0.0065
    assert float(np.abs(frames - gradient().numpy()).mean()) < most


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gif"])
def test_depth(nodes: Any, tmp_path: Path, name: str) -> None:
    """A format that promises 10 bits keeps steps that 8 bits do not have."""
    with av.open(str(write(nodes, tmp_path / "a", name, crf=1))) as file:
        levels = max(len(np.unique(planes(frame)[0])) for frame in file.decode(video=0))
    assert (levels > 60) == (name in BITS), f"{levels} levels of brightness"


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("gif", "mov (ProRes 422 HQ)")])
def test_without_loss(nodes: Any, tmp_path: Path, name: str) -> None:
    """crf 0: what was converted to YUV 4:4:4 comes back to the last bit."""
    path = write(nodes, tmp_path / "a", name, crf=0)
    form = nodes.video.formats.FORMATS[name]
    convert = nodes.video.file.bt709(form.lossless[0])
    from reelwire.samplers.decode import eight_bits, sixteen_bits

    pieces = (sixteen_bits if form.deep else eight_bits)(gradient()).numpy()
    rgb = "rgb48le" if form.deep else "rgb24"
    wanted = [planes(convert(av.VideoFrame.from_ndarray(frame, format=rgb))) for frame in pieces]
    with av.open(str(path)) as file:
        found = [planes(frame) for frame in file.decode(video=0)]
    assert np.array_equal(wanted, found)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("rate", "channels"), [(44100, 2), (22050, 1), (48000, 6)])
def test_sound(nodes: Any, tmp_path: Path, name: str, rate: int, channels: int) -> None:
    form = nodes.video.formats.FORMATS[name]
    waveform = torch.sin(torch.arange(rate) * 0.05).repeat(1, channels, 1) * 0.4
    sound, _ = nodes.host.sound_of({"waveform": waveform, "sample_rate": rate})
    path = write(nodes, tmp_path / "a", name, sound=sound)
    with av.open(str(path)) as file:
        if form.sound is None:
            assert not file.streams.audio
            return
        stream = file.streams.audio[0]
        samples = sum(frame.samples for frame in file.decode(stream))
        assert stream.codec_context.layout.nb_channels == channels
        assert abs(samples / stream.codec_context.sample_rate - COUNT / FPS) < 2048 / stream.codec_context.sample_rate


@pytest.mark.parametrize("name", [name for name in NAMES if name != "gif"])
def test_prompt_goes_along(nodes: Any, tmp_path: Path, name: str) -> None:
    with av.open(str(write(nodes, tmp_path / "a", name))) as file:
        assert {key.lower(): value for key, value in file.metadata.items()}["prompt"] == '{"1": "提示"}'


def test_what_a_gif_cannot_hold(nodes: Any) -> None:
    form = nodes.video.formats.FORMATS["gif"]
    form.check_rate(50.0)
    with pytest.raises(InputError) as caught:
        form.check_rate(60.0)
    assert caught.value.name == "fps"
    keys = [note.key for note in nodes.video.formats.format_notes("gif", 17, True)]
    assert keys == ["format_no_workflow", "format_silent"]
    assert nodes.video.formats.format_notes("mp4", 17, True) == []
    assert not nodes.video.formats.FORMATS["gif"].rated
