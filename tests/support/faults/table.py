"""The table of write points and faults, row by row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from .layer import NAMES
from .points import POINTS, Calibrate, Film, nodes_of
from .trials import Row, at_once, injected, killed_at_calls, killed_at_random, limited, small_disk

KILLS = 50


def table(comfyui: Path, short: bool = False) -> Iterator[Row]:
    """All rows; short: one call in a few, for the tests."""
    nodes = nodes_of(comfyui)
    for make in POINTS:
        yield from injected(make, nodes, every=6 if short else 1)
        yield killed_at_calls(make, nodes, NAMES, every=2) if short else killed_at_calls(make, nodes)
        if short:
            continue
        yield limited(make, nodes, range(0, 60_000, 1500))
        if make is not Calibrate and (row := small_disk(make, nodes, range(4, 200, 8))) is not None:
            yield row
    yield killed_at_random(Film, nodes, 5 if short else KILLS)
    yield at_once(nodes, 3 if short else 20)
    yield at_once(nodes, 2 if short else 10, hosts=4)
