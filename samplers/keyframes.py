"""Pure planning of keyframes: where each one lands in a clip, or why it cannot."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

from ..loaders.video_model import Capabilities, InputError, Keyframe

Plan = tuple[tuple[Keyframe, ...], tuple[str, ...]]  # (keyframes in order, notes on what was moved or cut)


def plan(keyframes: tuple[Keyframe, ...], capabilities: Capabilities, frames: int) -> Plan:
    """Keyframes in order, counted from the start of a clip of `frames`, as a model can honour them.

    What is only nearly right is moved or cut, and noted; anything else raises InputError, naming the keyframe by its
    number in the list.
    """
    placed, notes = [], list[str]()
    for number, keyframe in enumerate(keyframes, 1):
        name = f"keyframe {number}"
        _check(name, keyframe, capabilities)
        at = _fitted(name, keyframe, capabilities, notes)
        placed.append((_moved(name, replace(at, frame=_place(name, at, frames)), capabilities, frames, notes), number))
    placed.sort(key=lambda pair: pair[0].frame)
    for (first, one), (second, other) in pairwise(placed):
        if second.frame < first.frame + len(first.images):
            where = f"numbers {min(one, other)} and {max(one, other)}, at frames {first.frame} and {second.frame}"
            raise InputError("keyframes", where, "Two keyframes cannot share frames.", "Give each its own.")
    _check_set(placed, capabilities, frames)
    return tuple(keyframe for keyframe, _ in placed), tuple(notes)


def _check(name: str, keyframe: Keyframe, capabilities: Capabilities) -> None:
    """Whether the model knows this kind of keyframe at all."""
    count, title = len(keyframe.images), capabilities.title
    if capabilities.sets == ((),):
        raise InputError("keyframes", f"{name} at frame {keyframe.frame}", f"{title} {capabilities.takes}.", capabilities.remedy)  # fmt: skip
    if count > 1 and not capabilities.clip_step:
        raise InputError("keyframes", f"{name}, a clip of {count} frames", f"{title} takes single pictures.", "Connect one picture, or the clip as source.")  # fmt: skip
    if not 0 < keyframe.strength <= 1:
        rule = "It must be above 0 and at most 1."
        raise InputError("strength", f"{keyframe.strength} of {name}", rule, "Use 1 to keep the picture as it is.")
    if keyframe.strength != 1 and not capabilities.strengths:
        raise InputError("strength", f"{keyframe.strength} of {name}", f"{title} keeps its pictures as they are.", "Use 1.")  # fmt: skip
    if not torch.isfinite(keyframe.images).all():
        rule = "The picture holds NaN or infinite values."
        raise InputError("image", f"{name}, not finite", rule, "Load it again, or check what made it.")


def _fitted(name: str, keyframe: Keyframe, capabilities: Capabilities, notes: list[str]) -> Keyframe:
    """A clip cut to a length that the model takes."""
    count, step = len(keyframe.images), capabilities.clip_step
    if count == 1 or (count - 1) % step == 0:
        return keyframe
    kept = (count - 1) // step * step + 1
    notes.append(f"{name}: {capabilities.title} takes clips of {step}n+1 frames; {kept} of its {count} are used.")
    return replace(keyframe, images=keyframe.images[:kept])


def _place(name: str, keyframe: Keyframe, frames: int) -> int:
    at = keyframe.frame + frames if keyframe.frame < 0 else keyframe.frame
    count = len(keyframe.images)
    if count > frames:
        rule = f"The video has {frames} frames."
        raise InputError("keyframes", f"{name}, a clip of {count} frames", rule, "Give a shorter clip, or ask for more frames.")  # fmt: skip
    if not 0 <= at <= frames - count:
        what = f"A clip of {count} frames" if count > 1 else "A keyframe"
        rule = f"{what} must lie inside the {frames} frames of the video."
        remedy = f"Use 0 to {frames - count}, or -{frames} to -{count} from the end."
        raise InputError("frame", f"{keyframe.frame} of {name}", rule, remedy)
    return at


def _moved(name: str, keyframe: Keyframe, capabilities: Capabilities, frames: int, notes: list[str]) -> Keyframe:
    """A clip at a frame where it can begin; a picture beside the first or the last frame in that place."""
    at, last = keyframe.frame, frames - 1
    to = at
    if len(keyframe.images) > 1:
        to = at // capabilities.clip_start * capabilities.clip_start
    elif capabilities.near:
        lasts = any("last" in places for places in capabilities.sets or ())
        ends = {at: 0} | ({last - at: last} if lasts else {})  # how far from it -> the end
        to = next((end for far, end in sorted(ends.items()) if far < capabilities.near + (end == 0)), at)
    if to != at:
        notes.append(f"{name}: {capabilities.title} has no place for it at frame {at}; it is at frame {to}.")
    return replace(keyframe, frame=to)


def _check_set(placed: list[tuple[Keyframe, int]], capabilities: Capabilities, frames: int) -> None:
    """Whether these keyframes, each with its number in the list, are together a set that the model takes."""
    if capabilities.sets is None:
        return
    rule, places = (
        f"{capabilities.title} {capabilities.takes}.",
        {place for given in capabilities.sets for place in given},
    )
    given = tuple({frames - 1: "last", 0: "first"}.get(k.frame, "") for k, _ in placed)
    for (keyframe, number), place in zip(placed, given, strict=True):
        if place not in places:
            where = f"keyframe {number} at frame {keyframe.frame}"
            raise InputError("keyframes", where, rule, "Move it there, or load LTX-Video or Wan2.1-VACE, which take pictures anywhere.")  # fmt: skip
    if given not in capabilities.sets:
        told = " and ".join(f"{place} frame" for place in given) or "none"
        raise InputError("keyframes", told, rule, capabilities.remedy)
