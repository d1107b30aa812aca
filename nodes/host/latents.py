"""What a LATENT says of the video that it was made for: anybody may have written it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, TypeGuard

from torch import Tensor

from ...loaders.messages import listed, message
from ...loaders.parts import JsonObject
from ...loaders.request import Decoding

Latent = dict[str, Any]  # the host's LATENT: "samples", and what comes with them
UNTOUCHED = "reelwire_untouched"  # of a LATENT: what its mask keeps, as {"source": samples, "mask": [1, 1, t, h, w]}


def is_untouched(value: object) -> TypeGuard[Mapping[str, Tensor]]:
    """Whether a value can be what a mask keeps."""
    parts = [value.get(name) for name in ("source", "mask")] if isinstance(value, Mapping) else [None]
    return all(isinstance(part, Tensor) and part.is_floating_point() for part in parts)


def note_of(latent: Latent) -> JsonObject:
    """What a LATENT says of itself, without what cannot be; empty where it says nothing."""
    return checked_note(latent.get("reelwire", {}))[0]


def checked_note(note: object) -> tuple[JsonObject, list[str]]:
    """(what latents from a file say of themselves, without what cannot be; notes): anybody may have written it."""
    if not isinstance(note, Mapping):
        return {}, [message("kept_note_unusable", names="reelwire")]
    wrong = [name for name, value in note.items() if not _FIELDS.get(name, lambda _: True)(value)]
    notes: list[str] = [message("kept_note_unusable", names=listed(map(str, wrong)))] if wrong else []
    return {name: value for name, value in note.items() if name not in wrong}, notes


def _within(least: float, most: float, whole: bool = False) -> Callable[[object], bool]:
    kinds = int if whole else (int, float)
    return lambda value: (
        isinstance(value, kinds) and not isinstance(value, bool) and math.isfinite(value) and least <= value <= most
    )


def _is_decoding(value: object) -> bool:
    names, share = {field.name for field in fields(Decoding)}, _within(-1, 1)
    return isinstance(value, Mapping) and {*value} <= names and all(map(share, value.values()))


_FIELDS: dict[str, Callable[[object], bool]] = {
    "family": lambda value: isinstance(value, str) and len(value) < 100,
    "variant": lambda value: isinstance(value, str) and len(value) < 100,
    "frames": _within(1, 1_000_000, whole=True),
    "fps": _within(1, 240),
    "width": _within(1, 2**15, whole=True),
    "height": _within(1, 2**15, whole=True),
    "seed": _within(0, 2**64 - 1, whole=True),
    "clip_frames": _within(0, 1_000_000, whole=True),
    "loop": lambda value: isinstance(value, bool),
    "decoding": _is_decoding,
}
