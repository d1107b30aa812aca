"""Long videos and kept latents in a real ComfyUI: nothing is lost, whatever stops a run."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reelwire.tests.support.files.bad_files import full_disk
from reelwire.tests.support.host import ROOT, Host, Prompt, digest, failure, frames, node, workflow
from safetensors.torch import load_file, save_file

sys.path.insert(0, str(ROOT / "bench"))
from resume import STEPS as STEPS_OF_FILM
from resume import TOLD as TIMELINE
from resume import finished, killed
from resume import prompt as long_film

WINDOWS, STEPS = 4, 3
FRAMES_OF_FILM = 121
ROUNDING = 4  # of 255, the codec's too
TOLD = {
    "unit": "seconds",
    "prompts": [{"at": 0, "text": "a red circle moves right on black"}, {"at": 1.6, "text": "一个红色的圆向左移动"}],
}


def film(prefix: str, **changes: Any) -> Prompt:
    load = {"checkpoint": "bundled/tiny_ltx", "text_encoder": "auto", "vae": "auto", "precision": "auto"}
    inputs = {
        "model": ["1", 0],
        "timeline": json.dumps(TOLD),
        "frames": 73,
        "width": 0,
        "height": 0,
        "window": 33,
        "overlap": 9,
        "steps": STEPS,
        "guidance": 0.0,
        "sampler": "default",
        "seed": 1,
        "preset": "default",
        "filename_prefix": f"long/{prefix}",
    }
    return {"1": node("ReelwireLoadLTX", **load), "2": node("ReelwireLongVideo", **{**inputs, **changes})}


def left(host: Host, prefix: str) -> list[str]:
    """What lies in the output folder for a prefix."""
    return sorted(path.name for path in (host.base / "output" / "long").glob(f"*{prefix}*"))


def test_it_is_written_as_it_goes(host: Host) -> None:
    """All frames; progress over the whole video, previews and the time left; nothing but the file remains."""
    events = host.watch(film("watched"))
    (done,) = [data for data in events.all("executed") if data["node"] == "2"]
    assert "each window goes on from the latents of the one before" in " ".join(done["output"]["text"])
    values = [
        data["value"] for data in events.all("progress") if data["node"] == "2" and data["max"] == WINDOWS * STEPS + 73
    ]
    assert values == sorted(values)
    assert values[-1] == WINDOWS * STEPS + 73
    assert len(events.pictures) >= 2, "neither the first step nor the last frame was shown"
    assert left(host, "watched") == ["watched_00001_.mp4"]
    video = frames(host.base / "output" / "long" / "watched_00001_.mp4")
    assert video.shape == (73, 64, 64, 3)
    assert video.std() > 20


def test_interrupt_keeps_what_is_done(host: Host) -> None:
    """Interrupted after two windows or more, run again: those are not sampled anew and the file has the same bytes."""
    graph = film("again", frames=145)
    expected = host.videos(host.post(graph))[0].read_bytes()
    folder = host.base / "output" / "long"
    (folder / "again_00001_.mp4").unlink()
    host.free()
    stopped: list[tuple[int, Any]] = []

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and not stopped and len(list(folder.glob("again.unfinished/window_*"))) >= 2:
            stopped.append(host.send("/interrupt", {}))

    assert host.watch(graph, stop).all("execution_interrupted")
    assert [name for name in left(host, "again") if name.endswith("mp4")] == []
    windows = list((folder / "again.unfinished").glob("window_*"))
    assert 2 <= len(windows) < 6
    times, observed = {path: path.stat().st_mtime_ns for path in windows}, set[int]()

    def look(kind: str, data: dict[str, Any]) -> None:
        with suppress(FileNotFoundError):  # gone once the file is whole
            observed.update(path.stat().st_mtime_ns for path in times)

    assert host.watch(graph, look).all("execution_success")
    assert observed == set(times.values()), "sampled anew"
    assert (folder / "again_00001_.mp4").read_bytes() == expected
    assert left(host, "again") == ["again_00001_.mp4"]


def test_other_inputs_are_refused_until_it_starts_over(host: Host) -> None:
    with full_disk(host, 20_000):  # windows are larger
        message = host.refuse(film("other")).message
    assert "Window 1 could not be kept: the file is too large" in message
    assert "could not be written" not in message
    assert "run again with the same inputs" not in message, "nothing is kept"
    with full_disk(host, 30_000):  # the file is larger
        message = host.refuse(film("other", crf=0)).message
    assert "4 of 4 windows are kept in output/long/other.unfinished: run again with the same inputs" in message
    changed = {**TOLD, "prompts": [TOLD["prompts"][0]]}
    message = host.refuse(film("other", seed=2, timeline=json.dumps(changed))).message
    assert "other inputs: seed 1 -> 2, prompt 2" in message
    assert "start over" in message
    entry = host.post(film("other", seed=2, unfinished="start over"))
    assert len(frames(host.videos(entry)[0])) == 73
    assert left(host, "other") == ["other_00001_.mp4"]


@contextmanager
def small_disk(host: Host, name: str, size: str) -> Iterator[Path]:
    """A disk of its own below the output folder."""
    folder = host.base / "output" / name
    folder.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("nothing can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def lacking(refusal: str) -> tuple[float, float]:
    """(KB that a refusal says are needed, KB that it says are free)."""
    needed, free = re.findall(r"([\d.]+) (KB|bytes)", refusal)
    return float(needed[0]), float(free[0])


def test_a_disk_without_room_for_the_windows_is_told_first(host: Host) -> None:
    """Before anything is computed; with less to make it goes through."""
    with small_disk(host, "little", "100k") as folder:
        refusal = host.refuse(film("", filename_prefix="little/film", frames=97))
        assert "frames = 97: " in refusal.message
        assert "output/little" in refusal.message
        needed, free = lacking(refusal.message)
        assert needed > free == 100
        assert [*folder.iterdir()] == []
        one = json.dumps({**TOLD, "prompts": TOLD["prompts"][:1]})
        host.post(film("", filename_prefix="little/film", frames=33, crf=51, timeline=one))
        assert [path.name for path in folder.iterdir()] == ["film_00001_.mp4"]


def test_a_disk_that_another_file_fills_meanwhile(host: Host) -> None:
    """There was room when it began: what is done stays, and the rest goes on once there is room for it."""
    graph = film("", filename_prefix="filled/film")
    expected = digest(host.videos(host.post(film("filled")))[0])
    with small_disk(host, "filled", "16k") as folder:
        whole, free = lacking(host.refuse(graph).message)
        assert whole > free == 16
        subprocess.run(["mount", "-o", "remount,size=2m", folder], check=True)
        other, windows = folder / "other.bin", partial(folder.glob, "film.unfinished/window_*")

        def fill(kind: str, data: dict[str, Any]) -> None:
            if kind == "progress" and not other.exists() and any(windows()):
                with other.open("wb", buffering=0) as stream, suppress(OSError):
                    while stream.write(bytes(2**12)):
                        pass

        (error,) = host.watch(graph, fill).all("execution_error")
        assert "could not be kept: the disk is full" in error["exception_message"]
        times = {path: path.stat().st_mtime_ns for path in windows()}
        assert 1 <= len(times) < WINDOWS
        os.truncate(other, other.stat().st_size - 2**14)
        assert "the disk is full" in host.refuse(graph).message, "what waits in memory is written first, and cannot be"
        assert {path: path.stat().st_mtime_ns for path in windows()} == times
        other.unlink()
        assert digest(host.videos(host.post(graph))[0]) == expected


def test_a_name_with_the_time_goes_on_too(host: Host) -> None:
    """However much time has passed meanwhile; the name may come by a link."""
    graph = film("linked", filename_prefix=["3", 0], crf=0)
    graph["3"] = node("PrimitiveString", value="long/clock_%second%_x")
    with full_disk(host, 30_000):
        message = host.refuse(graph).message
    assert "kept in output/long/clock_%second%_x.unfinished" in message
    (video,) = host.videos(host.post(graph))
    assert video.name.startswith("clock_")
    assert "%" not in video.name
    assert left(host, "clock") == [video.name]


def test_pictures_of_the_timeline(host: Host) -> None:
    Image.new("RGB", (64, 64), (200, 30, 30)).save(host.base / "input" / "red.png")
    (host.base / "input" / "broken.png").write_bytes(b"no picture")
    keyed = lambda image, at=0: json.dumps({**TOLD, "keyframes": [{"at": at, "image": image}]})
    plain = frames(host.videos(host.post(film("plain")))[0])
    result = frames(host.videos(host.post(film("keyed", timeline=keyed("red.png"))))[0])
    red = lambda video: abs(video[0].astype(float) - [200, 30, 30]).mean()
    assert red(result) < 0.3 * red(plain)
    message = host.refuse(film("bad", timeline=json.dumps({"prompts": [{"at": 0, "text": "qqq"}]}))).message
    assert "of prompt 1" in message
    assert "kept" not in message
    for image, message in (
        ("none.png", "no such picture"),
        ("../x.png", "leads outside"),
        ("broken.png", "cannot be read"),
    ):
        assert message in host.refuse(film("bad", timeline=keyed(image))).message
    assert "frame = 125 of keyframe 1" in host.refuse(film("bad", timeline=keyed("red.png", 5.0))).message


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"timeline": ""}, "timeline = empty"),
        ({"timeline": "{"}, "not JSON"),
        ({"timeline": '{"prompts": []}'}, "no prompts"),
        ({"frames": 74}, "Use 73 or 77"),
        ({"window": 34}, "window = 34"),
        ({"overlap": 33}, "must make new ones"),
        ({"fps": 0.5}, "fps = 0.5"),
        ({"filename_prefix": "../x"}, "filename_prefix"),
        ({"tile": 20}, "tile = 20"),
        ({"sampler": "ddim"}, "sampler = ddim"),
    ],
)
def test_bad_input_is_told(host: Host, changes: dict[str, Any], message: str) -> None:
    refusal = host.refuse(film("bad", **changes))
    assert message in refusal.message
    host.check()


def test_a_cache_and_all_notes_are_told(host: Host) -> None:
    """What a cache did in the last window, and what was told while it was rendered, stay on the node."""
    graph = film(
        "cached",
        timeline=json.dumps(
            {"unit": "frames", "prompts": [{"at": 0, "text": "a red circle qqq"}, {"at": 30, "text": "a ring"}]}
        ),
        steps=12,
    )
    graph["9"] = node("ReelwireFORA", model=["1", 0], interval=2)
    graph["2"]["inputs"]["model"] = ["9", 0]
    text = " ".join(host.post(graph)["outputs"]["2"]["text"])
    assert "Last window: FORA" in text
    assert "prompt 1: the text encoder does not know qqq: 1 of" in text
    assert "Prompt 2 begins at frame 29" in text


def test_a_cache_in_context_windows(host: Host) -> None:
    """It knows all of them as one, and holds what was said."""
    graph = film("context", frames=49, window=17, overlap=5, steps=12, width=64, height=64)
    graph["2"]["inputs"]["timeline"] = json.dumps({"unit": "frames", "prompts": [{"at": 0, "text": "a red circle"}]})
    graph["1"] = workflow("wan_t2v")["1"]
    graph["9"] = node("ReelwireCache", model=["1", 0], policy="corrected plan", speed=2.0)
    graph["2"]["inputs"]["model"] = ["9", 0]
    text = " ".join(host.post(graph)["outputs"]["2"]["text"])
    assert " corrected plan: guided prediction: 6 of 12 computed" in text
    assert "Last window" not in text
    (sizes,) = re.findall(r"held (\d+) KB at most \((\d+) KB expected\)", text)
    assert sizes[0] == sizes[1]


def test_killed_and_run_again(host: Host, comfyui: Path, tmp_path: Path) -> None:
    """SIGKILL in the middle, a fresh host: the same bytes as a render that nobody disturbed, and nothing else."""
    (video,) = host.videos(host.post(long_film(FRAMES_OF_FILM, TIMELINE, STEPS_OF_FILM)))
    expected = video.read_bytes()
    video.unlink()
    row = killed(comfyui, tmp_path, windows=2, frames=FRAMES_OF_FILM)
    assert row is not None
    output = tmp_path / "output" / "long"
    assert list(output.glob("film_*")) == []
    assert list(output.glob("film.unfinished/window_*")) != []
    assert finished(comfyui, tmp_path, FRAMES_OF_FILM)[0] == expected


def kept(host: Host) -> list[Path]:
    return sorted((host.base / "output" / "reelwire" / "latents").glob("*"))


@pytest.fixture
def nothing_kept(host: Host) -> None:
    """The host is shared: a decode that failed in another test has kept its latents as well."""
    for path in kept(host):
        path.unlink()


@pytest.mark.usefixtures("nothing_kept")
def test_a_failed_decode_keeps_its_latents(host: Host) -> None:
    """The error names a file, Load Kept Latents brings it back, and the video is the one that was lost."""
    graph = workflow("ltx_t2v", {"3.steps": 2, "3.seed": 77, "4.filename_prefix": "lost/one", "4.crf": 0})
    with full_disk(host, 24_000):
        message = host.refuse(graph).message
    (file,) = kept(host)
    assert f"kept in output/reelwire/latents/{file.name}" in message
    assert "ReelwireLoadLatent" in message
    expected = frames(host.videos(host.post(graph))[0])
    again = {
        **graph,
        "8": node("ReelwireLoadLatent", file=file.name),
        "4": {**graph["4"], "inputs": {**graph["4"]["inputs"], "latent": ["8", 0]}},
    }
    del again["3"]
    assert (frames(host.videos(host.post(again))[0]) == expected).all()
    assert kept(host) == [file], "a decode that succeeds keeps nothing"
    damaged = file.with_name("damaged.safetensors")
    damaged.write_bytes(file.read_bytes()[:200])
    again["8"]["inputs"]["file"] = damaged.name
    assert "damaged" in host.refuse(again).message
    again["8"]["inputs"]["file"] = "none.safetensors"
    assert "no such file" in host.refuse(again).message


@pytest.mark.usefixtures("nothing_kept")
def test_latents_that_are_not_finite_are_kept_too(host: Host) -> None:
    latents = torch.full((1, 16, 5, 8, 8), float("nan"))
    save_file(
        {"latent_tensor": latents, "latent_format_version_0": torch.tensor([])}, host.base / "input" / "nan.latent"
    )
    graph = workflow("ltx_t2v", {"3": node("LoadLatent", latent="nan.latent")})
    assert "not finite" in host.refuse(graph).message
    (file,) = kept(host)
    assert load_file(file)["samples"].isnan().all()
    graph["3"] = node("ReelwireLoadLatent", file=file.name)
    assert "not finite" in host.refuse(graph).message, "it was loaded"


@contextmanager
def short_memory(host: Host, room: int) -> Iterator[None]:
    """The host can take `room` bytes more than it has taken by now."""
    status = Path(f"/proc/{host.pid}/status").read_text(encoding="utf-8")
    used = int(status.split("VmSize:")[1].split()[0]) * 1024
    before = resource.prlimit(host.pid, resource.RLIMIT_AS)
    resource.prlimit(host.pid, resource.RLIMIT_AS, (used + room, before[1]))
    try:
        yield
    finally:
        resource.prlimit(host.pid, resource.RLIMIT_AS, before)


def tiles_of(graph: Prompt, size: int) -> Prompt:
    """Its decode in tiles of so many pixels, where there is room."""
    inputs = graph["4"]["inputs"] | {"tile": size, "filename_prefix": f"video/tiles{size}"}
    return {"4": graph["4"] | {"inputs": inputs}}


@pytest.mark.usefixtures("nothing_kept")
def test_a_decode_that_runs_out_of_memory_goes_on_in_tiles(host: Host) -> None:
    """However much memory there is, it ends in words, or with the same pictures: whole, or in tiles of the sizes that
    the log names (but for rounding: a convolution that gets no scratch memory is computed in another way)."""
    latents = torch.randn(1, 16, 2, 40, 40, generator=torch.Generator().manual_seed(1))
    save_file(
        {"latent_tensor": latents, "latent_format_version_0": torch.tensor([])}, host.base / "input" / "large.latent"
    )
    graph = workflow("ltx_t2v", {"3": node("LoadLatent", latent="large.latent"), "4.crf": 0})
    whole = frames(host.videos(host.post(graph))[0]).astype(int)
    for megabytes in range(112, 8, -8):  # not halved: what the heap still holds differs from run to run
        graph["4"]["inputs"]["filename_prefix"] = f"video/short{megabytes}"
        before = len(host.log)
        with short_memory(host, megabytes * 2**20):
            entry = host.run(graph)
        if entry["status"]["status_str"] != "success":
            assert "Nothing is lost" in failure(entry)
            assert "[Errno" not in failure(entry)
            continue
        video = frames(host.videos(entry)[0])
        assert video.shape == whole.shape == (5, 320, 320, 3)
        sizes = re.findall(rb"goes on with tiles of (\d+)", host.log[before:])
        made = [whole, *(frames(host.videos(host.post(graph | tiles_of(graph, int(size))))[0]) for size in sizes)]
        apart = [min(np.abs(frame - way[at].astype(int)).max() for way in made) for at, frame in enumerate(video)]
        assert max(apart) <= ROUNDING, (sizes, apart)
        if sizes:
            return
    pytest.fail("No room was too small for the whole frame and large enough for tiles.")


def test_latents_between_two_lengths(host: Host) -> None:
    """CogVideoX decodes pairs of latent frames, and one alone at the beginning."""
    latents = {"latent_tensor": torch.zeros(1, 16, 4, 8, 8), "latent_format_version_0": torch.tensor([])}
    save_file(latents, host.base / "input" / "even.latent")
    graph = workflow("cogvideox_t2v", {"3": node("LoadLatent", latent="even.latent")})
    assert "4 latent frames: " in (message := host.refuse(graph).message)
    assert "Cut them to 3" in message
