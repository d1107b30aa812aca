"""The trained tiny models, and frames of what they make:  python bench/trained.py tiny_wan "a red ring on white grows"

Writes the first, middle and last frame side by side, as the strips of the templates' pictures have them. --seed, --out.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import NamedTuple

import torch
from pack import ROOT, import_pack
from PIL import Image

import_pack()
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan

WEIGHTS = ROOT / "training" / "weights"
FRAMES = 3  # of a strip


class Trained(NamedTuple):
    """published: the family and variant whose published coefficients it is measured with."""

    family: str
    folder: Path
    published: tuple[str, str]


MODELS = {
    "tiny_ltx": Trained("ltx", ROOT / "loaders" / "bundled" / "tiny_ltx", ("ltx", "0.9.1-2b")),
    "tiny_wan": Trained("wan", ROOT / "bench" / "tiny_wan", ("wan", "2.1-t2v-1.3b")),
    "tiny_hunyuan": Trained("hunyuan_video", WEIGHTS / "tiny_hunyuan", ("hunyuan_video", "t2v-13b")),
    "tiny_cogvideox": Trained("cogvideox", WEIGHTS / "tiny_cogvideox", ("cogvideox", "2b")),
}
THERE = [name for name, entry in MODELS.items() if entry.folder.exists()]


def open_trained(name: str) -> VideoModel:
    entry = MODELS[name]
    return load(Recipe(entry.family, "", files_of(entry.folder), "float32"), PlainMemory())


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
