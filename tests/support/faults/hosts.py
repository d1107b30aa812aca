"""Two real hosts with one output folder: the same graph on both at once."""

from __future__ import annotations

import json
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from reelwire.tests.support.host import Host, boot, failure, frames, node, workflow

from .trials import Row

FRAMES = {"decode to file": 17, "long video": 73}


def graphs(seed: int) -> dict[str, Any]:
    """What both hosts run, by the point that writes."""
    load = {"checkpoint": "bundled/tiny_ltx", "text_encoder": "auto", "vae": "auto", "precision": "auto"}
    story = json.dumps({"prompts": [{"at": 0, "text": "a red circle moves right on black"}]})
    size = {"frames": FRAMES["long video"], "width": 0, "height": 0, "window": 33, "overlap": 9}
    how = {"steps": 2, "guidance": 0.0, "sampler": "default", "seed": seed, "preset": "default"}
    film = node("ReelwireLongVideo", model=["1", 0], timeline=story, filename_prefix="same/film", **size, **how)
    clip = workflow("ltx_t2v", {"3.steps": 2, "3.seed": seed, "4.filename_prefix": "same/clip"})
    return {"decode to file": clip, "long video": {"1": node("ReelwireLoadLTX", **load), "2": film}}


def two_hosts(comfyui: Path, rounds: int) -> list[Row]:
    """Each host makes a whole file of its own, or is told that the other is at it."""
    rows = {point: Row(point, "two real hosts at once") for point in FRAMES}
    with tempfile.TemporaryDirectory(prefix="faults_") as base, ExitStack() as stack:
        output = Path(base, "output")
        output.mkdir()
        options = "--cpu", "--output-directory", str(output)
        hosts = [stack.enter_context(boot(comfyui, Path(base, name), options, kind=Host)) for name in "ab"]
        pool = stack.enter_context(ThreadPoolExecutor(2))
        for seed in range(rounds):
            for point, graph in graphs(seed).items():
                before = {*output.rglob("*.mp4")}
                entries = [*pool.map(lambda host, graph=graph: host.run(graph), hosts)]
                _count(rows[point], entries, {*output.rglob("*.mp4")} - before, output / "same")
    return [*rows.values()]


def _count(row: Row, entries: list[dict[str, Any]], files: set[Path], folder: Path) -> None:
    """Look at what two runs say and have written."""
    done = sum(entry["status"]["status_str"] == "success" for entry in entries)
    words = [failure(entry) for entry in entries if entry["status"]["status_str"] != "success"]
    row.tried += 1
    row.words += sum("is at it since" in text for text in words)
    row.raw += sum("is at it since" not in text for text in words)
    row.half += sum(not _is_whole(file, FRAMES[row.point]) for file in files)
    row.lost += abs(done - len(files)) + (not done)
    row.left += sum(path.suffix != ".mp4" for path in folder.iterdir())
    contents = {file.read_bytes() for file in files}
    row.equal += len(contents) == 1
    if done != len(files) or not row.is_good:
        row.notes.append(f"{done} runs, {len(files)} files, {words}"[:400])


def _is_whole(file: Path, count: int) -> bool:
    import av

    try:
        return len(frames(file)) == count
    except (av.FFmpegError, IndexError):
        return False
