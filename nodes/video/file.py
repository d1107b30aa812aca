"""Frames become a video file: they are made in the node's own thread and encoded in another. What its nodes share."""

from __future__ import annotations

import errno
import os
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from functools import partial
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING, cast

import torch
from comfy_api.latest import io
from torch import Tensor

from ...loaders.devices import OutOfMemory, out_of_memory
from ...loaders.files import part_beside, why_unwritten
from ...loaders.messages import message, message_of
from ...loaders.video_model import VideoModel
from .. import host
from ..types import InputValue
from .formats import DEFAULT, FORMATS, VideoFormat

if TYPE_CHECKING:
    from av import VideoFrame, VideoStream
    from av.container import OutputContainer
    from av.video.codeccontext import VideoCodecContext

    from ..host.sound import Sound

WAITING = 2**25  # bytes of frames that wait for the encoder; a larger piece waits alone
PATIENCE = 0.1  # seconds between two looks at whether the host wants to stop


class FileWriter(io.ComfyNode):
    """What nodes that write a video file share."""

    @classmethod
    def fingerprint_inputs(cls, **inputs: InputValue) -> list[float]:
        """Write again where the file is gone that was written of these inputs."""
        return [host.files_gone(cls, inputs)]

    @staticmethod
    def rate(model: VideoModel, fps: float, sampled: float = 0.0) -> float:
        """Frames per second of the file; raises InputError. sampled: of the latents, 0 where they do not say it."""
        from ...samplers.early import check_fps

        check_fps(fps)
        return fps or sampled or model.facts.fps

    @classmethod
    def rate_beside(
        cls, model: VideoModel, fps: float, source: host.SourceSound | None, sampled: float = 0.0
    ) -> tuple[float, list[str]]:
        """(frames per second of the file, notes): as asked for, as sampled, or as the source whose sound goes along."""
        if source is None or not 1 <= source.fps <= 240:
            return cls.rate(model, fps, sampled), []
        rate = cls.rate(model, fps, sampled or source.fps)
        values = {"fps": f"{rate:g}", "source": f"{source.fps:g}"}
        if abs(rate / source.fps - 1) > 1e-3:
            return rate, [message("sound_out_of_step", **values)]
        return rate, [] if fps else [message("rate_of_source", **values)]

    @classmethod
    def rate_and_sound(
        cls, model: VideoModel, fps: float, audio: InputValue, source: object, sampled: float
    ) -> tuple[float, host.Sound | None, list[str]]:
        """(frames per second of the file, its sound, notes). source: what brings a sound where audio is not connected;
        sampled: the rate of the latents."""
        known = host.source_sound(source) if audio is None else None
        if known is None:
            fps = cls.rate(model, fps, sampled)
            sound, notes = host.opened_audio(audio)
            silent = host.source_sound_notes(source, True) if audio is None else []
            return fps, sound, [*notes, *silent, *cls.rate_apart(fps, sound, audio)]
        sound, lost = host.opened_sound(known)
        fps, notes = cls.rate_beside(model, fps, known, sampled)
        return fps, sound, notes if sound is not None else lost

    @staticmethod
    def clip_apart(fps: float, clip: InputValue) -> list[str]:
        """What to say of the clip that a file begins with, where it has other frames per second than the file."""
        rate = host.source_rate(clip, "extend")
        apart = rate and abs(fps / rate - 1) > 1e-3
        return [message("clip_out_of_step", fps=f"{fps:g}", clip=f"{rate:g}")] if apart else []

    @staticmethod
    def rate_apart(fps: float, sound: host.Sound | None, audio: InputValue) -> list[str]:
        """What to say of the sound of a video that has other frames per second than the file: where the file's frames
        are made of that video's, the two drift apart."""
        rate = host.source_rate(audio, "audio")
        if sound is None or not rate or abs(fps / rate - 1) <= 1e-3:
            return []
        return [message("audio_out_of_step", fps=f"{fps:g}", audio=f"{rate:g}")]


