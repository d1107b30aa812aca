"""What a decode needs long after the sampler has begun: sound that goes away, files that cannot be written, and latents
that are kept with all that belongs to them."""

from __future__ import annotations

import errno
import importlib
import io
import json
import resource
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import numpy as np
import pytest
import torch
from reelwire.loaders.files import why_unwritten
from reelwire.loaders.messages import CheckpointError, InputError, Message
from safetensors.torch import load_file, save_file
from torch import Tensor

FRAMES, FPS, SIZE = 50, 25.0, (64, 32)
HIDDEN = SimpleNamespace(prompt={"1": {}}, extra_pnginfo={}, unique_id="1")
NODE: Any = SimpleNamespace(hidden=HIDDEN)


@pytest.fixture(scope="module")
def nodes(comfyui: Path) -> Iterator[Any]:
    """What the nodes read and write files with, with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    import reelwire.nodes.video.file as files
    from comfy_api.latest import InputImpl
    from reelwire.nodes import host

    kept, sound = (importlib.import_module(f"reelwire.nodes.host.{name}") for name in ("files", "sound"))
    yield SimpleNamespace(files=files, host=host, kept=kept, sound=sound, InputImpl=InputImpl)
    sys.path.remove(str(comfyui))


@pytest.fixture
def folders(nodes: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ComfyUI's folders of this test."""
    import folder_paths

    for name in ("input", "output", "temp"):
        (tmp_path / name).mkdir()
        monkeypatch.setattr(folder_paths, f"{name}_directory", str(tmp_path / name))
    return tmp_path


def pieces(count: int = FRAMES, size: tuple[int, int] = SIZE) -> Iterator[Tensor]:
    return iter(torch.full((count, size[1], size[0], 3), 90, dtype=torch.uint8).split(7))


def clip(nodes: Any, path: Path, seconds: float = 2.0) -> Path:
    """A video file with AAC sound."""
    time = torch.arange(round(48000 * seconds)) / 48000
    audio = {"waveform": (0.5 * torch.sin(2 * torch.pi * 220 * time))[None, None], "sample_rate": 48000}
    nodes.files.write_video(path, pieces(round(seconds * FPS)), SIZE, FPS, 30, {}, nodes.host.sound_of(audio)[0])
    return path


def packets(path: Path) -> list[bytes]:
    with av.open(str(path), "r") as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size] if file.streams.audio else []


def picture_frames(path: Path) -> int:
    with av.open(str(path), "r") as file:
        return sum(1 for _ in file.decode(video=0))


def source_of(nodes: Any, path: Path | io.BytesIO, **part: float) -> Any:
    """The sound of a source, as latents carry it."""
    file = path if isinstance(path, io.BytesIO) else str(path)
    return nodes.host.source_sound(nodes.InputImpl.VideoFromFile(file, **part))


def keys(notes: list[str]) -> list[str]:
    return [note.key for note in notes if isinstance(note, Message)]


# ---------------------------------------------------------------- sound that goes away


def silent(path: Path) -> None:
    with av.open(str(path), "w") as file:
        stream = file.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 32, "yuv420p"
        file.mux(stream.encode(av.VideoFrame.from_ndarray(np.zeros((32, 64, 3), np.uint8), format="rgb24")))
        file.mux(stream.encode())


def into_a_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def into_a_link(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


LOSSES: dict[str, Callable[[Path], Any]] = {
    "deleted": Path.unlink,
    "moved": lambda path: path.rename(path.with_name("other.mp4")),
    "its folder moved": lambda path: path.parent.rename(path.parent.with_name("elsewhere")),
    "a folder in its place": into_a_folder,
    "empty": lambda path: path.write_bytes(b""),
    "something else": lambda path: path.write_bytes(b"no video at all" * 99),
    "half of it": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "a silent one": silent,
    "a link to nowhere": into_a_link,
}


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "half of it"])  # which begins as a whole one
def test_a_source_that_goes_away_costs_its_sound_alone(nodes: Any, tmp_path: Path, loss: str) -> None:
    """Before the decode begins; said, with the name of that file, and a sound that was asked for is refused."""
    (tmp_path / "in").mkdir()
    path = clip(nodes, tmp_path / "in" / "source.mp4")
    known, asked = source_of(nodes, path), nodes.InputImpl.VideoFromFile(str(path))
    LOSSES[loss](path)
    sound, notes = nodes.host.opened_sound(known)
    assert sound is None
    assert keys(notes) == ["source_sound_gone"]
    assert "source.mp4" in notes[0]
    assert "[Errno" not in notes[0]
    if loss != "a silent one":
        with pytest.raises(InputError) as refusal:
            nodes.host.opened_audio(asked)
        assert refusal.value.name == "audio"


