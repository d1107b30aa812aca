"""Words for people: each has a key and values, so that the page can say it in another language. Their texts lie in
locales/."""

from __future__ import annotations

import errno
import json
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache, reduce
from pathlib import Path
from typing import Any

Origin = tuple[str, str]  # (kind, id) of the node that made a thing, in the host
MOST_QUOTED = 200  # characters of what came that a message repeats
MOST_EXACT = 2**53  # whole numbers that a page can hold
LONGEST_NUMBER = 128  # bits of a whole number that is written out
_STYLES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]?|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-_]?)")  # a terminal's (ECMA-48)
_HIDDEN = {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}  # Unicode's: what steers a text instead of being read
_JOINERS = "\u200c\u200d"  # which scripts and emoji are written with
_FORMS = re.compile(r"\{(\w+)\|((?:[^{}|]|\{\w+\})*)\|((?:[^{}|]|\{\w+\})*)\}")
ENGLISH = Path(__file__).parents[1] / "locales" / "en" / "main.json"


@cache
def texts() -> dict[str, str]:
    """Key -> English text with {placeholders}."""
    return dict(json.loads(ENGLISH.read_text(encoding="utf-8"))["reelwire"]["messages"])


def _in_numbers(text: str, values: Mapping[str, object]) -> str:
    """A text with {count|one|many} as "one" where that value is 1, else as "many"; both may hold {placeholders}."""
    return _FORMS.sub(lambda form: form[2 if str(values[form[1]]) in ("1", "1.0") else 3], text)


class Message(str):
    """An English text that also tells its key and its values: numbers, strings, or messages again."""

    __slots__ = ("key", "values")

    key: str
    values: Mapping[str, int | float | str]

    def __new__(cls, key: str, values: Mapping[str, int | float | str]) -> Message:
        text = super().__new__(cls, _in_numbers(texts()[key], values).format_map(values))
        text.key = key
        text.values = values
        return text

    def __reduce__(self) -> tuple[object, ...]:
        return Message, (self.key, self.values)


def translated(text: Message, others: Mapping[str, str]) -> str:
    """A message by the texts of another language, its values too; as it is where there is no such text."""
    if text.key not in others:
        return str(text)
    values = {k: translated(v, others) if isinstance(v, Message) else v for k, v in text.values.items()}
    return _in_numbers(others[text.key], values).format_map(values)


def message(key: str, /, **values: object) -> Message:
    """The message of this key; an error among the values stands for what it says."""
    return Message(key, {name: _plain(value) for name, value in values.items()})


def quoted(text: str, most: int = MOST_QUOTED) -> str:
    """The beginning of a text that came from elsewhere, on one line, as it may stand in a message, a log or a page.

    What would steer a terminal is left out; other characters that cannot be seen, as control characters and marks of
    direction, are written as their numbers. most: characters of the result.
    """
    start = text[: 4 * most]
    visible = "".join(map(_visible, _STYLES.sub("", start)))
    is_whole = len(start) == len(text) and len(visible) <= most
    return visible if is_whole else f"{visible[: most - 1].rstrip()}…"


def _visible(character: str) -> str:
    if character in "\n\t\r":
        return " "
    if unicodedata.category(character) not in _HIDDEN or character in _JOINERS:
        return character
    return f"\\u{ord(character):04x}" if ord(character) > 0xFF else f"\\x{ord(character):02x}"


def _plain(value: object) -> int | float | str:
    """A value as a message holds it: a number, a message, or the beginning of a text."""
    if isinstance(value, BaseException):
        value = message_of(value)
    if isinstance(value, int) and value.bit_length() > LONGEST_NUMBER:
        return f"{'-' * (value < 0)}10^{int(value.bit_length() * math.log10(2))}"  # Python writes no number so long
    if isinstance(value, (int, float, Message)):
        return value
    return quoted(value if isinstance(value, str) else str(value))


def either(*choices: object) -> str:
    """The choices as "a or b or c"."""
    return _joined(lambda first, second: message("or_list", first=first, second=second), choices)


def both(*things: object) -> str:
    """The things as "a and b and c"."""
    return _joined(lambda first, second: message("and_list", first=first, second=second), things)


def listed(things: Iterable[str]) -> str:
    """The things as "a; b; c"."""
    return _joined(lambda first, second: message("semicolon_list", first=first, second=second), things)


def series(names: Iterable[str]) -> str:
    """Names of ours as "a, b, c", however many they are."""
    return _joined(lambda first, second: message("comma_list", first=first, second=second), names)


def sentences(*parts: str) -> str:
    """The parts that are not empty, one after another."""
    return _joined(lambda first, second: message("sentences", first=first, second=second), filter(None, parts))


def _joined(join: Callable[[str, str], str], things: Iterable[object]) -> str:
    words = [thing if isinstance(thing, str) else str(thing) for thing in things]
    return reduce(join, words) if words else ""


def inputs_named(*names: str) -> str:
    """Names of inputs as "a, b", of which a page in another language shows the labels that its nodes have."""
    return series(message("input_name", id=name) for name in names)


def between(low: str, high: str) -> str:
    """Two texts as "low to high", or the one that they are."""
    return low if low == high else message("range", low=low, high=high)