def write_video(
    path: Path,
    frames: Iterator[Tensor],
    size: tuple[int, int],
    fps: float,
    crf: int,
    metadata: dict[str, str],
    sound: Sound | None = None,
    form: VideoFormat = FORMATS[DEFAULT],
) -> tuple[Path, list[str]]:
    """A file of pieces [n, H, W, 3], uint8 or uint16, written under a temporary name and read back; after any failure
    nothing is left under the final one. Returns (that file, what became of the sound, in words): `path`, or the next
    name that nothing has.

    size: (width, height); crf: 0 (lossless) to 51, where the format has it; sound: as long as the picture, cut or
    followed by silence.

    Raises OSError for a file that cannot be written, OutOfMemory where there is no memory for it, both in words, and
    RuntimeError for a file that fails while the frames are made.
    """
    import av

    counted, notes = list[int](), list[str]()

    def write(pieces: Iterator[Tensor], part: Path) -> None:
        with _in_words(path), av.open(str(part), "w", form.container, options={**form.muxing}) as container:
            container.metadata.update(metadata)
            count, words = _encode(container, pieces, size, fps, crf, sound, form)
            counted.append(count)
            notes.extend(words)

    with ExitStack() as stack:
        with _in_words(path):
            part = stack.enter_context(part_beside(path))
        overlap(_apart(frames), partial(write, part=part.path), host.stop_if_asked)
        with _in_words(path):
            check_video(part.path, sum(counted), size, form.container)
            return part.take(path), notes


def check_video(path: Path, count: int, size: tuple[int, int], container: str = "mp4") -> None:
    """Read a video back: raises OSError unless it has so many frames of (width, height)."""
    import av

    found = 0
    os.stat(path)  # somebody may have removed its folder
    with suppress(av.FFmpegError, IndexError), av.open(str(path), "r", container) as file:
        stream = file.streams.video[0]
        if (stream.width, stream.height) == size:
            found = sum(packet.size > 0 and not packet.is_corrupt for packet in file.demux(stream))
    if found != count:
        raise OSError(errno.EIO, message("video_incomplete", count=found, wanted=count))


@contextmanager
def _in_words(path: Path) -> Iterator[None]:
    """Say why a file could not be written, whichever library could not."""
    from av.error import FFmpegError

    try:
        yield
    except Exception as error:
        is_memory = out_of_memory(error)
        if not is_memory and not isinstance(error, (OSError, FFmpegError)):
            raise
        why = message("memory_ran_out") if is_memory else why_unwritten(error)
        kind = OutOfMemory if is_memory else OSError
        raise kind(message("file_unwritten", file=path.name, error=why)) from error


def _apart(frames: Iterator[Tensor]) -> Iterator[Tensor]:
    """The same frames; a file that fails while they are made is not the one that is written."""
    try:
        yield from frames
    except OSError as error:
        raise RuntimeError(message_of(error)) from error


def _encode(
    container: OutputContainer,
    frames: Iterator[Tensor],
    size: tuple[int, int],
    fps: float,
    crf: int,
    sound: Sound | None,
    form: VideoFormat,
) -> tuple[int, list[str]]:
    """Encode pieces into an open container, and sound beside them; (frames, what became of the sound)."""
    import av

    rate, count = Fraction(fps).limit_denominator(1001), 0
    stream = cast("VideoStream", container.add_stream(form.codec, rate=rate))
    stream.width, stream.height = size
    stream.pix_fmt, stream.options = form.encoding(crf)
    if form.tag:
        stream.codec_context.codec_tag = form.tag
    convert = _converter(stream.codec_context, rate)
    writer = sound.write_to(container, form.sound) if sound is not None and form.sound is not None else None
    for piece in frames:
        rgb = "rgb24" if piece.dtype == torch.uint8 else "rgb48le"
        for frame in piece.numpy():
            container.mux(stream.encode(convert(av.VideoFrame.from_ndarray(frame, format=rgb))))
        count += len(piece)
        if writer is not None:
            writer.advance(count / rate)
    container.mux(stream.encode())
    return count, writer.finish(count / rate) if writer is not None else []


def _converter(context: VideoCodecContext, rate: Fraction) -> Callable[[VideoFrame], VideoFrame]:
    """A function: RGB frame -> frame as an encoder takes it: YUV that is tagged, or colours by a palette."""
    if context.pix_fmt == "pal8":
        return paletted(context.width, context.height, rate)
    tag_bt709(context)
    return bt709(str(context.pix_fmt))


def tag_bt709(context: VideoCodecContext) -> None:
    """Tag a stream as BT.709 in limited range (ITU-T H.273: primaries, transfer and matrix 1), as players take HD to be
    without tags; of smaller pictures they would guess BT.601."""
    context.color_primaries = context.color_trc = context.colorspace = 1
    context.color_range = 1


