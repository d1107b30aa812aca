"""Pure planning of keyframes: where each one lands, or why it cannot."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch

from ..loaders.video_model import InputError, Keyframe


def plan(keyframes: tuple[Keyframe, ...], frames: int) -> tuple[Keyframe, ...]:
    """Keyframes in order with frames counted from the start of a clip of `frames`; raises InputError."""
    placed = sorted((replace(k, frame=_place(k, frames)) for k in keyframes), key=lambda k: k.frame)
    for first, second in pairwise(placed):
        if second.frame < first.frame + len(first.images):
            where = f"at frames {first.frame} and {second.frame}, counted from the start"
            raise InputError("keyframes", where, "Two keyframes cannot share frames.", "Give each its own frame.")
    return tuple(placed)


def _place(keyframe: Keyframe, frames: int) -> int:
    at = keyframe.frame + frames if keyframe.frame < 0 else keyframe.frame
    count = len(keyframe.images)
    if count > frames:
        rule = f"The video has {frames} frames."
        raise InputError("keyframes", f"a clip of {count} frames", rule, "Give a shorter clip, or ask for more frames.")
    if not 0 <= at <= frames - count:
        what = f"A clip of {count} frames" if count > 1 else "A keyframe"
        rule = f"{what} must lie inside the {frames} frames of the video."
        raise InputError(
            "frame", keyframe.frame, rule, f"Use 0 to {frames - count}, or -{frames} to -{count} from the end."
        )
    if not 0 < keyframe.strength <= 1:
        raise InputError(
            "strength", keyframe.strength, "It must be above 0 and at most 1.", "Use 1 to keep the picture as it is."
        )
    if not torch.isfinite(keyframe.images).all():
        raise InputError(
            "image", "not finite", "The picture holds NaN or infinite values.", "Load it again, or check what made it."
        )
    return at