def data(text: str) -> dict[str, Any]:
    """A message as the page gets it: {"key", "values", "text"}; the key is empty for a text that is no message."""
    values = {name: _sendable(value) for name, value in getattr(text, "values", {}).items()}
    return {"key": getattr(text, "key", ""), "values": values, "text": str(text)}


def _sendable(value: object) -> object:
    if isinstance(value, Message):
        return data(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)  # JSON has no NaN
    return str(value) if isinstance(value, int) and abs(value) > MOST_EXACT else value


def message_of(error: BaseException) -> str:
    """What an error says: a Message where it is ours."""
    return next((part for part in error.args if isinstance(part, Message)), None) or str(error)


# what Python says of a value of another type than its code expects, which tells nobody anything
_OF_PYTHON = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError)


def reason_of(error: BaseException) -> str:
    """The same; of what Python itself says of a file's contents, that they are not what they should be."""
    return message("unlike_published") if isinstance(error, _OF_PYTHON) else message_of(error)


class RefusedError(ValueError):
    """Something that cannot work, told as: name = value: rule. Remedy. node: the one that caused it, where it is known
    to be another than the one that runs."""

    node: Origin | None = None

    def __init__(self, rule: str, remedy: str = "", name: str = "", value: object = "") -> None:
        self.name, self.value, self.rule, self.remedy = name, value, rule, remedy
        labels = name if isinstance(name, Message) else inputs_named(*name.split(", "))
        refused = message("input_rule", name=labels, value=value, rule=rule) if name else rule
        super().__init__(sentences(refused, remedy))

    def __reduce__(self) -> tuple[object, ...]:
        """As it goes to another process."""
        return _refused, (isinstance(self, InputError), self.rule, self.remedy, self.name, self.value, self.node)


class InputError(RefusedError):
    """A value that cannot work."""

    __module__ = "reelwire"  # as the host shows it, which would else show the folder of the pack

    def __init__(self, name: str, value: object, rule: str, remedy: str = "") -> None:
        super().__init__(rule, remedy, name, value)


class CheckpointError(RefusedError):
    """A file that cannot be loaded exactly, with what to do about it."""

    __module__ = "reelwire"


def _refused(is_input: bool, rule: str, remedy: str, name: str, value: object, node: Origin | None) -> RefusedError:
    """The error of another process."""
    error = InputError(name, value, rule, remedy) if is_input else CheckpointError(rule, remedy, name, value)
    error.node = node
    return error


def with_remedy(error: RefusedError, remedy: str) -> RefusedError:
    """The same refusal with one sentence more."""
    remedy = sentences(error.remedy, remedy)
    return _refused(isinstance(error, InputError), error.rule, remedy, error.name, error.value, error.node)


@contextmanager
def about(thing: object) -> Iterator[None]:
    """What is refused within was caused by the node that made this thing, if it knows its node."""
    try:
        yield
    except RefusedError as error:
        error.node = error.node or getattr(thing, "node", None)
        raise


# ---------------------------------------------------------------- why a file could not be written

_CAUSES = {
    ("ENOSPC", "EDQUOT"): (message("disk_is_full"), message("cause_full")),
    ("EFBIG",): (message("disk_file_too_large"), message("cause_too_large")),
    ("EROFS",): (message("disk_is_read_only"), message("cause_read_only")),
    ("EACCES", "EPERM", "EBUSY", "ETXTBSY"): (message("disk_not_allowed"), message("cause_not_allowed")),
    ("ENOTDIR", "EISDIR", "EEXIST", "ENOTEMPTY"): (message("disk_no_folder"), message("cause_no_folder")),
    ("ENOENT", "EIO", "ESTALE", "ENXIO", "ENODEV", "ENOTCONN", "ETIMEDOUT", "EHOSTDOWN"): (
        message("disk_went_away"),
        message("cause_went_away"),
    ),
    ("ENAMETOOLONG", "ELOOP"): (message("disk_name_too_long"), message("cause_name_too_long")),
    ("EMFILE", "ENFILE"): (message("disk_too_many_open"), message("cause_too_many_open")),
    ("ENOMEM",): (message("memory_ran_out"), message("cause_memory")),
}
# what the system says -> (what it means and what helps, what it means); a number that a system lacks is never met there
_WORDS = {getattr(errno, name): words for names, words in _CAUSES.items() for name in names if hasattr(errno, name)}
_EXTERNAL = 0x20545845  # FFmpeg's AVERROR_EXTERNAL: a library of its own has failed and does not say why


def why_unwritten(error: BaseException) -> Message:
    """Why something could not be written, and what helps, of an error of Python, of FFmpeg's or of another library."""
    return _words_of(error)[0]


def cause_unwritten(error: BaseException) -> Message:
    """The same without what helps, which is said beside it."""
    return _words_of(error)[1]


def _words_of(error: BaseException) -> tuple[Message, Message]:
    """(why, and what helps; why) something could not be written."""
    if (said := next((part for part in error.args if isinstance(part, Message)), None)) is not None:
        return said, said
    number = errno.ENOMEM if isinstance(error, MemoryError) else getattr(error, "errno", None)
    if number == _EXTERNAL:
        return message("encoder_gave_up"), message("cause_encoder")
    if number in _WORDS:
        return _WORDS[number]
    text = getattr(error, "strerror", None) or message_of(error) or type(error).__name__
    return message("disk_says", error=text), message("cause_untold", error=text)
