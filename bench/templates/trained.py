"""Videos of the trained tiny models, one of each family that has one: what the pictures of its templates show.

A model lies in loaders/bundled/tiny_<family> or bench/tiny_<family>; one that is put there is taken the next time that
pictures are made.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from PIL import Image

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
PLACES = (ROOT / "loaders" / "bundled", ROOT / "bench")
PROMPTS = {"ltx": "a purple ring moving left on a white background"}
PROMPT, SEED = "a blue triangle moving right on a white background", 7


def folders() -> dict[str, Path]:
    """Family -> its trained model."""
    named = {place.name: place for parent in PLACES for place in sorted(parent.glob("tiny_*")) if place.is_dir()}
    return {name.removeprefix("tiny_"): folder for name, folder in named.items()}


@cache
def frames(family: str) -> list[Image.Image]:
    """The frames of a video of its own default size; nothing where the family has no trained model."""
    folder = folders().get(family)
    if folder is None:
        return []
    sys.path.insert(0, str(HERE.parent))
    from pack import import_pack

    import_pack()
    from reelwire.loaders.families import load
    from reelwire.loaders.parts import PlainMemory, Recipe
    from reelwire.loaders.request import Request
    from reelwire.loaders.weights.bundle import files_of
    from reelwire.samplers.decode import stream_frames
    from reelwire.samplers.denoise import sample
    from reelwire.samplers.plan import plan

    model = load(Recipe(family, "", files_of(folder), "float32"), PlainMemory())
    conditioning = model.encode(PROMPTS.get(family, PROMPT), "")
    latents = sample(model, conditioning, plan(model, Request(seed=SEED)))
    pieces = ((piece * 255).round().byte().numpy() for piece in stream_frames(model, latents))
    return [Image.fromarray(frame) for piece in pieces for frame in piece]
