"""Every input of the two nodes that make videos, with a value that cannot work: words come, and what is connected to
the node is neither made nor decoded before."""

from __future__ import annotations

import json
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from reelwire.tests.support.host import Host, Prompt, node, workflow

COLOURS = count(0x10)  # of pictures that no earlier prompt has made
TIMELINE = json.dumps({"prompts": [{"at": 0, "text": "a red circle moves right on black"}]})
LATE = json.dumps({"prompts": [{"at": 0, "text": "a"}, {"at": 90, "text": "b"}], "unit": "frames"})
MISSING = json.dumps({"prompts": [{"at": 0, "text": "a"}], "keyframes": [{"at": 0, "image": "none.png"}]})
# input -> values that cannot work on LTX-Video, each with other inputs that it needs
BAD: dict[str, dict[str, list[Any]]] = {
    "ReelwireSampler": {
        "width": [63, -64, 10**6],
        "height": [63, 99999],
        "frames": [18, -1],
        "steps": [-1, 5000],
        "guidance": [-1.0],
        "sampler": ["none of these", "ddim", "distilled"],
        "seed": [-1],
        "preset": ["none of these", "distilled", "ltxv-13b-0.9.8-dev, second pass"],
        "shift": [3.0],
        "strength": [0.0, 0.2, 2.0],
        "frames_from": ["nobody"],
        "fps": [0.5, 1000.0],
        "control": [["control", 0]],
        "extend": [["batch", 0]],
    },
    "ReelwireLongVideo": {
        "timeline": ["", "{", '{"prompts": []}', LATE, MISSING],
        "frames": [18, 0],
        "width": [63, -64],
        "height": [63, 99999],
        "window": [18],
        "overlap": [3, 97],
        "steps": [-1, 5000],
        "guidance": [-1.0],
        "sampler": ["none of these", "ddim", "distilled"],
        "seed": [-1],
        "preset": ["none of these", "distilled", "ltxv-13b-0.9.8-dev, second pass"],
        "filename_prefix": ["../x", "/tmp/x", "a/"],
        "adain": [2.0],
        "memory": [-1.0],
        "hold": [2.0],
        "shift": [3.0],
        "fps": [0.5, 1000.0],
        "crf": [99],
        "tile": [63, 8],
        "unfinished": ["neither"],
        "strength": [0.0, 0.2, 2.0],
        "frames_from": ["nobody"],
        "extend": [["batch", 0]],
        "format": ["avi"],
    },
}
# what they bring decides, and of yes and no both can work
FREE = {"keyframes", "source", "mask", "model", "conditioning", "audio", "loop", "joined", "source_sound"}


def graph(kind: str, source: str = "batch") -> Prompt:
    """A node whose inputs all come from nodes that no cache knows."""
    colour = next(COLOURS)
    base = workflow("ltx_t2v", {"1.precision": "float32"})
    pictures = {
        "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=colour),
        "batch": node("RepeatImageBatch", image=["picture", 0], amount=33),
        "video": node("CreateVideo", images=["batch", 0], fps=24.0),
        "white": node("SolidMask", value=1.0, width=64 + colour, height=64),
        "key": node("ReelwireKeyframe", image=["picture", 0], frame=0, strength=1.0),
        "control": node("ReelwireControl", frames=["batch", 0], strength=1.0),
    }
    shared = {
        "model": ["1", 0],
        "frames": 33,
        "width": 64,
        "height": 64,
        "steps": 4,
        "guidance": 1.0,
        "sampler": "default",
        "seed": 1,
        "preset": "default",
        "source": [source, 0],
        "strength": 0.6,
        "keyframes": ["key", 0],
        "mask": ["white", 0],
    }
    own: dict[str, Any] = {"conditioning": ["2", 0]}
    if kind == "ReelwireLongVideo":
        own = {"timeline": TIMELINE, "filename_prefix": "ahead/x", "window": 17, "overlap": 9}
    base["2"]["inputs"]["positive"] = f"a circle {colour}"
    tail = {"4": base["4"]} if kind == "ReelwireSampler" else {}
    return {"1": base["1"], "2": base["2"], **pictures, "3": node(kind, **{**shared, **own}), **tail}


@pytest.mark.parametrize("kind", BAD)
def test_nothing_is_made_for_what_cannot_work(host: Host, kind: str) -> None:
    order = host.get(f"/object_info/{kind}")[kind]["input_order"]
    inputs = {*order["required"], *order["optional"]}
    assert inputs == {*BAD[kind]} | (FREE & inputs), "an input without a value that cannot work"
    for name, values in BAD[kind].items():
        for value in values:
            prompt = graph(kind)
            prompt["3"]["inputs"][name] = value
            text, done = host.refuse(prompt)
            assert name in text, f"{name} = {value}: {text}"
            assert "Traceback" not in text
            assert {*done} <= {"ReelwireLoadLTX"}, f"{name} = {value}: {done}"
    host.check()


@pytest.mark.parametrize("kind", BAD)
def test_what_keyframes_bring_is_checked_before_a_source_is_made(host: Host, kind: str) -> None:
    prompt = graph(kind, "video")
    prompt["key"]["inputs"]["frame"] = 4000
    text, done = host.refuse(prompt)
    assert "frame = 4000" in text
    assert not {*done} & {"CreateVideo", "RepeatImageBatch", "ReelwireEncodePrompt"}


@pytest.mark.parametrize("kind", ["a file", "a link out of it"])
def test_a_place_that_takes_no_file_is_failure_before_anything_is_made(host: Host, tmp_path: Path, kind: str) -> None:
    """Of a node that decodes, before its latents are sampled; of a long video, before its source is."""
    place = host.base / "output" / f"taken{next(COLOURS)}"
    place.parent.mkdir(exist_ok=True)
    if kind == "a file":
        place.touch()
    else:
        place.symlink_to(tmp_path)
    decode = workflow("ltx_t2v", {"3.seed": next(COLOURS), "4.filename_prefix": f"{place.name}/x"})
    long = graph("ReelwireLongVideo")
    long["3"]["inputs"]["filename_prefix"] = f"{place.name}/x"
    for prompt in (decode, long):
        text, done = host.refuse(prompt)
        assert place.name in text
        assert "Traceback" not in text
        assert {*done} <= {"ReelwireLoadLTX"}
    assert [*tmp_path.iterdir()] == []
    place.unlink()
