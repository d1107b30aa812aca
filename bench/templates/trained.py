"""Draws what a trained tiny model makes:  python bench/templates/trained.py tiny_wan "a red ring growing on white"

Writes the first, middle and last frame side by side, as the strips of the templates' pictures have them.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from pack import THERE, import_pack, open_trained

import_pack()
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan

FRAMES = 3  # of a strip


@torch.no_grad()
def frames(model: VideoModel, prompt: str, seed: int) -> list[Image.Image]:
    """The frames of a video with the model's own defaults."""
    latents = sample(model, model.encode(prompt, ""), plan(model, Request(seed=seed)), lambda *_: None)
    video = torch.cat(list(stream_frames(model, latents)))
    return [Image.fromarray((frame * 255).round().to(torch.uint8).numpy()) for frame in video]


def strip(made: list[Image.Image], side: int) -> Image.Image:
    """FRAMES of them side by side."""
    chosen = [made[round(i * (len(made) - 1) / (FRAMES - 1))] for i in range(FRAMES)]
    picture = Image.new("RGB", (side * FRAMES, side))
    for i, frame in enumerate(chosen):
        picture.paste(frame.resize((side, side), Image.Resampling.LANCZOS), (side * i, 0))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=THERE)
    parser.add_argument("prompt", nargs="?", default="a red circle moving right on a black background")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--side", type=int, default=256, help="pixels of a frame in the picture")
    parser.add_argument("--out", type=Path, help="the picture; MODEL.png if it is left out")
    options = parser.parse_args()
    out = options.out or Path(f"{options.model}.png")
    strip(frames(open_trained(options.model), options.prompt, options.seed), options.side).save(out)
    print(out)


if __name__ == "__main__":
    main()
