"""Sound on its way into a video file: samples are encoded, AAC of a file is copied as it is."""

from __future__ import annotations

import io as memory
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from torch import Tensor

from ....loaders.messages import message

T = TypeVar("T")

if TYPE_CHECKING:
    import numpy as np
    from av import AudioFrame, AudioStream, Packet
    from av.container import InputContainer, OutputContainer

    Chunk = np.ndarray[Any, np.dtype[np.float32]]  # [channels, samples]

Codec = Literal["aac", "libopus", "pcm_s16le"]  # FFmpeg's encoders of the sound of video files
RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)  # that AAC has
OPUS_RATES = (8000, 12000, 16000, 24000, 48000)  # RFC 6716, section 2
TITLES: dict[Codec, str] = {"aac": "AAC", "libopus": "Opus", "pcm_s16le": "PCM, 16 bit"}
LAYOUTS = {1: "mono", 2: "stereo", 3: "3.0", 4: "4.0", 5: "5.0", 6: "5.1", 8: "7.1"}  # channels -> FFmpeg's name
SLACK = 1024  # samples of an AAC frame, the unit in which a copy is cut


class Writer(Protocol):
    """The sound of an open file, written along with its pictures."""

    def advance(self, seconds: Fraction) -> None:
        """Write what is heard before this time."""

    def finish(self, seconds: Fraction) -> list[str]:
        """Write the rest of a video of this length, cut or followed by silence; what a person should know of it."""


class Sound(Protocol):
    """Sound for a video file."""

    def opened(self) -> Sound:
        """The same, to be written or read once, with its file open; raises what `unreadable` knows where it is gone."""

    def samples_at(self) -> tuple[Iterator[Chunk], int, str]:
        """(its samples from the beginning of the picture, their rate, FFmpeg's name of their channels)."""

    def write_to(self, container: OutputContainer, codec: Codec = "aac") -> Writer:
        """Add a stream to a container that is open for writing."""


@dataclass(frozen=True, eq=False)
class Waveform:
    """Samples that are encoded. samples: [C, n] in -1..1; rate: samples a second."""

    samples: Tensor
    rate: int

    def opened(self) -> Waveform:
        """Itself: it is in memory."""
        return self

    def samples_at(self) -> tuple[Iterator[Chunk], int, str]:
        """(its samples, their rate, FFmpeg's name of their channels)."""
        chunks = (piece.numpy() for piece in self.samples.split(self.rate, 1))
        return chunks, self.rate, LAYOUTS[len(self.samples)]

    def write_to(self, container: OutputContainer, codec: Codec = "aac") -> Writer:
        """Add a stream to a container that is open for writing."""
        chunks, _, layout = self.samples_at()
        rate = rate_in(codec, self.rate)
        if rate != self.rate:
            chunks = _resampled(chunks, self.rate, rate, layout)
        return _Encoded(container, codec, chunks, rate, layout, [])


