"""Videos of the trained tiny models, one of each family that has one and reads prompts: what the pictures of its
templates show.

python bench/templates/trained.py FAMILY ["a prompt"] draws one as a strip: its first, middle and last frame.
"""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).parent.parent))
from pack import MODELS, THERE, open_trained

PROMPTS = {"ltx": "a purple ring moving left on a white background"}
UNCLEAR = (
    "tiny_hunyuan",
    "tiny_cogvideox",
    "tiny_mochi",
)  # blots or ragged (training/README.md): no picture of a template
SILENT = ("tiny_svd",)  # reads no prompt
PROMPT, SEED = "a blue triangle moving right on a white background", 7
FRAMES, SIDE = 3, 192  # of a strip


def trained() -> dict[str, str]:
    """Family -> its trained model."""
    return {MODELS[name].family: name for name in THERE if name not in SILENT}


@cache
def frames(family: str, prompt: str = "") -> list[Image.Image]:
    """The frames of a video of its own default size; nothing where the family has no trained model, or, without a
    prompt of somebody's, one that draws no clear shapes."""
    if family not in trained() or (trained()[family] in UNCLEAR and not prompt):
        return []
    model = open_trained(trained()[family])
    from reelwire.loaders.request import Request
    from reelwire.samplers.decode import stream_frames
    from reelwire.samplers.denoise import sample
    from reelwire.samplers.plan import plan

    conditioning = model.encode(prompt or PROMPTS.get(family, PROMPT), "")
    latents = sample(model, conditioning, plan(model, Request(seed=SEED)))
    pieces = ((piece * 255).round().byte().numpy() for piece in stream_frames(model, latents))
    return [Image.fromarray(frame) for piece in pieces for frame in piece]


def strip(made: list[Image.Image]) -> Image.Image:
    """FRAMES of them side by side."""
    picture = Image.new("RGB", (SIDE * FRAMES, SIDE))
    for i in range(FRAMES):
        frame = made[round(i * (len(made) - 1) / (FRAMES - 1))]
        picture.paste(frame.resize((SIDE, SIDE), Image.Resampling.LANCZOS), (SIDE * i, 0))
    return picture


if __name__ == "__main__":
    drawn = frames(sys.argv[1], " ".join(sys.argv[2:]) or PROMPT)
    if not drawn:
        sys.exit(f"No trained model is of the family {sys.argv[1]}; there are {', '.join(trained())}.")
    strip(drawn).save(f"{sys.argv[1]}.png")
