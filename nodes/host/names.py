"""Names of files that people write: what may stand in them on every system, and what the %tokens% of a prefix stand
for."""

from __future__ import annotations

import json
import os
import re
import unicodedata
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cache
from pathlib import Path

from ...loaders.messages import InputError, message
from ...loaders.parts import JsonObject

LONGEST_NAME = 200  # bytes of one name; most file systems take 255, and a counter and an ending follow
LONGEST_PREFIX = 220  # UTF-16 units of the whole; Windows takes 260 with the folder, the counter and the ending
LONGEST_PATH = 1000  # UTF-16 units of a file with its folders that is read; Linux takes 4096, macOS 1024
_JOINERS = r"(?<![^\x00-\x7f])[\u200c\u200d]|[\u200c\u200d](?![^\x00-\x7f])"  # but inside of words and emoji
# Unicode's control characters, marks of direction, what has no width, halves of a pair, and what is no character
_HIDDEN = (
    r"[\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    r"\u3164\ud800-\udfff\ufdd0-\ufdef\ufeff\uffa0\ufff0-\ufffb\ufffe\uffff\U000e0000-\U000e007f]"
)
HIDDEN = re.compile(f"{_HIDDEN}|{_JOINERS}")
FORBIDDEN = re.compile(f'[:*?"<>|]|{HIDDEN.pattern}')  # in Windows' names; workflows travel between systems
DEVICES = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])\s*(\..*)?", re.IGNORECASE)
DATE = re.compile(r"%date:([^%]+)%")
WIDGET = re.compile(r"%([^%./\\]+)\.([^%./\\]+)%")
WORD = re.compile(r"%[^\W\d]\w*%")  # a token of one word
HOSTS = ("width", "height", "year", "month", "day", "hour", "minute", "second")  # such words that the host writes out
LOCALES = Path(__file__).parents[2] / "locales"
_PARTS = re.compile("yyyy|yy|dd?|MM?|hh?|mm?|ss?")  # of a date, as the page formats it
_TIMES = {"d": "day", "M": "month", "h": "hour", "m": "minute", "s": "second"}


def check_prefix(prefix: str) -> None:
    """Raise InputError for a file name prefix that cannot be written inside the output folder, on any system."""
    remedy = message("use_prefix")
    if _units(prefix) > LONGEST_PREFIX:
        rule = message("prefix_too_long", most=LONGEST_PREFIX)
        raise InputError("filename_prefix", repr(f"{prefix[:40]}..."), rule, remedy)
    names = parts(WIDGET.sub("x", with_date(prefix)))
    if leads_outside(prefix):
        raise InputError("filename_prefix", prefix, message("outside_output"), remedy)
    if not names or parts(prefix, keep_empty=True)[-1] in ("", ".", "..") or "\0" in prefix:
        raise InputError("filename_prefix", repr(prefix[:40]), message("no_file_name"), remedy)
    for name in names:
        if (fault := fault_of(name)) is not None:
            raise InputError("filename_prefix", repr(prefix[:80]), fault, remedy)


def check_inside(name: str) -> None:
    """Raise InputError for the name of a picture of a timeline, with its folders, that is none of a file inside a
    folder on this system; whether there is such a file is not asked."""
    value = message("image_value", name=repr(name[:200]))
    if _units(name) > LONGEST_PATH:
        rule = message("name_long_path", most=LONGEST_PATH)
        raise InputError("timeline", value, rule, message("put_or_keyframe"))
    if leads_outside(name):
        raise InputError("timeline", value, message("outside_input"), message("put_or_keyframe"))
    if hidden := HIDDEN.search(name):
        rule = message("name_hidden", sign=f"U+{ord(hidden.group()):04X}")
        raise InputError("timeline", value, rule, message("write_without_it"))
    faults = (fault_of(part) for part in parts(name)) if os.name == "nt" else ()
    if fault := next(filter(None, faults), None):
        raise InputError("timeline", value, fault, message("put_or_keyframe"))


