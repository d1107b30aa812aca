"""A list of words and which of them a text holds, whatever the writing: case, width, accents and signs that cannot be
seen do not count."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from ...loaders.common.emphasis import segments
from ...loaders.messages import InputError, message

MOST, LONGEST = 10_000, 200  # entries of a list, characters of one
COMMENT = "#"
# writings without spaces between words, and Korean, whose words have endings: Thai, Lao, Myanmar, Khmer, Chinese,
# Japanese. An entry in them is found inside of anything
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u11ff\u1780-\u17ff\u2e80-\u2fdf\u3005-\u3007\u3040-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_LETTER = f"[^\\W{_UNSPACED}]"  # of a word between spaces
_UNSEEN = re.compile(  # accents, and what Unicode says to pass over where it cannot be shown
    r"[\u0300-\u036f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    r"\ufe00-\ufe0f\ufeff\uffa0\U000e0000-\U000e0fff]"
)
_SPACES = re.compile(r"[\s_]+")
_BESIDE = re.compile(f"(?<=[{_UNSPACED}]) | (?=[{_UNSPACED}])")


def folded(text: str) -> str:
    """A text as it is compared: NFKD without accents and case, put together again; one space between words, none
    beside signs of writings without spaces."""
    for _ in range(2):  # small letters can come apart once more
        text = unicodedata.normalize("NFKD", text).casefold()
    seen = unicodedata.normalize("NFC", _UNSEEN.sub("", text))
    return _BESIDE.sub("", _SPACES.sub(" ", seen)).strip()


def entries_of(text: str, name: str) -> tuple[str, ...]:
    """The entries of a list, one a line, each once; lines that begin with # are remarks. Raises InputError, under this
    name, for more than a list holds."""
    lines = (line.strip() for line in text.removeprefix("\ufeff").splitlines())
    entries = tuple(dict.fromkeys(line for line in lines if line and not line.startswith(COMMENT)))
    if len(entries) > MOST:
        raise InputError(name, len(entries), message("words_many", most=MOST), message("words_fewer"))
    for entry in entries:
        if len(entry) > LONGEST or not folded(entry):
            raise InputError(name, repr(entry[:40]), message("word_rule", most=LONGEST), message("word_remedy"))
    return entries


def matches(prompt: str, entries: Sequence[str]) -> tuple[str, ...]:
    """The entries that a prompt holds, as they are written in the list; with its weights and without, so that
    `fo(re)st` is "forest" too."""
    texts = {folded(prompt), folded("".join(segment.text for segment in segments(prompt)))}
    compared = ((entry, folded(entry)) for entry in entries)
    return tuple(entry for entry, plain in compared if any(_holds(text, plain) for text in texts))


def _holds(text: str, entry: str) -> bool:
    if entry not in text:
        return False
    before = f"(?<!{_LETTER})" if re.match(_LETTER, entry[0]) else ""
    after = f"(?!{_LETTER})" if re.match(_LETTER, entry[-1]) else ""
    return re.search(f"{before}{re.escape(entry)}{after}", text) is not None
