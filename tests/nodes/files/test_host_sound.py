"""Sound, names, loops and files that are gone, in a real ComfyUI."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from reelwire.tests.support.host import Host, Prompt, cached, frames, node, workflow

TONE = node("EmptyAudio", duration=3.0, sample_rate=44100, channels=2)


def graph(name: str, changes: dict[str, Any] | None = None) -> Prompt:
    return workflow("ltx_t2v", {"3.steps": 2, "3.seed": 5, "4.filename_prefix": f"sound/{name}", **(changes or {})})


def notes(entry: dict[str, Any], name: str = "4") -> str:
    return "\n".join(entry["outputs"][name]["text"])


def lengths(path: Path) -> tuple[float, float]:
    """Seconds of the picture and of the sound, 0 where there is none."""
    with av.open(str(path), "r") as file:
        streams: list[Any] = [file.streams.video[0], *file.streams.audio]
        picture, *sound = (float(stream.duration * stream.time_base) for stream in streams)
        return picture, sound[0] if sound else 0.0


def packets(path: Path) -> list[bytes]:
    with av.open(str(path), "r") as file:
        return [bytes(packet) for packet in file.demux(audio=0) if packet.size]


@pytest.fixture(scope="module")
def clip(host: Host) -> Path:
    """A clip with sound in the input folder: 17 frames, 12 a second."""
    video = host.videos(host.post(graph("clip", {"8": TONE, "4.audio": ["8", 0], "4.fps": 12.0})))[0]
    target = host.base / "input" / "with_sound.mp4"
    target.write_bytes(video.read_bytes())
    picture, sound = lengths(target)
    assert picture == pytest.approx(17 / 12, abs=1e-3)
    assert abs(picture - sound) <= 1024 / 44100
    return target


def again(**changes: Any) -> Prompt:
    """Video-to-video of the clip."""
    load = node("LoadVideo", file="with_sound.mp4")
    return graph("again", {"8": load, "3.source": ["8", 0], "3.strength": 0.5, "3.sampler": "euler", **changes})


def test_sound_goes_through_video_to_video(host: Host, clip: Path) -> None:
    """Bit by bit, at the rate of its picture; unless it is switched off, or another sound is connected."""
    entry = host.post(again())
    (video,) = host.videos(entry)
    own = packets(clip)
    assert packets(video) == own
    assert len(frames(video)) == 17
    assert lengths(video) == pytest.approx(lengths(clip), abs=0.03)
    assert "12 frames per second" in notes(entry)

    off = host.videos(host.post(again(**{"4.source_sound": False})))[0]
    assert lengths(off) == (pytest.approx(17 / 12, abs=1e-3), 0)
    other = host.post(again(**{"9": TONE, "4.audio": ["9", 0], "4.fps": 12.0}))
    assert "44100 Hz, stereo." in notes(other)
    assert "set fps to 0 or 12" in notes(host.post(again(**{"4.fps": 25.0}))).lower()


def test_a_video_lends_its_sound(host: Host, clip: Path) -> None:
    load = node("LoadVideo", file="with_sound.mp4")
    parts = node("GetVideoComponents", video=["8", 0])
    for name, link, copied in (("video", ["8", 0], True), ("parts", ["9", 1], False)):
        entry = host.post(graph(name, {"8": load, "9": parts, "4.audio": link, "4.fps": 12.0}))
        assert packets(host.videos(entry)[0]) == packets(clip)  # silence is encoded as it was
        assert ("copied as it was" in notes(entry)) == copied


def long_video(name: str, **inputs: Any) -> Prompt:
    """A long video of 17 frames in a step."""
    sampler = workflow("ltx_t2v")["3"]["inputs"]
    plain = {k: v for k, v in sampler.items() if k not in ("conditioning", "keyframes", "source", "loop")}
    story = '{"unit": "frames", "prompts": [{"at": 0, "text": "a red circle"}]}'
    numbers = {"model": ["1", 0], "timeline": story, "frames": 17, "steps": 2, "window": 0, "overlap": 0}
    node_inputs = {**plain, **numbers, "filename_prefix": f"sound/{name}", **inputs}
    return {"1": workflow("ltx_t2v")["1"], "2": node("ReelwireLongVideo", **node_inputs)}


def test_sound_of_a_long_video(host: Host) -> None:
    entry = host.post({**long_video("long", audio=["8", 0]), "8": TONE})
    picture, sound = lengths(host.videos(entry)[0])
    assert picture == pytest.approx(17 / 25, abs=1e-3)
    assert abs(picture - sound) <= 1024 / 44100


def test_sound_of_a_long_videos_source(host: Host, clip: Path) -> None:
    load = {"8": node("LoadVideo", file="with_sound.mp4")}
    made_of = {"source": ["8", 0], "strength": 0.5, "sampler": "euler"}
    (video,) = host.videos(host.post({**long_video("long_source", **made_of), **load}))
    assert packets(video) == packets(clip)
    assert lengths(video) == pytest.approx(lengths(clip), abs=0.03)
    (silent,) = host.videos(host.post({**long_video("long_silent", **made_of, source_sound=False), **load}))
    assert lengths(silent) == (pytest.approx(17 / 12, abs=1e-3), 0)


@pytest.mark.parametrize("decode", ["file", "images"])
def test_a_source_that_goes_away_while_it_is_sampled(host: Host, clip: Path, decode: str) -> None:
    """The video is written all the same, and its node says that the sound is not in it."""
    source = clip.with_name(f"leaves_{decode}.mp4")
    source.write_bytes(clip.read_bytes())
    load = node("LoadVideo", file=source.name)
    graph = again(**{"8": load, "3.steps": 16, "3.seed": 91 + len(decode), "4.filename_prefix": f"sound/left_{decode}"})
    if decode == "images":
        graph["4"] = node("ReelwireDecode", latent=["3", 0], tile=0)
        graph["9"] = node("CreateVideo", images=["4", 0], audio=["4", 1], fps=["4", 2])
        graph["10"] = node("SaveVideo", video=["9", 0], filename_prefix="sound/left", format="auto", codec="auto")

    def leave(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "3":
            source.unlink(missing_ok=True)

    seen = host.watch(graph, leave)
    assert not source.exists()
    (done,) = seen.all("execution_success")
    entry = host.wait(done["prompt_id"])
    (video,) = host.videos(entry)
    assert lengths(video) == (pytest.approx(17 / 12, abs=1e-2), 0)
    assert f"left out, as {source.name}" in notes(entry)


def test_images_bring_their_sound_and_their_rate_for_the_hosts_own_nodes(host: Host, clip: Path) -> None:
    graph = again(**{"4": node("ReelwireDecode", latent=["3", 0], tile=0)})
    graph["9"] = node("CreateVideo", images=["4", 0], audio=["4", 1], fps=["4", 2])
    graph["10"] = node("SaveVideo", video=["9", 0], filename_prefix="sound/created", format="auto", codec="auto")
    (video,) = host.videos(host.post(graph))
    assert lengths(video) == pytest.approx(lengths(clip), abs=0.05)
    mute = again(**{"8": node("LoadVideo", file="tiny_clip.mp4")})
    assert "has no sound: nor will the file" in notes(host.post(mute))
    silent = graph | {"3": {**graph["3"], "inputs": {**graph["3"]["inputs"], "strength": 1.0}}}
    del silent["3"]["inputs"]["source"]
    (video,) = host.videos(host.post(silent))
    assert lengths(video)[1] == 0


BAD: dict[str, dict[str, Any]] = {
    "audio = 3 (int)": {"4.audio": 3},
    "audio = 'sound.wav' (str)": {"4.audio": "sound.wav"},
    "video/a:b": {"4.filename_prefix": "video/a:b"},
    "NUL": {"4.filename_prefix": "NUL"},
    "linked/": {"4.filename_prefix": ["8", 0], "8": node("PrimitiveString", value="linked/")},
}


@pytest.mark.parametrize("words", BAD)
def test_what_cannot_be_written_is_refused_before_sampling(host: Host, words: str) -> None:
    text, done = host.refuse(graph("bad", {"3.seed": 17, **BAD[words]}))
    assert words in text
    assert "ReelwireSampler" not in done
    assert "Traceback" not in text
    host.check()


def test_tokens_of_an_api_prompt(host: Host) -> None:
    prefix = "sound/%date:yyyy%/%ReelwireSampler.seed%_%Nobody.seed%"
    entry = host.post(graph("", {"4.filename_prefix": prefix}))
    (video,) = host.videos(entry)
    assert video.relative_to(host.base / "output").as_posix() == (
        f"sound/{time.localtime().tm_year}/5_%Nobody.seed%_00001_.mp4"
    )
    assert "%Nobody.seed%" in notes(entry)


def test_a_file_that_is_gone_is_written_again(host: Host) -> None:
    """With what comes after it; the sampler does not run again, nor does anything while the file is there."""
    more = {"8": node("SaveVideo", video=["4", 0], filename_prefix="sound/copy", format="auto", codec="auto")}
    entry = host.post(graph("moved", more))
    video = host.base / "output" / "sound" / "moved_00001_.mp4"
    assert {"3", "4", "8"} <= {*cached(host.post(graph("moved", more)))}
    video.rename(video.with_name("elsewhere.mp4"))
    more["8"]["inputs"]["filename_prefix"] = "sound/other"
    entry = host.post(graph("moved", more))
    assert "3" in cached(entry)
    assert "moved_00001_.mp4 is not where" in notes(entry)
    assert np.array_equal(frames(video), frames(video.with_name("elsewhere.mp4")))
    assert {"3", "4", "8"} <= {*cached(host.post(graph("moved", more)))}


def test_a_loop_says_how_well_its_ends_meet(host: Host) -> None:
    entry = host.post(graph("loop", {"3.loop": True, "3.frames": 33, "3.steps": 4}))
    assert "The seam of the loop" in notes(entry)
    assert "a circle in time" in notes(entry, "3")
    text, done = host.refuse(workflow("svd_i2v", {"6.loop": True}))
    assert "loop = true" in text
    assert "no picture at the last frame" in text
    assert "Traceback" not in text
    assert not {"ReelwireDecodeToVideo"} & {*done}


def test_a_long_video_says_how_well_its_ends_meet(host: Host) -> None:
    """A last window that is led back, and refusals before anything is encoded."""
    entry = host.post(long_video("long_loop", frames=33, window=17, loop=True))
    keys = [json.loads(line)["key"] for line in entry["outputs"]["2"]["reelwire"]]
    assert {"loop_last_window", "loop_seam"} <= {*keys}
    assert len(frames(host.videos(entry)[0])) == 33
    last = {"at": -1, "image": "reelwire_left.png"}
    story = json.dumps({"unit": "frames", "prompts": [{"at": 0, "text": ""}], "keyframes": [last]})
    text, done = host.refuse(long_video("long_loop", frames=33, window=17, loop=True, timeline=story))
    assert "loop = true" in text
    assert "Traceback" not in text
    assert not done or "ReelwireLongVideo" not in done
