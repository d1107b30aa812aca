"""Frames become an mp4: they are made in the node's own thread and encoded in another."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from threading import Condition, Thread
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..loaders.devices import OutOfMemory, out_of_memory
from ..loaders.files import put_in_place, why_unwritten
from ..loaders.messages import message, message_of
from . import host

if TYPE_CHECKING:
    from av import VideoFrame
    from av.container import OutputContainer
    from av.video.codeccontext import VideoCodecContext

    from .host.sound import Sound

WAITING = 2**25  # bytes of frames that wait for the encoder; a larger piece waits alone
PATIENCE = 0.1  # seconds between two looks at whether the host wants to stop
# what x264 takes by itself on a processor with AVX-512, but for that: with it, its macroblock tree did not make the
# same bytes of the same frames each time (core 165; clips 96, 200 and 648 pixels wide)
_UP_TO_AVX2 = "asm=MMX2,SSE2Fast,LZCNT,SSSE3,SSE4.2,AVX,FMA3,BMI2,AVX2"


def write_video(
    path: Path,
    frames: Iterator[Tensor],
    size: tuple[int, int],
    fps: float,
    crf: int,
    metadata: dict[str, str],
    sound: Sound | None = None,
) -> list[str]:
    """H.264 mp4 of pieces [n, H, W, 3] uint8, written under a temporary name; after any failure nothing is left under
    the final one. Returns what became of the sound, in words.

    size: (width, height); crf: 0 (lossless) to 51; sound: as long as the picture, cut or followed by silence.

    Raises OSError for a file that cannot be written, OutOfMemory where there is no memory for it, both in words, and
    RuntimeError for a file that fails while the frames are made.
    """
    import av

    part, notes = path.with_name(f".{path.name}.part.mp4"), list[str]()

    def write(pieces: Iterator[Tensor]) -> None:
        options = {"movflags": "use_metadata_tags+faststart"}
        with _in_words(path), av.open(str(part), "w", options=options) as container:
            container.metadata.update(metadata)
            notes.extend(_encode(container, pieces, size, fps, crf, sound))

    try:
        overlap(_apart(frames), write, host.stop_if_asked)
        with _in_words(path):
            put_in_place(part, path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return notes


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
) -> list[str]:
    """Encode pieces as H.264 into an open container, and sound beside them; what became of the sound."""
    import av

    rate, count = Fraction(fps).limit_denominator(1001), 0
    stream = container.add_stream("libx264", rate=rate)
    stream.width, stream.height = size
    stream.pix_fmt = "yuv420p" if crf else "yuv444p"  # without loss H.264 is of its 4:4:4 profile anyway
    stream.options = {"crf": str(crf), **repeatable(torch.backends.cpu.get_cpu_capability())}
    tag_bt709(stream.codec_context)
    writer = sound.write_to(container) if sound is not None else None
    convert = bt709(stream.pix_fmt)
    for piece in frames:
        for frame in piece.numpy():
            container.mux(stream.encode(convert(av.VideoFrame.from_ndarray(frame, format="rgb24"))))
        count += len(piece)
        if writer is not None:
            writer.advance(count / rate)
    container.mux(stream.encode())
    return writer.finish(count / rate) if writer is not None else []


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


def repeatable(capability: str) -> dict[str, str]:
    """x264's options for the same bytes of the same frames each time, on a processor that torch calls so."""
    return {"x264-params": _UP_TO_AVX2} if capability.startswith("AVX512") else {}


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
