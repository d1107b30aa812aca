"""What nodes say they made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..loaders.messages import Message, message
from ..loaders.request import Request


def sampled(request: Request, fps: float, seconds: float) -> Message:
    """What a sampler made and with which settings, after every 0 became a number. request: complete."""
    values = _settings(request, fps, seconds)
    return message("sampled_with_shift", **values) if request.shift else message("sampled", **values)


def long_video(request: Request, windows: int, fps: float, file: Path, seconds: float) -> Message:
    """What a long video holds and with which settings it was made. request: complete, of the whole video."""
    values = {**_settings(request, fps, seconds), "windows": windows, "bytes": _size(file)}
    return message("long_video_with_shift", **values) if request.shift else message("long_video", **values)


def written(width: int, height: int, frames: int, fps: float, file: Path) -> Message:
    """What a video file holds, and its size."""
    return message("written", bytes=_size(file), **_length(width, height, frames, fps))


def clock(seconds: float) -> str:
    """Seconds as 12.3 s, 3:20 min or 1:04 h, which every language reads."""
    if seconds < 99.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02} h" if minutes >= 60 else f"{minutes}:{rest:02} min"


def _settings(request: Request, fps: float, seconds: float) -> dict[str, Any]:
    """What a line about a run names."""
    scales = dict.fromkeys(f"{scale:g}" for scale in (request.guidance, request.guidance_2) if scale)
    return {
        **_length(request.width, request.height, request.frames, fps),
        "steps": request.steps,
        "guidance": " / ".join(scales),
        "shift": f"{request.shift:g}",
        "sampler": request.sampler,
        "time": clock(seconds),
    }


def _length(width: int, height: int, frames: int, fps: float) -> dict[str, Any]:
    """Size, frames and length of a video."""
    return {"size": f"{width}x{height}", "frames": frames, "length": f"{frames / fps:.3g}", "fps": f"{fps:g}"}


def _size(file: Path) -> str:
    """A file's size in MB or KB."""
    size = file.stat().st_size
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} KB"