def bt709(form: str) -> Callable[[VideoFrame], VideoFrame]:
    """A function: RGB frame -> frame of this pixel format, by BT.709's matrix, in limited range."""
    from av.video.reformatter import ColorRange, Colorspace, Interpolation, VideoReformatter

    reformatter = VideoReformatter()
    return lambda frame: reformatter.reformat(
        frame,
        format=form,
        src_colorspace=Colorspace.ITU709,
        dst_colorspace=Colorspace.ITU709,
        src_color_range=ColorRange.JPEG,
        dst_color_range=ColorRange.MPEG,
        interpolation=Interpolation.BILINEAR,
    )


def paletted(width: int, height: int, rate: Fraction) -> Callable[[VideoFrame], VideoFrame]:
    """A function: RGB frame -> frame in the 256 colours that are nearest to its own, each frame's with its palette."""
    import av
    from av.filter import Graph

    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=1 / rate)
    split, sink = graph.add("split"), graph.add("buffersink")
    palette, use = graph.add("palettegen", "stats_mode=single"), graph.add("paletteuse", "new=1:dither=bayer")
    source.link_to(split)
    split.link_to(palette, 0, 0)
    split.link_to(use, 1, 0)
    palette.link_to(use, 0, 1)
    use.link_to(sink)
    graph.configure()
    count = iter(range(2**63))

    def convert(frame: VideoFrame) -> VideoFrame:
        frame.pts, frame.time_base = next(count), 1 / rate
        graph.push(frame)
        return graph.vpull()

    return convert


def overlap(
    pieces: Iterator[Tensor],
    consume: Callable[[Iterator[Tensor]], None],
    check: Callable[[], None],
    limit: int = WAITING,
) -> None:
    """Run consume(pieces) in a thread of its own while this one makes the pieces; at most `limit` bytes of them wait.

    check: called while this thread waits; what it raises ends both. An error of either side is raised here, once the
    other has stopped; no thread is left behind.
    """
    queue = _Queue(limit)
    thread = Thread(target=queue.run, args=(consume,), name="reelwire encoder")
    thread.start()
    try:
        for piece in pieces:
            queue.put(piece, check)
            del piece
        queue.finish(check)
    except BaseException:
        queue.stop()
        raise
    finally:
        thread.join()


class _StoppedError(Exception):
    """The side that makes the pieces has failed."""


class _Queue:
    """Pieces on their way from one thread to another, bounded by bytes instead of by number."""

    def __init__(self, limit: int) -> None:
        self._limit, self._pieces, self._changed = limit, deque[Tensor](), Condition()
        self._complete = self._stopped = self._over = False
        self._error: BaseException | None = None

    def run(self, consume: Callable[[Iterator[Tensor]], None]) -> None:
        """The other thread."""
        try:
            consume(self._arriving())
        except BaseException as error:  # noqa: BLE001 - raised in the thread that waits for this one
            self._error = error
        with self._changed:
            self._over = True
            self._pieces.clear()
            self._changed.notify_all()

    def _arriving(self) -> Iterator[Tensor]:
        """The pieces, as they come."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._pieces or self._complete or self._stopped)
                if self._stopped:
                    raise _StoppedError
                if not self._pieces:
                    return
                first = [self._pieces.popleft()]
                self._changed.notify_all()
            yield first.pop()  # nothing of it stays here while it is encoded

    def put(self, piece: Tensor, check: Callable[[], None]) -> None:
        """Wait until there is room for a piece; raises the error of the other thread."""
        fits = lambda: not self._pieces or sum(each.nbytes for each in self._pieces) + piece.nbytes <= self._limit
        with self._changed:
            self._wait(fits, check)
            self._pieces.append(piece)
            self._changed.notify_all()

    def finish(self, check: Callable[[], None]) -> None:
        """No piece follows; wait until the other thread is over."""
        with self._changed:
            self._complete = True
            self._changed.notify_all()
            self._wait(lambda: False, check)

    def stop(self) -> None:
        """Make the other thread end at its next piece."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    def _wait(self, ready: Callable[[], bool], check: Callable[[], None]) -> None:
        """Wait until `ready`; raises the error of the other thread."""
        while not self._changed.wait_for(lambda: self._over or ready(), PATIENCE):
            check()
        error, self._error = self._error, None  # not held: its traceback holds the decoder
        if error is not None:
            raise error
