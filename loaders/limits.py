"""Which sizes and lengths a model makes; each check raises InputError with the nearest that it does."""

from __future__ import annotations

import math

from .messages import InputError, either, message

LONGEST, ENDLESS = 100_000, 1_000_000  # frames of a clip and of a long video


def check_size(name: str, value: int, multiple: int, title: str) -> None:
    """Raise InputError unless a width or height is a multiple of what the model takes."""
    if value < multiple or value % multiple:
        rule = message("size_multiple", title=title, multiple=multiple)
        raise InputError(name, value, rule, use_nearest(value, multiple, multiple))


def nearest(value: int, first: int, step: int, most: float = math.inf) -> tuple[int, ...]:
    """Those of first, first + step, ... that are not above most and lie nearest to a value, on either side of it."""
    low = first + max(value - first, 0) // step * step
    last = low if most == math.inf else first + int(most - first) // step * step
    both_sides = (low, low + step) if value > first else (first,)
    return tuple(dict.fromkeys(both_sides if most == math.inf else (min(near, last) for near in both_sides)))


def use_nearest(value: int, first: int, step: int, most: float = math.inf) -> str:
    """What to use instead of a value that is none of first, first + step, ... that are not above most."""
    if value < first:
        return message("use_at_least_or_0", least=first)
    return message("use_value", value=either(*nearest(value, first, step, most)))


def check_count(frames: int, counts: tuple[int, ...], title: str) -> None:
    """Raise InputError unless a model makes this number of frames. counts: those that it makes."""
    if frames not in counts:
        choices = either(*counts)
        rule = message("frames_counts", title=title, counts=choices)
        raise InputError("frames", frames, rule, message("use_value_or_0", value=choices))


def check_frames(frames: int, step: int, title: str, most: int = LONGEST) -> None:
    """Raise InputError unless the number of frames is one more than a multiple of `step`. most: that are made at all,
    which is checked before."""
    if frames < 1 or (frames - 1) % step:
        rule = message("frames_rule", title=title, step=step)
        raise InputError("frames", frames, rule, use_nearest(frames, 1 if frames > 0 else step + 1, step, most))
