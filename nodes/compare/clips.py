"""Videos that are compared: what each holds, and its frames by time, read one after another and never all at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np
import torch
from comfy_api.latest import Input, InputImpl

from ...loaders.common.video_files import check_frames_of
from ...loaders.messages import InputError, message
from .. import host

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import InputContainer
    from numpy.typing import NDArray

    Pixels = NDArray[np.uint8]  # [H, W, 3]

Scaled = Callable[[int, int], "Pixels"]  # (width, height) -> a frame in that size
Frames = Generator[tuple[Fraction, Scaled], None, None]
ROUNDING = Fraction(1, 1000)  # seconds by which containers round the time of a frame


@dataclass(frozen=True, eq=False)
class Clip:
    """A video before its frames are read.

    name: its input. width, height: as it is shown. count: of its frames. seconds: its length. fps: its own rate, or the
    average. size: bytes of its file, 0 where it has none.
    """

    name: str
    video: Input.Video
    width: int
    height: int
    count: int
    seconds: Fraction
    fps: Fraction
    size: int = 0

    def frames(self) -> Frames:
        """(when it begins, a frame) one after another; raises InputError where the file cannot be read."""
        if isinstance(self.video, InputImpl.VideoFromFile):
            return _file_frames(self.video, self.name)
        return _held_frames(self.video, self.name)


def clip_of(name: str, video: Input.Video) -> Clip:
    """What an input holds, by its packets, without decoding more than a frame; raises InputError, in words, for a
    video that cannot be read."""
    if isinstance(video, InputImpl.VideoFromFile):
        return _file_clip(name, video)
    parts = host.components_of(video, name)
    count, height, width = parts.images.shape[:3]
    if not count:
        raise InputError(name, message("a_video"), message("video_no_pictures"), message("another_video"))
    rate = Fraction(parts.frame_rate).limit_denominator(1001)
    return Clip(name, video, width, height, count, count / rate, rate)


def _file_clip(name: str, video: Input.Video) -> Clip:
    span = _span(video)
    with host.opened_video(video, name) as file:
        check_frames_of(name, file, (float(span[0]), float(span[1])), sys.maxsize, host.stop_if_asked)
    with host.opened_video(video, name) as file:
        count, seconds = _counted(name, file, span)
        rate = Fraction(file.streams.video[0].average_rate or count / seconds)
    with host.opened_video(video, name) as file:
        first = next(file.decode(file.streams.video[0]))
        sides = (first.width, first.height) if _quarters(first) % 2 == 0 else (first.height, first.width)
    source = video.get_stream_source()
    size = os.path.getsize(source) if isinstance(source, str) else source.getbuffer().nbytes
    return Clip(name, video, *sides, count, seconds, rate, size)


def _span(video: Input.Video) -> tuple[Fraction, Fraction]:
    """(start, length) of the part of a file that is wanted, in seconds; length 0 for all that follows."""
    start, length = video.get_active_trim_window()
    return Fraction(start).limit_denominator(10**6), Fraction(length).limit_denominator(10**6)


def _counted(name: str, file: InputContainer, span: tuple[Fraction, Fraction]) -> tuple[int, Fraction]:
    """(frames, seconds) of the part of a file that is wanted, by its packets."""
    stream = file.streams.video[0]
    base, rate = Fraction(stream.time_base or 0), Fraction(stream.average_rate or 25)
    (start, length), times, last = span, list[Fraction](), 1 / rate
    for number, packet in enumerate(file.demux(stream)):
        host.stop_if_asked()
        if packet.size:
            moment = packet.pts * base if packet.pts is not None and base else number / rate
            if moment >= start and not (length and moment >= start + length):
                times.append(moment)
                last = (packet.duration or 0) * base or last
    if not times:
        raise InputError(name, message("a_video"), message("video_no_pictures"), message("another_video"))
    return len(times), max(times) - min(times) + last


def _file_frames(video: Input.Video, name: str) -> Frames:
    from av.error import FFmpegError

    start, length = _span(video)
    with host.opened_video(video, name) as file:
        stream, first = file.streams.video[0], None
        base, rate = Fraction(stream.time_base or 0), Fraction(stream.average_rate or 25)
        try:
            for number, frame in enumerate(file.decode(stream)):
                moment = frame.pts * base if frame.pts is not None and base else number / rate  # of a raw stream
                if moment < start:
                    continue
                if length and moment >= start + length:
                    return
                first = moment if first is None else first
                yield moment - first, _scaler(frame)
        except (FFmpegError, OSError, ValueError) as error:
            rule = message("video_unreadable", error=getattr(error, "strerror", None) or error)
            raise InputError(name, message("a_video"), rule, message("another_video")) from error


def _quarters(frame: VideoFrame) -> int:
    """By how many quarters of a turn a frame is shown, as ComfyUI turns it."""
    return round(frame.rotation / 90) % 4


def _scaler(frame: VideoFrame) -> Scaled:
    def scaled(width: int, height: int) -> Pixels:
        from av.video.reformatter import Interpolation

        quarters = _quarters(frame)
        sides = (width, height) if quarters % 2 == 0 else (height, width)
        pixels: Pixels = np.asarray(
            frame.to_ndarray(format="rgb24", width=sides[0], height=sides[1], interpolation=Interpolation.BICUBIC),
            np.uint8,
        )
        return np.rot90(pixels, quarters) if quarters else pixels

    return scaled


def _held_frames(video: Input.Video, name: str) -> Frames:
    """The frames of a VIDEO that holds them as pictures already."""
    from PIL import Image

    parts = host.components_of(video, name)
    rate = Fraction(parts.frame_rate).limit_denominator(1001)

    def scaler(frame: torch.Tensor) -> Scaled:
        def scaled(width: int, height: int) -> Pixels:
            pixels = (frame[..., :3].float().clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
            return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))

        return scaled

    for number, frame in enumerate(parts.images):
        yield number / rate, scaler(frame)


class Player:
    """The frames of a clip by time, in one size; of each moment the newest frame. After the end its last frame stays,
    or it begins again."""

    def __init__(self, clip: Clip, size: tuple[int, int], is_looped: bool) -> None:
        self._clip, self._size, self._is_looped = clip, size, is_looped
        self._began = Fraction(0)  # of the round that is shown
        self._shown: Pixels | None = None
        self._restart()

    def _restart(self) -> None:
        self._frames = self._clip.frames()
        self._next = next(self._frames, None)

    def at(self, moment: Fraction) -> tuple[Pixels, bool]:
        """(the picture of a moment, whether it is another than before); moments come in order."""
        if self._is_looped and moment + ROUNDING >= self._began + self._clip.seconds:
            self._began += (moment + ROUNDING - self._began) // self._clip.seconds * self._clip.seconds
            self.close()
            self._restart()
        newest = None
        while self._next is not None and self._began + self._next[0] <= moment + ROUNDING:
            newest = self._next[1]
            self._next = next(self._frames, None)
        if newest is not None or self._shown is None:
            if newest is None:
                raise InputError(self._clip.name, message("a_video"), message("video_no_pictures"))
            self._shown = newest(*self._size)
            return self._shown, True
        return self._shown, False

    def close(self) -> None:
        """Close its file."""
        self._frames.close()
