"""The performance baseline fails where something became slower, and not where the machine was busy once."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import chain, repeat
from pathlib import Path

import pytest
from reelwire.bench.baseline.check import AGAIN, FILE, Measure, add, check, latest, over, seconds
from reelwire.bench.baseline.measures import _LOAD, FOLDERS, _child, all_measures, forward, imports


def costs(*values: float) -> Callable[[], float]:
    """A cost that is each of the values, then the last one for ever."""
    left = chain(values, repeat(values[-1]))
    return lambda: next(left)


def of(*values: float) -> Measure:
    """A measure of one round, whose ratios are these; the round that warms up has none."""
    return Measure(costs(*(v for value in values for v in (99.0, value))), costs(1.0), 1)


@pytest.mark.parametrize(
    ("ratios", "failed", "least"),
    [
        ((1.05,), False, 1.05),
        ((1.5, 1.5, 1.0), False, 1.0),
        ((1.5, 1.4, 1.3), True, 1.3),
        ((1.11, 1.11, 1.11), True, 1.11),
    ],
)
def test_only_what_stays_over_fails(ratios: tuple[float, ...], failed: bool, least: float) -> None:
    assert over("x", of(*ratios), 1.10) == (failed, least)


def test_a_slowdown_fails_and_says_how_much() -> None:
    """Work that is done twice, beside work that is done once."""
    work = lambda: sum(range(200_000))
    once, twice = seconds(work), seconds(lambda: (work(), work()))
    baseline = {"plain": 1.0, "slow": 1.0}
    ratios, faults = check({"plain": Measure(once, once), "slow": Measure(twice, once)}, baseline)
    assert ratios["slow"] > 1.5
    assert len(faults) == 1
    assert faults[0].startswith(f"slow: {ratios['slow']:.3f}")


def test_the_median_is_of_costs_in_turn() -> None:
    order = list[str]()

    def side(name: str, cost: float) -> float:
        order.append(name)
        return cost

    measure = Measure(lambda: side("ours", 2.0), lambda: side("reference", 1.0), 3)
    assert measure.ratio() == 2
    assert order == ["ours", "reference"] * 4
    assert Measure(costs(0.0, 1, 9, 2), costs(1.0), 3).ratio() == 2


def test_entries_are_dated_and_the_newest_counts(tmp_path: Path) -> None:
    file = tmp_path / "baseline.json"
    assert latest(file) == {}
    add({"a": 1.23456}, "2026-01-01", "abc", {"torch": "2"}, file)
    add({"a": 1.5}, "2026-01-02", "def", {"torch": "2"}, file)
    assert latest(file) == {"a": 1.5}
    assert check({"new": of(5.0)}, latest(file))[1] == []


def test_the_shipped_baseline_is_whole() -> None:
    """Every measure has its ratio."""
    ratios = latest(FILE)
    assert {*ratios} == {*all_measures()}
    assert all(math.isfinite(ratio) and ratio > 0 for ratio in ratios.values())
    assert AGAIN == 2


def test_a_forward_is_measured() -> None:
    measure = forward("ltx")
    assert 0.2 < Measure(measure.ours, measure.reference, 3).ratio() < 5


def test_programs_that_are_measured_run() -> None:
    """Those of processes of their own, which no type checker reads."""
    folder = str(FOLDERS["wan"] / "transformer")
    assert _child(_LOAD, folder, folder) > 0
    assert imports().ours() > 0
