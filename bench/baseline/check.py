"""Ratios of two costs that are measured in turn, and whether one has grown."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

FILE = Path(__file__).parent.with_suffix(".json")
MOST = 1.10  # times the baseline's ratio
AGAIN = 2  # measurings more of one that is over it, for what else the machine did meanwhile
Cost = Callable[[], float]


@dataclass(frozen=True)
class Measure:
    """ours, reference: do the thing once and return its cost, in any unit; rounds: how often, in turn."""

    ours: Cost
    reference: Cost
    rounds: int = 9

    def ratio(self) -> float:
        """The median of our cost over that of the reference; a first round warms both up."""
        costs: tuple[list[float], list[float]] = ([], [])
        for number in range(self.rounds + 1):
            for side, cost in zip(costs, (self.ours, self.reference), strict=True):
                value = cost()
                side.extend([value] if number else [])
        return median(costs[0]) / median(costs[1])


def seconds(work: Callable[[], object]) -> Cost:
    """The seconds that the processor works on it: waiting for a busy machine does not count."""

    def cost() -> float:
        begin = time.process_time()
        work()
        return time.process_time() - begin

    return cost


def over(name: str, measure: Measure, allowed: float) -> tuple[bool, float]:
    """(whether a measure is over what is allowed however often it is measured, the least of its ratios)."""
    least = measure.ratio()
    for _ in range(AGAIN):
        if least <= allowed:
            break
        least = min(least, measure.ratio())
    return least > allowed, least


def check(measures: Mapping[str, Measure], baseline: Mapping[str, float]) -> tuple[dict[str, float], list[str]]:
    """(the ratios, what costs over MOST times the baseline in words). What has no baseline yet cannot fail."""
    ratios, faults = dict[str, float](), list[str]()
    for name, measure in measures.items():
        allowed = MOST * baseline.get(name, float("inf"))
        failed, ratios[name] = over(name, measure, allowed)
        if failed:
            faults.append(f"{name}: {ratios[name]:.3f} of its reference, {baseline[name]:.3f} in the baseline")
    return ratios, faults


def latest(file: Path = FILE) -> dict[str, float]:
    """The ratios of the newest entry; none where there is no file."""
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    return dict(entries[-1]["ratios"]) if entries else {}


def add(ratios: Mapping[str, float], date: str, commit: str, versions: Mapping[str, str], file: Path = FILE) -> None:
    """Put a dated entry behind the others."""
    entries = json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
    rounded = {name: round(ratio, 4) for name, ratio in ratios.items()}
    entries.append({"date": date, "commit": commit, "versions": dict(versions), "ratios": rounded})
    file.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")
