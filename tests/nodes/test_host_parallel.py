"""Parallel in a real ComfyUI: lists over two workers and one clip on two ranks, one of which is killed; what is
told where it does nothing."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest
from reelwire.tests.support.host import Host, Prompt, digest, node, workflow

pytest.importorskip("ray", reason="the extra `test` has it")
RANK = r".*parallel.clip.child\.py"
PROMPTS = "a red circle moving right\na blue ring"


@pytest.fixture(scope="module", autouse=True)
def no_worker_stays(host: Host) -> Iterator[None]:
    """Two hundred megabytes each, for the tests that come after."""
    yield
    for process in [*workers(host), *workers(host, RANK)]:
        os.kill(process, signal.SIGKILL)


def spread(**changes: Any) -> Prompt:
    """The first template with its sampler's model over two workers."""
    prompt = workflow("ltx_t2v", {"3.steps": 6, "3.model": ["90", 0], **changes})
    prompt["90"] = node("ReelwireParallel", model=["1", 0], address="", workers=2, mode="jobs")
    return prompt


def workers(host: Host, kind: str = r"ray::Worker") -> list[int]:
    """The processes of Ray's workers below a host, or of ranks."""
    answer = subprocess.run(["ps", "-ww", "-eo", "pid=,ppid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 2) for line in answer.stdout.splitlines()]
    parents = {int(pid): int(of) for pid, of, *_ in rows}

    def is_below(process: int) -> bool:
        while process in parents and process != host.pid:
            process = parents[process]
        return process == host.pid

    named = [int(pid) for pid, _, *rest in rows if rest and re.match(kind, rest[0])]
    return [pid for pid in named if is_below(pid)]


def test_a_list_is_the_same_videos(host: Host) -> None:
    """Two prompts with two seeds over two workers, one of which is killed while it samples."""
    prompt = spread(**{"2.positive": ["91", 0], "3.seed": ["91", 1]})
    prompt["91"] = node("ReelwirePromptList", prompts=PROMPTS, seeds=2, seed=5)
    killed = list[int]()

    def kill(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "3" and not killed and (there := workers(host)):
            killed.append(there[0])
            os.kill(there[0], signal.SIGKILL)

    seen = host.watch(prompt, kill)
    assert seen.all("execution_success"), seen.all("execution_error")
    assert killed
    (done,) = [data["output"] for data in seen.all("executed") if data["node"] == "4"]
    files = [host.base / "output" / each["subfolder"] / each["filename"] for each in done["images"]]
    wanted = []
    for text in PROMPTS.splitlines():
        for seed in (5, 6):
            entry = host.post(workflow("ltx_t2v", {"3.steps": 6, "2.positive": text, "3.seed": seed}))
            wanted.append(digest(host.videos(entry)[0]))
    assert [digest(file) for file in files] == wanted
    assert len(seen.pictures) > 0, "previews come from the workers"
    (lines,) = [data["output"]["text"] for data in seen.all("executed") if data["node"] == "3"]
    assert any("tried elsewhere" in line for line in lines)


def test_an_interrupt_reaches_the_workers(host: Host) -> None:
    prompt, stopped = spread(**{"3.steps": 400}), list[Any]()

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "3" and data["value"] > 2 and not stopped:
            stopped.append(host.send("/interrupt", {}))

    assert host.watch(prompt, stop).all("execution_interrupted")
    entry = host.post(spread(**{"3.steps": 3}))
    assert digest(host.videos(entry)[0]) == digest(host.videos(host.post(workflow("ltx_t2v", {"3.steps": 3})))[0])


def test_what_a_worker_took_is_known(host: Host) -> None:
    """To Compare Videos, whose table has the seconds of the worker and, of a processor, no peak."""
    compare = node("ReelwireCompare", video_1=["4", 0], video_2=["4", 0], filename_prefix="parallel/compare")
    prompt = spread(**{"3.steps": 3}) | {"92": compare, "93": node("PreviewAny", source=["92", 2])}
    (first, _) = json.loads(host.post(prompt)["outputs"]["93"]["text"][0])["videos"]
    assert 0 < first["sampling_seconds"] < first["run_seconds"]
    assert (first["peak_memory_bytes"], first["device"]) == (None, "cpu")


def test_an_address_is_refused_in_seconds(host: Host) -> None:
    prompt = spread()
    prompt["90"]["inputs"]["address"] = "somewhere"
    assert "10.0.0.5:6379" in host.refuse(prompt).message
    prompt["90"]["inputs"]["address"] = "127.0.0.1:9"
    refusal = host.refuse(prompt)
    assert "ReelwireParallel" in refusal.message
    assert "ray start --head" in refusal.message
    assert "ReelwireSampler" not in refusal.done


# ---------------------------------------------------------------- one clip

SHARED = {  # mode -> (template, the nodes of its model, its sampler and its decoder)
    "context": ("wan_t2v", "1", "3", "4"),
    "branches": ("ltx_t2v", "1", "3", "4"),
    "experts": ("wan22_t2v", "2", "4", "5"),
}
SMALL = {"width": 128, "height": 128, "frames": 9, "steps": 12}


def shared(mode: str, **changes: Any) -> tuple[Prompt, Prompt]:
    """(a small clip on two ranks, the same in one process), decoded in four tiles."""
    name, model, sampler, decoder = SHARED[mode]
    values = {f"{sampler}.{key}": value for key, value in {**SMALL, **changes}.items()} | {f"{decoder}.tile": 64}
    prompt = workflow(name, {**values, f"{sampler}.model": ["90", 0], f"{decoder}.model": ["90", 0]})
    prompt["90"] = node("ReelwireParallel", model=[model, 0], address="", workers=2, mode=mode)
    return prompt, workflow(name, values)


@pytest.mark.parametrize("mode", ["context", "branches"])
def test_one_clip_is_the_same_video(host: Host, mode: str) -> None:
    """A rank of the first mode is killed while it samples: that is told, and costs nobody anything."""
    prompt, alone = shared(mode)
    sampler, killed = SHARED[mode][2], list[int]()

    def kill(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == sampler and data["value"] > 3 and not killed and mode == "context":
            killed.append(workers(host, RANK)[0])
            os.kill(killed[0], signal.SIGKILL)

    seen = host.watch(prompt, kill)
    assert seen.all("execution_success"), seen.all("execution_error")
    assert len(workers(host, RANK)) == 2
    (done,) = [data["output"] for data in seen.all("executed") if data["node"] == SHARED[mode][3]]
    file = host.base / "output" / done["images"][0]["subfolder"] / done["images"][0]["filename"]
    assert digest(file) == digest(host.videos(host.post(alone))[0])
    assert len(seen.pictures) > 0, "previews come from the ranks"
    (lines,) = [data["output"]["text"] for data in seen.all("executed") if data["node"] == sampler]
    assert any(f"process {killed[0]}" in line for line in lines) if killed else mode != "context"
    steps = [data["value"] for data in seen.all("progress") if data["node"] == sampler]
    assert steps == sorted(steps)


def test_an_interrupt_reaches_the_ranks(host: Host) -> None:
    """They stay, and make the next clip, which is that of one process."""
    long, _ = shared("experts", steps=400)
    there, stopped = list[int](), list[Any]()

    def stop(kind: str, data: dict[str, Any]) -> None:
        if kind == "progress" and data["node"] == "4" and data["value"] > 2 and not stopped:
            there.extend(workers(host, RANK))
            stopped.append(host.send("/interrupt", {}))

    assert host.watch(long, stop).all("execution_interrupted")
    prompt, alone = shared("experts", steps=3)
    assert digest(host.videos(host.post(prompt))[0]) == digest(host.videos(host.post(alone))[0])
    assert len(there) == 2
    assert sorted(workers(host, RANK)) == sorted(there)


def test_a_clip_that_cannot_be_shared_is_refused_before_anything_is_read(host: Host) -> None:
    prompt, _ = shared("context")
    prompt["90"]["inputs"]["workers"] = 5
    refusal = host.refuse(prompt)
    assert "workers" in refusal.message
    assert "ReelwireEncodePrompt" not in refusal.done
