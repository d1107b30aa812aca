"""What a value in a stranger's config may be, and the tables that say so."""

from __future__ import annotations

import inspect
import json
import math
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

from ...messages import message
from ...parts import Config, JsonObject

FOLDER = Path(__file__).parent
RELATIONS = ("divides", "less", "within", "as_long", "as_many", "rotates", "one_of", "sets")
LONGEST = 64  # entries of a list, where a table says nothing else
ANY_AXIS = 2**18  # costs nothing: the first module that is made has shapes alone
_ANY_NUMBER = 1e6
_ANY_SIZE = 10**8
_NAME = 256  # characters of a name of a weight that are looked at


@dataclass(frozen=True)
class Shapes:
    """What the shapes of weights make plausible; what is only a little wrong, the weights themselves tell better.

    size: of any axis: the longest, or ANY_AXIS where all are shorter.
    layers: the most numbered layers that lie in one row.
    """

    size: int = _ANY_SIZE
    layers: int = 1000

    @classmethod
    def of(cls, shapes: Mapping[str, tuple[int, ...]]) -> Shapes:
        """Those of weights by their names."""
        rows: defaultdict[str, set[str]] = defaultdict(set)
        for name in shapes:
            for number in re.finditer(r"(?<![^.])\d+(?![^.])", name[:_NAME]):
                rows[name[: number.start()]].add(number[0])
        size = max((side for shape in shapes.values() for side in shape), default=1)
        return cls(max(size, ANY_AXIS), max(map(len, rows.values()), default=1))

    @property
    def depth(self) -> int:
        """How many layers a config may ask for."""
        return 2 * self.layers + 8

    @property
    def last(self) -> int:
        """The number of the last layer."""
        return self.layers - 1


@dataclass(frozen=True)
class Rule:
    """What one entry may be.

    kind: "flag", "whole", "number", "word", "text" or "object".
    least, most: of numbers. by: the attribute of Shapes that bounds them too.
    words: those that are allowed.
    length: of the longest list of such values; 0: it is none. fewest: of the shortest. levels: of lists.
    single: whether it may be no list.
    null: whether nothing may stand there.
    inner: what an object may say; anything: under so many names that the file chooses; 0: it is that object.
    """

    kind: str
    least: float = 0
    most: float = 0
    by: str = ""
    words: tuple[str, ...] = ()
    length: int = 0
    fewest: int = 0
    levels: int = 1
    single: bool = True
    null: bool = False
    inner: Rules | None = None
    anything: int = 0

    def fault(self, value: object, shapes: Shapes) -> str:
        """What is needed in place of a value, in words; empty where it may be so."""
        if value is None:
            return "" if self.null else self._needed(shapes)
        if not isinstance(value, list):
            return "" if self.single and self._is(value, shapes) else self._needed(shapes)
        if not self.length:
            return self._needed(shapes)
        if not self.fewest <= len(value) <= self.length:
            return message("config_list", least=self.fewest, most=self.length, count=len(value))
        if self.levels > 1:
            inner = replace(self, levels=self.levels - 1)
            return next(filter(None, (inner.fault(item, shapes) for item in value)), "")
        return next((self._needed(shapes) for item in value if not self._is(item, shapes)), "")

    def _is(self, value: object, shapes: Shapes) -> bool:
        if self.kind == "flag":
            return isinstance(value, bool)
        if self.kind == "word":
            return isinstance(value, str) and value in self.words
        if self.kind == "text":
            return isinstance(value, str) and len(value) <= self.most
        if self.kind == "object" and not self.most:
            return False
        if isinstance(value, bool) or not isinstance(value, int if self.kind == "whole" else (int, float)):
            return False
        return math.isfinite(value) and self.least <= value <= self._most(shapes)

    def _most(self, shapes: Shapes) -> float:
        return min(self.most, getattr(shapes, self.by)) if self.by else self.most

    def _needed(self, shapes: Shapes) -> str:
        one = self._needed_one(shapes)
        return message("config_list_of", most=self.length, item=one) if self.length and not self.single else one

    def _needed_one(self, shapes: Shapes) -> str:
        least, most = _short(self.least), _short(self._most(shapes))
        return {
            "flag": message("config_flag"),
            "object": message("config_object"),
            "word": message("config_word", words=", ".join(self.words)),
            "text": message("config_text", most=_short(self.most)),
            "whole": message("config_whole", least=least, most=most),
            "number": message("config_number", least=least, most=most),
            "whole by": message("config_whole_by_weights", least=least, most=most),
            "number by": message("config_number_by_weights", least=least, most=most),
        }[f"{self.kind} by" if self.by else self.kind]