@pytest.mark.parametrize("loss", ["deleted", "moved", "its folder moved"])
@pytest.mark.parametrize("copied", [True, False])
def test_what_is_deleted_while_it_is_decoded_is_heard(nodes: Any, tmp_path: Path, loss: str, copied: bool) -> None:
    (tmp_path / "in").mkdir()
    path = clip(nodes, tmp_path / "in" / "source.mp4")
    own = packets(path)
    sound, notes = nodes.host.opened_sound(source_of(nodes, path, **({} if copied else {"start_time": 0.5})))
    assert not notes
    LOSSES[loss](path)
    _, written = nodes.files.write_video(tmp_path / "a.mp4", pieces(), SIZE, FPS, 30, {}, sound)
    assert keys(written)[0] == ("sound_copied" if copied else "sound_encoded")
    assert (packets(tmp_path / "a.mp4") == own) is copied
    assert len(packets(tmp_path / "a.mp4")) > 60


@pytest.mark.parametrize("copied", [True, False])
def test_what_cannot_be_read_on_is_followed_by_silence(nodes: Any, tmp_path: Path, copied: bool) -> None:
    """As from a share that is unmounted: all pictures are there, and the node says it."""
    lost = list[str]()

    def reads() -> Iterator[int]:
        yield 1
        raise OSError(errno.ESTALE, "Stale file handle")

    assert list(nodes.sound.writers.while_readable(reads(), lost)) == [1]
    assert keys(lost) == ["sound_lost"]
    path = clip(nodes, tmp_path / "source.mp4", 8)
    sound, _ = nodes.host.opened_sound(source_of(nodes, path, **({} if copied else {"start_time": 0.5})))
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    nodes.files.write_video(tmp_path / "a.mp4", pieces(200), SIZE, FPS, 30, {}, sound)
    assert picture_frames(tmp_path / "a.mp4") == 200


# ---------------------------------------------------------------- what cannot be written


def test_no_cause_is_told_by_its_number() -> None:
    """Python's errors and FFmpeg's say the same of the same cause, and end with what to do."""
    for number in sorted(errno.errorcode):
        with pytest.raises(av.error.FFmpegError) as raised:
            av.error.err_check(-number)
        words, of_ffmpeg = (why_unwritten(error) for error in (OSError(number, "what it says"), raised.value))
        assert words.key == of_ffmpeg.key, errno.errorcode[number]
        assert "[Errno" not in words + of_ffmpeg
        assert words.count(". ") + words.count("Use a") > 0


def test_ffmpegs_own_causes() -> None:
    for error in vars(av.error).values():
        if isinstance(error, type) and issubclass(error, av.error.FFmpegError):
            assert "[Errno" not in why_unwritten(error(0x20545845, "avcodec_send_frame()"))
    assert why_unwritten(av.error.ExternalError(0x20545845, "x")).key == "encoder_gave_up"
    assert why_unwritten(MemoryError()).key == "memory_ran_out"


@contextmanager
def small_files(most: int) -> Iterator[None]:
    """No file can become larger than `most` bytes."""
    before, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


def noisy() -> Iterator[Tensor]:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        yield torch.randint(0, 256, (4, 32, 64, 3), dtype=torch.uint8, generator=generator)


def test_why_a_file_was_not_written(nodes: Any, tmp_path: Path) -> None:
    """Each as it really happens; nothing is left of the file."""

    def why(name: str, size: tuple[int, int] = SIZE, crf: int = 0) -> str:
        frames = noisy() if size == SIZE else pieces(3, size)
        with pytest.raises(OSError, match=Path(name).name[:5]) as failure:
            nodes.files.write_video(tmp_path / name, frames, size, FPS, crf, {})
        words: Any = failure.value.args[0]
        assert "[Errno" not in words
        assert words.key == "file_unwritten"
        return str(words.values["error"].key)

    assert why("none/a.mp4") == "disk_went_away"
    assert why("a" * 300 + ".mp4") == "disk_name_too_long"
    assert why("odd.mp4", (63, 33), 30) == "encoder_gave_up"  # x264 cannot, and does not say why
    with small_files(100_000):
        assert why("full.mp4") == "disk_file_too_large"
    assert list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- latents that are kept

NOTE = {
    "family": "ltx",
    "variant": "0.9.0",
    "frames": 50,
    "fps": 12.5,
    "width": 64,
    "height": 32,
    "seed": 2**64 - 1,
    "clip_frames": 9,
    "loop": True,
    "decoding": {"timestep": 0.1, "noise": 0.2, "tone_map": -1.0},
    "cache": {"kind": "fora"},
}


