"""Moving pictures and words of a run, as ComfyUI hands them to the page."""

from __future__ import annotations

import io
import time
from base64 import b64decode
from itertools import pairwise
from typing import Any

import pytest
from PIL import Image
from reelwire.tests.support.host import Host, Seen, digest, node, workflow

SAMPLER, DECODE = "3", "4"
STEPS = 80
SLOW = {"3.width": 96, "3.height": 64, "3.frames": 17, "3.steps": STEPS}


def graph(prefix: str, **changes: Any) -> dict[str, Any]:
    return workflow("ltx_t2v", {**SLOW, "4.filename_prefix": f"live/{prefix}", **changes})


@pytest.fixture(scope="module")
def seen(host: Host) -> tuple[Seen, list[float]]:
    """A run that takes a few seconds, and when its moving pictures of sampling came."""
    times = list[float]()
    came = lambda kind, data: times.append(time.monotonic()) if kind == "reelwire.live" else None
    return host.watch(graph("seen"), came), times


def test_moving_pictures_come_from_both_nodes_and_are_small(seen: tuple[Seen, list[float]]) -> None:
    pictures = seen[0].all("reelwire.live")
    assert {data["node"] for data in pictures} == {SAMPLER, DECODE}
    for data in pictures:
        assert len(data["picture"]) <= 200_000
        with Image.open(io.BytesIO(b64decode(data["picture"]))) as image:
            assert image.format == "JPEG"
            assert image.height % data["frames"] == 0
        assert data["ratio"] == pytest.approx(96 / 64)
        assert 4 <= data["frames"] / data["seconds"] <= 30
        assert {"prompt_id", "workflow"} <= data.keys()
    assert {data["frames"] for data in pictures if data["node"] == SAMPLER} == {5}


def test_they_are_two_a_second_at_most_and_the_last(seen: tuple[Seen, list[float]]) -> None:
    events, times = seen
    nodes = [data["node"] for data in events.all("reelwire.live")]
    sampling = [when for when, name in zip(times, nodes, strict=True) if name == SAMPLER]
    assert len(sampling) >= 3
    assert all(later - earlier > 0.4 for earlier, later in pairwise(sampling[:-1]))


def test_the_still_comes_too(seen: tuple[Seen, list[float]]) -> None:
    assert len(seen[0].pictures) >= len(seen[0].all("reelwire.live"))


def test_the_node_says_the_step_and_the_time_left(seen: tuple[Seen, list[float]]) -> None:
    said = [note["messages"][0] for note in seen[0].all("reelwire.note") if note["passing"] and note["node"] == SAMPLER]
    assert [said[0]["key"], said[0]["values"]["step"], said[0]["values"]["count"]] == ["step_of", 1, STEPS]
    assert {note["key"] for note in said[1:]} == {"time_left"}
    assert [note["values"]["where"]["values"]["step"] for note in said[1:]][-1] == STEPS
    assert 3 <= len(said) <= STEPS


def test_the_node_says_what_the_cache_did_so_far(host: Host) -> None:
    cached = {"9": node("ReelwireTeaCache", model=["1", 0], threshold=0.2, coefficients="auto"), "3.model": ["9", 0]}
    events = host.watch(graph("cached", **cached, **{"3.steps": 25}))
    said = [note["messages"] for note in events.all("reelwire.note") if note["passing"] and note["node"] == SAMPLER]
    first, last = said[0][1], said[-1][1]
    assert {first["key"], last["key"]} == {"steps_so_far"}
    assert first["values"] == {"computed": 1, "reused": 0}
    assert last["values"]["computed"] + last["values"]["reused"] == 25
    assert last["values"]["reused"] > 3


def test_no_picture_comes_where_previews_are_off_and_no_frame_moves(host: Host, seen: tuple[Seen, list[float]]) -> None:
    host.free()
    events = host.watch(graph("off"), previews="none")
    assert events.all("reelwire.live") == []
    assert [note for note in events.all("reelwire.note") if note["passing"]]
    off, on = (host.base / "output" / "live" / f"{name}_00001_.mp4" for name in ("off", "seen"))
    assert digest(off) == digest(on)


def test_a_long_video_shows_its_joins(host: Host) -> None:
    timeline = '{"unit": "frames", "prompts": [{"at": 0, "text": "a red circle moves right on black"}]}'
    load = {"checkpoint": "bundled/tiny_ltx", "text_encoder": "auto", "vae": "auto", "precision": "auto"}
    windows = {"frames": 73, "window": 33, "overlap": 9, "steps": 25, "seed": 3, "filename_prefix": "live/long"}
    sampling = {"guidance": 0.0, "sampler": "default", "preset": "default", "width": 64, "height": 64}
    prompt = {
        "1": node("ReelwireLoadLTX", **load),
        "2": node("ReelwireLongVideo", model=["1", 0], timeline=timeline, **windows, **sampling),
    }
    events = host.watch(prompt)
    shown = {tuple(data["marks"]): data["window"] for data in events.all("reelwire.live") if "window" in data}
    assert shown.items() <= {(0, 0, 5, 3): 1, (4, 3, 3, 3): 2, (4, 3, 5, 0): 3}.items()
    assert len(shown) > 1
    said = [note["messages"][0]["values"] for note in events.all("reelwire.note") if note["passing"]]
    windows_said = [values["where"]["values"] for values in said if "where" in values]
    assert {values["count"] for values in windows_said} == {3}
    assert windows_said[-1]["number"] == 3