def _short(number: float) -> str:
    return f"{number:g}" if isinstance(number, float) or abs(number) > 10**9 else str(number)


@dataclass(frozen=True)
class Rules:
    """What a config may say.

    entries: key -> what it may be.
    silent: keys that say nothing of what is computed here; whatever else there is, is named as not used.
    divides, less: pairs whose first divides the second, or is less than it.
    within: a number, and the place of one in an inner object that it may not be larger than, whatever its sign.
    as_long: pairs of lists, of which the second has one entry, none, or as many as the first.
    as_many: lists, and how many entries each has. rotates: lists of even numbers that add up to the second:
    pairs of a head's axes are rotated.
    one_of: flags of which one may be true. sets: the keys of an object, one of these sets.
    needed: keys without which there is no config.
    floats: whether numbers are floats even where the file has whole ones. nulls: whether null is said to a class.
    """

    entries: Mapping[str, Rule]
    silent: frozenset[str] = frozenset()
    divides: tuple[tuple[str, str], ...] = ()
    less: tuple[tuple[str, str], ...] = ()
    within: tuple[tuple[str, str], ...] = ()
    as_long: tuple[tuple[str, str], ...] = ()
    as_many: tuple[tuple[str, str], ...] = ()
    rotates: tuple[tuple[str, str], ...] = ()
    one_of: tuple[tuple[str, ...], ...] = ()
    sets: tuple[tuple[str, ...], ...] = ()
    needed: tuple[str, ...] = ()
    floats: bool = False
    nulls: bool = True

    def disagreement(self, values: JsonObject) -> str:
        """Which entries contradict each other, in words; empty where none do."""
        both = lambda pair: all(isinstance(values.get(key), (int, float)) for key in pair)
        for first, second in filter(both, self.divides):
            if values[second] % values[first]:
                return message("config_divides", first=first, second=second)
        for first, second in filter(both, self.less):
            if values[first] >= values[second]:
                return message("config_less", first=first, second=second)
        for first, second in self.within:
            owner, _, key = second.partition(".")
            most = values.get(owner, {}).get(key)
            if first in values and most is not None and not -most <= values[first] <= most:
                return message("config_within", first=first, second=second, most=most)
        for first, second in self.as_long:
            count = len(values.get(second, ()))
            if count > 1 and count != len(values.get(first, ())):
                return message("config_as_long", first=first, second=second)
        for first, second in self.as_many:
            entries = values.get(first)
            if entries and second in values and len(entries) != values[second]:
                return message("config_as_many", first=first, second=second, count=values[second])
        for first, second in self.rotates:
            axes = values.get(first)
            if axes and second in values and (any(axis % 2 for axis in axes) or sum(axes) != values[second]):
                return message("config_rotates", first=first, second=second, sum=values[second])
        if self.sets and {*values} not in map(set, self.sets):
            return message("config_sets", sets="; ".join(", ".join(keys) for keys in self.sets))
        for flags in self.one_of:
            if sum(values.get(flag) is True for flag in flags) > 1:
                return message("config_one_of", keys=", ".join(flags))
        return next((message("config_lacks", key=key) for key in self.needed if key not in values), "")