def keep(nodes: Any, sound: Any = None, note: Any = NOTE) -> Path:
    latent = {"samples": torch.randn(1, 4, 3, 2, 2), "reelwire": note}
    path: Path = nodes.kept.save_latents(latent | ({} if sound is None else {nodes.host.SOUND: sound}), NODE)
    assert path.exists()
    return path


def test_kept_latents_come_back_with_all_that_a_decode_needs(nodes: Any, folders: Path) -> None:
    path = clip(nodes, folders / "input" / "source.mp4")
    latent, notes = nodes.host.read_latents(keep(nodes, source_of(nodes, path)))
    assert notes == []
    assert latent["reelwire"] == NOTE
    sound = latent[nodes.host.SOUND]
    assert sound.fps == FPS
    opened, _ = nodes.host.opened_sound(sound)
    nodes.files.write_video(folders / "a.mp4", pieces(), SIZE, FPS, 30, {}, opened)
    assert packets(folders / "a.mp4") == packets(path)


@pytest.mark.parametrize("held", ["whole", "half", "of another kind"])
def test_what_a_mask_keeps_is_kept_with_them(nodes: Any, folders: Path, held: str) -> None:
    """The untouched source and the mask, so that the pictures outside are the same when they are decoded later."""
    name = nodes.host.UNTOUCHED
    whole: dict[str, Any] = {"source": torch.rand(1, 4, 3, 2, 2), "mask": torch.rand(1, 1, 3, 2, 2).round()}
    kinds: dict[str, dict[str, Any]] = {"whole": whole, "half": {"source": whole["source"]}}
    parts: dict[str, Any] = {**kinds, "of another kind": {**whole, "mask": [1]}}[held]
    latent: dict[str, Any] = {"samples": torch.rand(1, 4, 3, 2, 2), "reelwire": NOTE, name: parts}
    found, notes = nodes.host.read_latents(nodes.kept.save_latents(latent, NODE))
    assert notes == []
    assert torch.equal(found["samples"], latent["samples"])
    assert (name in found) == (held == "whole")
    for part in found.get(name, ()):
        assert torch.equal(found[name][part], whole[part])


@pytest.mark.parametrize("place", ["outside", "in memory", "samples"])
def test_sound_without_a_place_of_its_own_is_kept_with_them(nodes: Any, folders: Path, place: str) -> None:
    """No path of the server goes into the file, and the sound is there when its file is not."""
    path = clip(nodes, folders / "source.mp4")
    if place == "samples":
        audio = {"waveform": torch.full((1, 2, 96000), 0.25), "sample_rate": 48000}
        source = nodes.host.SourceSound(nodes.host.sound_of(audio)[0], FPS)
    else:
        source = source_of(nodes, path if place == "outside" else io.BytesIO(path.read_bytes()))
    file = keep(nodes, source)
    assert str(folders).encode() not in file.read_bytes()
    path.unlink()
    latent, notes = nodes.host.read_latents(file)
    assert notes == []
    audio, _ = nodes.host.audio_of(latent[nodes.host.SOUND].sound, Fraction(2))
    assert audio["waveform"].shape[-1] == 96000
    assert audio["waveform"].abs().max() > 0.2


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "its folder moved"])
def test_sound_that_is_gone_is_told_when_they_are_loaded(nodes: Any, folders: Path, loss: str) -> None:
    path = clip(nodes, folders / "input" / "source.mp4")
    file = keep(nodes, source_of(nodes, path))
    LOSSES[loss](path)
    latent, notes = nodes.host.read_latents(file)
    assert keys(notes) == ["kept_sound_gone"]
    assert "source.mp4" in notes[0]
    assert nodes.host.SOUND not in latent
    assert latent["reelwire"] == NOTE


PLACES: list[dict[str, Any]] = [
    {"folder": "input", "file": "../secret.mp4"},
    {"folder": "input", "file": "link.mp4"},
    {"folder": "", "file": "secret.mp4"},
    {"folder": "models", "file": "secret.mp4"},
    {"folder": ["input"], "file": "source.mp4"},
    {"folder": "input", "file": "http://example.org/a.mp4"},
    {"folder": "input", "file": "source\0.mp4"},
    {"folder": "input", "file": "source.mp4", "start": float("nan")},
    {"folder": "input", "file": "source.mp4", "duration": -1},
    {"folder": "input", "file": {}},
    {"folder": "input", "file": "."},
]


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_kept_file_opens_nothing_outside_of_the_hosts_folders(
    nodes: Any, folders: Path, place: dict[str, Any]
) -> None:
    secret = clip(nodes, folders / "secret.mp4")
    (folders / "input" / "link.mp4").symlink_to(secret)
    shutil.copy(secret, folders / "input" / "source.mp4")
    facts = {"name": "x", "fps": 25.0, "size": secret.stat().st_size, "start": 0, "duration": 0, **place}
    file = folders / "output" / "a.safetensors"
    note = json.dumps({**NOTE, "sound": facts})
    save_file({"samples": torch.zeros(1, 4, 3, 2, 2)}, file, {"reelwire": note})
    latent, notes = nodes.host.read_latents(file)
    assert nodes.host.SOUND not in latent
    assert keys(notes) == ["kept_sound_gone"]


