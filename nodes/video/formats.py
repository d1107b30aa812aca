"""The formats of video files: container, codec of the pictures, and codec of the sound."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from comfy_api.latest import io

from ...loaders.messages import InputError, Message, message

if TYPE_CHECKING:
    from ..host.sound import Codec

DEFAULT = "mp4"
# what x264 takes by itself on a processor with AVX-512, but for that: with it, its macroblock tree did not make the
# same bytes of the same frames each time (core 165; clips 96, 200 and 648 pixels wide)
_UP_TO_AVX2 = "asm=MMX2,SSE2Fast,LZCNT,SSSE3,SSE4.2,AVX,FMA3,BMI2,AVX2"


@dataclass(frozen=True)
class VideoFormat:
    """How a file is written.

    suffix: of its name; container: FFmpeg's muxer; muxing: its options.
    codec, pixels: FFmpeg's encoder and its pixel format; options: the encoder's; tag: the four letters that players
    look for, where those of FFmpeg are not.
    lossless: (pixel format, options) for crf 0; None where the codec has no crf.
    deep: whether it holds more than 8 bits of a colour.
    sound: the codec of its sound; None for a silent format.
    fastest: the most frames per second that it can hold.
    """

    suffix: str
    container: str
    codec: str
    pixels: str
    sound: Codec | None
    muxing: Mapping[str, str]
    options: Mapping[str, str]
    lossless: tuple[str, Mapping[str, str]] | None = None
    tag: str = ""
    deep: bool = False
    fastest: float = 240.0

    @property
    def rated(self) -> bool:
        """Whether crf counts."""
        return self.lossless is not None

    def encoding(self, crf: int) -> tuple[str, dict[str, object]]:
        """(the pixel format, the encoder's options) for a quality from 0, without loss, to 51."""
        if self.lossless is None:
            return self.pixels, {**self.options}
        pixels, more = (self.pixels, {}) if crf else self.lossless
        return pixels, {"crf": str(crf), **self.options, **more}

    def check_rate(self, fps: float) -> None:
        """Raise InputError for more frames per second than it can hold."""
        if fps > self.fastest:
            rule = message("format_fps_rule", format=self.suffix[1:], most=f"{self.fastest:g}")
            raise InputError("fps", f"{fps:g}", rule, message("use_format_fps", most=f"{self.fastest:g}"))


def repeatable(capability: str) -> dict[str, str]:
    """x264's options for the same bytes of the same frames each time, on a processor that torch calls so."""
    return {"x264-params": _UP_TO_AVX2} if capability.startswith("AVX512") else {}


_ISO = {"movflags": "use_metadata_tags+faststart"}
_QUIET = "log-level=error"
FORMATS: dict[str, VideoFormat] = {
    DEFAULT: VideoFormat(
        suffix=".mp4",
        container="mp4",
        codec="libx264",
        pixels="yuv420p",
        sound="aac",
        muxing=_ISO,
        options=repeatable(torch.backends.cpu.get_cpu_capability()),
        lossless=("yuv444p", {}),  # without loss H.264 is of its 4:4:4 profile anyway
    ),
    "mp4 (H.265, 10 bit)": VideoFormat(
        suffix=".mp4",
        container="mp4",
        codec="libx265",
        pixels="yuv420p10le",
        sound="aac",
        muxing=_ISO,
        options={"x265-params": _QUIET},
        lossless=("yuv444p10le", {"x265-params": f"{_QUIET}:lossless=1"}),
        tag="hvc1",  # Apple's players open no other
        deep=True,
    ),
    "webm (VP9)": VideoFormat(
        suffix=".webm",
        container="webm",
        codec="libvpx-vp9",
        pixels="yuv420p",
        sound="libopus",
        muxing={"fflags": "+bitexact"},  # else its ids are random
        # constant quality needs b 0: trac.ffmpeg.org/wiki/Encode/VP9
        options={"b": "0", "row-mt": "1", "cpu-used": "2"},
        lossless=("yuv444p", {"lossless": "1"}),
    ),
    "mov (ProRes 422 HQ)": VideoFormat(
        suffix=".mov",
        container="mov",
        codec="prores_ks",
        pixels="yuv422p10le",
        sound="pcm_s16le",
        muxing=_ISO,
        options={"profile": "3", "vendor": "apl0"},  # 3: HQ; some editors refuse files of other vendors
        deep=True,
    ),
    "gif": VideoFormat(
        suffix=".gif",
        container="gif",
        codec="gif",
        pixels="pal8",
        sound=None,
        muxing={"loop": "0"},  # for ever
        options={},
        fastest=50.0,  # its times are hundredths of a second, and browsers show no frame for less than two of them
    ),
}


def format_input() -> io.Input:
    """The widget of a file's format."""
    tooltip = (
        "mp4 plays everywhere; H.265 and ProRes hold 10 bits of a colour, for editing; webm for web pages; gif has 256 "
        "colours and no sound"
    )
    return io.Combo.Input(
        "format", options=list(FORMATS), default=DEFAULT, tooltip=tooltip, optional=True, advanced=True
    )


RATED = tuple(name for name, form in FORMATS.items() if form.rated)  # those of which crf is the quality


def format_notes(name: str, crf: int, has_sound: bool) -> list[Message]:
    """What to say of a format that was chosen, beside what a person sees at once."""
    form = FORMATS[name]
    notes = [] if crf or not form.rated else [message("crf_0_exact", bits=10 if form.deep else 8)]
    if form.sound is None:
        notes.append(message("format_no_workflow", format=form.suffix[1:]))
        if has_sound:
            notes.append(message("format_silent", format=form.suffix[1:]))
    return notes