# ---------------------------------------------------------------- the tables


@cache
def table(name: str, kind: str = "") -> Rules:
    """The rules of a file beside this one; kind: of a class in it."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    if not kind:
        return _rules(name, content, content)
    row = next(row for row in content["classes"] if kind in row["names"])
    return _rules(name, row, content)


@cache
def kinds(name: str) -> frozenset[str]:
    """The classes in a file beside this one."""
    content = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return frozenset(kind for row in content["classes"] for kind in row["names"])


def _rules(name: str, content: JsonObject, file: JsonObject) -> Rules:
    entries = {key: _rule(name, row) for row in content["rows"] for key in row["keys"]}
    pairs = {relation: tuple(map(tuple, content.get(relation, []))) for relation in RELATIONS}
    needed, floats, nulls = tuple(content.get("needed", ())), file.get("floats", False), file.get("nulls", True)
    return Rules(entries, frozenset(file["silent"]), **pairs, needed=needed, floats=floats, nulls=nulls)


def _rule(name: str, row: JsonObject) -> Rule:
    bounds = row.get("whole") or row.get("number") or (0, row.get("text", 0))
    kind = next((kind for kind in ("flag", "whole", "number", "text", "object") if kind in row), "word")
    return Rule(
        kind=kind,
        least=bounds[0],
        most=bounds[1],
        by=row.get("by", ""),
        words=tuple(row.get("words", ())),
        length=row.get("list", 0),
        fewest=row.get("fewest", 0),
        levels=row.get("levels", 1),
        single=row.get("single", True),
        null=row.get("null", False),
        inner=table(name, row["object"]) if "object" in row else None,
        anything=row.get("anything", 0),
    )


# ---------------------------------------------------------------- what a class says of itself


def of_class(kind: type, published: Iterable[Config] = ()) -> Rules:
    """The rules of a class of diffusers or of our own: its signature's keys, in the ranges of network.json.

    published: configs of it whose words are allowed as its defaults are.
    """
    ranges, configs = table("network"), [*published]
    entries = {}
    for name, parameter in inspect.signature(kind).parameters.items():
        words = _words(parameter.default, *(config.get(name) for config in configs))
        entries[name] = _of_parameter(parameter, ranges.entries.get(name), words)
    return Rules(entries, ranges.silent)


def _words(*values: object) -> tuple[str, ...]:
    single = (item for value in values for item in (value if isinstance(value, (list, tuple)) else [value]))
    return tuple(dict.fromkeys(item for item in single if isinstance(item, str)))


def _of_parameter(parameter: inspect.Parameter, row: Rule | None, words: tuple[str, ...]) -> Rule:
    default, kinds = parameter.default, re.sub(r"<class '(\w+)'>", r"\1", str(parameter.annotation)).split(" | ")
    many = [kind for kind in kinds if kind.startswith(("tuple", "list"))]
    listed = isinstance(default, (list, tuple)) or bool(many)
    single = not listed or len([kind for kind in kinds if kind != "None"]) > len(many)
    base = row or _of_default(default, kinds, words)
    length = (base.length or LONGEST) if listed else 0
    fewest = 1 if isinstance(default, (list, tuple)) and default else 0
    return replace(base, length=length, fewest=fewest, single=single, null=default is None)


def _of_default(default: object, kinds: list[str], words: tuple[str, ...]) -> Rule:
    """What a key without a row may be, by its default, or by its annotation where that says nothing."""
    first = next(iter(default), None) if isinstance(default, (list, tuple)) else default
    named = next((name for name in ("bool", "float", "int", "str") for kind in kinds if name in kind), "")
    kind = type(first).__name__ if first is not None else named
    if kind == "bool":
        return Rule("flag")
    if kind == "int":
        return Rule("whole", 1, _ANY_SIZE, "size")
    return Rule("number", -_ANY_NUMBER, _ANY_NUMBER) if kind == "float" else Rule("word", words=words)
