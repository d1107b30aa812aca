"""A message repeats little of what came, on one line, and nothing of it steers a terminal or a page."""

from __future__ import annotations

import json
import math
import pickle
import unicodedata
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reelwire.loaders.messages import MOST_QUOTED, InputError, data, message, message_of, quoted, series

HIDDEN = {"Cc", "Cf", "Cs", "Zl", "Zp"}
HUGE = "x" * 60_000_000
STEERING = "\x1b[31mred\x1b[0m \x1b]0;title\x07 a\nb\tc\r \x00\x7f\x9b \u202eevil\u2066 \ud800 \u2028 \ufeff"


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=900), st.integers(2, 300))
def test_any_text(text: str, most: int) -> None:
    words = quoted(text, most)
    assert len(words) <= most
    assert not {unicodedata.category(c) for c in words if c not in "\u200c\u200d"} & HIDDEN
    words.encode("utf-8")
    assert quoted(words, most) == words
    if text.isprintable() and len(text) <= most:
        assert words == text


def test_what_steers_a_terminal() -> None:
    words = quoted(STEERING)
    assert words.startswith("red ")
    assert not {*words} & {*"\x1b\x00\x07\n\r\t\x7f\x9b\u202e\u2066\ud800\u2028\ufeff"}
    assert "\\u202eevil" in words


@pytest.mark.parametrize(
    "value",
    [HUGE, HUGE.encode(), [HUGE], {HUGE: 1}, ValueError(HUGE), OSError(5, HUGE)],
    ids=lambda v: type(v).__name__,
)
def test_sixty_megabytes(value: Any) -> None:
    error = InputError("timeline", value, message("unreadable_picture", error=value), message("timeline_json"))
    assert len(str(error)) < 3 * MOST_QUOTED
    assert len(json.dumps(data(message_of(error)))) < 12 * MOST_QUOTED
    assert str(pickle.loads(pickle.dumps(message_of(error)))) == str(error)


@pytest.mark.parametrize(
    "value", [10**400, -(10**5000), 2**63, math.nan, math.inf, -1e308, True, 3], ids=lambda v: type(v).__name__
)
def test_any_number(value: float) -> None:
    words = message("unreadable_picture", error=value)
    assert len(words) < 100
    json.dumps(data(words), allow_nan=False)


def test_our_own_lists_are_whole() -> None:
    names = [f"name_{number}" for number in range(100)]
    assert str(series(names)) == ", ".join(names)
    assert str(message("use_one_of", names=series(names))).count("name_") == 100