@pytest.mark.parametrize("name", [name for name in NOTE if name != "cache"])
@pytest.mark.parametrize("value", [None, "x" * 200, -7, 10**30, float("nan"), [], {}, {"a": 1}, True], ids=repr)
def test_what_a_kept_file_says_is_checked(nodes: Any, tmp_path: Path, name: str, value: Any) -> None:
    """A field that cannot be is left out and said; the rest counts."""
    if (name, value) in (("loop", True), ("decoding", {})):
        return
    file = tmp_path / "a.safetensors"
    save_file({"samples": torch.zeros(1, 4, 3, 2, 2)}, file, {"reelwire": json.dumps({**NOTE, name: value})})
    latent, notes = nodes.host.read_latents(file)
    assert keys(notes) == ["kept_note_unusable"]
    assert name in notes[0]
    assert latent["reelwire"] == {key: known for key, known in NOTE.items() if key != name}


@pytest.mark.parametrize("text", ["[]", "3", "null", '"x"', "{}"])
def test_a_note_that_is_no_object(nodes: Any, tmp_path: Path, text: str) -> None:
    save_file({"samples": torch.zeros(1, 4, 3, 2, 2)}, tmp_path / "a.safetensors", {"reelwire": text})
    latent, notes = nodes.host.read_latents(tmp_path / "a.safetensors")
    assert "reelwire" not in latent
    assert len(notes) == (text != "{}")


DAMAGED = {
    "float8": torch.zeros(1, 4, 3, 2, 2).to(torch.float8_e4m3fn),
    "whole numbers": torch.zeros(1, 4, 3, 2, 2, dtype=torch.int64),
    "a number": torch.zeros(()),
    "nothing": torch.zeros(1, 4, 0, 2, 2),
    "two axes": torch.zeros(4, 4),
}


@pytest.mark.parametrize("case", [*DAMAGED, "no samples", "deep note"])
def test_what_holds_no_latents_is_refused(nodes: Any, tmp_path: Path, case: str) -> None:
    file, note = tmp_path / "a.safetensors", {"reelwire": "[" * 10**5} if case == "deep note" else {}
    name = "other" if case == "no samples" else "samples"
    save_file({name: DAMAGED.get(case, torch.zeros(1, 4, 3, 2, 2))}, file, note)
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        nodes.host.read_latents(file)


def test_files_of_earlier_versions(nodes: Any, tmp_path: Path) -> None:
    """0.1 and 0.2 wrote the note alone, or none."""
    old = {key: NOTE[key] for key in ("family", "variant", "frames", "width", "height", "seed")}
    for text in ({}, {"reelwire": json.dumps(old)}):
        save_file({"samples": torch.ones(1, 4, 3, 2, 2)}, tmp_path / "a.safetensors", text)
        latent, notes = nodes.host.read_latents(tmp_path / "a.safetensors")
        assert notes == []
        assert latent.get("reelwire", {}) == (old if text else {})
        assert torch.equal(latent["samples"], torch.ones(1, 4, 3, 2, 2))


def test_latents_from_a_file_are_not_kept_twice(nodes: Any, folders: Path) -> None:
    """A decode of them that fails names their file, one that succeeds leaves it; changed ones are kept anew."""
    file = keep(nodes)
    latent, _ = nodes.host.read_latents(file)
    with nodes.host.latents_on_disk(latent, NODE):
        assert [*file.parent.iterdir()] == [file]
    assert file.exists()
    with pytest.raises(RuntimeError, match=file.name), nodes.host.latents_on_disk(latent, NODE):
        raise ValueError
    assert [*file.parent.iterdir()] == [file]
    changed = {**latent, "samples": latent["samples"] + 1}
    with pytest.raises(RuntimeError), nodes.host.latents_on_disk(changed, NODE):
        raise ValueError
    (other,) = {*file.parent.iterdir()} - {file}
    assert torch.equal(load_file(other)["samples"], changed["samples"])
