"""The timeline of a long video: which prompt holds when, and which pictures it must show. Plain JSON, checked in words."""

from __future__ import annotations

import json
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise
from typing import Any

from ..loaders.video_model import InputError

EXAMPLE = (
    '{"prompts": [{"at": 0, "text": "..."}, {"at": 4.5, "text": "..."}], "keyframes": [{"at": 9, "image": "cat.png"}]}'
)
UNITS = ("seconds", "frames")
MOST = 10**9  # of any number
_KEYS = {
    "the timeline": ("unit", "prompts", "negative", "keyframes"),
    "prompt": ("at", "text"),
    "keyframe": ("at", "image", "strength"),
}


@dataclass(frozen=True)
class Prompt:
    """What the video shows from a frame on."""

    frame: int
    text: str


@dataclass(frozen=True)
class Picture:
    """A keyframe by the name of its file; frame may count from the end."""

    frame: int
    file: str
    strength: float


@dataclass(frozen=True)
class Timeline:
    prompts: tuple[Prompt, ...]
    negative: str = ""
    pictures: tuple[Picture, ...] = ()


def read_timeline(text: str, fps: float, frames: int) -> Timeline:
    """The JSON text of a timeline for a video of `frames` at `fps`; raises InputError.

    {"unit": "seconds" or "frames", "prompts": [{"at", "text"}], "negative": "", "keyframes": [{"at", "image",
    "strength"}]}: all but the prompts may be left out. The first prompt is at 0; keyframes may count from the end (-1).
    """
    told = _parsed(text)
    _known("the timeline", told)
    unit = told.get("unit", UNITS[0])
    if unit not in UNITS:
        raise _wrong(f"unit {unit!r}", "Times are in seconds or frames.", 'Write "seconds" or "frames".')
    scale = fps if unit == "seconds" else 1
    prompts = [
        Prompt(_frame(f"prompt {i}", entry, scale), _text(f"prompt {i}", entry, "text"))
        for i, entry in _entries("prompt", told)
    ]
    pictures = [
        Picture(_frame(f"keyframe {i}", entry, scale), _text(f"keyframe {i}", entry, "image"), _strength(i, entry))
        for i, entry in _entries("keyframe", told)
    ]
    _check_prompts(prompts, frames)
    return Timeline(tuple(prompts), _text("the timeline", {"negative": "", **told}, "negative"), tuple(pictures))


def _parsed(text: str) -> dict[str, Any]:
    if not text.strip():
        raise _wrong("empty", "It says which prompt holds when.")
    try:
        told = json.loads(text, object_pairs_hook=_once)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:
        raise _wrong(f"not JSON ({error})", "It is a JSON text.") from error
    if not isinstance(told, dict):
        raise _wrong(f"a {type(told).__name__}", "It is a JSON object.")
    return told


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object whose keys all differ; of two alike one would be lost."""
    told = dict(pairs)
    if len(told) < len(pairs):
        twice = next(key for key, _ in pairs if [k for k, _ in pairs].count(key) > 1)
        raise _wrong(f"{twice!r} twice", "An object has each key once.", "Put both into one list, or leave one out.")
    return told


def _wrong(what: str, rule: str, remedy: str = f"Write as in {EXAMPLE}") -> InputError:
    return InputError("timeline", what, rule, remedy)


def _known(name: str, entry: dict[str, Any]) -> None:
    allowed = _KEYS[name.split(" ")[0] if name != "the timeline" else name]
    for key in entry:
        if key not in allowed:
            near = get_close_matches(key, allowed, 1)
            remedy = {"remedy": f"Did you mean {near[0]}?"} if near else {}
            raise _wrong(f"{key!r} in {name}", f"It has {', '.join(allowed)}.", **remedy)


def _entries(kind: str, told: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    found = told.get(f"{kind}s", [])
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise _wrong(f"{kind}s {str(found)[:40]!r}", f"The {kind}s are a list of objects.")
    for number, entry in enumerate(found, 1):
        _known(f"{kind} {number}", entry)
    return list(enumerate(found, 1))


def _number(name: str, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MOST:
        raise _wrong(f"{key} {repr(value)[:40]} of {name}", f"It is a number below {MOST}, without quotes.", f"Write as in {EXAMPLE}")  # fmt: skip
    return float(value)


def _frame(name: str, entry: dict[str, Any], scale: float) -> int:
    if "at" not in entry:
        raise _wrong(f"{name} without at", "Each says where it begins.")
    at = _number(name, "at", entry["at"])
    return min(round(at * scale), -1) if at < 0 else round(at * scale)  # less than a frame from the end is the last


def _text(name: str, entry: dict[str, Any], key: str) -> str:
    if key not in entry:
        raise _wrong(f"{name} without {key}", "Each needs one.")
    value = entry[key]
    if not isinstance(value, str) or any("\ud800" <= c <= "\udfff" for c in value):  # half a character, by an escape
        raise _wrong(f"{key} {repr(value)[:40]} of {name}", "It is a text.")
    return value


def _strength(number: int, entry: dict[str, Any]) -> float:
    return _number(f"keyframe {number}", "strength", entry.get("strength", 1.0))


def _check_prompts(prompts: list[Prompt], frames: int) -> None:
    if not prompts:
        raise _wrong("no prompts", "At least one says what the video shows.")
    if prompts[0].frame != 0:
        raise _wrong(f"the first prompt at frame {prompts[0].frame}", "The first prompt begins the video.", "Set its at to 0.")  # fmt: skip
    for number, (one, other) in enumerate(pairwise(prompts), 2):
        if other.frame <= one.frame:
            where = f"prompt {number} at frame {other.frame}, prompt {number - 1} at {one.frame}"
            raise _wrong(where, "Prompts stand in the order of time.", "Give each a later at than the one before.")
    if prompts[-1].frame >= frames:
        where = f"prompt {len(prompts)} at frame {prompts[-1].frame}"
        raise _wrong(where, f"The video ends at frame {frames - 1}.", "Let it begin earlier, or make the video longer.")
