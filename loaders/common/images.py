"""Pictures on their way into a model."""

from __future__ import annotations

import math
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from ..parts import Config, ImageProcessor
from ..weights.allowed.offline import offline
from ..weights.bundle import read_preprocessor

if TYPE_CHECKING:
    from PIL.Image import Image

MOST_PROPORTION = 50  # of a picture's sides; what is narrower would be scaled to gigabytes before its middle is cut out
_WASTE = 8  # how many times as large as the result a scaled picture may be before it is cut beforehand


def is_frames(images: Tensor | None) -> TypeGuard[Tensor]:
    """Whether these are frames [T, H, W, 3], and no latents."""
    return images is not None and images.ndim == 4 and images.shape[-1] == 3


def cover(frames: Tensor, width: int, height: int) -> Tensor:
    """Scale frames [N, H, W, 3] to cover width x height, keeping their proportions, and cut the middle out."""
    if frames.shape[1:3] == (height, width):
        return frames
    frames = _without_waste(frames, width, height)
    scale = max(width / frames.shape[2], height / frames.shape[1])
    size = max(height, round(frames.shape[1] * scale)), max(width, round(frames.shape[2] * scale))
    scaled = F.interpolate(rearrange(frames, "n h w c -> n c h w"), size, mode="bicubic", antialias=True).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return rearrange(scaled[:, :, top : top + height, left : left + width], "n c h w -> n h w c")


def _without_waste(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames [N, H, W, 3] of very different proportions without most of what `cover` would cut off once it is scaled;
    all others as they are."""
    h, w = frames.shape[1:3]
    scale = max(width / w, height / h)
    if w * scale * h * scale <= _WASTE * width * height:
        return frames
    kept_h, kept_w = min(h, math.ceil(2 * height / scale) + 2), min(w, math.ceil(2 * width / scale) + 2)
    top, left = (h - kept_h) // 2, (w - kept_w) // 2
    return frames[:, top : top + kept_h, left : left + kept_w]


def cut_to(frames: Tensor, width: int, height: int) -> Tensor:
    """The middle of frames [N, H, W, 3] in the proportions of width x height, at their own size."""
    h, w = frames.shape[1:3]
    if w / h > width / height:
        new_w, new_h = max(int(h * width / height), 1), h
    else:
        new_w, new_h = w, max(int(w * height / width), 1)
    top, left = (h - new_h) // 2, (w - new_w) // 2
    return frames[:, top : top + new_h, left : left + new_w]


def stretched(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames [N, H, W, 3] at another size, whatever their proportions."""
    if frames.shape[1:3] == (height, width):
        return frames
    scaled = F.interpolate(rearrange(frames, "n h w c -> n c h w"), (height, width), mode="bilinear")
    return rearrange(scaled, "n c h w -> n h w c")


def compressed(frames: Tensor, crf: int, look: Callable[[], None] = lambda: None) -> Tensor:
    """Frames [N, H, W, 3] in 0..1 as H.264 shows them, each alone and a little soft before (Lightricks' ltx-video,
    `load_image_to_tensor_with_resize_and_crop`): models that learned from video move such pictures more. An odd last
    row or column is lost. crf: quality, 0 to 51, the higher the coarser. look: called before each, to stop it.
    """
    from kornia.filters import gaussian_blur2d

    soft = gaussian_blur2d(rearrange(frames.float(), "n h w c -> n c h w"), (3, 3), (1.0, 1.0))
    soft = rearrange(soft, "n c h w -> n h w c")
    even = soft[:, : soft.shape[1] // 2 * 2, : soft.shape[2] // 2 * 2]
    return torch.stack([_through_h264(frame, crf, look) for frame in even]).to(frames)


def _through_h264(frame: Tensor, crf: int, look: Callable[[], None]) -> Tensor:
    """One frame [H, W, 3] in 0..1, both even, encoded and decoded."""
    import av

    look()
    pixels = (frame * 255).to(torch.uint8).cpu().numpy()
    file = BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=1, options={"crf": str(crf), "preset": "veryfast"})
        stream.height, stream.width = pixels.shape[:2]
        picture = av.VideoFrame.from_ndarray(pixels, format="rgb24").reformat(format="yuv420p")
        container.mux(stream.encode(picture))
        container.mux(stream.encode())
    file.seek(0)
    with av.open(file, "r") as encoded:
        shown = next(encoded.decode(video=0)).to_ndarray(format="rgb24")
    return torch.from_numpy(shown).float() / 255


def middle(frames: Tensor, width: int, height: int) -> tuple[int, int]:
    """(width, height) of what `cover` leaves of frames [N, H, W, 3], in their own pixels."""
    scale = max(width / frames.shape[2], height / frames.shape[1])
    return min(round(width / scale), frames.shape[2]), min(round(height / scale), frames.shape[1])


def fit_inside(frames: Tensor, width: int, height: int) -> Tensor:
    """Scale frames [N, H, W, 3] to fit into width x height, and fill up with white (WanVACEPipeline's references)."""
    scale = min(height / frames.shape[1], width / frames.shape[2])
    size = max(int(frames.shape[1] * scale), 1), max(int(frames.shape[2] * scale), 1)
    scaled = F.interpolate(rearrange(frames, "n h w c -> n c h w"), size, mode="bilinear", align_corners=False)
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    canvas = torch.ones(len(frames), height, width, 3)
    canvas[:, top : top + size[0], left : left + size[1]] = rearrange(scaled, "n c h w -> n h w c")
    return canvas


def to_pil(frames: Tensor) -> list[Image]:
    """Frames [N, H, W, 3] in 0..1 as 8-bit PIL images, which the image processors of the reference pipelines take."""
    from PIL.Image import fromarray

    return [fromarray(frame.numpy()) for frame in (frames * 255).round().clamp(0, 255).to(torch.uint8).cpu()]


def clip_pixels(frames: Tensor, processor: Path | None) -> Tensor:
    """Frames [N, H, W, 3] in 0..1 as CLIP sees them, [N, 3, h, w]; processor: folder with its settings, else CLIP's
    own."""
    return image_processor(processor)(images=to_pil(frames), return_tensors="pt").pixel_values


def image_processor(folder: Path | None, usual: Config | None = None) -> ImageProcessor:
    """CLIP's image processor with the settings of a folder, else with the usual ones, else with its own."""
    from transformers import CLIPImageProcessor

    with offline():
        return CLIPImageProcessor(**(read_preprocessor(folder) if folder else usual or {}))
