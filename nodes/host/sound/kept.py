"""The sound of latents that are kept in a file: by its place in one of ComfyUI's folders, or as samples."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path

import folder_paths
from torch import Tensor

from ....loaders.messages import InputError, message
from ....loaders.parts import JsonObject
from .inputs import SourceSound, file_sound, name_of, samples_of, sound_of
from .writers import FileSound, Sound, unreadable

FOLDERS = ("input", "output", "temp")  # of the host, by its own names
LONGEST = 300.0  # seconds of samples that are kept
TENSOR = "sound"  # of a kept file: samples [C, n]
Facts = JsonObject  # what a kept file says of a sound


def facts_of(source: SourceSound, seconds: float) -> tuple[Facts, dict[str, Tensor]]:
    """(what a kept file says of a sound that lasts this long, its samples where its file has no place of its own).

    A file in one of ComfyUI's folders is named by its place there: its path would tell of the server.
    """
    known: Facts = {"fps": source.fps, "name": name_of(source.sound)[:200]}
    try:
        place = _place(source.sound)
        if place is not None:
            return {**known, **place}, {}
        if not 0 < seconds <= LONGEST:
            return known, {}
        samples, rate, _ = samples_of(source.sound, Fraction(seconds).limit_denominator(1000))
    except Exception as error:
        if not unreadable(error):
            raise
        return known, {}
    return ({**known, "rate": rate}, {TENSOR: samples.contiguous()}) if samples.numel() else (known, {})


def _place(sound: Sound) -> Facts | None:
    """Where in ComfyUI's folders the file of a sound lies, and what tells it from another one of its name."""
    if not isinstance(sound, FileSound) or not isinstance(sound.source, str):
        return None
    path = os.path.realpath(sound.source)
    for folder in FOLDERS:
        root = os.path.realpath(folder_paths.get_directory_by_type(folder) or "")
        if folder_paths.is_within_directory(root, path) and os.path.isfile(path):
            file = Path(path).relative_to(root).as_posix()
            return {
                "folder": folder,
                "file": file,
                "size": os.path.getsize(path),
                "start": sound.start,
                "duration": sound.duration,
            }
    return None


def restored(facts: object, samples: Tensor | None) -> tuple[SourceSound | None, list[str]]:
    """(the sound that a kept file speaks of, None where it is gone; notes). What it says may be anybody's: only files
    in ComfyUI's own folders are opened."""
    if not isinstance(facts, Mapping):
        return None, []
    fps, name = facts.get("fps"), str(facts.get("name"))[:200]
    rate = float(str(fps)) if _is_number(fps) and 1 <= float(str(fps)) <= 240 else 0.0
    lost: list[str] = [message("kept_sound_gone", file=name)]
    try:
        if samples is not None:
            sound, _ = sound_of({"waveform": samples, "sample_rate": facts.get("rate")})
        else:
            file = _file_at(facts)
            sound, _ = (None, []) if file is None else file_sound(file, "file")
    except InputError:
        return None, lost
    return (None, lost) if sound is None else (SourceSound(sound, rate), [])


def _file_at(facts: Mapping[str, object]) -> FileSound | None:
    """The file that a kept file names, where it is still the same one."""
    folder, file, size = (facts.get(name) for name in ("folder", "file", "size"))
    start, duration = (facts.get(name, 0.0) for name in ("start", "duration"))
    texts = isinstance(file, str) and folder in FOLDERS and "\0" not in file
    if not texts or not all(_is_number(value) and float(str(value)) >= 0 for value in (start, duration)):
        return None
    root = os.path.realpath(folder_paths.get_directory_by_type(str(folder)) or "")
    path = os.path.realpath(os.path.join(root, str(file)))
    if not folder_paths.is_within_directory(root, path) or not os.path.isfile(path) or os.path.getsize(path) != size:
        return None
    return FileSound(path, float(str(start)), float(str(duration)), copied=False)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
