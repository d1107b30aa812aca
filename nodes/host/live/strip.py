"""A few small frames of a video as one JPEG, below each other, which the page plays."""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

MOST_FRAMES = 24
LEAST_SIDE, MOST_SIDE = 128, 256  # pixels of a frame's longer side
BLOCK = 16  # pixels of a JPEG's blocks of colour: frames that end with one do not run into each other
QUALITIES = (85, 70, 50, 30, 10)  # of the JPEG, until it is small enough
MOST_BYTES = 150_000  # of the JPEG: 200 kB as text


@dataclass(frozen=True)
class Strip:
    """Frames below each other. ratio: width of a frame over its height, as it should be shown."""

    jpeg: bytes
    frames: int
    ratio: float


def chosen(count: int, most: int = MOST_FRAMES) -> list[int]:
    """Which of so many frames are shown: all, or evenly chosen ones with the first and the last."""
    if count <= most:
        return list(range(count))
    return [round(i * (count - 1) / (most - 1)) for i in range(most)]


def strip_of(frames: Tensor) -> Strip:
    """A strip of frames [n, h, w, 3] in 0..1, of which the chosen ones are in it."""
    from PIL import Image

    kept = frames[chosen(len(frames))]
    rows = rearrange(_scaled(kept), "n c h w -> (n h) w c")
    image = Image.fromarray((rows.clamp(0, 1) * 255).round().to(torch.uint8).numpy())
    for quality in QUALITIES:
        file = BytesIO()
        image.save(file, "JPEG", quality=quality, subsampling=2)
        if file.tell() <= MOST_BYTES:
            break
    return Strip(file.getvalue(), len(kept), frames.shape[2] / frames.shape[1])


def _scaled(frames: Tensor) -> Tensor:
    """Frames [n, 3, h, w] on the CPU, as large as they are sent."""
    height, width = frames.shape[1:3]
    longer = max(height, width)
    scale = min(max(longer, LEAST_SIDE), MOST_SIDE) / longer
    size = [max(1, round(side * scale / BLOCK)) * BLOCK for side in (height, width)]
    pixels = rearrange(frames.float().cpu(), "n h w c -> n c h w")
    return F.interpolate(pixels, size, mode="bilinear", antialias=scale < 1)
