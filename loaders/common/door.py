"""The one door for images and masks: whatever nodes of other packs hand over becomes float32 in 0..1, or is refused."""

from __future__ import annotations

import torch
from torch import Tensor

from ..messages import InputError, Message, inputs_named, message
from .images import MOST_PROPORTION

WHITE = {torch.bool: 1, torch.uint8: 255, torch.uint16: 65535}  # of the types that hold whole numbers
NOTICED = 0.5 / 255  # what is less out of 0..1 no 8-bit image shows
Opened = tuple[Tensor, tuple[Message, ...]]  # (images or masks as the models take them, what to say of them)


def open_images(name: str, images: Tensor) -> Opened:
    """IMAGE of any float type or of whole numbers, on any device -> ([N, H, W, 3] float32 in 0..1 on the CPU, notes).

    [H, W, C] is one image. C: 1 is gray, 3 colours, of 4 the last one is alpha, which is left out as ComfyUI's own
    Load Image does. Raises InputError, under this name, for another shape or type, for NaN or infinite values, and
    for one side that is more than MOST_PROPORTION times the other.
    """
    if images.ndim == 3 and images.shape[-1] in (1, 3, 4):
        images = images.unsqueeze(0)
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        rule, remedy = message("not_a_picture"), message("connect_picture")
        raise InputError(name, message("tensor_shape", shape=list(images.shape)), rule, remedy)
    sides = images.shape[1:3]
    if max(sides) > MOST_PROPORTION * min(sides):
        rule = message("picture_proportion", most=MOST_PROPORTION)
        raise InputError(name, message("tensor_shape", shape=list(images.shape)), rule, message("cut_picture"))
    values, notes = _values(name, images)
    if values.shape[-1] == 4:
        notes += (message("alpha_left_out", input=inputs_named(name)),) if (values[..., 3] < 1).any() else ()
        values = values[..., :3]
    return values.expand(*values.shape[:3], 3) if values.shape[-1] == 1 else values, notes


def open_mask(name: str, mask: Tensor) -> Opened:
    """MASK [H, W], [T, H, W], [T, 1, H, W] or [1, 1, T, H, W] of any type -> ([T, H, W] float32 in 0..1, notes).

    Raises InputError, under this name, for another shape or type, and for NaN or infinite values.
    """
    shape = mask.shape
    if mask.ndim == 5 and shape[:2] == (1, 1):
        mask = mask[0, 0]
    elif mask.ndim == 4 and 1 in (shape[1], shape[3]):
        mask = mask[:, 0] if shape[1] == 1 else mask[..., 0]
    elif mask.ndim == 2:
        mask = mask.unsqueeze(0)
    if mask.ndim != 3 or 0 in mask.shape:
        rule, remedy = message("not_a_mask"), message("connect_mask")
        raise InputError(name, message("tensor_shape", shape=list(shape)), rule, remedy)
    return _values(name, mask)


def _values(name: str, pixels: Tensor) -> Opened:
    """Pixels as float32 in 0..1 on the CPU; what is beyond is cut off."""
    white = WHITE.get(pixels.dtype)
    if white is None and not pixels.is_floating_point():
        rule, remedy = message("pixel_type_rule"), message("connect_picture")
        raise InputError(name, str(pixels.dtype).removeprefix("torch."), rule, remedy)
    values = pixels.to("cpu", torch.float32)
    if white is not None:
        return values / white if white > 1 else values, ()
    low, high = (bound.item() for bound in torch.aminmax(values))
    if not torch.isfinite(torch.tensor([low, high])).all():
        raise InputError(name, message("not_finite_value"), message("holds_nan"), message("check_maker"))
    if low >= 0 and high <= 1:
        return values, ()
    beyond = max(-low, high - 1) > NOTICED
    notes = (message("beyond_range", input=inputs_named(name), low=f"{low:.3g}", high=f"{high:.3g}"),) if beyond else ()
    return values.clamp(0, 1), notes
