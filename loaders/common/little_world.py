"""What the bundled models know, one coloured shape on a plain ground, and what of a prompt lies beyond it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path

from ..weights.json_files import read_object

BUNDLED = Path(__file__).parents[1] / "bundled"
Words = Mapping[str, Mapping[str, list[str]]]  # kind -> thing -> how prompts name it


@cache
def world() -> Words:
    """The words for "shapes", "colours", "backgrounds" and "grounds", in English and Chinese."""
    return read_object(BUNDLED / "world.json")


def lives_there(tokenizer: Path) -> bool:
    """Whether this is the tokenizer of a bundled model."""
    return BUNDLED in tokenizer.resolve().parents


def is_beyond(text: str) -> bool:
    """Whether a prompt of known words asks for what a bundled model has never seen: no shape or several, several
    colours, or a shape in a ground's colour and the other way round."""
    text = text.lower()
    found = {kind: _found(kind, text) for kind in ("shapes", "colours", "backgrounds")}
    several = any(len(names) > 1 for names in found.values())
    colours, grounds, shapes = (_any(kind) for kind in ("colours", "grounds", "shapes"))
    swapped = (
        rf"{colours}(色的?)?\s*{grounds}",
        rf"{grounds}是{colours}",
        rf"\b(on|over|against) {colours}\s*($|[,.!])",
        rf"{_any('backgrounds')}(色的?)?\s*{shapes}",
    )
    return several or (not found["shapes"] and bool(text.strip())) or any(re.search(one, text) for one in swapped)


def _found(kind: str, text: str) -> set[str]:
    """What of a kind a text names; the longest name counts, as 圆环 before 圆."""
    names = {word: name for name, words in world()[kind].items() for word in words}
    return {names[match[0]] for match in re.finditer(_any(kind), text)}


def _any(kind: str) -> str:
    """A pattern of all words of a kind, English ones as whole words."""
    words = sorted((word for words in world()[kind].values() for word in words), key=len, reverse=True)
    return f"(?:{'|'.join(_whole(words))})"


def _whole(words: Iterable[str]) -> Iterable[str]:
    return (rf"\b{word}\b" if word.isascii() else word for word in words)