def found_in(folder: str, name: str) -> str:
    """The path of a name in a folder: as it is written, or with the slashes or the composed letters of another
    system. The first of these where there is no such file."""
    path = os.path.normpath(os.path.join(folder, name))
    for spelt in (name, name.replace("\\", "/")):
        other = os.path.normpath(os.path.join(folder, spelt))
        if os.path.isfile(other):
            return other
        parent, composed = os.path.dirname(other), unicodedata.normalize("NFC", os.path.basename(other))
        if composed.isascii() or not os.path.isdir(parent):
            continue
        alike = (each for each in os.listdir(parent) if unicodedata.normalize("NFC", each) == composed)
        if (match := next(alike, None)) is not None:
            return os.path.join(parent, match)
    return path


def parts(prefix: str, keep_empty: bool = False) -> list[str]:
    """The folders and the file of a prefix; both slashes part them, as a workflow may come from Windows."""
    names = re.split(r"[/\\]", prefix)
    return names if keep_empty else [name for name in names if name not in ("", ".")]


def leads_outside(prefix: str) -> bool:
    """Whether a prefix is absolute, on some system, or climbs out of its folder."""
    depth = 0
    for name in parts(prefix):
        depth += -1 if name == ".." else 1
        if depth < 0:
            return True
    return prefix[:1] in ("/", "\\") or re.match(r"[A-Za-z]:([/\\]|$)", prefix) is not None


def fault_of(name: str) -> str | None:
    """Why some system cannot have a file of this name, in words; None where all can."""
    if name == "..":
        return None
    if hidden := HIDDEN.search(name):
        return message("name_hidden", sign=f"U+{ord(hidden.group()):04X}")
    if sign := FORBIDDEN.search(name):
        return message("name_sign", sign=repr(sign.group()), signs=': * ? " < > |')
    if name[-1] in ". ":
        return message("name_ending")
    if DEVICES.fullmatch(name):
        return message("name_device", name=name)
    if len(name.encode()) > LONGEST_NAME:
        return message("name_too_long", most=LONGEST_NAME)
    return None


def _units(text: str) -> int:
    return len(text.encode("utf-16-le", "surrogatepass")) // 2


# ---------------------------------------------------------------- what tokens stand for


def with_date(prefix: str, now: datetime | None = None) -> str:
    """A prefix with each %date:yyyy-MM-dd% written out: d, M, h, m and s, once or twice each, yy and yyyy."""
    now = now or datetime.now()

    def part(match: re.Match[str]) -> str:
        token = match.group()
        if token[0] == "y":
            return f"{now.year:04}"[-len(token) :]
        return str(getattr(now, _TIMES[token[0]])).zfill(len(token))

    return DATE.sub(lambda match: _PARTS.sub(part, match.group(1)), prefix)


@dataclass(frozen=True)
class NamedNode:
    """A node of a prompt. names: by which tokens call it, the best first; inputs: its widgets' values, and links;
    labels: what the page writes beside widgets, in all languages -> their inputs."""

    names: tuple[str, ...]
    inputs: JsonObject
    labels: Mapping[str, str] = field(default_factory=dict)


