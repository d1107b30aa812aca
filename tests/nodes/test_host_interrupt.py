"""Progress, previews and interrupts in a real ComfyUI; and after an interrupt everything is as before."""

from __future__ import annotations

import io
import time
from typing import Any

import pytest
from PIL import Image
from reelwire.tests.support.host import Host, Seen, cached, digest, workflow

STEPS, SAMPLER, LOSSLESS = 200, "3", 0
LONG = {"3.steps": STEPS, "3.seed": 31}


def steps(events: Seen, total: int = STEPS, node: str = SAMPLER) -> list[int]:
    """A node's progress towards `total`, one number for each event.

    Reading weights before that counts to another total.
    """
    updates = [data for data in events.all("progress") if data["node"] == node]
    return [data["value"] for data in updates if data["max"] == total]


def interrupt_at(host: Host, step: int, prompt: dict[str, Any]) -> Seen:
    """Run a prompt and interrupt it after a step of the sampler, or the first that the host tells after it."""
    sent = list[int]()

    def on_event(kind: str, data: dict[str, Any]) -> None:
        sampling = kind == "progress" and (data["node"], data["max"]) == (SAMPLER, STEPS)
        if sampling and data["value"] >= step and not sent:
            sent.append(data["value"])
            assert host.send("/interrupt", {})[0] == 200

    return host.watch(prompt, on_event)


def test_progress_tells_the_steps(host: Host) -> None:
    """The first and the last, and between them what the host lets through (ten a second)."""
    events = host.watch(workflow("ltx_t2v", {"3.steps": 5, "3.seed": 30, "4.filename_prefix": "watched"}))
    progress = steps(events, 5)
    assert (progress[0], progress[-1]) == (1, 5)
    assert progress == sorted(set(progress))
    decoded = steps(events, 17, "4")
    assert decoded == sorted(decoded)
    assert decoded[-1] == 17
    assert events.all("execution_success")


def test_previews_are_pictures(host: Host) -> None:
    events = host.watch(workflow("ltx_t2v", {"3.steps": 4, "3.seed": 32, "4.filename_prefix": "watched"}))
    assert len(events.pictures) >= 2 + 1  # of the first and the last step, and some while decoding
    for data in events.pictures:
        with Image.open(io.BytesIO(data)) as picture:
            assert picture.format == "JPEG"
            assert min(picture.size) >= 64
            assert len({*picture.convert("L").tobytes()}) > 1, "a flat picture"


def test_previews_come_a_few_times_a_second(host: Host) -> None:
    """However short the steps are; the last one is always shown."""
    began = time.monotonic()
    events = host.watch(workflow("ltx_t2v", {"3.steps": 60, "3.seed": 35, "4.filename_prefix": "watched"}))
    seconds = time.monotonic() - began
    assert 3 <= len(events.pictures) <= seconds / 0.25 + 2 * 2  # the first and the last of two nodes


def test_without_previews_no_picture_comes(host: Host) -> None:
    """Where the page has them off; all steps are told nevertheless."""
    graph = workflow("ltx_t2v", {"3.steps": 4, "3.seed": 36, "4.filename_prefix": "watched"})
    events = host.watch(graph, previews="none")
    assert events.pictures == []
    assert steps(events, 4)[-1] == 4
    assert events.all("execution_success")


@pytest.mark.parametrize("step", [1, 3])
def test_interrupt_stops_within_a_step(host: Host, step: int) -> None:
    events = interrupt_at(host, step, workflow("ltx_t2v", LONG))
    (data,) = events.all("execution_interrupted")
    assert data["node_id"] == SAMPLER
    after = [reached for reached in steps(events) if reached >= step]
    assert len(after) <= 2
    assert after[-1] < STEPS
    assert not events.all("execution_success")
    assert not events.all("execution_error")


def test_interrupted_decode_leaves_no_file(host: Host) -> None:
    def on_event(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "4":
            host.send("/interrupt", {})

    graph = workflow("ltx_t2v", {"3.steps": 2, "3.frames": 81, "4.filename_prefix": "interrupted/clip"})
    events = host.watch(graph, on_event)
    assert [data["node_id"] for data in events.all("execution_interrupted")] == ["4"]
    assert list((host.base / "output" / "interrupted").iterdir()) == []


def test_after_an_interrupt_the_same_bytes(host: Host) -> None:
    """As before it on the same loaded model, and as after everything was dropped."""

    def run(sampler: str) -> str:
        graph = workflow(
            "ltx_t2v",
            {"3.steps": 4, "3.seed": 33, "3.sampler": sampler, "4.crf": LOSSLESS, "4.filename_prefix": "after"},
        )
        entry = host.post(graph)
        assert SAMPLER not in cached(entry), "nothing was sampled"
        return digest(host.videos(entry)[0])

    host.free()
    before = run("default")
    interrupt_at(host, 2, workflow("ltx_t2v", LONG | {"3.seed": 34}))
    after = run("euler")  # what "default" means, so that the first result is not taken from the cache
    host.free()
    assert run("default") == before == after


ENDS = {"error": "/reelwire_fail", "interrupted": "/interrupt"}


@pytest.mark.parametrize(
    ("name", "node", "end"),
    [
        ("ltx_t2v", "", "success"),
        ("ltx_t2v", SAMPLER, "interrupted"),
        ("ltx_t2v", SAMPLER, "error"),
        ("ltx_t2v", "4", "interrupted"),
        ("ltx_t2v", "4", "error"),
        ("ltx_long", "", "success"),
        ("ltx_long", "11", "interrupted"),
        ("cache_calibrate", "3", "interrupted"),
    ],
)
def test_no_model_is_left_to_the_collector_of_garbage(host: Host, name: str, node: str, end: str) -> None:
    """Else it leaves ComfyUI's list of what is loaded at any moment, also while ComfyUI goes through that list: the
    thread that runs the prompts would end there, and no prompt would ever run again."""
    sent = list[str]()

    def on_event(kind: str, data: dict[str, Any]) -> None:
        runs = kind == "progress" and data["node"] == node
        if runs and not sent and host.send("/reelwire_garbage", False)[1]:
            sent.append(ENDS[end])
            host.send(ENDS[end], {})

    host.free()
    assert host.send("/reelwire_garbage", False)[1] == []
    try:
        kind, data = host.watch(workflow(name), on_event).events[-1]
        assert (kind, data.get("node_id", "")) == (f"execution_{end}", node)
        host.post_nothing()
        assert host.send("/reelwire_garbage", False)[1] == []
    finally:
        host.send("/reelwire_garbage", True)
