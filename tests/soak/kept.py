"""What the modules of a package keep between two prompts: how many entries lie in each of their containers, caches and
classes, and how many there may be."""

from __future__ import annotations

import gc
import sys
import types
from collections import Counter, deque
from collections.abc import Iterator, Mapping, MutableMapping, MutableSequence, MutableSet
from dataclasses import dataclass, field
from functools import cache
from typing import Any

APART = ("tests", "bench", "training", "tools")  # of a package: what no prompt runs
CONTAINERS = (MutableMapping, MutableSequence, MutableSet, deque, bytearray)
FROZEN = (types.MappingProxyType, tuple, frozenset)  # no entries come to them, but to what they hold
PLAIN = (str, bytes, int, float, complex, bool, type(None))
CACHE = type(cache(lambda: None))
DEEPEST = 12
# containers that their module bounds itself -> the constant that says how many entries they have at most
BOUNDS = {
    "nodes.host.live.learned._known": "nodes.host.live.learned.MOST_KNOWN",
    "nodes.host.outputs._written": "nodes.host.outputs.MOST_RESULTS",
    "nodes.host.refusals._known": "nodes.host.refusals.MOST_KNOWN",
}
Kept = Mapping[str, tuple[int, int | None]]  # place -> (entries, the most that there may be; None: nothing says so)


@dataclass
class Keeper:
    """Walks what modules hold. root: the package's name in sys.modules; bounds: as BOUNDS.

    A place is a module's name without the root's and the way from there; all entries of one container share the place
    "*", of which the one with most counts.
    """

    root: str
    bounds: Mapping[str, str] = field(default_factory=lambda: BOUNDS)
    _kept: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    _seen: set[int] = field(default_factory=set)

    def look(self) -> Kept:
        """The places, and how many classes, and how many objects of each class that no place leads to, are alive."""
        for name, module in sorted(sys.modules.items()):
            if self._is_ours(name) and isinstance(module, types.ModuleType):
                for key, value in [*vars(module).items()]:
                    if not key.startswith("__"):
                        self._walk(f"{name.removeprefix(self.root).lstrip('.')}.{key}", value, 0)
        for place, count in self._alive().items():
            self._note(place, count, None)
        return self._kept

    def _is_ours(self, name: object) -> bool:
        if not isinstance(name, str) or not f"{name}.".startswith(f"{self.root}."):
            return False
        return name.removeprefix(self.root).lstrip(".").partition(".")[0] not in APART

    def _alive(self) -> Counter[str]:
        objects = gc.get_objects()
        kinds = Counter(type(each) for each in objects if id(each) not in self._seen)
        ours = {kind: count for kind, count in kinds.items() if self._is_ours(kind.__module__)}
        alive = Counter({f"objects of {kind.__qualname__}": count for kind, count in ours.items()})
        alive["classes"] = sum(isinstance(each, type) and self._is_ours(each.__module__) for each in objects)
        return alive

    def _note(self, place: str, count: int, most: int | None) -> None:
        if place in self.bounds:
            module, _, constant = self.bounds[place].rpartition(".")
            most = getattr(sys.modules[f"{self.root}.{module}"], constant)
        self._kept[place] = max((count, most), self._kept.get(place, (0, None)), key=lambda each: each[0])

    def _walk(self, place: str, value: Any, depth: int) -> None:
        if depth > DEEPEST or id(value) in self._seen or type(value) in PLAIN or isinstance(value, types.ModuleType):
            return
        self._seen.add(id(value))
        if isinstance(value, CACHE):
            self._note(place, value.cache_info().currsize, value.cache_info().maxsize)
        elif isinstance(value, CONTAINERS):
            self._note(place, len(value), getattr(value, "maxlen", None))
        for child in _entries(value):
            self._walk(f"{place}.*", child, depth + 1)
        for name, child in self._parts(value):
            self._walk(f"{place}.{name}", child, depth + 1)

    def _parts(self, value: Any) -> Iterator[tuple[str, Any]]:
        """(name, what it holds) of a function, a class or an object of the package."""
        if isinstance(value, property):
            yield "get", value.fget
        if hasattr(value, "__wrapped__"):
            yield "wrapped", value.__wrapped__
        owner = value if isinstance(value, (type, types.FunctionType)) else type(value)
        if not self._is_ours(getattr(owner, "__module__", "")):
            return
        if isinstance(value, types.FunctionType):
            yield from zip(value.__code__.co_freevars, map(_content, value.__closure__ or ()), strict=True)
            yield "defaults", value.__defaults__
            yield "keywords", value.__kwdefaults__
        yield from ((name, each) for name, each in [*getattr(value, "__dict__", {}).items()] if name[:2] != "__")
        for kind in () if isinstance(value, type) else type(value).__mro__:
            slots = kind.__dict__.get("__slots__", ())
            yield from ((slot, getattr(value, slot, None)) for slot in ([slots] if isinstance(slots, str) else slots))


def _entries(value: Any) -> list[Any]:
    """What lies in a container or a cache."""
    if isinstance(value, CACHE):
        held = gc.get_referents(value)  # keys and results; and a dict, of whose values a cache with a bound makes links
        plain = [each for each in held if type(each) is dict and value.cache_info().maxsize is None]
        return [each for each in held if type(each) is not dict] + [each for d in plain for each in d.values()]
    if isinstance(value, (MutableMapping, types.MappingProxyType)):
        return [*value.keys(), *value.values()]
    return [*value] if isinstance(value, (*CONTAINERS, *FROZEN)) and not isinstance(value, bytearray) else []


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # of a name that has no value yet
        return None


def kept(root: str) -> Kept:
    """What a package keeps now, garbage collected."""
    gc.collect()
    return Keeper(root).look()


def growing(before: Kept, after: Kept) -> dict[str, tuple[int, int]]:
    """Place -> (entries before, after) where there are more than before, and more than are known to be the most."""
    found = {}
    for place, (count, most) in after.items():
        earlier = before.get(place, (0, None))[0]
        if count > earlier and (most is None or count > most):
            found[place] = (earlier, count)
    return found
