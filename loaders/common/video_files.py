"""The one door for files of videos: what they hold is looked at before all their frames are decoded at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from statistics import median
from typing import TYPE_CHECKING, Any

from ..messages import InputError, Message, inputs_named, message
from .images import MOST_PROPORTION

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer
    from av.video.frame import VideoFrame
    from av.video.stream import VideoStream

# FFmpeg's names; what it also opens are lists of other files, addresses, devices and scripts
FORMATS = (
    *("mov", "mp4", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg", "gif", "asf", "mxf", "nut"),
    *("ivf", "h264", "hevc", "av1", "obu", "m4v", "dv", "yuv4mpegpipe", "wtv", "rm", "apng", "webp_pipe", "mp3", "wav"),
    *("flac", "aac", "aiff", "caf", "w64", "mjpeg", "vob", "gxf", "swf"),
)
OPTIONS: Mapping[str, str] = {"format_whitelist": ",".join(FORMATS), "protocol_whitelist": "file,pipe"}
MOST_SIDE = 16384  # pixels
PIXEL_BYTES = 24  # of a pixel while the host decodes it: three floats, and once more where it joins the frames
UNEVEN = 1.5  # times the usual time from one frame to the next
PROBED = 64  # packets in which the first frame, or the first piece of sound, must lie
LAYOUT, RATE = "stereo", 48000  # that any sound can be made


def check_frames_of(
    name: str, file: InputContainer, span: tuple[float, float], room: int, stop: Callable[[], None]
) -> None:
    """Raise InputError, under this name, for a video file whose frames cannot be decoded, or not in `room` bytes.

    What its header says of their number is not believed: its packets are counted, as far as they fit. span: the part
    that is wanted, (start, duration) in seconds, duration 0 for all that follows. stop: called for each packet.
    """
    with _in_words(name):
        if not file.streams.video:
            raise ValueError(message("video_no_pictures"))
        stream = file.streams.video[0]
        frame = next(_first_frames(file, stream, stop), None)
        if frame is None:
            raise ValueError(message("video_no_pictures"))
        width, height = int(frame.width), int(frame.height)
        is_narrow = max(width, height) > MOST_PROPORTION * min(width, height)
        if max(width, height) > MOST_SIDE or is_narrow:
            raise ValueError(message("video_size", width=width, height=height, most=MOST_SIDE))
        start, end = span[0], span[0] + span[1] if span[1] else float("inf")
        size, count, base = width * height * PIXEL_BYTES, 1, float(stream.time_base or 0)
        for packet in _packets(file, stream.index, stop):
            count += packet.pts is None or not base or start <= packet.pts * base < end
            if count * size > room:
                numbers = {"count": count, "width": width, "height": height, "room": f"{room / 1e9:.3g}"}
                raise ValueError(message("video_room", **numbers))


def _first_frames(file: InputContainer, stream: VideoStream, stop: Callable[[], None]) -> Iterator[VideoFrame]:
    """Frames of the first packets; also those that a decoder keeps until it hears that no more will come."""
    for packet in _packets(file, stream.index, stop, PROBED):
        yield from packet.decode()
    if stream.codec_context is not None:  # as of a file that is cut before its index
        yield from stream.codec_context.decode(None)


def picture_notes(name: str, file: InputContainer, stop: Callable[[], None]) -> tuple[Message, ...]:
    """What a video file says of its frames and the host does not hand on: pixels that are not square, uneven times."""
    if not file.streams.video:
        return ()
    stream, notes = file.streams.video[0], list[Message]()
    shape = stream.sample_aspect_ratio
    if shape and shape != 1:
        words = f"{shape.numerator}:{shape.denominator}"
        notes.append(message("source_not_square", input=inputs_named(name), shape=words))
    times = sorted(packet.pts for packet in _packets(file, stream.index, stop) if packet.pts is not None)
    gaps = [after - before for before, after in pairwise(times)]
    if gaps and max(gaps) > UNEVEN * max(median(gaps), 1):
        notes.append(message("source_uneven", input=inputs_named(name)))
    return tuple(notes)


def check_sound_of(name: str, file: InputContainer, stop: Callable[[], None]) -> None:
    """Raise InputError, under this name, for a file whose sound cannot be decoded; one without sound is fine."""
    from av.audio.frame import AudioFrame
    from av.audio.resampler import AudioResampler

    streams = [stream for stream in file.streams.audio if stream.codec_context is not None]
    if not streams:
        return
    with _in_words(name):
        resampler = AudioResampler("fltp", LAYOUT, RATE)
        for packet in _packets(file, streams[-1].index, stop, PROBED):
            for frame in packet.decode():
                if isinstance(frame, AudioFrame):
                    resampler.resample(frame)
                    return


def _packets(file: InputContainer, index: int, stop: Callable[[], None], most: int = 0) -> Iterator[Packet[Any]]:
    """The packets of a stream from where the file is; most: how many, 0 for all."""
    for number, packet in enumerate(file.demux(file.streams[index])):
        stop()
        if most and number >= most:
            return
        if packet.size:
            yield packet


@contextmanager
def _in_words(name: str) -> Iterator[None]:
    """Raise InputError with a message for whatever a decoder finds wrong with a file."""
    from av.error import FFmpegError

    try:
        yield
    except (FFmpegError, OSError, ValueError, LookupError, ArithmeticError, AssertionError) as error:
        words = next((part for part in error.args if isinstance(part, Message)), None)
        rule = words or message("video_unreadable", error=getattr(error, "strerror", None) or error)
        raise InputError(name, message("a_video"), rule, message("another_video")) from error