@dataclass(frozen=True, eq=False)
class FileSound:
    """The sound of a video file.

    source: its path, or what it holds.
    start, duration: the part that is wanted, in seconds, duration 0 for all.
    copied: whether its packets can be taken as they are.
    file: it, where it is open already.
    """

    source: str | memory.BytesIO
    start: float
    duration: float
    copied: bool
    file: InputContainer | None = None

    def opened(self) -> FileSound:
        """The same with its file open: what is deleted or replaced from now on is heard all the same."""
        file = self.open()
        if audio_stream(file).codec_context is None:
            raise LookupError(message("sound_unknown"))
        return replace(self, file=file)

    def samples_at(self) -> tuple[Iterator[Chunk], int, str]:
        """(its samples from the beginning of the picture, their rate, FFmpeg's name of their channels)."""
        file = self.file or self.open()
        context = audio_stream(file).codec_context
        layout = LAYOUTS.get(context.layout.nb_channels, "stereo")
        return self._decoded(file, context.sample_rate, layout), context.sample_rate, layout

    def write_to(self, container: OutputContainer, codec: Codec = "aac") -> Writer:
        """Add a stream to a container that is open for writing."""
        file = self.file or self.open()
        if self.copied and codec == "aac":
            return _Copied(container, file, self.duration)
        context, lost = audio_stream(file).codec_context, list[str]()
        rate, layout = rate_in(codec, context.sample_rate), LAYOUTS.get(context.layout.nb_channels, "stereo")
        chunks = while_readable(self._decoded(file, rate, layout), lost)
        return _Encoded(container, codec, chunks, rate, layout, lost)

    def open(self) -> InputContainer:
        """The file from its beginning."""
        import av

        if isinstance(self.source, memory.BytesIO):
            return av.open(memory.BytesIO(self.source.getbuffer()), "r")
        return av.open(self.source, "r")

    def _decoded(self, file: InputContainer, rate: int, layout: str) -> Iterator[Chunk]:
        """The sound of the part, beginning with it: silence first where the file's sound begins later."""
        from av.audio.resampler import AudioResampler

        with file:
            stream = audio_stream(file)
            begin, resampler = start_of(file) + Fraction(self.start), AudioResampler("fltp", layout, rate)
            missing: int | None = None  # samples to wait for, or (below 0) to leave out, at the beginning
            left = round(self.duration * rate) if self.duration else None
            for frame in _frames_of(file, stream, resampler):
                if missing is None:
                    missing = round((_time(frame) - begin) * rate)
                    if missing > 0:
                        yield _silence(frame, missing)
                chunk = _samples(frame)
                skipped = min(max(-missing, 0), chunk.shape[1])
                missing += skipped
                chunk = chunk[:, skipped : None if left is None else skipped + left]
                left = None if left is None else left - chunk.shape[1]
                yield chunk
                if left == 0:
                    return


def unreadable(error: Exception) -> bool:
    """Whether an error says that a file of sound is gone, damaged or not what it was."""
    from av.error import FFmpegError

    return isinstance(error, (FFmpegError, OSError, ValueError, LookupError)) and not isinstance(error, MemoryError)


def while_readable(pieces: Iterator[T], lost: list[str]) -> Iterator[T]:
    """The pieces of a file, up to where it cannot be read any more; `lost` then says so."""
    try:
        yield from pieces
    except Exception as error:
        if not unreadable(error):
            raise
        lost.append(message("sound_lost", error=getattr(error, "strerror", None) or error))


def aac_rate(rate: int) -> int:
    """The rate at which sound is written as AAC: its own where AAC has it, else the next higher."""
    return next((each for each in RATES if each >= rate), RATES[-1])


def rate_in(codec: Codec, rate: int) -> int:
    """The rate at which sound is written by a codec: its own where the codec has it, else the next higher."""
    if codec == "libopus":
        return next((each for each in OPUS_RATES if each >= rate), OPUS_RATES[-1])
    return aac_rate(rate) if codec == "aac" else rate


def audio_stream(file: InputContainer) -> AudioStream:
    """The last sound of a file that can be decoded, as the host takes it; raises LookupError where there is none."""
    streams = [stream for stream in file.streams.audio if stream.codec_context is not None]
    return streams[-1] if streams else file.streams.audio[0]


def start_of(file: InputContainer) -> Fraction:
    """When a file's picture begins, in seconds on its own clock."""
    for stream in file.streams.video:
        if stream.start_time is not None and stream.time_base is not None:
            return Fraction(stream.start_time * stream.time_base)
    return Fraction(0)


def _time(frame: AudioFrame | Packet[AudioStream]) -> Fraction:
    """When a frame or packet begins, in seconds."""
    return Fraction((frame.pts or 0) * (frame.time_base or 0))


def _frames_of(file: InputContainer, stream: AudioStream, resampler: Any) -> Iterator[AudioFrame]:
    for frame in file.decode(stream):
        yield from resampler.resample(frame)
    yield from resampler.resample(None)


