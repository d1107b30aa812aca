"""What the page asks about a timeline: the grid, the windows and the joins of the model that will render it."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from reelwire.tests.support.host import Host, Prompt, node, workflow

BUNDLED = {"type": "ReelwireLoadLTX", "inputs": {"checkpoint": "bundled/tiny_ltx"}}
TWO = ((0, "a red circle moving right"), (2, "a blue ring"))


def timeline(*prompts: Any, **more: Any) -> str:
    return json.dumps({"prompts": [{"at": at, "text": text} for at, text in prompts], **more})


def asked(host: Host, text: str, loader: Any = None, awaited: Any = (), **inputs: Any) -> dict[str, Any]:
    question = {"timeline": text, "loader": loader, "inputs": inputs, "awaited": list(awaited)}
    status, answer = host.send("/reelwire/timeline", question)
    assert status == 200
    return answer


def test_windows_lie_where_they_are_rendered(host: Host) -> None:
    """As many as the render makes, which says so, and each prompt where its window begins."""
    answer = asked(host, timeline(*TWO), BUNDLED, frames=97, window=49, overlap=9)
    assert (answer["readable"], answer["error"], answer["frames"], answer["fps"]) == (True, None, 97, 25)
    assert (answer["step"], answer["strengths"]) == (4, True)
    assert answer["windows"] == [[0, 48, 0, 0], [40, 72, 9, 1], [64, 96, 9, 1]]
    graph = workflow("ltx_long", {"11.timeline": timeline(*TWO), "11.steps": 2, "11.filename_prefix": "outlook/long"})
    said = host.post(graph)["outputs"]["11"]["text"]
    assert answer["notes"][0]["text"] in said


@pytest.mark.parametrize(
    ("text", "inputs", "readable", "key"),
    [
        ("0: a red circle", {}, False, "timeline_not_json"),
        (timeline((0, "a ring"), keyframes=[{"at": 0, "image": "no.png"}]), {"frames": 97}, True, "no_input_picture"),
        (timeline((0, "a ring")), {"frames": 96}, True, "frames_rule"),
        (timeline((0, "qqq")), {"frames": 97}, True, "prompt_unknown"),
        (timeline(*TWO), {}, True, "timeline_length_awaited"),
        (timeline(*TWO), {"frames": 97, "awaited": ["source"]}, True, "timeline_rate_awaited"),
    ],
    ids=["no JSON", "no picture", "no length", "no words", "a wired length", "a source"],
)
def test_what_is_wrong_or_not_known_is_said(
    host: Host, text: str, inputs: dict[str, Any], readable: bool, key: str
) -> None:
    answer = asked(host, text, BUNDLED, **inputs)
    assert answer["readable"] is readable
    assert f'"{key}"' in json.dumps(answer["error"])
    assert ("windows" in answer) is (key == "prompt_unknown")  # those do not rest on what is written


@pytest.mark.parametrize("question", [{}, {"timeline": 1, "loader": [], "inputs": 2, "awaited": 3}])
def test_what_no_page_asks_has_an_answer(host: Host, question: dict[str, Any]) -> None:
    status, answer = host.send("/reelwire/timeline", question)
    assert (status, answer["readable"]) == (200, False)


@pytest.mark.parametrize(
    "inputs",
    [
        {"frames": 10**12},
        {"frames": 97, "window": 10**9},
        {"frames": 97, "width": -(10**30)},
        {"frames": 97, "fps": 1e308},
        {"frames": 97, "guidance": -1e300},
    ],
)
def test_numbers_that_no_widget_takes_are_refused(host: Host, inputs: dict[str, Any]) -> None:
    """And not planned: a timeline of so many frames would have as many windows."""
    begin = time.monotonic()
    answer = asked(host, timeline((0, "a ring")), BUNDLED, **inputs)
    assert '"takes_a_range"' in json.dumps(answer["error"])
    assert "windows" not in answer
    assert time.monotonic() - begin < 20


def test_thousands_of_windows_have_an_answer(host: Host) -> None:
    """Those that are alike are checked once."""
    answer = asked(host, timeline((0, "a red circle")), BUNDLED, frames=99_997, window=9, overlap=5)
    assert len(answer["windows"]) == (99_997 - 5) / 4


def wired(story: str) -> Prompt:
    """The long video with its timeline from a node of its own."""
    graph = workflow("ltx_long", {"11.steps": 2, "11.filename_prefix": "outlook/wired"})
    graph["11"]["inputs"]["timeline"] = ["t", 0]
    return graph | {"t": node("ReelwireTimeline", timeline=story)}


def test_the_node_of_its_own_gives_the_text_on(host: Host) -> None:
    assert host.videos(host.post(wired(timeline(*TWO))))
    refusal = host.refuse(wired("0: a red circle"))
    assert refusal.done == ()
    assert "not JSON" in refusal.message
