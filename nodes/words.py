"""Lines for people: English text that carries the key and the values from which the page makes it in its language."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..loaders.video_model import Request


class Line(str):
    """A sentence in English. key: under reelwire.messages in locales/<language>/main.json; english: the same text before
    `values` were put into it."""

    key: str
    english: str
    values: dict[str, str]

    def __new__(cls, key: str, english: str, **values: Any) -> Line:
        told = {name: str(value) for name, value in values.items()}
        line = super().__new__(cls, english.format(**told))
        line.key, line.english, line.values = key, english, told
        return line


def as_ui(lines: Iterable[str]) -> dict[str, Any]:
    """What stays on a node and in the history: the lines in English, and what the page translates them from."""
    lines = list(lines)
    told = [
        {"key": getattr(line, "key", ""), "values": getattr(line, "values", {}), "text": str(line)} for line in lines
    ]
    return {"text": [str(line) for line in lines], "reelwire": told}


def sampled(request: Request, fps: float, seconds: float) -> Line:
    """What a sampler made and with which settings, after every 0 became a number. request: complete."""
    guidance = {f"{scale:g}": None for scale in (request.guidance, request.guidance_2) if scale}
    values = {**_length(request.width, request.height, request.frames, fps), "steps": request.steps, "guidance": " / ".join(guidance),
              "sampler": request.sampler, "time": clock(seconds)}  # fmt: skip
    before, after = (
        "{size}, {frames} frames ({length} s at {fps} fps), {steps} steps, guidance {guidance}",
        "{sampler}, {time}",
    )
    if request.shift:
        return Line("sampled_with_shift", f"{before}, shift {{shift}}, {after}", shift=f"{request.shift:g}", **values)
    return Line("sampled", f"{before}, {after}", **values)


def written(width: int, height: int, frames: int, fps: float, file: Path) -> Line:
    """What a video file holds, and its size."""
    english = "{size}, {frames} frames ({length} s at {fps} fps), {bytes}"
    return Line("written", english, bytes=_size(file), **_length(width, height, frames, fps))


def long_video(request: Request, windows: int, fps: float, file: Path, seconds: float) -> Line:
    """What a long video holds and with which settings it was made. request: complete, of the whole video."""
    line = sampled(request, fps, seconds)
    values = {**line.values, "windows": windows, "bytes": _size(file)}
    english = line.english.replace("{steps} steps", "{windows} windows of {steps} steps") + ", {bytes}"
    return Line(line.key.replace("sampled", "long_video"), english, **values)


def _size(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.3g} MB"


def _length(width: int, height: int, frames: int, fps: float) -> dict[str, Any]:
    return {"size": f"{width}x{height}", "frames": frames, "length": f"{frames / fps:.3g}", "fps": f"{fps:g}"}


def clock(seconds: float) -> str:
    """Seconds as 12.3 s, 3:20 min or 1:04 h, which every language reads."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02} h" if minutes >= 60 else f"{minutes}:{rest:02} min"
