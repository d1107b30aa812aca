"""Small video files whose every frame is known: one colour that says which frame it is."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np


def shade(number: int) -> int:
    """The red of a frame: far enough from that of the next to be known after two times H.264."""
    return 20 + 20 * (number % 12)


def write_shades(
    path: Path, count: int, fps: Fraction | int, size: tuple[int, int] = (64, 48), sound: bool = False
) -> Path:
    """An mp4 of `count` frames, each of one colour; sound: a tone as long as the picture."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("h264", rate=Fraction(fps), options={"crf": "10"})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        heard = container.add_stream("aac", rate=16000, layout="mono") if sound else None
        for number in range(count):
            pixels = np.zeros((size[1], size[0], 3), np.uint8)
            pixels[..., 0] = shade(number)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
        if heard is not None:
            times = np.arange(round(16000 * count / Fraction(fps)), dtype=np.float32)
            frame = av.AudioFrame.from_ndarray(0.3 * np.sin(times / 6)[None], format="fltp", layout="mono")
            frame.sample_rate = 16000
            container.mux(heard.encode(frame))
            container.mux(heard.encode(None))
    return path
