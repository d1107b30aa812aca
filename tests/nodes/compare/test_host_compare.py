"""Compare Videos in a real ComfyUI: the grid, its table, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from reelwire.tests.support.clips import shade, write_shades
from reelwire.tests.support.host import Host, Prompt, frames, node, workflow


@pytest.fixture(scope="module")
def clips(host: Host) -> Path:
    """Two clips in the input folder: 10 frames at 10 a second, and 4 at 8 with sound, upright."""
    write_shades(host.base / "input" / "long.mp4", 10, 10)
    write_shades(host.base / "input" / "upright.mp4", 4, 8, (32, 64), sound=True)
    return host.base / "input"


def graph(**changes: Any) -> Prompt:
    inputs: dict[str, Any] = {"video_1": ["1", 0], "video_2": ["2", 0], "filename_prefix": "compare/grid"}
    return {
        "1": node("LoadVideo", file="long.mp4"),
        "2": node("LoadVideo", file="upright.mp4"),
        "9": node("ReelwireCompare", **inputs | changes),
        "10": node("PreviewAny", source=["9", 2]),
    }


def facts(entry: dict[str, Any]) -> list[dict[str, Any]]:
    return json.loads(entry["outputs"]["10"]["text"][0])["videos"]


def red_at(picture: np.ndarray, column: int) -> int:
    """The number of the frame that is shown in the middle of a column of two."""
    red = picture[picture.shape[0] // 2, picture.shape[1] * (2 * column + 1) // 4, 0]
    return min(range(12), key=lambda n: abs(shade(n) - int(red)))


@pytest.mark.parametrize(
    ("ends", "second"),
    [
        ("hold the last frame", [0, 0, 1, 2, 3, 3, 3, 3, 3, 3]),
        ("begin again", [0, 0, 1, 2, 3, 0, 0, 1, 2, 3]),
        ("end with the shortest", [0, 0, 1, 2, 3]),
    ],
)
def test_each_video_runs_at_its_own_speed(host: Host, clips: Path, ends: str, second: list[int]) -> None:
    (video,) = host.videos(host.post(graph(ends=ends, columns=2)))
    shown = frames(video)
    assert [red_at(picture, 0) for picture in shown] == [*range(len(second))]
    assert [red_at(picture, 1) for picture in shown] == second


def test_the_files_lie_side_by_side(host: Host, clips: Path) -> None:
    labels = "长\n<b>&\nfor nobody"
    entry = host.post(graph(labels=labels, sound=2, language="中文", width=640, filename_prefix="compare/files"))
    (video,) = host.videos(entry)
    with av.open(str(video)) as container:
        assert container.streams.video[0].width in (640, 641, 642, 638, 636)
        assert len(container.streams.audio) == 1
        assert "prompt" in container.metadata
    page = video.with_suffix(".html").read_text(encoding="utf-8")
    assert "&lt;b&gt;&amp;" in page
    assert "<b>" not in page
    assert "未知" in page
    with Image.open(video.with_suffix(".png")) as picture:
        assert json.loads(picture.text["prompt"])["9"]["class_type"] == "ReelwireCompare"  # type: ignore[attr-defined]
    (table,) = map(json.loads, entry["outputs"]["9"]["reelwire_table"])
    assert [row[0]["text"] for row in table["rows"]] == ["长", "<b>&"]
    keys = [json.loads(text)["key"] for text in entry["outputs"]["9"]["reelwire"]]
    assert "label_without_video" in keys
    assert [fact["run_seconds"] for fact in facts(entry)] == [None, None]


def test_what_our_nodes_made_knows_what_it_took(host: Host, clips: Path) -> None:
    """Its time is the sampler's and the decoder's; a second run that is taken from the cache has the same; a file that
    is read again has its model alone."""
    made = workflow("ltx_t2v", {"3.steps": 2, "3.frames": 9, "4.filename_prefix": "compare/made"})
    prompt = graph(video_1=["4", 0], price=3600.0) | {name: each for name, each in made.items() if int(name) > 2}
    prompt |= {f"m{name}": each for name, each in made.items() if int(name) < 3}
    prompt = json.loads(json.dumps(prompt).replace('["1", ', '["m1", ').replace('"model": ["m1"', '"model": ["m1"'))
    prompt["3"]["inputs"]["conditioning"] = ["m2", 0]
    prompt["9"]["inputs"]["video_1"] = ["4", 0]
    first, second = facts(host.post(prompt))
    assert (first["family"], first["frames"]) == ("ltx", 9)
    assert first["sampling_seconds"] > 0
    assert first["decoding_seconds"] > 0
    assert first["cost"] == pytest.approx(first["run_seconds"])
    assert first["peak_memory_bytes"] is None, "a processor does not count it"
    assert second["run_seconds"] is second["family"] is None

    prompt["9"]["inputs"]["columns"] = 1
    assert facts(host.post(prompt))[0]["run_seconds"] == first["run_seconds"]

    file = next((host.base / "output" / "compare").glob("made*.mp4"))
    (clips / "again.mp4").write_bytes(file.read_bytes())
    again = graph() | {"1": node("LoadVideo", file="again.mp4")}
    known = facts(host.post(again))[0]
    assert (known["family"], known["seed"], known["run_seconds"]) == ("ltx", first["seed"], None)


@pytest.mark.parametrize(
    ("changes", "lost"),
    [
        ({"sound": 1}, {"sound_has_none"}),
        ({"sound": 3, "video_3": ["3", 0]}, {"sound_never_came", "came_empty"}),
        ({"width": 20}, {"grid_width"}),
    ],
)
def test_what_is_not_as_it_was_asked_for_is_said(
    host: Host, clips: Path, changes: dict[str, Any], lost: set[str]
) -> None:
    """Sound of a silent video, or of one that never came; a width that holds no videos."""
    silent = node("GetVideoComponents", video=["1", 0])  # whose sound is None
    switch = node("ComfySwitchNode", switch=True, on_false=["silent", 1], on_true=["silent", 1])
    entry = host.post(graph(**changes) | {"silent": silent, "3": switch})
    keys = {json.loads(text)["key"] for text in entry["outputs"]["9"]["reelwire"]}
    assert lost <= keys
    (video,) = host.videos(entry)
    with av.open(str(video)) as container:
        assert len(container.streams.audio) == 0


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"sound": 7}, "sound"),
        ({"filename_prefix": "../outside"}, "filename_prefix"),
        ({"fps": 500.0}, "fps"),
        ({"ends": "never"}, "ends"),
        ({"video_2": "no link"}, "video_2"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(
    host: Host, clips: Path, changes: dict[str, Any], name: str
) -> None:
    refusal = host.refuse(graph(**changes))
    assert name in refusal.message
    assert refusal.done == ()


def test_an_interrupt_leaves_nothing(host: Host, clips: Path) -> None:
    write_shades(clips / "endless.mp4", 600, 30)
    prompt = graph(filename_prefix="compare/stopped", width=1280) | {"1": node("LoadVideo", file="endless.mp4")}

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["value"] > 20:
            host.send("/interrupt", {})

    seen = host.watch(prompt, stop)
    assert seen.all("execution_interrupted")
    assert seen.pictures, "the grid is previewed"
    assert not [*(host.base / "output" / "compare").glob("stopped*")]
    assert not [*(host.base / "output" / "compare").glob(".*part")]
