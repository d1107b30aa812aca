"""What sound an input holds: the host's AUDIO, a VIDEO, or latents that were made from one."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from fractions import Fraction
from numbers import Real
from typing import TYPE_CHECKING, Any

import torch
from comfy_api.latest import Input
from torch import Tensor

from ....loaders.messages import InputError, message
from ..latents import note_of
from .once import OfVideos, once
from .writers import (
    LAYOUTS,
    SLACK,
    FileSound,
    Sound,
    Waveform,
    audio_stream,
    seconds_of,
    unreadable,
    while_readable,
)

if TYPE_CHECKING:
    from comfy_api.latest._input_impl.video_types import VideoFromFile

LEAST_RATE, MOST_RATE = 1000, 768_000  # samples per second of an AUDIO that is sound
LOUD = 2.0  # times full scale; codecs overshoot it by less
SOUND = "reelwire_sound"  # of a LATENT: a SourceSound, or SILENT
SILENT = "silent"  # latents were made from a VIDEO without sound


def sound_of(audio: object, name: str = "audio") -> tuple[Sound | None, list[str]]:
    """(the sound of an AUDIO or VIDEO, None where it holds none; notes); raises InputError for anything else."""
    if audio is None:
        return None, []
    if isinstance(audio, Input.Video):
        return _of_video(audio, name)
    if not isinstance(audio, dict) or not isinstance(audio.get("waveform"), Tensor) or "sample_rate" not in audio:
        what = f"{type(audio).__name__} {str(audio)[:40]!r}"
        raise InputError(name, what, message("not_audio"), message("connect_audio"))
    return _of_waveform(audio["waveform"], audio["sample_rate"], name)


@dataclass(frozen=True, eq=False)
class SourceSound:
    """The sound of the video that latents were made from, and that video's frames per second."""

    sound: Sound
    fps: float


def source_sound(source: object) -> SourceSound | None:
    """The sound that comes with what a sampler starts from: of a VIDEO, or of latents that were made from one."""
    if isinstance(source, dict):
        known = source.get(SOUND)
        return known if isinstance(known, SourceSound) else None
    if not isinstance(source, Input.Video):
        return None
    sound, _ = sound_of(source, "source")
    return None if sound is None else SourceSound(sound, _rate_of(source, "source"))


def heard_in(source: object) -> dict[str, object]:
    """What latents that are made from a source carry of its sound: an entry of a LATENT, or nothing."""
    if isinstance(source, dict):
        return {SOUND: source[SOUND]} if SOUND in source else {}
    sound = source_sound(source)
    if sound is not None:
        return {SOUND: sound}
    return {SOUND: SILENT} if source_sound_notes(source, True) == [message("source_silent")] else {}


def source_sound_notes(source: object, silent: bool) -> list[str]:
    """What to say of a VIDEO that a video or latents are made from, where no sound comes with it.

    silent: whether to say that it has none, as beside an input that lets it come along.
    """
    if isinstance(source, dict):
        return [message("source_silent")] if silent and source.get(SOUND) == SILENT else []
    sound, notes = sound_of(source, "source") if isinstance(source, Input.Video) else (None, [])
    if sound is not None or notes != [message("video_silent")]:
        return notes if sound is None else []
    return [message("source_silent")] if silent else []


def opened_sound(source: SourceSound) -> tuple[Sound | None, list[str]]:
    """(the sound, open; notes): None, and why, where it is gone: the picture does not need it."""
    try:
        return source.sound.opened(), []
    except Exception as error:
        if not unreadable(error):
            raise
        reason = getattr(error, "strerror", None) or error
        return None, [message("source_sound_gone", file=name_of(source.sound), error=reason)]


def opened_audio(audio: object, name: str = "audio") -> tuple[Sound | None, list[str]]:
    """As `sound_of`, with the file open; raises InputError where it is gone: a person has asked for this one."""
    sound, notes = sound_of(audio, name)
    try:
        return (None if sound is None else sound.opened()), notes
    except Exception as error:
        if sound is None or not unreadable(error):
            raise
        rule = message("video_unreadable", error=getattr(error, "strerror", None) or error)
        raise InputError(name, name_of(sound), rule, message("load_video_again")) from error


def name_of(sound: Sound) -> str:
    """The name of the file that a sound comes from, as far as it has one."""
    source = getattr(sound, "source", None)
    return os.path.basename(source) if isinstance(source, str) else str(message("the_source"))


def samples_of(sound: Sound, seconds: Fraction) -> tuple[Tensor, int, list[str]]:
    """(samples [C, n] of a sound from the beginning of the picture, at most of this length, their rate, notes)."""
    chunks, rate, layout = sound.samples_at()
    lost, pieces, left = list[str](), list[Tensor](), round(seconds * rate)
    for chunk in while_readable(chunks, lost):
        pieces.append(torch.from_numpy(chunk[:, : max(left, 0)].copy()))
        left -= chunk.shape[1]
        if left <= 0:
            break
    samples = torch.cat(pieces, 1) if pieces else torch.zeros(1, 0)
    return samples, rate, [message("sound_out", rate=rate, layout=layout), *lost]


def audio_of(sound: Sound, seconds: Fraction) -> tuple[dict[str, Any], list[str]]:
    """(the host's AUDIO of a sound, cut or followed by silence to this length; notes)."""
    samples, rate, notes = samples_of(sound, seconds)
    missing = round(seconds * rate) - samples.shape[1]
    padded = [message("sound_padded", seconds=seconds_of(missing, rate))] if missing > SLACK else []
    waveform = torch.nn.functional.pad(samples, (0, missing))[None]
    return {"waveform": waveform, "sample_rate": rate}, [*notes, *padded]


