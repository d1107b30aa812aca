"""What a cache did in a run: in numbers, in words, and as a chart."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ...loaders.messages import data, listed, message
from .policy import Policy
from .runner import Entry, Runner


@dataclass(frozen=True)
class Report:
    """computed: (expert, branch) -> which of its forwards were computed, in order. seconds: of each step.

    estimated: bytes that the states should hold, held: the most that they did.
    """

    title: str
    computed: Mapping[tuple[str, str], tuple[bool, ...]]
    moves: Mapping[tuple[str, str], tuple[float | None, ...]]
    seconds: tuple[float, ...]
    estimated: int
    held: int
    notes: tuple[str, ...]

    @property
    def ideal(self) -> float:
        """Forwards over computed forwards."""
        every = [c for forwards in self.computed.values() for c in forwards]
        return len(every) / max(sum(every), 1)

    @property
    def real(self) -> float | None:
        """How much longer the run would have taken if each step had taken as long as one that was computed whole."""
        count = len(self.seconds)
        whole = [all(f[i] for f in self.computed.values() if len(f) == count) for i in range(count)]
        long = sorted(s for s, w in zip(self.seconds[1:], whole[1:], strict=True) if w)  # the first one warms up
        if not long or any(len(f) != count for f in self.computed.values()):
            return None
        return count * long[len(long) // 2] / (sum(self.seconds[1:]) + long[len(long) // 2])

    def words(self) -> tuple[str, ...]:
        parts = [message("cache_branch", name=name, computed=sum(f), count=len(f)) for name, f in self._named()]
        numbers = {
            "ideal": f"{self.ideal:.2f}",
            "held": size_in_words(self.held),
            "expected": size_in_words(self.estimated),
        }
        numbers |= {"cache": self.title, "branches": listed(parts)}
        if self.real is None:
            return (message("cache_report", **numbers), *self.notes)
        return (message("cache_report_real", real=f"{self.real:.2f}", **numbers), *self.notes)

    def _named(self) -> list[tuple[str, tuple[bool, ...]]]:
        experts = {part for part, _ in self.computed}
        told = {"transformer": message("high_noise"), "transformer_2": message("low_noise")}
        return [(message("expert_branch", expert=told.get(part, part), branch=branch) if len(experts) > 1 else branch, f) for (part, branch), f in self.computed.items()]  # fmt: skip

    def facts(self) -> dict[str, Any]:
        """For a file's metadata."""
        steps = {name: "".join("x" if c else "." for c in forwards) for name, forwards in self._named()}
        return {"cache": self.title, "steps": steps, "ideal": round(self.ideal, 3), "real": self.real and round(self.real, 3)}  # fmt: skip

    def chart(self) -> dict[str, Any]:
        """For the page to draw: a row for each branch, with which steps were computed and how far each one was from the last."""
        rows = [
            {
                "name": data(name),
                "computed": list(computed),
                "distances": [d if d and math.isfinite(d) else None for d in moves],
            }
            for (name, computed), moves in zip(self._named(), self.moves.values(), strict=True)
        ]
        return {"title": self.title, "rows": rows}


def size_in_words(count: int) -> str:
    unit, size = next(
        (u, s) for u, s in (("GB", 2**30), ("MB", 2**20), ("KB", 2**10), ("bytes", 1)) if count >= s or s == 1
    )
    return f"{count / size:.3g} {unit}"


def report(runner: Runner, estimated: int) -> Report:
    """What a finished run's cache did."""
    groups: dict[tuple[str, str], list[Entry]] = {}
    for entry in runner.entries:
        groups.setdefault((entry.part, entry.branch), []).append(entry)
    moves = {
        key: tuple(None if e.distance is None else float(e.distance) for e in entries)
        for key, entries in groups.items()
    }
    seen = [m for found in moves.values() for m in found if m is not None]
    policy: Policy = runner.policy
    return Report(policy.title, {key: tuple(e.computed for e in entries) for key, entries in groups.items()}, moves,
                  tuple(runner.seconds), estimated, runner.peak, runner.notes + policy.notes(seen))  # fmt: skip
