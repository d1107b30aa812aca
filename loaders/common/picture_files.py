"""The one door for files of pictures: which may be opened, and how large they may be before a pixel is decoded."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..messages import Message, message
from ..weights.json_files import open_file
from .images import MOST_PROPORTION, cover

if TYPE_CHECKING:
    from PIL.Image import Image

# Pillow's names; what it also opens are relics, scientific data, or programs that are run to draw a page
FORMATS = (
    *(
        "AVIF",
        "BMP",
        "DIB",
        "GIF",
        "HEIF",
        "ICO",
        "JPEG",
        "JPEG2000",
        "PNG",
        "PPM",
        "QOI",
        "SGI",
        "TGA",
        "TIFF",
        "WEBP",
    ),
)
MOST_BYTES = 2**29  # of a file
MOST_PIXELS = 2**27  # of a picture: 134 million, as the largest cameras make
MOST_TOGETHER = 2**26  # pixels of several pictures that are kept as large as they are
REDUCED = 2  # how many times as large as the video a picture is left while it is still of whole numbers
_ORIENTATION = 0x0112  # of Exif
_FLIPS = {2: (1,), 3: (0, 1), 4: (0,), 6: (1,), 7: (0, 1), 8: (0,)}  # orientation -> dimensions that run backwards


def picture_size(path: str) -> tuple[int, int]:
    """(width, height) of a picture as its file has it, of which no pixel is decoded; raises ValueError, in words, for
    what `read_picture` would refuse by its header."""
    with _opened(path) as image:
        return image.size


def unused_of_picture(path: str) -> Iterator[Message]:
    """What of a picture is not used: its alpha, further frames, a profile of other colours; raises ValueError, in
    words, where it cannot be read."""
    with _opened(path) as image:
        yield from _unused(image, os.path.basename(path)[:200])


def _unused(image: Image, name: str) -> Iterator[Message]:
    if (image.info.get("icc_profile") and not _is_srgb(image.info["icc_profile"])) or image.mode == "CMYK":
        yield message("picture_profile", file=name)
    is_moving = image.format != "MPO"  # of a camera: the picture and a small one
    if image.has_transparency_data and image.convert("RGBA").getchannel("A").tobytes().strip(b"\xff"):
        yield message("picture_alpha", file=name)
    if is_moving and (frames := getattr(image, "n_frames", 1)) > 1:
        yield message("picture_first_frame", file=name, count=frames)


def _is_srgb(profile: bytes) -> bool:
    """Whether an ICC profile describes the colours that pictures have without one."""
    from PIL import ImageCms

    try:
        return "srgb" in ImageCms.getProfileDescription(ImageCms.ImageCmsProfile(BytesIO(profile))).lower()
    except (OSError, ImageCms.PyCMSError):
        return False


def read_picture(path: str, size: tuple[int, int] | None = None) -> Tensor:
    """A picture as [1, H, W, 3] in 0..1, upright, without its alpha; of an animation the first one.

    size: (width, height) that it shall cover at once, so that a large one is never held as a whole. Raises ValueError,
    in words, where it cannot be read.
    """
    return read_with_notes(path, size)[0]


def read_with_notes(path: str, size: tuple[int, int] | None = None) -> tuple[Tensor, tuple[Message, ...]]:
    """(what `read_picture` returns, what `unused_of_picture` says), of one decoding."""
    with _opened(path) as image:
        deep = _is_deep(image)  # asked first: a PNG is decoded to find its Exif
        orientation = int(image.getexif().get(_ORIENTATION, 1))
        notes = tuple(_unused(image, os.path.basename(path)[:200]))
        if not deep:
            pixels = _upright(image, size)
    if deep:
        with _in_words():
            pixels = _deep(path, orientation, size)
    return (pixels if size is None else cover(pixels, *size)), notes


@contextmanager
def _opened(path: str) -> Iterator[Image]:
    """A picture whose header has been checked."""
    import PIL.Image

    with open_file(Path(path)) as stream, _in_words():
        if (length := os.fstat(stream.fileno()).st_size) > MOST_BYTES:
            raise ValueError(message("file_large", file=os.path.basename(path), size=length, most=MOST_BYTES))
        PIL.Image.init()
        known = [form for form in FORMATS if form in PIL.Image.OPEN]  # some builds have not all
        with PIL.Image.open(stream, formats=known) as image:
            check_size(*image.size)
            yield image


@contextmanager
def _in_words() -> Iterator[None]:
    """Raise ValueError with a message for whatever a decoder finds wrong with a file."""
    import PIL.Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Pillow's, about what is refused here or is harmless
            yield
    except MemoryError:
        raise
    except Exception as error:
        if any(isinstance(part, Message) for part in error.args):
            raise
        if isinstance(error, PIL.UnidentifiedImageError):
            raise ValueError(message("picture_formats", formats=", ".join(FORMATS))) from error
        if isinstance(error, PIL.Image.DecompressionBombError):
            raise ValueError(message("picture_pixels", most=MOST_PIXELS)) from error
        if "MAX_TEXT" in str(error):
            raise ValueError(message("picture_metadata")) from error
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise ValueError(message("picture_damaged", error=reason)) from error


def check_size(width: int, height: int) -> None:
    """Raise ValueError, in words, for a picture that is too large, or too narrow to be scaled to any video."""
    if width < 1 or height < 1:
        raise ValueError(message("no_pixels"))
    if width * height > MOST_PIXELS:
        raise ValueError(message("picture_large", width=width, height=height, most=MOST_PIXELS))
    if max(width, height) > MOST_PROPORTION * min(width, height):
        raise ValueError(message("picture_narrow", width=width, height=height, most=MOST_PROPORTION))


def _upright(image: Image, size: tuple[int, int] | None) -> Tensor:
    """The pixels [1, H, W, 3] of an opened picture of 8 bits a channel."""
    import numpy as np
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)
    factor = _factor(*image.size, size)
    plain = image if image.mode in ("L", "RGB") else image.convert("RGB")
    reduced = plain.reduce(factor) if factor > 1 else plain
    return torch.from_numpy(np.array(reduced.convert("RGB")))[None] / 255


def _factor(width: int, height: int, size: tuple[int, int] | None) -> int:
    """By which whole number a picture may shrink while it still is REDUCED times as large as what it shall cover."""
    if size is None:
        return 1
    return max(1, math.floor(min(width / size[0], height / size[1]) / REDUCED))


def _is_deep(image: Image) -> bool:
    """Whether a picture has more than 8 bits a channel, which Pillow cuts or scales wrongly."""
    raw = next((str(tile[3]) for tile in getattr(image, "tile", ())), "")
    return image.mode[0] in "IF" or "16" in raw


def _deep(path: str, orientation: int, size: tuple[int, int] | None) -> Tensor:
    """A picture of more than 8 bits a channel. orientation: as Exif numbers them."""
    import av

    with av.open(path, "r") as file:
        frame = next(file.decode(video=0), None)
    if frame is None:
        raise ValueError(message("no_pixels"))
    check_size(frame.width, frame.height)
    whole: Any = frame.to_ndarray(format="rgb48le")
    turned = None if size is None else size[::-1] if orientation > 4 else size
    if (factor := _factor(frame.width, frame.height, turned)) > 1:
        h, w = (side // factor for side in whole.shape[:2])
        blocks = whole[: h * factor, : w * factor].reshape(h, factor, w, factor, 3)
        whole = blocks.mean((1, 3), dtype="float32")
    pixels = torch.from_numpy(whole.astype("float32")) / 65535
    pixels = pixels.transpose(0, 1) if orientation > 4 else pixels
    return pixels.flip(_FLIPS.get(orientation, ())).contiguous()[None]
