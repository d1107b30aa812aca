"""Links that bring nothing, as of a silent video's sound or of a switch: the node says so, and runs as without them."""

from __future__ import annotations

import json
from typing import Any

import pytest
from reelwire.tests.support.clips import write_shades
from reelwire.tests.support.host import Host, frames, node, workflow

STORY = json.dumps({"prompts": [{"at": 0, "text": "a red circle moves right on black"}], "negative": ""})
NOTHING = {
    "loaded": node("LoadVideo", file="silent.mp4"),
    "parts": node("GetVideoComponents", video=["loaded", 0]),
    "empty": node("ComfySwitchNode", switch=True, on_false=["parts", 1], on_true=["parts", 1]),
    "picture": node("EmptyImage", width=64, height=64, batch_size=9, color=0x3060A0),
    "white": node("SolidMask", value=1.0, width=64, height=64),
}
LINK = ["empty", 0]


@pytest.fixture(scope="module")
def silent(host: Host) -> Host:
    write_shades(host.base / "input" / "silent.mp4", 9, 8, (64, 64))
    return host


def graph(**changes: Any) -> dict[str, Any]:
    size = {"3.frames": 9, "3.steps": 2, "4.filename_prefix": "empty/x"}
    return workflow("ltx_t2v", {**size, **NOTHING, **{key.replace("__", "."): v for key, v in changes.items()}})


@pytest.mark.parametrize(
    "changes",
    [
        {"3__source": LINK},
        {"3__mask": LINK, "3__source": ["picture", 0], "3__strength": 0.9},
        {"3__keyframes": LINK, "3__extend": LINK},
        {"4__audio": LINK, "4__model": LINK},
        {"3__seed": 9, "3__mask": LINK, "3__source": ["picture", 0], "3__strength": 0.9},  # all but the sampler known
    ],
)
def test_it_is_said_and_the_prompt_is_still_read(silent: Host, changes: dict[str, Any]) -> None:
    entry = silent.post(graph(**changes))
    assert len(frames(silent.videos(entry)[0])) == 9
    names = {(key[0], key[3:]) for key, value in changes.items() if value == LINK}
    for each in {each for each, _ in names}:
        lines = [json.loads(line) for line in entry["outputs"][each]["reelwire"]]
        empty = [line for line in lines if line["key"] == "came_empty"]
        assert len(empty) == len([name for other, name in names if other == each])


def test_null_is_nothing_on_purpose(silent: Host) -> None:
    entry = silent.post(graph(**{"3__source": None, "3__mask": None, "4__audio": None}))
    assert len(frames(silent.videos(entry)[0])) == 9
    assert not [line for each in entry["outputs"].values() for line in each.get("reelwire", []) if "came_empty" in line]


def test_a_long_video_and_what_it_needs(silent: Host) -> None:
    """Where what is left out was needed, the refusal says so; a required link without a value is refused too."""
    sizes = {"frames": 17, "width": 0, "height": 0, "window": 9, "overlap": 0, "steps": 1, "guidance": 1.0, "seed": 1}
    names = {"sampler": "default", "preset": "default", "filename_prefix": "empty/long", "timeline": STORY}
    media = {"source": LINK, "mask": LINK, "keyframes": LINK, "audio": LINK}
    loader = graph()["1"]
    long = node("ReelwireLongVideo", model=["1", 0], **sizes, **names)
    prompt = {"1": loader, **NOTHING, "5": {**long, "inputs": {**long["inputs"], **media}}}
    prompt["5"]["inputs"].pop("mask")
    entry = silent.post(prompt)
    assert sum("came_empty" in line for line in entry["outputs"]["5"]["reelwire"]) == 3
    text, _ = silent.refuse(graph(**{"3__mask": ["white", 0], "3__source": LINK}))
    assert "mask = connected" in text
    text, _ = silent.refuse(graph(**{"3__conditioning": LINK}))
    assert "conditioning = nothing" in text
    assert "Traceback" not in text


def test_a_negative_prompt_that_nothing_asks_for(host: Host) -> None:
    """Without guidance no prediction does, and the node says so, long videos too; with guidance nothing is said."""
    graph = workflow("any_t2v", {"2.negative": "ugly", "3.frames": 5, "3.steps": 1, "4.filename_prefix": "empty/n"})
    for loader, checkpoint, guidance, is_told in (
        ("ReelwireLoadWan", "diffusers/tiny-wan2.1-t2v", 1.0, True),
        ("ReelwireLoadWan", "diffusers/tiny-wan2.1-t2v", 2.0, False),
        ("ReelwireLoadHunyuanVideo", "diffusers/tiny-hunyuan-t2v", 6.0, True),
    ):
        graph["1"] = node(loader, checkpoint=checkpoint, precision="float32")
        graph["3"]["inputs"]["guidance"] = guidance
        entry = host.post(graph)
        assert any("negative_unused" in line for line in entry["outputs"]["3"]["reelwire"]) == is_told
