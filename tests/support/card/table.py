"""What the tests of the workflows on a card showed, as a table: from any worker, as JSON or Markdown."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from ..host import ROOT
from .shortage import CONDITIONS, EQUAL, FOREIGN, TILES, WORDS

SHORT = {EQUAL: "=", TILES: "tiles", WORDS: "words", FOREIGN: "ComfyUI's"}


class CardTable:
    """A plugin: the options `--all-workflows` and `--card-table`, and the table at the end."""

    @staticmethod
    def add_options(parser: pytest.Parser) -> None:
        group = parser.getgroup("pretend card")
        group.addoption(
            "--all-workflows",
            action="store_true",
            help="all workflows on the pretend card, not only those that differ in kind",
        )
        group.addoption(
            "--card-table",
            type=Path,
            metavar="FILE",
            help="where to write what came of them: as .md, or into a .json in place of its rows of the same names",
        )

    def pytest_configure(self, config: pytest.Config) -> None:
        in_worker = hasattr(config, "workerinput")  # pytest-xdist tells its controller
        self._file: Path | None = None if in_worker else config.getoption("card_table")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Each row goes into a .json when it is there, so that what is stopped keeps those before."""
        if report.when == "call" and self._file is not None and self._file.suffix != ".md":
            rows, runs = _tables([report]).values()
            if rows or runs:
                self._file.write_text(merged(self._file, rows, runs), encoding="utf-8")

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
        properties = _tables(reports)
        rows = sorted(properties["card"], key=lambda row: (row["workflow"], row["manager"]))
        if not rows and not properties["card_runs"]:
            return
        lines = [*markdown(rows), "", *map(str, properties["card_runs"])]
        terminalreporter.section("workflows on the pretend card")
        terminalreporter.write_line("\n".join(lines))
        if self._file is not None and self._file.suffix == ".md":
            self._file.write_text("\n".join(lines) + "\n", encoding="utf-8")


COMMAND = "pytest tests/card/test_card_workflows.py --all-workflows --card-table FILE"
Rows = list[dict[str, Any]]


def _tables(reports: Iterable[pytest.TestReport]) -> dict[str, Rows]:
    """What tests told of workflows ("card") and of runs that alternate ("card_runs")."""
    tables: dict[str, Rows] = {"card": [], "card_runs": []}
    for key, value in (pair for report in reports for pair in report.user_properties):
        if key in tables:
            tables[key].append(value)  # type: ignore[arg-type]
    return tables


def merged(file: Path, rows: Rows, runs: Rows) -> str:
    """The JSON of a file with these rows in place of those of the same names; each knows the commit that it is of."""
    before = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    commit = subprocess.check_output(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, text=True).strip()
    known: dict[str, dict[tuple[str, ...], dict[str, Any]]] = {}
    for key, names, fresh in (("workflows", ("workflow", "manager"), rows), ("alternating", ("manager",), runs)):
        every = [*before.get(key, []), *({**row, "commit": commit} for row in fresh)]
        known[key] = {tuple(row[name] for name in names): row for row in every}
    workflows, alternating = (sorted(of.items()) for of in known.values())
    commits = Counter(str(row.get("commit")) for _, row in workflows)
    wanted = 2 * len([*(ROOT / "workflows" / "api").glob("*.json")])
    seen = f"{len(workflows)} of {wanted}: " + ", ".join(f"{count} at {at}" for at, count in commits.most_common())
    whole = {
        "command": COMMAND,
        "seen": seen,
        "workflows": [row for _, row in workflows],
        "alternating": [row for _, row in alternating],
    }
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each workflow and manager; left: bytes on the card after POST /free, the most of all conditions."""
    heads = ("workflow", "manager", *CONDITIONS, "peak, MB", "left, bytes")
    lines = [heads, tuple("---" for _ in heads)]
    for row in rows:
        outcomes = (SHORT.get(row.get(condition, ""), row.get(condition, "not run")) for condition in CONDITIONS)
        left = max(row["left"].values(), default=0)
        lines.append((row["workflow"], row["manager"], *outcomes, f"{row['peak'] / 1e6:.1f}", str(left)))
    return [f"| {' | '.join(line)} |" for line in lines]
