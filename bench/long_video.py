"""Two minutes of LTX-Video on the real host, judged:  python bench/long_video.py [--frames 2881] [--steps 25]

COMFYUI_DIR names the host's folder. The bundled model renders three prompts and four keyframes on one timeline. Written
to bench/long_video.json: the number of frames, what the judge sees at each keyframe and how far the frame is from its
picture, the mean and spread of each latent channel in the last window against the first, and the differences between
neighbouring frames at the joins of windows against all others.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from pack import import_pack
from PIL import Image
from safetensors.torch import load_file

WINDOW, OVERLAP, ADAIN = 17, 5, 1.0
SCENES = (("right", 0), ("left", 1), ("right", 2))  # (motion of the prompt, part of the video)
AROUND = 2  # frames at each side of a keyframe that the judge sees


def picture(motion: str, share: float, seed: int) -> np.ndarray:
    """A frame [H, W, 3] of a red circle that moves on black."""
    from reelwire.training.world import Scene, sample_clip

    clip = sample_clip(Scene("red", "circle", motion, "black"), 17, 64, 64, random.Random(seed))[0]
    return (((clip[:, round(share * 16)] + 1) * 127.5).round().clamp(0, 255).byte().permute(1, 2, 0)).numpy()


def timeline(frames: int) -> tuple[dict[str, Any], list[Any], dict[int, np.ndarray]]:
    """(the timeline, its windows, the keyframes' pictures by frame).

    Keyframes stand at the ends and in the middle of the second and the third part, wherever that is in a window.
    """
    from reelwire.samplers.long.timeline import read_timeline
    from reelwire.samplers.long.windows import Spans, lay_windows

    third = frames // 3
    prompts = [
        {"at": part * third, "text": f"a red circle moves {motion} on a black background"} for motion, part in SCENES
    ]
    script: dict[str, Any] = {"unit": "frames", "prompts": prompts, "negative": ""}
    places = (0, *(part * third + third // 2 for part in (1, 2)), frames - 1)
    laid = lay_windows(frames, Spans(4, WINDOW, OVERLAP), read_timeline(json.dumps(script), 25, frames), keys=places)
    pictures = {at: picture("right", share, 3) for at, share in zip(places, (0.0, 0.7, 0.3, 0.9), strict=True)}
    script["keyframes"] = [{"at": at, "image": f"key{at}.png"} for at in places]
    return script, list(laid), pictures


def prompt(frames: int, script: dict[str, Any], steps: int, **changes: Any) -> dict[str, dict[str, Any]]:
    load = {"checkpoint": "bundled/tiny_ltx", "text_encoder": "auto", "vae": "auto", "precision": "auto"}
    film = {
        "model": ["1", 0],
        "timeline": json.dumps(script),
        "frames": frames,
        "width": 0,
        "height": 0,
        "window": WINDOW,
        "overlap": OVERLAP,
        "steps": steps,
        "guidance": 0.0,
        "sampler": "default",
        "seed": 1,
        "preset": "default",
        "filename_prefix": "long/film",
        "adain": ADAIN,
        "crf": 0,
    }
    return {
        "1": {"class_type": "ReelwireLoadLTX", "inputs": load},
        "2": {"class_type": "ReelwireLongVideo", "inputs": {**film, **changes}},
    }


def watch_windows(folder: Path, windows: Path) -> None:
    """Copy windows as they appear: the node removes them when the file is whole."""
    for file in folder.glob("window_*.safetensors"):
        if not (windows / file.name).exists():
            try:
                shutil.copy(file, windows / f".{file.name}")
                (windows / f".{file.name}").rename(windows / file.name)
            except FileNotFoundError:  # the render has just ended
                return


def joins(windows: int, video: np.ndarray, starts: list[int]) -> dict[str, float]:
    """Differences between neighbouring frames: the largest at a join, and the 99th percentile of all others."""
    moved = np.abs(video[1:].astype(np.float32) - video[:-1]).mean((1, 2, 3)) / 255
    at = np.array(starts[1:]) - 1
    others = np.delete(moved, at)
    return {
        "windows": windows,
        "largest_at_a_join": round(float(moved[at].max()), 5),
        "percentile_99_of_the_others": round(float(np.percentile(others, 99)), 5),
        "joins_above_it": int((moved[at] > np.percentile(others, 99)).sum()),
    }


def drift(windows: Path) -> dict[str, float]:
    """The last window against the first, the worst channel: means in spreads of the first, and the ratio of spreads."""
    first, last = (
        load_file(file)["latents"]
        for file in (sorted(windows.glob("window_*"))[0], sorted(windows.glob("window_*"))[-1])
    )
    spread = lambda x: x.std((0, 2, 3, 4))
    mean = lambda x: x.mean((0, 2, 3, 4))
    ratio = spread(last) / spread(first)
    return {
        "mean": round(float(((mean(last) - mean(first)).abs() / spread(first)).max()), 4),
        "spread": round(float((ratio - 1).abs().max()), 4),
    }


def keyframe_report(video: np.ndarray, pictures: dict[int, np.ndarray]) -> list[dict[str, Any]]:
    from reelwire.training.judge import judge

    rows = []
    for at, wanted in pictures.items():
        begin = min(max(at - AROUND, 0), len(video) - 2 * AROUND - 1)
        verdict = judge(video[begin : begin + 2 * AROUND + 1] / 255.0)
        far = np.abs(video.astype(np.float32) - wanted).mean((1, 2, 3)) / 255
        rows.append(
            {
                "frame": at,
                "colour": verdict["colour"],
                "shape": verdict["shape"],
                "background": verdict["background"],
                "difference": round(float(far[at]), 4),
                "median_difference_of_all_frames": round(float(np.median(far)), 4),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=2881)
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    import_pack()
    from reelwire.tests.support.host import Host, boot, frames

    script, laid, pictures = timeline(arguments.frames)
    with (
        tempfile.TemporaryDirectory() as folder,
        boot(Path(os.environ["COMFYUI_DIR"]), Path(folder), kind=Host) as host,
    ):
        windows = Path(folder) / "kept"
        windows.mkdir()
        for at, content in pictures.items():
            Image.fromarray(content).save(Path(folder) / "input" / f"key{at}.png")
        began = time.monotonic()
        status, answer = host.queue(prompt(arguments.frames, script, arguments.steps))
        assert status == 200, answer
        while answer["prompt_id"] not in host.get(f"/history/{answer['prompt_id']}"):
            host.check()
            watch_windows(Path(folder) / "output" / "long" / "film.unfinished", windows)
            time.sleep(0.05)
        (entry,) = host.get(f"/history/{answer['prompt_id']}").values()
        video = frames(host.videos(entry)[0])
        row = {
            "frames": len(video),
            "seconds": round(time.monotonic() - began),
            "steps": arguments.steps,
            "window": WINDOW,
            "overlap": OVERLAP,
            "adain": ADAIN,
            "keyframes": keyframe_report(video, pictures),
            "last_window_against_first": drift(windows),
            "joins": joins(len(laid), video, [w.start + w.shared for w in laid]),
        }
    print(json.dumps(row, indent=1))
    Path(__file__).with_suffix(".json").write_text(json.dumps(row, indent=1) + "\n")


if __name__ == "__main__":
    main()
