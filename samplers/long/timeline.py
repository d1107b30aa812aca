"""The timeline of a long video: which prompt holds when, and which pictures it must show. Plain JSON, checked."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import pairwise

from ...loaders.limits import ENDLESS
from ...loaders.messages import InputError, message
from ...loaders.notices import stop_if_asked
from ...loaders.weights.json_files import parse_json
from ..early import check_fps, check_length

EXAMPLE = (
    '{"prompts": [{"at": 0, "text": "..."}, {"at": 4.5, "text": "..."}], "keyframes": [{"at": 9, "image": "cat.png"}]}'
)
WRITE_AS = message("write_as", example=EXAMPLE)
UNITS = ("seconds", "frames")
MOST = 10**9  # of any number
LONGEST_TEXT = 2**22  # characters of a timeline
_KEYS = {
    "timeline": ("unit", "prompts", "negative", "keyframes"),
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


def read_timeline(text: str, fps: float | None, frames: int | None) -> Timeline:
    """The timeline in a JSON text, for a video of `frames` at `fps`; raises InputError.

    None: not known yet, so that what rests on it is not checked, and frames are no more than seconds.

    {"unit": "seconds" or "frames", "prompts": [{"at", "text"}], "negative": "", "keyframes": [{"at", "image",
    "strength"}]}: all but the prompts may be left out. The first prompt is at 0; keyframes may count from the end (-1).
    There are at most as many of either as frames.
    """
    check_fps(fps or 0.0)
    if frames is not None:
        check_length(frames, MOST, False)
    content = _parsed(text)
    whole = message("the_timeline")
    _known("timeline", whole, content)
    unit = content.get("unit", UNITS[0])
    if unit not in UNITS:
        raise _wrong(message("unit_value", unit=_short(unit)), message("unit_rule"), message("write_unit"))
    scale = fps or 1.0 if unit == "seconds" else 1.0
    prompts = [
        Prompt(_frame(name, entry, scale), _text(name, entry, "text"))
        for name, entry in _entries("prompt", content, frames or ENDLESS)
    ]
    pictures = [
        Picture(_frame(name, entry, scale), _text(name, entry, "image"), _strength(name, entry))
        for name, entry in _entries("keyframe", content, frames or ENDLESS)
    ]
    if not prompts:
        raise _wrong(message("no_prompts"), message("prompts_rule"))
    if fps or unit == "frames":
        _check_order(prompts)
        _check_end(prompts, frames or MOST)
    return Timeline(tuple(prompts), _text(whole, {"negative": "", **content}, "negative"), tuple(pictures))


def _parsed(text: str) -> dict[str, object]:
    if not text.strip():
        raise _wrong(message("timeline_empty"), message("timeline_rule"))
    try:
        content = parse_json(text, LONGEST_TEXT, unique=True)
    except ValueError as error:
        raise _wrong(message("timeline_not_json", error=error), message("timeline_json")) from error
    if not isinstance(content, dict):
        raise _wrong(json.dumps(content, ensure_ascii=False)[:40], message("timeline_object"))  # as it came: null
    return content


def _wrong(what: str, rule: str, remedy: str = WRITE_AS) -> InputError:
    return InputError("timeline", what, rule, remedy)


def _known(kind: str, name: str, entry: dict[str, object]) -> None:
    allowed = _KEYS[kind]
    for key in entry:
        if key not in allowed:
            near = get_close_matches(key[:40], allowed, 1)
            remedy = message("did_you_mean", key=near[0]) if near else WRITE_AS
            rule = message("keys_allowed", keys=", ".join(allowed))
            raise _wrong(message("key_in", key=repr(key[:200]), name=name), rule, remedy)


def _entries(kind: str, content: dict[str, object], most: int) -> Iterator[tuple[str, dict[str, object]]]:
    """The prompts or the keyframes, each with its name, as they are asked for."""
    entries = content.get(f"{kind}s", [])
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        rule = message("prompts_list") if kind == "prompt" else message("keyframes_list")
        raise _wrong(f"{kind}s {str(entries)[:40]!r}", rule)
    if len(entries) > most:
        rule = message("entries_most", most=most)
        raise _wrong(f"{len(entries)} {kind}s", rule, message("leave_out"))
    for number, entry in enumerate(entries, 1):
        stop_if_asked()
        name = _numbered(kind, number)
        _known(kind, name, entry)
        yield name, entry


def _short(value: object) -> str:
    """The beginning of a value, for an error."""
    return repr(value)[:40]


def _numbered(kind: str, number: int) -> str:
    return message("prompt_name", number=number) if kind == "prompt" else message("keyframe_name", number=number)


def _number(name: str, key: str, value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not abs(value) < MOST:
        raise _wrong(
            message("entry_value", key=key, value=_short(value), name=name),
            message("number_rule", most=MOST),
        )
    return float(value)


def _frame(name: str, entry: dict[str, object], scale: float) -> int:
    if "at" not in entry:
        raise _wrong(message("without_key", name=name, key="at"), message("at_rule"))
    at = _number(name, "at", entry["at"])
    return min(round(at * scale), -1) if at < 0 else round(at * scale)  # less than a frame from the end is the last


def _text(name: str, entry: dict[str, object], key: str) -> str:
    if key not in entry:
        raise _wrong(message("without_key", name=name, key=key), message("each_needs_one"))
    value = entry[key]
    if not isinstance(value, str):
        raise _wrong(message("entry_value", key=key, value=_short(value), name=name), message("text_rule"))
    return value


def _strength(name: str, entry: dict[str, object]) -> float:
    return _number(name, "strength", entry.get("strength", 1.0))


def _check_order(prompts: list[Prompt]) -> None:
    if prompts[0].frame != 0:
        raise _wrong(
            message("first_prompt_at", frame=prompts[0].frame), message("first_prompt_rule"), message("set_at_0")
        )
    for number, (one, other) in enumerate(pairwise(prompts), 2):
        if other.frame <= one.frame:
            where = message("prompts_order_at", number=number, frame=other.frame, before=number - 1, earlier=one.frame)
            raise _wrong(where, message("prompts_order"), message("give_later"))


def _check_end(prompts: list[Prompt], frames: int) -> None:
    if prompts[-1].frame >= frames:
        where = message("prompt_at", number=len(prompts), frame=prompts[-1].frame)
        raise _wrong(where, message("video_ends", frame=frames - 1), message("begin_earlier"))
