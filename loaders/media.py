"""Pictures on their way into a model."""

from __future__ import annotations

import torch.nn.functional as F
from einops import rearrange
from torch import Tensor


def cover(frames: Tensor, width: int, height: int) -> Tensor:
    """Scale frames [N, H, W, 3] to cover width x height, keeping their proportions, and cut the middle out."""
    if frames.shape[1:3] == (height, width):
        return frames
    scale = max(width / frames.shape[2], height / frames.shape[1])
    size = max(height, round(frames.shape[1] * scale)), max(width, round(frames.shape[2] * scale))
    scaled = F.interpolate(rearrange(frames, "n h w c -> n c h w"), size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return rearrange(scaled[:, :, top : top + height, left : left + width], "n c h w -> n h w c")
