"""Sound in video files: encoded to the picture's length, or copied as it is; and the colours of the picture."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorRange, Colorspace
from reelwire.loaders.messages import InputError
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import open_ltx
from torch import Tensor

FRAMES, FPS = 50, 25.0  # two seconds of picture
SIZE = 64, 32


@pytest.fixture(scope="module")
def nodes(comfyui: Path) -> Iterator[Any]:
    """What the nodes write files with, with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import reelwire.nodes.video.file as files
    from comfy_api.latest import InputImpl, Types
    from reelwire.nodes import decoding, host
    from reelwire.nodes.host import sound
    from reelwire.nodes.sampling import request

    yield SimpleNamespace(
        files=files, host=host, sound=sound, InputImpl=InputImpl, Types=Types, decoding=decoding, request=request
    )
    sys.path.remove(str(comfyui))


def tone(rate: int, channels: int, seconds: float) -> dict[str, Any]:
    """An AUDIO in which each channel has its own pitch."""
    time = torch.arange(round(rate * seconds)) / rate
    pitches = torch.arange(1, channels + 1)[:, None] * 110.0
    return {"waveform": (0.5 * torch.sin(2 * torch.pi * pitches * time))[None], "sample_rate": rate}


def write(nodes: Any, path: Path, audio: Any, count: int = FRAMES, fps: float = FPS, crf: int = 30) -> list[str]:
    """What a file of `count` grey frames says of its sound."""
    frames = torch.full((count, SIZE[1], SIZE[0], 3), 90, dtype=torch.uint8)
    sound, notes = nodes.host.sound_of(audio)
    _, written = nodes.files.write_video(path, iter(frames.split(7)), SIZE, fps, crf, {}, sound)
    return [note.key for note in (*notes, *written)]


def heard(path: Path | io.BytesIO) -> tuple[np.ndarray, int]:
    """(samples [C, n] from the file's beginning, rate)."""
    with av.open(path if isinstance(path, io.BytesIO) else str(path), "r") as file:
        frames = list(file.decode(audio=0))
        return np.concatenate([frame.to_ndarray() for frame in frames], 1), frames[0].sample_rate


def lengths(path: Path) -> tuple[float, float]:
    """Seconds of the picture and of the sound, as the file says."""
    with av.open(str(path)) as file:
        streams: list[Any] = [file.streams.video[0], file.streams.audio[0]]
        picture, sound = (float(stream.duration * stream.time_base) for stream in streams)
        return picture, sound


def packets(path: Path | io.BytesIO) -> list[bytes]:
    with av.open(path if isinstance(path, io.BytesIO) else str(path), "r") as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


def pitch(samples: np.ndarray, rate: int) -> float:
    """The loudest frequency."""
    return float(np.abs(np.fft.rfft(samples * np.hanning(len(samples)))).argmax() * rate / len(samples))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [22050, 44100, 48000])
