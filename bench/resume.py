"""Kills ComfyUI at random moments of a long render and compares its file: python bench/resume.py [--kills 20]

COMFYUI_DIR names the host's folder. One render of the bundled model is left alone; the others are killed (SIGKILL) four
times each, anywhere between their first and their last second, and go on with a fresh host. Written to
bench/resume.json: when each was killed, what was being done, and whether the file has the same bytes in the end. A file
under its final name that is not whole counts as a failure at once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import tempfile
import time
from pathlib import Path
from typing import Any

from long_video import prompt
from pack import import_pack

FRAMES, STEPS, KILLS_EACH = 241, 6, 4
TOLD = {
    "unit": "frames",
    "prompts": [
        {"at": 0, "text": "a red circle moves right on a black background"},
        {"at": 120, "text": "a red circle grows on a black background"},
    ],
}  # fmt: skip


def phase(output: Path) -> str:
    """What a render that has just died was doing, by what it left."""
    windows = len(list(output.glob("film.unfinished/window_*")))
    part = any(output.glob(".*.reelwire-part"))
    return f"{windows} windows kept, " + ("writing" if part else "not writing yet")


def killed(
    comfyui: Path, base: Path, after: float = 0, windows: int = 0, frames: int = FRAMES
) -> dict[str, Any] | None:
    """Render and kill after some seconds, or once so many windows are kept; None if it was done before."""
    from reelwire.tests.support.host import Host, boot

    output = base / "output" / "long"
    with boot(comfyui, base, kind=Host) as host:
        status, answer = host.queue(prompt(frames, TOLD, STEPS))
        assert status == 200, answer
        began = time.monotonic()
        time.sleep(after)
        while windows > len(list(output.glob("film.unfinished/window_*"))) and not list(output.glob("film_*.mp4")):
            time.sleep(0.02)
        took = time.monotonic() - began
        done = list(output.glob("film_*.mp4"))
        os.kill(host.pid, signal.SIGKILL)
        host.process.wait(30)
    if done or list(output.glob("film_*.mp4")):
        return None
    return {"seconds": round(took, 2), "found": phase(output)}


def finished(comfyui: Path, base: Path, frames: int = FRAMES) -> tuple[bytes, float]:
    """(the bytes of the file of a render that is left alone, its seconds)."""
    from reelwire.tests.support.host import Host, boot

    with boot(comfyui, base, kind=Host) as host:
        began = time.monotonic()
        (video,) = host.videos(host.post(prompt(frames, TOLD, STEPS)))
        took = time.monotonic() - began
    content = video.read_bytes()
    video.unlink()
    assert not list(video.parent.iterdir()), f"left behind: {list(video.parent.iterdir())}"
    return content, took


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    arguments = parser.parse_args()
    import_pack()
    comfyui, draw = Path(os.environ["COMFYUI_DIR"]), random.Random(1)
    with tempfile.TemporaryDirectory() as folder:
        base = Path(folder)
        expected, took = finished(comfyui, base)
        rows: list[dict[str, Any]] = []
        kills: list[dict[str, Any]] = []
        while len(kills) < arguments.kills:
            mine: list[dict[str, Any]] = []
            for left in range(KILLS_EACH, 0, -1):
                row = killed(comfyui, base, draw.uniform(0.3, took * 1.1 / left))
                if row is None:
                    break
                mine.append(row)
            content, _ = finished(comfyui, base) if not list(base.glob("output/long/film_*.mp4")) else _taken(base)
            kills += mine
            rows.append({"kills": mine, "same_bytes": content == expected})
            print(json.dumps(rows[-1]), flush=True)
    summary = {"frames": FRAMES, "steps": STEPS, "seconds_alone": round(took, 1), "kills": len(kills), "renders": rows}
    summary["all_the_same_bytes"] = all(row["same_bytes"] for row in rows)
    Path(__file__).with_suffix(".json").write_text(json.dumps(summary, indent=1) + "\n")
    print(f"{len(kills)} kills, {len(rows)} renders, all the same bytes: {summary['all_the_same_bytes']}")


def _taken(base: Path) -> tuple[bytes, float]:
    """The file of a render that was done before it could be killed."""
    (video,) = base.glob("output/long/film_*.mp4")
    content = video.read_bytes()
    video.unlink()
    return content, 0.0


if __name__ == "__main__":
    main()
