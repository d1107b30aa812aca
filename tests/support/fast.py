"""Which tests `-m "not host"` leaves out, so that the engine's are done in two minutes on two cores.

A test of which one case is longer than ONE_CASE is left out, unless it is the shortest of its file: every file runs.
Of the others, so many cases run as BUDGET seconds hold, one at the least. `--extensive` runs all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import pytest

from .seconds import cases, seconds

EXPRESSION = "not host"  # of -m
BUDGET, ONE_CASE = 0.4, 0.45
COLLECTED = pytest.StashKey[list[str]]()  # in the config: the engine's tests, before any were left out
LIMIT = 150  # seconds of all that runs, on one core; with two, it takes half of that, and half a minute to collect


def slow(nodeids: Iterable[str]) -> set[str]:
    """Those of the engine's tests that are left out."""
    left, files = set[str](), defaultdict[str, list[list[str]]](list)
    for test, nodeids_of_test in cases(nodeids).items():
        files[test.partition("::")[0]].append(nodeids_of_test)
    for tests in files.values():
        shortest = min(tests, key=lambda names: seconds(names[0]))
        for names in tests:
            one = seconds(names[0])
            left.update(names[max(1, int(BUDGET / one)) if one <= ONE_CASE or names is shortest else 0 :])
    return left