def _samples(frame: AudioFrame) -> Chunk:
    import numpy as np

    return frame.to_ndarray().astype(np.float32, copy=False)


def _silence(frame: AudioFrame, count: int) -> Chunk:
    import numpy as np

    return np.zeros((frame.layout.nb_channels, count), np.float32)


def _resampled(chunks: Iterator[Chunk], rate: int, to: int, layout: str) -> Iterator[Chunk]:
    from av.audio.resampler import AudioResampler

    resampler = AudioResampler("fltp", layout, to)
    for chunk in chunks:
        for frame in resampler.resample(_frame(chunk, rate, layout)):
            yield _samples(frame)
    for frame in resampler.resample(None):
        yield _samples(frame)


def _frame(chunk: Chunk, rate: int, layout: str) -> AudioFrame:
    import av
    import numpy as np

    frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(chunk), format="fltp", layout=layout)
    frame.sample_rate = rate
    return frame


# ---------------------------------------------------------------- encoded


class _Encoded:
    """Samples on their way into a stream of sound."""

    def __init__(
        self,
        container: OutputContainer,
        codec: Codec,
        chunks: Iterator[Chunk],
        rate: int,
        layout: str,
        lost: list[str],
    ) -> None:
        self._container, self._chunks, self._rate, self._layout = container, chunks, rate, layout
        self._lost = lost  # what `chunks` say where they end too early
        self._stream, self._title = container.add_stream(codec, rate=rate, layout=layout), TITLES[codec]
        self._channels = self._stream.codec_context.layout.nb_channels
        if codec != "pcm_s16le":
            self._stream.bit_rate = 96_000 * self._channels if self._channels < 3 else 64_000 * self._channels
        self._rest: Chunk | None = None  # of the last chunk
        self._written = 0

    def advance(self, seconds: Fraction) -> None:
        """Write what is heard before this time."""
        end = round(seconds * self._rate)
        while self._written < end and (chunk := self._take(end - self._written)) is not None:
            self._encode(chunk)

    def finish(self, seconds: Fraction) -> list[str]:
        """Write the rest, cut or followed by silence."""
        import numpy as np

        self.advance(seconds)
        missing = round(seconds * self._rate) - self._written
        notes = []
        if missing > 0:
            notes.append(message("sound_padded", seconds=seconds_of(missing, self._rate)))
            while missing > 0:
                count = min(missing, self._rate)
                self._encode(np.zeros((self._channels, count), np.float32))
                missing -= count
        elif (left := self._left()) > SLACK:
            notes.append(message("sound_cut", seconds=seconds_of(left, self._rate)))
        self._container.mux(self._stream.encode(None))
        return [message("sound_encoded", codec=self._title, rate=self._rate, layout=self._layout), *self._lost, *notes]

    def _take(self, most: int) -> Chunk | None:
        """The next samples, at most that many; None where there are no more."""
        chunk = self._rest if self._rest is not None else next(self._chunks, None)
        if chunk is None:
            return None
        self._rest = chunk[:, most:] if chunk.shape[1] > most else None
        return chunk[:, :most]

    def _left(self) -> int:
        rest = 0 if self._rest is None else self._rest.shape[1]
        return rest + sum(chunk.shape[1] for chunk in self._chunks)

    def _encode(self, chunk: Chunk) -> None:
        if not chunk.shape[1]:
            return
        frame = _frame(chunk, self._rate, self._layout)
        frame.pts, frame.time_base = self._written, Fraction(1, self._rate)
        self._container.mux(self._stream.encode(frame))
        self._written += chunk.shape[1]


# ---------------------------------------------------------------- copied


