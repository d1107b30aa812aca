"""Which sizes and lengths a model makes; each check raises InputError with the nearest that it does."""

from __future__ import annotations

from .messages import InputError, either, message


def check_size(name: str, value: int, multiple: int, title: str) -> None:
    """Raise InputError unless a width or height is a multiple of what the model takes."""
    if value < multiple or value % multiple:
        low = max(value // multiple, 1) * multiple
        rule = message("size_multiple", title=title, multiple=multiple)
        raise InputError(name, value, rule, nearest(value < multiple, low, multiple))


def nearest(below: bool, low: int, step: int) -> str:
    """What to use instead of a value that is below all that are allowed, or between low and low + step."""
    return message("use_at_least_or_0", least=low) if below else message("use_value", value=either(low, low + step))


def check_count(frames: int, counts: tuple[int, ...], title: str) -> None:
    """Raise InputError unless a model makes this number of frames. counts: those that it makes."""
    if frames not in counts:
        choices = either(*counts)
        rule = message("frames_counts", title=title, counts=choices)
        raise InputError("frames", frames, rule, message("use_value_or_0", value=choices))


def check_frames(frames: int, step: int, title: str) -> None:
    """Raise InputError unless the number of frames is one more than a multiple of `step`."""
    if frames < 1 or (frames - 1) % step:
        low = max(frames - 1, 0) // step * step + 1
        remedy = nearest(frames < 1, low + step if frames < 1 else low, step)
        raise InputError("frames", frames, message("frames_rule", title=title, step=step), remedy)
