"""How long tests take, as measured: what runs by default, in which order, and what is fast is chosen by it.

`seconds.json` holds, for each file, the seconds of one case of each test on one core, where they are not small;
`python3 run.py test --extensive --write-seconds` writes it anew. What is not in it counts as UNLISTED.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest

TABLE = Path(__file__).with_name("seconds.json")
LISTED, UNLISTED = 0.1, 0.02
OPTION = "--write-seconds"


@cache
def table() -> dict[str, dict[str, float]]:
    """file -> test -> seconds of one case."""
    return json.loads(TABLE.read_text(encoding="utf-8"))


def test_of(nodeid: str) -> str:
    """A test's name without its parameters, those of one test are its cases."""
    return nodeid.partition("[")[0]


def seconds(nodeid: str) -> float:
    """What one case is expected to take."""
    file, _, test = test_of(nodeid).partition("::")
    return table().get(file, {}).get(test, UNLISTED)


def cases(nodeids: Iterable[str]) -> dict[str, list[str]]:
    """Test -> its cases, in the order in which they came."""
    grouped = defaultdict[str, list[str]](list)
    for nodeid in nodeids:
        grouped[test_of(nodeid)].append(nodeid)
    return grouped


class Measured:
    """The plugin that writes the table: those that ran, the others stay as they are."""

    @staticmethod
    def add_option(parser: pytest.Parser) -> None:
        parser.addoption(OPTION, action="store_true", help=f"write what each test took to {TABLE.name}")

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        if not config.getoption(OPTION):
            return
        taken = defaultdict[str, float](float)
        for report in terminalreporter.stats.get("passed", ()):  # a set-up boots what others use as well
            taken[report.nodeid] += report.duration
        rows = {file: {**table().get(file, {}), **tests} for file, tests in _rows(taken)}
        kept = {file: tests for file, tests in {**table(), **rows}.items() if Path(config.rootpath, file).exists()}
        TABLE.write_text(json.dumps(_listed(kept), indent=1) + "\n", encoding="utf-8")


def _rows(taken: dict[str, float]) -> Iterator[tuple[str, dict[str, float]]]:
    """(file, test -> seconds of one case) of what was measured."""
    files = defaultdict[str, dict[str, float]](dict)
    for test, nodeids in cases(taken).items():
        file, _, name = test.partition("::")
        files[file][name] = round(mean(taken[nodeid] for nodeid in nodeids), 1)
    yield from files.items()


def _listed(rows: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """Those that are not small, in order."""
    long = lambda tests: {name: tests[name] for name in sorted(tests) if tests[name] >= LISTED}
    return {file: long(tests) for file, tests in sorted(rows.items()) if long(tests)}
