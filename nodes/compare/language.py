"""Words in files: a picture and a report are written in one language, which the node says."""

from __future__ import annotations

from functools import cache

from ...loaders.messages import ENGLISH, Message, translated
from ...loaders.weights.json_files import read_object

LANGUAGES = {"English": "en", "中文": "zh"}


@cache
def _texts(language: str) -> dict[str, str]:
    """Key -> text with {placeholders}."""
    return dict(read_object(ENGLISH.parents[1] / language / "main.json")["reelwire"]["messages"])


def said(text: str, language: str) -> str:
    """A text in one of LANGUAGES, with the values of a message too; what is no message stays as it is."""
    code = LANGUAGES[language]
    return str(text) if code == "en" or not isinstance(text, Message) else translated(text, _texts(code))
