"""The one reader of JSON: what it refuses, each time in words, and that it does so before it can be slow."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reelwire.loaders.messages import CheckpointError, Message, message_of
from reelwire.loaders.weights.json_files import (
    MOST_BYTES,
    MOST_DEPTH,
    SHOWN,
    excerpt,
    parse_json,
    parse_object,
    read_object,
)

REFUSED: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "json_wrong"),
    "no JSON": ("{'a': 1}", "json_wrong"),
    "two values": ("{} {}", "json_wrong"),
    "cut": ('{"a": [1, 2', "json_wrong"),
    "NaN": ('{"a": NaN}', "json_number"),
    "Infinity": ('{"a": [-Infinity]}', "json_number"),
    "a float that is infinite": ('{"a": 1e999}', "json_number"),
    "5000 digits": ('{"a": ' + "9" * 5000 + "}", "json_number"),
    "one level too deep": ("[" * (MOST_DEPTH + 2) + "]" * (MOST_DEPTH + 2), "json_deep"),
    "a million levels": ("[" * 10**6, "json_deep"),
    "objects in one another": ('{"a":' * 10**5 + "1" + "}" * 10**5, "json_deep"),
    "half a character": ('{"a": ["\\ud83d"]}', "json_half"),
    "half a character as a key": ('{"a": {"\\uDC00": 1}}', "json_half"),
    "no UTF-8": (b'{"a": "\xff"}', "json_no_text"),
    "UTF-16": ('{"a": 1}'.encode("utf-16"), "json_no_text"),
    "too many entries": ("[" + "[]," * 2**21 + "[]]", "json_many"),
    "too long": (" " * 5 * 2**20, "json_long"),
}


def refusal(read: Callable[[], object]) -> str:
    """What a reader says where it refuses."""
    try:
        read()
    except ValueError as error:
        return message_of(error)
    return ""


@pytest.mark.parametrize("kind", REFUSED)
def test_each_is_refused_in_words_at_once(kind: str) -> None:
    text, key = REFUSED[kind]
    start = time.process_time()
    says = refusal(lambda: parse_json(text, 10**7 if key == "json_many" else MOST_BYTES))
    assert getattr(says, "key", "") == key
    assert len(says) < 2 * SHOWN
    assert time.process_time() - start < 1


@pytest.mark.parametrize("text", ["[]", "null", "3", '"a"', "true", json.dumps("x" * 10**5)])
def test_an_object_must_come(text: str) -> None:
    says = refusal(lambda: parse_object(text))
    assert getattr(says, "key", "") == "json_no_object"
    assert len(says) < 2 * SHOWN


def test_keys_that_come_twice_are_the_callers_choice() -> None:
    assert parse_object('{"a": 1, "a": 2}') == {"a": 2}
    many = "{" + ",".join(f'"{i}": 0' for i in range(10**5)) + ', "17": 1}'
    start = time.process_time()
    with pytest.raises(ValueError, match="17"):
        parse_object(many, unique=True)
    assert time.process_time() - start < 2


def test_what_is_right_is_read() -> None:
    pair = '{"a": "\\ud83d\\ude00", "b": [1e-5, -3, 18446744073709551615], "c": {"d": null, "e": true}}'
    assert parse_object(pair) == json.loads(pair)
    assert parse_object("\ufeff" + pair) == parse_object(b"\xef\xbb\xbf" + pair.encode()) == json.loads(pair)
    deep = "[" * MOST_DEPTH + "]" * MOST_DEPTH
    assert parse_json(deep) == json.loads(deep)


def test_what_is_no_file_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "folder.json").mkdir()
    with (tmp_path / "huge.json").open("wb") as file:
        file.truncate(2**40)  # sparse: it takes no room
    (tmp_path / "bad.json").write_text("[1]")
    (tmp_path / "link.json").symlink_to("/dev/zero")
    expected = {
        "pipe": "no_plain_file",
        "folder": "no_plain_file",
        "link": "no_plain_file",
        "huge": "file_large",
        "bad": "json_file",
        "not there": "file_unreadable",
        "\0": "file_unreadable",
    }
    for name, key in expected.items():
        with pytest.raises(CheckpointError) as refused:
            read_object(tmp_path / f"{name}.json")
        assert isinstance(refused.value.rule, Message)
        assert refused.value.rule.key == key, name
        assert repr(name)[1:-1] in str(refused.value)
    (tmp_path / "good.json").write_text('{"a": 1}')
    assert read_object(tmp_path / "good.json") == {"a": 1}


def test_a_long_value_is_cut_in_its_middle() -> None:
    assert excerpt("a") == "'a'"
    assert excerpt([1, 2]) == "[1, 2]"
    assert excerpt("a" * 500 + "end").endswith("end'")
    long = ("x" * 10**6, "\0" * 10**6, [*range(10**5)], "\ud800" * 999, 10**6000, [10**6000], {"a": "b" * 10**5})
    assert all(len(excerpt(value)) <= SHOWN for value in long)


JUNK = st.text(alphabet='{}[]",:\\ue0d8 1-9.NaInfty\ud800é', max_size=40)


@settings(max_examples=400, deadline=None, database=None, derandomize=True)
@given(JUNK | st.binary(max_size=40))
def test_whatever_comes_is_a_value_or_words(text: str | bytes) -> None:
    says, value = "", None
    try:
        value = parse_json(text)
    except ValueError as error:
        says = message_of(error)
    assert not says or isinstance(says, Message), text
    json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