class _Copied:
    """AAC packets on their way from one file into another, byte by byte as they are."""

    def __init__(self, container: OutputContainer, file: InputContainer, duration: float) -> None:
        self._container, self._duration = container, duration
        self._file, self._lost = file, list[str]()
        self._source = audio_stream(self._file)
        self._stream = container.add_stream_from_template(self._source)
        self._begin = start_of(self._file)
        packets = (packet for packet in self._file.demux(self._source) if packet.size)
        self._packets = while_readable(packets, self._lost)
        self._waiting: Packet[AudioStream] | None = None
        self._end = Fraction(0)
        # decoders begin with frames that are not heard; players leave out what the file's edit list says
        self._primed = Fraction(3 * SLACK, self._source.codec_context.sample_rate)

    def advance(self, seconds: Fraction) -> None:
        """Write what is heard before this time."""
        limit = min(seconds, Fraction(self._duration)) if self._duration else seconds
        while (packet := self._waiting or next(self._packets, None)) is not None:
            begin = _time(packet) - self._begin
            self._waiting = packet if begin >= limit else None
            if self._waiting is not None:
                return
            end = begin + Fraction((packet.duration or 0) * (packet.time_base or 0))
            if end > -self._primed:
                self._mux(packet, begin)
                self._end = end

    def finish(self, seconds: Fraction) -> list[str]:
        """Write the rest, cut after whole packets or followed by silence."""
        self.advance(seconds)
        rate = self._source.codec_context.sample_rate
        notes: list[str] = [message("sound_copied", rate=rate, layout=self._source.codec_context.layout.name)]
        missing = round((seconds - self._end) * rate)
        if missing > SLACK:
            padded, left_out = self._pad(seconds, rate), seconds_of(missing, rate)
            note = message("sound_padded", seconds=left_out) if padded else message("sound_ends", seconds=left_out)
            notes.append(note)
        elif self._waiting is not None and (left := self._left(seconds)) > SLACK / rate:
            notes.append(message("sound_cut", seconds=f"{left:.3g}"))
        self._file.close()
        return [notes[0], *self._lost, *notes[1:]]

    def _left(self, seconds: Fraction) -> float:
        """Seconds of sound behind the end."""
        *_, last = (self._waiting, *self._packets)
        return float(_time(last) - self._begin - seconds) if last is not None else 0.0

    def _mux(self, packet: Packet[AudioStream], begin: Fraction) -> None:
        """Write a packet so that it is heard at `begin`."""
        assert packet.time_base is not None
        packet.pts = packet.dts = round(begin / packet.time_base)
        packet.stream = self._stream
        self._container.mux(packet)

    def _pad(self, seconds: Fraction, rate: int) -> bool:
        """Write silence up to this time in packets of the same kind; whether there are such."""
        import av

        data = silent_packet(rate, self._source.codec_context.layout.name, self._source.codec_context.extradata)
        if data is None:
            return False
        while (seconds - self._end) * rate > SLACK / 2:
            packet: Any = av.Packet(data)
            packet.time_base, packet.duration = Fraction(1, rate), SLACK
            self._mux(packet, self._end)
            self._end += Fraction(SLACK, rate)
        return True


def silent_packet(rate: int, layout: str, config: bytes | None) -> bytes | None:
    """A frame of silence for an AAC stream with this configuration (AudioSpecificConfig, ISO 14496-3); None where the
    stream is of another kind than FFmpeg writes."""
    import av
    import numpy as np

    if layout not in LAYOUTS.values() or rate not in RATES or not config:
        return None
    encoder: Any = av.CodecContext.create("aac", "w")
    encoder.sample_rate, encoder.layout, encoder.format = rate, layout, "fltp"
    encoder.time_base = Fraction(1, rate)
    channels = encoder.layout.nb_channels
    frame = _frame(np.zeros((channels, 8 * SLACK), np.float32), rate, layout)
    frame.pts = 0
    packets = [bytes(packet) for packet in (*encoder.encode(frame), *encoder.encode(None))]
    return packets[4] if (encoder.extradata or b"")[:2] == config[:2] else None


def seconds_of(samples: int, rate: int) -> str:
    """How long samples last, in words."""
    return f"{samples / rate:.3g}"
