"""The house keeps its limits, and each measure sees what it is there for."""

from __future__ import annotations

from pathlib import Path

import pytest
from reelwire.tools import house, source
from reelwire.tools.house import Measure
from reelwire.tools.source import House

TABLE = house.ratchet()


@pytest.fixture(scope="module")
def numbers() -> list[Measure]:
    return house.measures(House())


@pytest.mark.parametrize("at", range(len(house.MEASURES)), ids=[measure.__name__ for measure in house.MEASURES])
def test_limits_are_kept(numbers: list[Measure], at: int) -> None:
    assert numbers[at].value <= house.allowed(numbers[at], TABLE), "\n".join(numbers[at].places[:20])


def test_the_ratchet_holds_only_what_is_over_its_limit(numbers: list[Measure]) -> None:
    limits = {measure.name: measure.limit for measure in numbers}
    assert not TABLE.keys() - limits.keys()
    assert all(value > limits[name] for name, value in TABLE.items())


FILES = {
    "loaders/families/__init__.py": "",
    "loaders/families/mochi/__init__.py": "from .vae import decode\n",
    "loaders/families/mochi/vae.py": "def decode():\n    '''Frames.'''\n    return 'mochi'\n",
    "loaders/weights/__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..vae import tiles\n",
    "loaders/vae/__init__.py": "",
    "loaders/vae/tiles.py": "from .. import weights  # as mochi does\n",
    "samplers/plan.py": (
        "from typing import Any\n"
        "from reelwire.loaders.families import mochi\n"
        "NAMES = {'a': -1, 'b': [2]}  # fmt: skip\n"
        "SUM = 1 + 2  # fmt: skip\n"
        "def plan(request: Any):\n    return [request, MochiPlan]\n"
        "class Base:\n    def step(self):\n        '''One step.'''\n"
        "class Euler(Base):\n    def step(self):\n        return 1\n"
    ),
    "samplers/wide.py": f"WIDE = '{'x' * 120}'\n",
}


@pytest.fixture
def small(tmp_path: Path) -> dict[str, Measure]:
    """The measures of a small house with one fault of each kind."""
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    return {measure.name: measure for measure in house.measures(House(tmp_path))}


def test_circles_and_arrows(small: dict[str, Measure]) -> None:
    """An import for types alone closes a circle too; a family's own files are one room."""
    assert small["circles between files"].places == ["loaders.vae.tiles <-> loaders.weights"]
    assert small["arrows between the rooms of loaders/"].places == ["vae -> weights", "weights -> vae"]


def test_names_of_families(small: dict[str, Measure]) -> None:
    """In code, not in comments, and not in the family's own folder."""
    places = small["families named outside their folder"].places
    assert places == ["samplers/plan.py:2: mochi", "samplers/plan.py:6: Mochi"]


def test_words_to_the_tools(small: dict[str, Measure]) -> None:
    assert small["`fmt: skip` outside tables"].places == ["samplers/plan.py:4"]
    assert small["`Any` in loaders, samplers, nodes"].places == ["samplers/plan.py:5"]
    assert small["public functions without docstring"].places == ["samplers/plan.py:5 plan"]
    assert small["lines over 120 columns"].places == ["samplers/wide.py:1: 129 columns"]


def test_sizes(small: dict[str, Measure]) -> None:
    assert small["lines of the longest function"].value == 3
    assert small["median lines of a function"].value == 2
    assert small["statements of the largest function"].value == 1
    assert small["lines of the longest file"].value == 12
    assert small["files in the fullest folder"].value == 2


def test_longer_circles_are_seen() -> None:
    arrows: dict[tuple[str, ...], set[tuple[str, ...]]] = {
        ("a",): {("b",)},
        ("b",): {("c",)},
        ("c",): {("a",)},
        ("d",): {("a",)},
    }
    assert source.circles(arrows) == [[("a",), ("b",), ("c",)]]


def test_the_ratchet_only_goes_down() -> None:
    numbers = [Measure("x", 5, 0, []), Measure("y", 9, 0, []), Measure("z", 0, 0, [])]
    table = {"x": 7.0, "y": 8.0, "z": 3.0}
    assert house.tightened(numbers, table) == {"x": 5, "y": 8}
    assert [measure.name for measure in house.broken(numbers, table)] == ["y"]