def test_sound_is_as_long_as_the_picture(nodes: Any, tmp_path: Path, rate: int, channels: int) -> None:
    assert write(nodes, tmp_path / "a.mp4", tone(rate, channels, 2)) == ["sound_encoded"]
    picture, sound = lengths(tmp_path / "a.mp4")
    assert picture == pytest.approx(2)
    assert abs(picture - sound) <= 1024 / rate
    samples, read = heard(tmp_path / "a.mp4")
    assert read == rate
    assert abs(samples.shape[1] - 2 * rate) <= 1024
    middle = samples[:, rate // 2 : rate // 2 + 2 * 4096]
    for number, channel in enumerate(middle):
        if channels < 6 or number != 3:  # AAC keeps the lowest of the low-frequency channel alone
            assert pitch(channel, rate) == pytest.approx(110 * (number + 1), abs=rate / 8192)


@pytest.mark.parametrize("rate", [8000, 37800, 96000, 192000])
def test_any_rate_is_heard_at_its_pitch(nodes: Any, tmp_path: Path, rate: int) -> None:
    write(nodes, tmp_path / "a.mp4", tone(rate, 1, 2))
    samples, read = heard(tmp_path / "a.mp4")
    assert read == nodes.sound.aac_rate(rate)
    assert abs(samples.shape[1] / read - 2) <= 1024 / read
    assert pitch(samples[0, read // 2 : read], read) == pytest.approx(110, abs=4)


@pytest.mark.parametrize(
    ("seconds", "note"), [(0.5, "sound_padded"), (1.99, "sound_padded"), (2.5, "sound_cut"), (9, "sound_cut")]
)
def test_sound_is_cut_or_followed_by_silence(nodes: Any, tmp_path: Path, seconds: float, note: str) -> None:
    assert write(nodes, tmp_path / "a.mp4", tone(48000, 2, seconds)) == ["sound_encoded", note]
    picture, sound = lengths(tmp_path / "a.mp4")
    assert abs(picture - sound) <= 1024 / 48000
    samples, _ = heard(tmp_path / "a.mp4")
    end = round(min(seconds, 2) * 48000)
    assert np.abs(samples[:, end - 4096 : end - 1024]).max() > 0.3
    assert not samples[:, end + 1024 :].size or np.abs(samples[:, end + 1024 :]).max() < 1e-3


def test_sound_begins_with_the_picture(nodes: Any, tmp_path: Path) -> None:
    """A click in sample 24000 is heard half a second after the first frame."""
    waveform = torch.zeros(1, 1, 96000)
    waveform[..., 24000:24010] = 0.9
    write(nodes, tmp_path / "a.mp4", {"waveform": waveform, "sample_rate": 48000})
    samples, _ = heard(tmp_path / "a.mp4")
    assert abs(int(np.abs(samples[0]).argmax()) - 24005) < 100


WITHOUT = {
    "nothing": (None, []),
    "no samples": ({"waveform": torch.zeros(1, 2, 0), "sample_rate": 48000}, ["sound_empty"]),
    "no channels": ({"waveform": torch.zeros(1, 0, 9), "sample_rate": 48000}, ["sound_empty"]),
    "no batch": ({"waveform": torch.zeros(0, 2, 9), "sample_rate": 48000}, ["sound_empty"]),
}


@pytest.mark.parametrize("case", WITHOUT)
def test_without_sound_there_is_no_stream(nodes: Any, tmp_path: Path, case: str) -> None:
    audio, notes = WITHOUT[case]
    assert write(nodes, tmp_path / "a.mp4", audio) == notes
    with av.open(str(tmp_path / "a.mp4")) as file:
        assert not file.streams.audio


def waveform(*shape: int, fill: float = 0.0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.full(shape, fill, dtype=dtype)


BAD: dict[str, Any] = {
    "a number": 3,
    "a text": "sound.wav",
    "a tensor": waveform(1, 2, 9),
    "no waveform": {"sample_rate": 48000},
    "no rate": {"waveform": waveform(1, 2, 9)},
    "a list as waveform": {"waveform": [0.0], "sample_rate": 48000},
    "NaN": {"waveform": waveform(1, 2, 9, fill=float("nan")), "sample_rate": 48000},
    "infinity": {"waveform": waveform(1, 2, 9, fill=float("inf")), "sample_rate": 48000},
    "whole numbers": {"waveform": waveform(1, 2, 9, dtype=torch.int16), "sample_rate": 48000},
    "seven channels": {"waveform": waveform(1, 7, 9), "sample_rate": 48000},
    "nine channels": {"waveform": waveform(1, 9, 9), "sample_rate": 48000},
    "four dimensions": {"waveform": waveform(1, 1, 2, 9), "sample_rate": 48000},
    "no dimension": {"waveform": waveform(), "sample_rate": 48000},
    **{
        f"rate {rate!r}": {"waveform": waveform(1, 2, 9), "sample_rate": rate}
        for rate in (0, -1, 10**9, "48000", None, float("nan"), float("inf"), 10**400, True)
    },
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_no_sound_is_refused(nodes: Any, case: str) -> None:
    from reelwire.loaders.messages import InputError

    with pytest.raises(InputError) as refused:
        nodes.host.sound_of(BAD[case])
    assert refused.value.name == "audio"
    assert refused.value.remedy


@pytest.mark.parametrize("shape", [(9000,), (2, 9000), (3, 2, 9000)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_waveforms_of_other_packs(nodes: Any, tmp_path: Path, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    audio = {"waveform": waveform(*shape, fill=0.1, dtype=dtype), "sample_rate": 44100.0}
    notes = write(nodes, tmp_path / "a.mp4", audio)
    assert ("sound_first_of" in notes) == (len(shape) == 3)
    samples, rate = heard(tmp_path / "a.mp4")
    assert (len(samples), rate) == (1 if len(shape) == 1 else 2, 44100)


# ---------------------------------------------------------------- copied


@pytest.mark.parametrize(("fill", "is_loud"), [(1.3, False), (2.5, True), (32768.0, True)])
def test_sound_beyond_full_scale_is_said(nodes: Any, fill: float, is_loud: bool) -> None:
    """A codec overshoots it a little; more is another scale. Rates may be NumPy's."""
    audio = {"waveform": waveform(1, 2, 9, fill=fill), "sample_rate": np.int64(44100)}
    _, notes = nodes.host.sound_of(audio)
    assert ("sound_loud" in [note.key for note in notes]) == is_loud


def source(nodes: Any, path: Path, seconds: float, rate: int = 48000, channels: int = 2) -> Any:
    """A VIDEO with AAC sound."""
    write(nodes, path, tone(rate, channels, seconds), round(seconds * FPS))
    return nodes.InputImpl.VideoFromFile(str(path))


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize("rate", [22050, 44100, 48000])
@pytest.mark.parametrize("count", [25, 50, 75])
def test_aac_is_copied_bit_by_bit(nodes: Any, tmp_path: Path, rate: int, channels: int, count: int) -> None:
    """Into a file that is shorter, as long, or longer; what is missing is silence."""
    video = source(nodes, tmp_path / "a.mp4", 2, rate, channels)
    notes = write(nodes, tmp_path / "b.mp4", video, count)
    assert notes == ["sound_copied", *{25: ["sound_cut"], 50: [], 75: ["sound_padded"]}[count]]
    before, after = packets(tmp_path / "a.mp4"), packets(tmp_path / "b.mp4")
    shared = min(len(before), len(after))
    assert shared > count / FPS * rate / 1024 - 1 if count < 75 else shared == len(before)
    assert before[:shared] == after[:shared]
    picture, sound = lengths(tmp_path / "b.mp4")
    assert abs(picture - sound) <= 1024 / rate
    (one, _), (other, _) = heard(tmp_path / "a.mp4"), heard(tmp_path / "b.mp4")
    least = min(one.shape[1], other.shape[1]) - 2048
    assert np.array_equal(one[:, :least], other[:, :least])
    if count == 75:
        assert np.abs(other[:, 2 * rate + 2048 :]).max() < 1e-3


def test_what_a_video_holds_in_memory_is_copied_too(nodes: Any, tmp_path: Path) -> None:
    source(nodes, tmp_path / "a.mp4", 2)
    held = nodes.InputImpl.VideoFromFile(io.BytesIO((tmp_path / "a.mp4").read_bytes()))
    assert write(nodes, tmp_path / "b.mp4", held) == ["sound_copied"]
    assert packets(tmp_path / "b.mp4") == packets(tmp_path / "a.mp4")


def test_a_part_of_a_video_is_heard_from_where_it_begins(nodes: Any, tmp_path: Path) -> None:
    audio = tone(48000, 1, 4)
    audio["waveform"][..., :96000] *= 0.1  # quiet for two seconds
    write(nodes, tmp_path / "a.mp4", audio, 100)
    part = nodes.InputImpl.VideoFromFile(str(tmp_path / "a.mp4"), start_time=1.0, duration=1.5)
    assert write(nodes, tmp_path / "b.mp4", part) == ["sound_encoded", "sound_padded"]
    samples, rate = heard(tmp_path / "b.mp4")
    levels = [float(np.abs(samples[0, round(a * rate) : round(b * rate)]).max()) for a, b in ((0.1, 0.9), (1.1, 1.4))]
    assert levels == pytest.approx([0.05, 0.5], rel=0.2)
    assert np.abs(samples[0, round(1.55 * rate) :]).max() < 1e-3


def other_codec(path: Path, codec: str, rate: int, delay: float) -> None:
    """A file with a second of another codec's sound, which begins `delay` seconds after the picture."""
    layout = "stereo"
    with av.open(str(path), "w") as file:
        picture = file.add_stream("mpeg4", rate=25)
        picture.width, picture.height, picture.pix_fmt = 64, 32, "yuv420p"
        stream: Any = file.add_stream(codec, rate=rate, layout=layout)
        for number in range(50):
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            file.mux(picture.encode(frame))
        samples = tone(rate, 2, 1)["waveform"][0].numpy()
        heard = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
        heard.sample_rate, heard.pts, heard.time_base = rate, round(delay * rate), Fraction(1, rate)
        file.mux(stream.encode(heard))
        file.mux(stream.encode())
        file.mux(picture.encode())


@pytest.mark.parametrize(
    ("name", "codec", "rate"), [("a.mkv", "flac", 44100), ("a.mp4", "libmp3lame", 48000), ("a.mkv", "libopus", 48000)]
)
def test_other_codecs_are_encoded_in_step(nodes: Any, tmp_path: Path, name: str, codec: str, rate: int) -> None:
    other_codec(tmp_path / name, codec, rate, 0.5)
    video = nodes.InputImpl.VideoFromFile(str(tmp_path / name))
    assert write(nodes, tmp_path / "b.mp4", video) == ["sound_encoded", "sound_padded"]
    samples, read = heard(tmp_path / "b.mp4")
    loud = np.flatnonzero(np.abs(samples[0]) > 0.2) / read
    assert loud[0] == pytest.approx(0.5, abs=0.06)
    assert loud[-1] == pytest.approx(1.5, abs=0.06)


def test_videos_of_components_and_silent_ones(nodes: Any, tmp_path: Path) -> None:
    def made(audio: Any) -> Any:
        components = nodes.Types.VideoComponents(
            images=torch.zeros(50, 32, 64, 3), audio=audio, frame_rate=Fraction(25)
        )
        return nodes.InputImpl.VideoFromComponents(components)

    assert write(nodes, tmp_path / "a.mp4", made(tone(44100, 2, 2))) == ["sound_encoded"]
    assert write(nodes, tmp_path / "b.mp4", made(None)) == ["video_silent"]
    assert write(nodes, tmp_path / "c.mp4", nodes.InputImpl.VideoFromFile(str(tmp_path / "b.mp4"))) == ["video_silent"]


def test_a_video_that_is_gone_is_told(nodes: Any, tmp_path: Path) -> None:
    from reelwire.loaders.messages import InputError

    with pytest.raises(InputError, match=r"audio = .*none.mp4"):
        nodes.host.sound_of(nodes.InputImpl.VideoFromFile(str(tmp_path / "none.mp4")))


# ---------------------------------------------------------------- colour

PATCHES = {
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "yellow": (255, 255, 0),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
    "grey": (128, 128, 128),
    "dark grey": (40, 40, 40),
    "fair skin": (255, 219, 172),
    "tan skin": (224, 172, 105),
    "dark skin": (141, 85, 36),
}


def by_its_tags(frame: av.VideoFrame) -> np.ndarray:
    """RGB [H, W, 3] of a frame that says BT.709 and limited range, which PyAV 16 does not look at by itself."""
    assert (int(frame.colorspace), int(frame.color_range)) == (1, 1)
    ways = {"src_colorspace": Colorspace.ITU709, "dst_colorspace": Colorspace.ITU709}
    ranges = {"src_color_range": ColorRange.MPEG, "dst_color_range": ColorRange.JPEG}
    return frame.reformat(format="rgb24", **ways, **ranges).to_ndarray().astype(int)


@pytest.mark.parametrize("crf", [0, 8])
@pytest.mark.parametrize("size", [(64, 32), (736, 576)], ids=str)
def test_colours_come_back_by_the_tags(nodes: Any, tmp_path: Path, crf: int, size: tuple[int, int]) -> None:
    frames = torch.stack([torch.tensor(c, dtype=torch.uint8).expand(size[1], size[0], 3) for c in PATCHES.values()])
    nodes.files.write_video(tmp_path / "a.mp4", iter(frames.split(3)), size, 24.0, crf, {})
    with av.open(str(tmp_path / "a.mp4")) as file:
        context = file.streams.video[0].codec_context
        tags = context.color_primaries, context.color_trc, context.colorspace, context.color_range
        assert tags == (1, 1, 1, 1)
        decoded = [by_its_tags(frame)[8:-8, 8:-8] for frame in file.decode(video=0)]
    worst = {name: int(np.abs(d - np.array(c)).max()) for d, (name, c) in zip(decoded, PATCHES.items(), strict=True)}
    assert max(worst.values()) <= 2, worst


def test_crf_0_keeps_every_pixel(nodes: Any, tmp_path: Path) -> None:
    """Sharp edges of colour too, which 4:2:0 would mix."""
    frames = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 32, 64, 3), np.uint8))
    nodes.files.write_video(tmp_path / "a.mp4", iter([frames]), (64, 32), 24.0, 0, {})
    with av.open(str(tmp_path / "a.mp4")) as file:
        decoded = list(file.decode(video=0))
    convert = nodes.files.bt709("yuv444p")
    expected = [convert(av.VideoFrame.from_ndarray(frame, format="rgb24")).to_ndarray() for frame in frames.numpy()]
    assert all(np.array_equal(a.to_ndarray(), b) for a, b in zip(decoded, expected, strict=True))
    colours = np.stack([by_its_tags(frame) for frame in decoded])
    assert np.abs(colours - frames.numpy()).max() <= 2


# ---------------------------------------------------------------- whose rate counts


def video_of(nodes: Any, fps: float, audio: Any = None, count: int = 30) -> Any:
    """A VIDEO of grey frames."""
    images = torch.full((count, 32, 64, 3), 0.4)
    return nodes.InputImpl.VideoFromComponents(
        nodes.Types.VideoComponents(images=images, audio=audio, frame_rate=Fraction(fps))
    )


@pytest.mark.parametrize(
    ("asked", "fps", "keys"),
    [(0.0, 30.0, ["audio_out_of_step"]), (30.0, 30.0, []), (24.0, 30.0, ["audio_out_of_step"]), (0.0, 25.0, [])],
)
def test_sound_of_a_video_of_another_rate_is_told(nodes: Any, asked: float, fps: float, keys: list[str]) -> None:
    """The frames came without one, and the latents were made at 25."""
    writer, model = nodes.decoding.FileWriter, open_ltx(BUNDLED)
    video = video_of(nodes, fps, tone(44100, 2, 1))
    rate, sound, notes = writer.rate_and_sound(model, asked, video, None, 25.0)
    assert (rate, [note.key for note in notes]) == (asked or 25.0, keys)
    assert sound is not None
    assert not keys or float(notes[0].values["audio"]) == fps


@pytest.mark.parametrize("name", ["source", "extend"])
def test_a_video_brings_its_rate_and_its_frames(nodes: Any, name: str) -> None:
    request = nodes.request.request_of(open_ltx(BUNDLED), **{name: video_of(nodes, 30.0)})
    images = request.source if name == "source" else request.clip
    assert (request.fps, len(images)) == (30.0, 30)
    assert nodes.request.request_of(open_ltx(BUNDLED), fps=12.0, **{name: video_of(nodes, 30.0)}).fps == 12.0


@pytest.mark.parametrize(("fps", "keys"), [(30.0, []), (25.0, ["clip_out_of_step"])])
def test_a_clip_that_plays_at_another_speed_is_told(nodes: Any, fps: float, keys: list[str]) -> None:
    assert [note.key for note in nodes.decoding.FileWriter.clip_apart(fps, video_of(nodes, 30.0))] == keys
    assert not nodes.decoding.FileWriter.clip_apart(fps, torch.rand(3, 8, 8, 3))


def broken_files(folder: Path, nodes: Any) -> dict[str, bytes]:
    """Name -> what a person has instead of a video: half of a download, a sound, a page, nothing."""
    write(nodes, folder / "whole.mp4", tone(44100, 2, 2))
    whole = (folder / "whole.mp4").read_bytes()
    wave = io.BytesIO()
    with av.open(wave, "w", format="wav") as file:
        stream = file.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        file.mux(stream.encode(frame))
        file.mux(stream.encode(None))
    return {"half.mp4": whole[:200], "sound.wav": wave.getvalue(), "page.mp4": b"<html>x</html>" * 9, "none.mp4": b""}


@pytest.mark.parametrize("name", ["half.mp4", "sound.wav", "page.mp4", "none.mp4"])
@pytest.mark.parametrize("input_name", ["source", "extend"])
def test_what_is_no_video_is_refused_by_the_input(nodes: Any, tmp_path: Path, name: str, input_name: str) -> None:
    (tmp_path / name).write_bytes(broken_files(tmp_path, nodes)[name])
    video = nodes.InputImpl.VideoFromFile(str(tmp_path / name))
    with pytest.raises(InputError) as refused:
        nodes.request.request_of(open_ltx(BUNDLED), **{input_name: video})
    assert (refused.value.name, getattr(refused.value.rule, "key", "")) == (input_name, "video_unreadable")
    assert str(tmp_path) not in str(refused.value)


@pytest.mark.parametrize("name", ["half.mp4", "page.mp4", "none.mp4"])
def test_what_is_no_video_is_refused_as_sound(nodes: Any, tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(broken_files(tmp_path, nodes)[name])
    video = nodes.InputImpl.VideoFromFile(str(tmp_path / name))
    with pytest.raises(InputError) as refused:
        nodes.decoding.FileWriter.rate_and_sound(open_ltx(BUNDLED), 0.0, video, None, 25.0)
    assert (refused.value.name, getattr(refused.value.rule, "key", "")) == ("audio", "video_unreadable")
    assert str(tmp_path) not in str(refused.value)
