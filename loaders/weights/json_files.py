"""The one reader of JSON that others wrote: bounded in bytes, depth and digits, and every refusal is in words."""

from __future__ import annotations

import json
import math
import os
import re
import stat
from collections import Counter
from pathlib import Path
from typing import BinaryIO, NoReturn

from ..messages import CheckpointError, message
from ..parts import JsonObject

MOST_BYTES = 4 * 2**20  # of a config, a note, an index: published ones stay under 1 MB
MOST_DEPTH = 64  # published ones have 7 levels at most
MOST_ENTRIES = 2**22  # of all lists and objects: Llama 3's tokenizer has 700,000
MOST_DIGITS = 40  # 2**64 has 20
SHOWN = 200  # characters of what came, in an error
MOST_INDEX = 64 * 2**20  # of lists with a row for each tensor or token
_HALF = re.compile(r"[\ud800-\udfff]")  # of a pair: no text holds one alone
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")


def excerpt(value: object, most: int = SHOWN) -> str:
    """`repr` of what came, for an error: no longer than `most` characters, whatever it holds."""
    if isinstance(value, str):  # of a long one, the repr alone would take a while
        value = value if len(value) <= most else f"{value[: most * 2 // 3]}...{value[len(value) - most // 4 :]}"
    try:
        text = repr(value)
    except ValueError:  # a number inside that has more digits than Python writes
        text = type(value).__name__
    return text if len(text) <= most else f"{text[: most - 3]}..."


def parse_json(text: str | bytes, most: int = MOST_BYTES, unique: bool = False, infinite: bool = False) -> object:
    """The value of a JSON text in UTF-8; raises ValueError, with a message, for all else.

    most: bytes, or characters of a `str`, that are allowed. unique: refuse a key that an object has twice; the last one
    counts otherwise. No number is NaN, infinite or of more than MOST_DIGITS digits, no text holds half a character, and
    nothing lies more than MOST_DEPTH levels deep. infinite: let NaN and the infinities pass, which Python writes: who
    reads them has to judge.
    """
    if len(text) > most:
        raise ValueError(message("json_long", size=len(text), most=most))
    whole = text if isinstance(text, str) else _decoded(text)
    if sum(map(whole.count, ",[{")) > MOST_ENTRIES:
        raise ValueError(message("json_many", most=MOST_ENTRIES))
    try:
        value: object = json.loads(
            whole.removeprefix("\ufeff"),
            parse_int=_whole_number,
            parse_float=_number,
            parse_constant=float if infinite else _no_number,
            object_pairs_hook=_once if unique else None,
        )
    except json.JSONDecodeError as error:
        around = excerpt(whole[max(error.pos - 20, 0) : error.pos + 20], 60)
        raise ValueError(message("json_wrong", line=error.lineno, column=error.colno, text=around)) from error
    except RecursionError:
        raise ValueError(message("json_deep", most=MOST_DEPTH)) from None  # its traceback is as long as it is deep
    _check(value, bool(_HALF.search(whole) or _ESCAPED_HALF.search(whole)))
    return value


def parse_object(text: str | bytes, most: int = MOST_BYTES, unique: bool = False, infinite: bool = False) -> JsonObject:
    """The same where an object must come: a list, a number or null is refused as well."""
    value = parse_json(text, most, unique, infinite)
    if not isinstance(value, dict):
        raise ValueError(message("json_no_object", text=excerpt(value)))
    return value


def read_object(file: Path, most: int = MOST_BYTES, unique: bool = False, infinite: bool = False) -> JsonObject:
    """The object in a JSON file; raises CheckpointError for all else, and for what is no file before it is opened."""
    name = f"{file.parent.name}/{file.name}"
    try:
        return parse_object(read_bytes(file, most), most, unique, infinite)
    except CheckpointError:
        raise
    except ValueError as error:
        raise CheckpointError(message("json_file", file=name, error=error), message("download_again")) from error


def read_bytes(file: Path, most: int) -> bytes:
    """All that a file holds; raises CheckpointError where that is more than `most` bytes, see also `open_file`."""
    with open_file(file) as stream:
        size = os.fstat(stream.fileno()).st_size
        content = stream.read(most + 1) if size <= most else b""
    if size > most or len(content) > most:
        raise CheckpointError(message("file_large", file=excerpt(file.name), size=size, most=most))
    return content


def open_file(file: Path) -> BinaryIO:
    """A file to read; raises CheckpointError for a folder, a pipe or a device, whose reading may never end, and for one
    that cannot be read."""
    try:
        if not stat.S_ISREG(file.stat().st_mode):
            raise CheckpointError(message("no_plain_file", file=excerpt(file.name)), message("choose_another_file"))
        return file.open("rb")
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        reason = getattr(error, "strerror", None) or error
        rule = message("file_unreadable", file=excerpt(file.name), error=reason)
        raise CheckpointError(rule, message("choose_another_file")) from error


def _decoded(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(message("json_no_text", place=error.start)) from error


def _whole_number(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(message("json_number", text=excerpt(digits, 60)))
    return int(digits)


def _number(digits: str) -> float:
    value = float(digits)
    return value if math.isfinite(value) else _no_number(digits)


def _no_number(digits: str) -> NoReturn:
    raise ValueError(message("json_number", text=excerpt(digits, 60)))


def _once(pairs: list[tuple[str, object]]) -> JsonObject:
    """An object whose keys all differ."""
    entries = dict(pairs)
    if len(entries) < len(pairs):
        key = Counter(key for key, _ in pairs).most_common(1)[0][0]
        raise ValueError(message("json_twice", key=excerpt(key)))
    return entries


def _check(value: object, halves: bool) -> None:
    """Walk through all levels. halves: whether half a character may be in a text."""
    level = [value]
    for _ in range(MOST_DEPTH + 1):
        texts = (text for v in level for text in (v if isinstance(v, dict) else [v]) if isinstance(text, str))
        if halves and (wrong := next(filter(_HALF.search, texts), None)) is not None:
            raise ValueError(message("json_half", text=excerpt(wrong)))
        level = [
            child
            for inner in level
            if isinstance(inner, (dict, list))
            for child in (inner.values() if isinstance(inner, dict) else inner)
        ]
        if not level:
            return
    raise ValueError(message("json_deep", most=MOST_DEPTH))
