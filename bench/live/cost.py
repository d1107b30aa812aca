"""What a moving picture costs the sampling: milliseconds of a processor and bytes, for common videos.

python bench/live/cost.py [--rounds 20] [--out cost.json]

COMFYUI_DIR names the host. It is the time of one thread. The latents are noise, which is the hardest to make small, and
smooth ones, as a video has. Where a picture takes t, the next one waits for 100 t, so that they take a hundredth of the
time at most; the table has for each how many a second that leaves, of two that are allowed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

import_pack()
sys.path.insert(0, os.environ["COMFYUI_DIR"])
sys.argv, given = sys.argv[:1], sys.argv[1:]
import comfy.cli_args

comfy.cli_args.args.cpu = True
torch.set_num_threads(1)
from reelwire.nodes.host.live.strip import chosen, strip_of
from reelwire.nodes.host.live.view import EVERY, SHARE

OUT = Path(__file__).with_suffix(".json")
SHAPES = {  # channels, frames, height and width of latents
    "Wan 2.1, 81 frames of 832x480": (16, 21, 60, 104),
    "Wan 2.1, 81 frames of 1280x720": (16, 21, 90, 160),
    "Wan 2.2 5B, 121 frames of 1280x704": (48, 31, 44, 80),
    "HunyuanVideo, 129 frames of 1280x720": (16, 33, 90, 160),
    "LTX-Video, 161 frames of 1216x704": (128, 21, 22, 38),
    "CogVideoX, 49 frames of 720x480": (16, 13, 60, 90),
    "Mochi, 163 frames of 848x480": (12, 28, 60, 106),
    "SVD, 25 frames of 1024x576": (4, 25, 72, 128),
}


def measure(shape: tuple[int, int, int, int], smooth: bool, rounds: int) -> dict[str, float]:
    """Of one kind of latents: colours, scaling and JPEG."""
    channels, *size = shape
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(1, *shape, generator=generator)
    if smooth:
        few = [max(2, side // 8) for side in size]
        latents = F.interpolate(torch.randn(1, channels, *few, generator=generator), size, mode="trilinear")
    factors, seconds = torch.randn(channels, 3, generator=generator) / channels**0.5, list[float]()
    for _ in range(rounds):
        began = time.thread_time()
        shown = latents[0, :, chosen(size[0])]
        frames = (shown.permute(1, 2, 3, 0) @ factors / 2 + 0.5).clamp(0, 1)
        strip = strip_of(frames)
        seconds.append(time.thread_time() - began)
    typical = median(seconds)
    rate = 1 / max(EVERY, typical / SHARE)
    return {"ms": round(1000 * typical, 1), "kB": round(len(strip.jpeg) / 750, 1), "a second": round(rate, 2)}


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=20)
    options.add_argument("--out", type=Path, default=OUT)
    chosen = options.parse_args(given)
    rows = {
        name: {kind: measure(shape, kind == "smooth", chosen.rounds) for kind in ("noise", "smooth")}
        for name, shape in SHAPES.items()
    }
    for name, row in rows.items():
        print(f"{name:40}", row)
    chosen.out.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