def resolved(prefix: str, nodes: list[NamedNode], now: datetime | None = None) -> tuple[str, list[str]]:
    """(a prefix without %date:...% and %Node.widget%, notes on tokens that stand for nothing).

    What a node brings cannot open a folder, and is cut where the name becomes too long.
    """
    notes = list[str]()

    def value(match: re.Match[str]) -> str:
        content = value_of(nodes, *match.groups())
        if content is None:
            notes.append(message("token_unknown", token=match.group()))
            return _safe(match.group())
        return _safe(content)

    bare = WIDGET.sub("", DATE.sub("", prefix))
    strange = [word for word in WORD.findall(bare) if word[1:-1] not in HOSTS]
    notes += [
        message("token_no_word", token=word, known=", ".join(f"%{known}%" for known in HOSTS)) for word in strange
    ]
    if not (WIDGET.search(prefix) or DATE.search(prefix)):
        return prefix, notes
    names = [WIDGET.sub(value, name) for name in parts(with_date(prefix, now))]
    fitted = [_fitted(name, LONGEST_NAME) for name in names]
    while _units("/".join(fitted)) > LONGEST_PREFIX and (longest := max(fitted, key=_units)):
        excess = _units("/".join(fitted)) - LONGEST_PREFIX
        fitted[fitted.index(longest)] = _fitted(longest, max(len(longest.encode()) - excess, 1))
    if fitted != names:
        notes.append(message("name_fitted", name="/".join(fitted)))
    return "/".join(fitted), notes


def value_of(nodes: list[NamedNode], node: str, widget: str) -> str | None:
    """What a widget of a node holds; None where there is no such node, or a link brings it."""
    for rank in range(max((len(each.names) for each in nodes), default=0)):
        for each in nodes:
            name = widget if widget in each.inputs else each.labels.get(widget)
            if rank < len(each.names) and each.names[rank] == node and name in each.inputs:
                value = each.inputs[name]
                return None if isinstance(value, (list, dict)) else "" if value is None else _plain(value)
    return None


def _plain(value: object) -> str:
    """A value as the page writes it: 8.0 is 8, True is true."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)[:LONGEST_PATH]  # the rest would be cut off


def _safe(text: str) -> str:
    """Text without what cannot stand in a name, nor lead to another folder."""
    safe = FORBIDDEN.sub("_", re.sub(r"[/\\]", "_", text))
    return "_" if safe and not safe.strip(".") else safe


def _fitted(name: str, most: int) -> str:
    """The nearest name that every system can have, of at most `most` bytes."""
    if name == "..":
        return name
    name = name.encode()[:most].decode(errors="ignore").rstrip(". ") or "_"
    return f"_{name}" if DEVICES.fullmatch(name) else name


def nodes_of(prompt: JsonObject, workflow: object, titles: Mapping[str, str] | None = None) -> list[NamedNode]:
    """The nodes of an API prompt: by the page's own name for it, else the type; by title; by id; by what the page calls
    the type in any language. titles: type -> what the host calls it."""
    drawn = {str(node.get("id")): node for node in _drawn(workflow)}
    named = [(name, node) for name, node in prompt.items() if isinstance(node, dict)]
    return [_named(name, node, drawn.get(name, {}), titles or {}) for name, node in named]


def _named(name: str, node: JsonObject, drawn: JsonObject, titles: Mapping[str, str]) -> NamedNode:
    kind = str(node.get("class_type", ""))
    own = _entries(drawn.get("properties")).get("Node name for S&R") or kind
    title = drawn.get("title") or _entries(node.get("_meta")).get("title") or ""
    shown = [texts.get(kind, {}) for texts in _definitions()]
    names = [text["display_name"] for text in shown if "display_name" in text]
    labels = {each["name"]: key for text in shown for key, each in text.get("inputs", {}).items() if "name" in each}
    return NamedNode((own, title, name, *names, titles.get(kind, kind), kind), _entries(node.get("inputs")), labels)


@cache
def _definitions() -> tuple[dict[str, JsonObject], ...]:
    """Of each language: node type -> its texts in the page."""
    files = sorted(LOCALES.glob("*/nodeDefs.json"))
    return tuple(json.loads(file.read_text(encoding="utf-8")) for file in files)


def _entries(value: object) -> JsonObject:
    """A JSON object, or an empty one in place of whatever else was sent."""
    return value if isinstance(value, dict) else {}


def _drawn(workflow: object) -> Iterator[JsonObject]:
    """The nodes of a workflow as the page saves it."""
    nodes = _entries(workflow).get("nodes")
    yield from (node for node in nodes if isinstance(node, dict)) if isinstance(nodes, list) else ()
