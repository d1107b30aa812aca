"""What modules keep is bounded: no container, cache or class has more entries after more prompts than it may."""

from __future__ import annotations

import ast
import sys
import types
from collections import OrderedDict, defaultdict, deque
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import pytest
from reelwire.tests.soak.kept import Keeper, growing
from reelwire.tests.support.host import ROOT

# functools caches that bound nothing, with arguments -> why there are few of these
FEW = {
    "loaders/spec.py:read_spec": "the folders of our families",
    "loaders/weights/allowed/rules.py:table": "our own files beside it, and the classes in them",
    "loaders/weights/allowed/rules.py:kinds": "our own files beside it",
    "loaders/weights/quantised.py:table": "torch's types that layers compute in",
    "loaders/weights/quantised.py:_hadamard": "the sizes of _ROTATIONS, and torch's types that layers compute in",
    "loaders/weights/quantised.py:_card_computes": "the formats of FORMATS, and the cards of this machine",
    "nodes/compare/language.py:_texts": "the languages that there are",
    "nodes/host/memory.py:_accounted": "the classes of our families",
}


def _caches() -> Iterator[str]:
    """Place of each function with arguments that a cache without a bound stands on."""
    for file in sorted(path for part in ("loaders", "samplers", "nodes") for path in (ROOT / part).rglob("*.py")):
        for each in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)) and _keeps_all(each):
                yield f"{file.relative_to(ROOT).as_posix()}:{each.name}"


def _keeps_all(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """Whether it keeps a result for each of its arguments, however many there are."""
    return bool(ast.unparse(function.args)) and any(map(_is_unbounded, function.decorator_list))


def _is_unbounded(decorator: ast.expr) -> bool:
    """Whether it is functools.cache, or lru_cache(None)."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    name = ast.unparse(called).removeprefix("functools.")
    options = ast.unparse(decorator).partition("(")[2]
    return name == "cache" or (name == "lru_cache" and "None" in options)


def test_caches_without_a_bound_have_few_keys() -> None:
    assert {*_caches()} == {*FEW}
    assert _is_unbounded(ast.parse("lru_cache(maxsize=None)").body[0].value)  # type: ignore[attr-defined]
    assert not _is_unbounded(ast.parse("lru_cache(64)").body[0].value)  # type: ignore[attr-defined]


# ---------------------------------------------------------------- planted ones


def _closed() -> Callable[[int], None]:
    seen = set[int]()
    return lambda value: seen.add(value)


@pytest.fixture
def planted() -> Iterator[types.ModuleType]:
    """A module of a package that is there for the test alone."""
    module = types.ModuleType("planted.module")
    sys.modules[module.__name__] = module
    yield module
    del sys.modules[module.__name__]


def _as_of(module: types.ModuleType, thing: Any) -> Any:
    thing.__module__ = module.__name__
    return thing


class Key:
    """A key that stays alive."""


PLANTS: dict[str, Callable[[types.ModuleType], Callable[[int], object]]] = {}


def _plant(name: str) -> Callable[[Callable[[types.ModuleType], Callable[[int], object]]], None]:
    return lambda make: PLANTS.update({name: make})


@_plant("module.thing")
def _(module: types.ModuleType) -> Callable[[int], object]:
    vars(module)["thing"] = {}
    return lambda n: module.thing.setdefault(n, n)


@_plant("module.bytes")
def _(module: types.ModuleType) -> Callable[[int], object]:
    vars(module)["bytes"] = bytearray()
    return lambda n: module.bytes.append(n)


@_plant("module.nested.*")
def _(module: types.ModuleType) -> Callable[[int], object]:
    vars(module)["nested"] = defaultdict(list)
    return lambda n: module.nested["one"].append(n)


@_plant("module.Holder.entries")
def _(module: types.ModuleType) -> Callable[[int], object]:
    vars(module)["Holder"] = _as_of(module, type("Holder", (), {"entries": {}}))
    return lambda n: module.Holder.entries.setdefault(n, n)


@_plant("module.held.own")
def _(module: types.ModuleType) -> Callable[[int], object]:
    kind = _as_of(module, type("Held", (), {}))
    vars(module)["held"] = kind()
    module.held.own = deque()
    return lambda n: module.held.own.append(n)


@_plant("module.closed.seen")
def _(module: types.ModuleType) -> Callable[[int], object]:
    vars(module)["closed"] = _as_of(module, _closed())
    return module.closed


@_plant("module.cached")
def _(module: types.ModuleType) -> Callable[[int], object]:
    vars(module)["cached"] = cache(lambda n: n)
    return module.cached


@_plant("module.weak")
def _(module: types.ModuleType) -> Callable[[int], object]:
    vars(module)["weak"], alive = WeakKeyDictionary(), list[Key]()

    def add(number: int) -> None:
        alive.append(Key())
        module.weak[alive[-1]] = number

    return add


@_plant("objects of Made")
def _(module: types.ModuleType) -> Callable[[int], object]:
    """Held by somebody else."""
    kind, elsewhere = _as_of(module, type("Made", (), {"__init__": lambda self: setattr(self, "one", [])})), list[Any]()
    return lambda n: elsewhere.append(kind())


@_plant("classes")
def _(module: types.ModuleType) -> Callable[[int], object]:
    elsewhere = list[Any]()
    return lambda n: elsewhere.append(_as_of(module, type("Made", (), {})))


@pytest.mark.parametrize("place", PLANTS)
def test_what_grows_is_found(planted: types.ModuleType, place: str) -> None:
    add = PLANTS[place](planted)
    counts = []
    for number in range(3):
        add(number)
        counts.append(Keeper("planted", {}).look())
    assert growing(counts[0], counts[1]).keys() == growing(counts[1], counts[2]).keys() == {place}


def test_what_is_bounded_may_fill(planted: types.ModuleType) -> None:
    last, cached, own = deque[int](maxlen=2), lru_cache(2)(lambda n: [n]), OrderedDict[int, int]()
    vars(planted).update(last=last, cached=cached, own=own, MOST=3)
    counts = []
    for number in range(5):
        last.append(number)
        cached(number)
        own[number] = number
        counts.append(Keeper("planted", {"module.own": "module.MOST"}).look())
    assert growing(counts[0], counts[2]) == {}
    assert growing(counts[2], counts[3]) == {"module.own": (3, 4)}
