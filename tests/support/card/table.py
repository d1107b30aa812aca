"""What the tests of the workflows on a card showed, as a table: from any worker, as JSON or Markdown."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

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
            "--card-table", type=Path, metavar="FILE", help="where to write what came of them, as .json or .md"
        )

    def pytest_terminal_summary(self, terminalreporter: Any, config: pytest.Config) -> None:
        reports = [r for kind in ("passed", "failed") for r in terminalreporter.stats.get(kind, ())]
        properties: dict[str, list[dict[str, Any]]] = {"card": [], "card_runs": []}
        for key, value in (pair for report in reports for pair in report.user_properties):
            if key in properties:
                properties[key].append(value)
        rows = sorted(properties["card"], key=lambda row: (row["workflow"], row["manager"]))
        if not rows and not properties["card_runs"]:
            return
        lines = [*markdown(rows), "", *map(str, properties["card_runs"])]
        terminalreporter.section("workflows on the pretend card")
        terminalreporter.write_line("\n".join(lines))
        if file := config.getoption("card_table"):
            whole = json.dumps({"workflows": rows, "alternating": properties["card_runs"]}, indent=1)
            file.write_text(("\n".join(lines) if file.suffix == ".md" else whole) + "\n", encoding="utf-8")


def markdown(rows: list[dict[str, Any]]) -> list[str]:
    """A line for each workflow and manager; left: bytes on the card after POST /free, the most of all conditions."""
    heads = ("workflow", "manager", *CONDITIONS, "peak, MB", "left, bytes")
    lines = [heads, tuple("---" for _ in heads)]
    for row in rows:
        outcomes = (SHORT.get(row.get(condition, ""), row.get(condition, "not run")) for condition in CONDITIONS)
        left = max(row["left"].values(), default=0)
        lines.append((row["workflow"], row["manager"], *outcomes, f"{row['peak'] / 1e6:.1f}", str(left)))
    return [f"| {' | '.join(line)} |" for line in lines]
