"""What a video shows of itself as a control video, computed without any model: edges, gray, blur."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from ..messages import InputError, message

AS_IT_IS, EDGES, GRAY, BLUR = "as it is", "edges", "gray", "blur"
WAYS = (AS_IT_IS, EDGES, GRAY, BLUR)
# bytes for each pixel of a frame that is prepared, in float32 (measured: peak over pixels, alike at all sizes)
WORKING_BYTES = {EDGES: 161, GRAY: 21, BLUR: 50}
STRONGEST = 10  # strength of a control
WEAKEST, CLEAREST = 0.01, 0.99  # changes of brightness between which edges are recognised
BLURRED = 64  # the blur's sigma is this part of a frame's shorter side


def prepared(
    frames: Tensor,
    mode: str,
    low: float,
    high: float,
    done: Callable[[int, int], None],
    device: str | torch.device = "cpu",
) -> Tensor:
    """Frames [T, H, W, 3] in 0..1 in one of WAYS, one after another on the device, to the CPU; done(count, of all)
    may raise to stop."""
    if mode == AS_IT_IS:
        return frames
    if mode == EDGES:
        _check_edges(frames, low, high)
    make = _ways(low, high)[mode]
    result = torch.empty(frames.shape)
    for i, frame in enumerate(frames):
        done(i, len(frames))
        if not torch.isfinite(frame).all():
            raise InputError(
                "frames", message("frame_not_finite", frame=i), message("holds_nan"), message("check_maker")
            )
        result[i] = make(frame.to(device, torch.float32).movedim(-1, 0).unsqueeze(0))[0].movedim(0, -1)
    done(len(frames), len(frames))
    return result


def _ways(low: float, high: float) -> Mapping[str, Callable[[Tensor], Tensor]]:
    """Functions of one frame [1, 3, H, W], by kornia; they give 1 or 3 channels."""
    from kornia.color import rgb_to_grayscale
    from kornia.filters import canny, gaussian_blur2d

    def blur(frame: Tensor) -> Tensor:
        sigma = min(frame.shape[2:]) / BLURRED
        return gaussian_blur2d(frame, 2 * math.ceil(3 * sigma) + 1, (sigma, sigma), border_type="replicate")

    return {EDGES: lambda frame: canny(frame, low, high)[1], GRAY: rgb_to_grayscale, BLUR: blur}


def check_range(start: float, end: float, strength: float) -> None:
    """Raise InputError for shares of the steps in which a control cannot count, or a strength that it cannot have."""
    if not 0 <= start < end <= 1:
        raise InputError("start, end", f"{start}, {end}", message("control_span_rule"), message("use_span"))
    if not 0 <= strength <= STRONGEST:
        rule = message("control_strength_rule", most=STRONGEST)
        raise InputError("strength", strength, rule, message("use_control_strength"))


def check_way(mode: str, low: float, high: float) -> None:
    """Raise InputError for what frames cannot be made into."""
    if mode not in WAYS:
        raise InputError("prepare", mode, message("no_such_choice"), message("use_one_of", names=", ".join(WAYS)))
    if not (WEAKEST <= low <= CLEAREST and WEAKEST <= high <= CLEAREST and low <= high):
        raise InputError("low, high", f"{low}, {high}", message("edges_rule"), message("use_edges"))


def check_given(frames: bool, mask: bool, mode: str) -> None:
    """Raise InputError for a mask without frames, and for a way to prepare frames that are not there."""
    if not frames and mask:
        raise InputError("mask", message("mask_without_frames"), message("mask_rule"), message("connect_frames_too"))
    if not frames and mode != AS_IT_IS:
        remedy = message("connect_frames_or", choice=AS_IT_IS)
        raise InputError("prepare", mode, message("nothing_to_prepare"), remedy)


def _check_edges(frames: Tensor, low: float, high: float) -> None:
    check_way(EDGES, low, high)
    if min(frames.shape[1:3]) < 3:
        size = f"{frames.shape[2]}x{frames.shape[1]}"
        raise InputError("frames", size, message("edges_size"), message("give_larger"))