def source_rate(source: object, name: str = "source") -> float:
    """Frames per second of a VIDEO, or of those that a LATENT was made for; 0 where neither says it. Raises InputError,
    under this name, for a VIDEO that cannot be read."""
    if isinstance(source, dict):
        return float(note_of(source).get("fps", 0.0))
    rate = _rate_of(source, name) if isinstance(source, Input.Video) else 0.0
    return rate if 1 <= rate <= 240 else 0.0


def _rate_of(video: Input.Video, name: str) -> float:
    """Frames per second of a VIDEO: by a file's header, else as what it holds says, which is decoded for it. Raises
    InputError, under this name, where it cannot be read, or holds no picture."""
    from comfy_api.latest import InputImpl

    if not isinstance(video, InputImpl.VideoFromFile):
        return float(components_of(video, name).frame_rate)
    try:
        return once(video, "rate", lambda: float(video.get_frame_rate()))
    except Exception as error:
        if not unreadable(error):
            raise
        raise _unreadable(error, name, video) from error


def _unreadable(error: Exception, name: str, video: Input.Video) -> InputError:
    """What to say of a VIDEO whose file cannot be read, by its input; without its folder."""
    reason = getattr(error, "strerror", None) or message("no_pixels")
    rule = message("video_unreadable", error=reason)
    return InputError(name, _name_of(video), rule, message("load_video_again"))


def _name_of(video: Input.Video) -> str:
    """The name of a VIDEO's file; its type where it has none."""
    from comfy_api.latest import InputImpl

    file = video.get_stream_source() if isinstance(video, InputImpl.VideoFromFile) else None
    return os.path.basename(file) if isinstance(file, str) else type(video).__name__


_decoded: OfVideos[Any] = OfVideos()  # what VIDEOs hold


def components_of(video: Input.Video, name: str) -> Any:
    """What a VIDEO holds, as its `get_components` says; raises InputError where its file cannot be read.

    It is kept until `forget_video`, so that a node that checks its inputs, waits for others and then runs decodes it
    once.
    """
    known = _decoded.get(video)
    if known is not None:
        return known
    try:
        return _decoded.put(video, video.get_components())
    except Exception as error:
        if not unreadable(error):
            raise
        raise _unreadable(error, name, video) from error


def forget_video() -> None:
    """Free what `components_of` keeps."""
    _decoded.clear()


def video_frames(source: Input.Video, name: str = "source") -> Tensor:
    """The frames of a VIDEO as an IMAGE; raises InputError, under this name, where its file cannot be read."""
    images: Tensor = components_of(source, name).images
    return images


def _of_waveform(waveform: Tensor, rate: object, name: str) -> tuple[Sound | None, list[str]]:
    remedy = message("connect_audio")
    hertz = _hertz(rate)
    if not LEAST_RATE <= hertz <= MOST_RATE:
        rule = message("sample_rate_rule", least=LEAST_RATE, most=MOST_RATE)
        raise InputError(name, str(rate)[:40], rule, remedy)
    shape = message("tensor_shape", shape=list(waveform.shape))
    if not 1 <= waveform.ndim <= 3:
        raise InputError(name, shape, message("waveform_rule"), remedy)
    batch = waveform.reshape((1,) * (3 - waveform.ndim) + tuple(waveform.shape))
    if not batch.numel():
        return None, [message("sound_empty")]
    notes: list[str] = [message("sound_first_of", count=len(batch))] if len(batch) > 1 else []
    samples = batch[0].detach().cpu()
    if len(samples) not in LAYOUTS:
        raise InputError(name, shape, message("channels_rule", counts=", ".join(map(str, LAYOUTS))), remedy)
    if not samples.is_floating_point():
        raise InputError(name, samples.dtype, message("waveform_floats"), remedy)
    if not torch.isfinite(samples).all():
        raise InputError(name, message("not_finite"), message("waveform_finite"), message("repair_audio"))
    loudest = samples.abs().max().item()
    notes += [message("sound_loud", times=f"{loudest:.3g}")] if loudest > LOUD else []
    return Waveform(samples.float().contiguous(), round(hertz)), notes


def _hertz(rate: object) -> float:
    """A sample rate, of NumPy too; 0 for what is no number, or none that fits."""
    try:
        return float(rate) if isinstance(rate, Real) and not isinstance(rate, bool) else 0.0
    except OverflowError:
        return 0.0


def _of_video(video: Input.Video, name: str) -> tuple[Sound | None, list[str]]:
    from comfy_api.latest import InputImpl

    if not isinstance(video, InputImpl.VideoFromFile):
        audio = components_of(video, name).audio
        return (None, [message("video_silent")]) if audio is None else sound_of(audio, name)
    return once(video, ("sound", name), lambda: _of_file(video, name))


def _of_file(video: VideoFromFile, name: str) -> tuple[Sound | None, list[str]]:
    start, duration = video.get_active_trim_window()
    return file_sound(FileSound(video.get_stream_source(), start, duration, copied=False), name)


def file_sound(sound: FileSound, name: str) -> tuple[Sound | None, list[str]]:
    """(the sound of a file as it can be written, None where it holds none; notes); raises InputError, under this name,
    where it cannot be read."""
    try:
        with sound.open() as file:
            if not file.streams.audio:
                return None, [message("video_silent")]
            codec = audio_stream(file).codec_context
            if codec is None:
                return None, [message("sound_unknown")]
            copied = codec.name == "aac" and not sound.start
    except Exception as error:
        if not unreadable(error):
            raise
        rule = message("video_unreadable", error=getattr(error, "strerror", None) or error)
        raise InputError(name, name_of(sound), rule, message("load_video_again")) from error
    return replace(sound, copied=copied), []
