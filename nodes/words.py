"""What nodes say they made, and what their tooltips say of the families (in English, as all texts of nodes)."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from ..loaders.messages import Message, message
from ..loaders.request import Request
from ..loaders.spec import specs, titles_with


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


def clock(seconds: float) -> Message:
    """Seconds as 12.3 s, 3 min 20 s or 1 h 4 min."""
    if seconds < 99.95:
        return message("time_s", number=f"{seconds:.1f}")
    minutes, rest = divmod(round(seconds), 60)
    if minutes >= 60:
        return message("clock_h_min", hours=minutes // 60, minutes=minutes % 60)
    return message("clock_min_s", minutes=minutes, seconds=rest)


def _settings(request: Request, fps: float, seconds: float) -> dict[str, object]:
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


def _length(width: int, height: int, frames: int, fps: float) -> dict[str, object]:
    """Size, frames and length of a video."""
    return {"size": f"{width}x{height}", "frames": frames, "length": f"{frames / fps:.3g}", "fps": f"{fps:g}"}


def _size(file: Path) -> str:
    return file_size(file.stat().st_size)


def file_size(size: int) -> str:
    """A file's size in MB or KB."""
    return f"{size / 1e6:.3g} MB" if size >= 1e6 else f"{size / 1e3:.3g} KB"


# ---------------------------------------------------------------- tooltips


def models_with(feature: str) -> str:
    """The models that have a feature, as "A and B"."""
    return _both(titles_with(feature))


def published_upsamplers() -> str:
    """Networks that double the size of latents, as they are published."""
    return ", ".join(spec.upsampler for spec in specs() if spec.upsampler)


def frame_rules(long: bool = False) -> str:
    """How many frames the clips of each family have, or a long video that is made of such clips."""
    titles: dict[tuple[tuple[int, ...], int], list[str]] = {}
    for spec in specs():
        titles.setdefault((spec.frame_counts, spec.frame_step), []).append(spec.short_title)
    most_first = sorted(titles, key=lambda rule: (-len(titles[rule]), rule))
    words = [f"{_both(titles[rule])} {_frame_rule(*rule, long)}" for rule in most_first]
    if not long:
        words[0] = f"{_both(titles[most_first[0]])} make {_frame_rule(*most_first[0], long)} frames"
    return ", ".join(words)


def _frame_rule(counts: tuple[int, ...], step: int, long: bool) -> str:
    """Numbers of frames, as "8n+1" or "14 or 25"."""
    if step:
        return f"{step}n+1"
    return " or ".join(f"{count - 1}n+1" if long else str(count) for count in counts)


def _both(titles: Collection[str]) -> str:
    """Titles as "A, B and C"; of none, as where no family's spec can be read, "no model"."""
    *most, last = titles or ("no model",)
    return f"{', '.join(most)} and {last}" if most else last
