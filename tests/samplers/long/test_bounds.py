"""What people write in lists is bounded, linear in time, and ends soon after somebody asks for it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from reelwire.loaders.common.emphasis import prompt_notes, segments
from reelwire.loaders.messages import InputError
from reelwire.loaders.notices import stop_if_asked, stopped_by
from reelwire.loaders.request import Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.lora import parse_blocks
from reelwire.samplers.long.fingerprint import render_fingerprint
from reelwire.samplers.long.plan import LongPlan, LongVideoOptions, plan_long
from reelwire.samplers.long.timeline import LONGEST_TEXT, Timeline, read_timeline
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import open_ltx

LONGEST = 20_000  # characters, which no model reads
SOON = 2.0  # seconds of work from an interrupt to its end, however busy the machine is
OPTIONS = LongVideoOptions()
FIRST = {"at": 0, "text": "a red circle"}


class Stopped(Exception):  # noqa: N818 - as the host's own
    """What the host raises where somebody has pressed stop."""


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return open_ltx(BUNDLED)


def story(count: int, frames: int, **more: Any) -> Timeline:
    keyframes = [{"at": at, "image": "a.png"} for at in range(count)]
    text = json.dumps({"unit": "frames", "prompts": [FIRST], "keyframes": keyframes, **more})
    return read_timeline(text, 25.0, frames)


def planned(model: VideoModel, timeline: Timeline, frames: int) -> LongPlan:
    image = torch.zeros(1, 64, 96, 3)
    keyframes = tuple(Keyframe(image, p.frame, p.strength) for p in timeline.pictures)
    request = Request(width=96, height=64, frames=frames, keyframes=keyframes)
    return plan_long(model, timeline, request, OPTIONS)


def test_a_picture_at_every_frame(model: VideoModel) -> None:
    """Each window has its own, all of one image."""
    frames = 801
    timeline = story(frames, frames)
    plan = planned(model, timeline, frames)
    assert len(plan.request.keyframes) == frames
    assert len({key.images.data_ptr() for window in plan.windows for key in window.keyframes}) == 1
    covered = {window.start + key.frame for window in plan.windows for key in window.keyframes}
    assert covered == {*range(frames)}
    inputs = render_fingerprint(model, timeline, plan, OPTIONS)
    assert len({json.dumps(inputs[f"keyframe {number}"][2]) for number in (1, 400, frames)}) == 1  # type: ignore[index]


def gaps(work: Callable[[], object]) -> float:
    """The longest work without a look at whether to stop, at the end too."""
    last, longest = time.process_time(), 0.0

    def look() -> None:
        nonlocal last, longest
        now = time.process_time()
        longest, last = max(longest, now - last), now

    with stopped_by(look):
        work()
    look()
    return longest


def test_an_interrupt_is_heard_while_a_video_is_planned(model: VideoModel) -> None:
    frames = 2401
    assert gaps(lambda: planned(model, story(frames, frames), frames)) < SOON


def test_an_interrupt_ends_it(model: VideoModel) -> None:
    looks = 0

    def stop() -> None:
        nonlocal looks
        looks += 1
        if looks == 50:
            raise Stopped

    with stopped_by(stop), pytest.raises(Stopped):
        planned(model, story(100, 801), 801)
    stop_if_asked()  # nobody asks any more


# ---------------------------------------------------------------- timelines


@pytest.mark.parametrize("kind", ["prompts", "keyframes"])
def test_no_more_than_frames(kind: str) -> None:
    entries = {"prompts": [{"at": n, "text": "a"} for n in range(101)], "keyframes": [{"at": 0, "image": "a"}] * 101}
    text = json.dumps({"unit": "frames", "prompts": [FIRST], kind: entries[kind]})
    read_timeline(text, 25.0, 101)
    with pytest.raises(InputError) as refused:
        read_timeline(text, 25.0, 100)
    assert refused.value.name == "timeline"
    assert "101" in str(refused.value)


HOSTILE = {
    "a key a hundred thousand times": "{" + ", ".join(['"a": 1'] * 100_000) + "}",
    "a hundred thousand keys": json.dumps({f"key {n}": 1 for n in range(100_000)}),
    "two keys of a megabyte": json.dumps({"x" * 10**6: 1, "y" * 10**6: 2}),
    "a long key": json.dumps({"prompts": [FIRST], "x" * 4_000_000: 1}),
    "60 MB": json.dumps({"prompts": [FIRST], "x" * 60_000_000: 1}),
    "a long unit": json.dumps({"prompts": [FIRST], "unit": "s" * 4_000_000}),
    "a long value": json.dumps({"prompts": [{"at": "9" * 4_000_000, "text": "a"}]}),
    "many digits": '{"prompts": [{"at": ' + "9" * 400 + ', "text": "a"}]}',
    "very many digits": '{"prompts": [{"at": ' + "9" * 1_000_000 + ', "text": "a"}]}',
    "many digits behind the point": '{"prompts": [{"at": 0.' + "9" * 1_000_000 + "e999" + ', "text": "a"}]}',
    "lists in lists": '{"prompts": ' + "[" * 1_000_000,
    "objects in objects": '{"a":' * 500_000,
    "a list of lists": json.dumps({"prompts": [[[]]] * 100_000}),
    "steering": '{"prompts": [{"at": 0, "text": "a"}], "\\u001b[31m\\u202e\\u0000": 1}',
    "negative": json.dumps({"prompts": [{"at": -(10**30), "text": "a"}]}),
    "out of order": json.dumps({"unit": "frames", "prompts": [{"at": 99 - n, "text": "a"} for n in range(100)]}),
}


@pytest.mark.parametrize("text", HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_timelines(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError) as refused:
        read_timeline(text, 25.0, 10**6)
    assert time.process_time() - began < 5 * SOON
    assert refused.value.name == "timeline"
    assert len(str(refused.value)) < 900
    assert not {*str(refused.value)} & {*"\x1b\u202e\x00\n"}
    assert len(text) <= LONGEST_TEXT or str(LONGEST_TEXT) in str(refused.value)


@pytest.mark.parametrize("fps", [float("nan"), float("inf"), -1.0, 1e308, 0.5])
def test_no_rate(fps: float) -> None:
    with pytest.raises(InputError) as refused:
        read_timeline(json.dumps({"prompts": [FIRST]}), fps, 100)
    assert refused.value.name == "fps"


# ---------------------------------------------------------------- prompts and lists

BOMBS = {
    "open": "(" * LONGEST,
    "closed": ")" * LONGEST,
    "nested": "(" * (LONGEST // 2) + ")" * (LONGEST // 2),
    "deep, many times": ("(" * 99 + "a" + ")" * 99) * (LONGEST // 199),
    "emphasis": "(a:1.1)" * (LONGEST // 7),
    "half open": ("(" * 50 + "a" + ")" * 49 + "b)") * (LONGEST // 102),
    "choices": "{" + "|" * (LONGEST - 1),
    "nested choices": "{|" * (LONGEST // 2),
    "schedules": "[" + ":" * (LONGEST - 1),
    "nested schedules": "[:" * (LONGEST // 2),
    "wildcards": "__" * (LONGEST // 2),
    "wildcard": " __" + "a" * (LONGEST - 3),
    "loras": "<lora:" * (LONGEST // 6),
    "embeddings": "embedding:" * (LONGEST // 10),
    "breaks": "BREAK AND " * (LONGEST // 10),
    "letters": "A " * (LONGEST // 2),
    "a long weight": "(a:" + "9" * (LONGEST - 4) + ")",
}


@pytest.mark.parametrize("text", BOMBS.values(), ids=BOMBS.keys())
def test_no_prompt_takes_long(text: str) -> None:
    began = time.process_time()
    try:
        prompt_notes("positive", text, segments(text))
    except InputError as refused:
        assert len(str(refused)) < 400  # noqa: PT017 - either is right
    assert time.process_time() - began < 2 * SOON


def test_an_endless_prompt_is_refused_before_anything_is_looked_for(model: VideoModel) -> None:
    for text in ("(" * 100_000, " " * 12_000_000, "a" * (LONGEST + 1)):
        began = time.process_time()
        with pytest.raises(InputError) as refused:
            model.check_prompt("positive", text)
        assert refused.value.name == "positive"
        assert time.process_time() - began < SOON


@pytest.mark.parametrize(
    "text", ["9" * 100_000, "0: 1, " * 100_000, "0-" * 100_000, "1" * 50_000 + "x", "0:" + "9" * 3000 + "x"]
)
def test_endless_block_strengths(text: str) -> None:
    began = time.process_time()
    with pytest.raises(InputError) as refused:
        parse_blocks(text)
    assert refused.value.name == "blocks"
    assert time.process_time() - began < SOON
