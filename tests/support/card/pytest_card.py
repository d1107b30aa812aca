"""Runs the tests marked `on_card` in a process of their own, a second pytest beside this one, and reports them here.

A card that is attached stays: its device, its random numbers and what torch takes for the accelerator hold for the
whole process, and several files of tests share one (`--dist=loadfile`). No other test may see a change, so all
marked tests of a file run in one child that has the card; everything else about them (fixtures, parameters, -k) is
plain pytest.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

MARK = "on_card"
REPORTS = "REELWIRE_CARD_REPORTS"  # set in the child: the file for its reports, one JSON object a line
TINY_MODELS = (
    "REELWIRE_TINY_MODELS"  # the folder of the tiny models, which both processes share: one makes, the other reads
)


class CardTests:
    """The plugin of both processes."""

    def __init__(self) -> None:
        self._files: dict[Path, dict[str, list[dict[str, Any]]]] = {}  # file -> test -> its reports
        self._output = ""
        self.child = REPORTS in os.environ

    def pytest_configure(self, config: pytest.Config) -> None:
        config.addinivalue_line("markers", f"{MARK}: runs in a process of its own that has the pretend card")
        if self.child:
            from . import attach

            attach()
        else:
            os.environ[TINY_MODELS] = tempfile.mkdtemp(prefix="reelwire_tiny_")

    def pytest_unconfigure(self) -> None:
        if not self.child:
            shutil.rmtree(os.environ[TINY_MODELS], ignore_errors=True)

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
        if self.child or item.get_closest_marker(MARK) is None:
            return None
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
        for report in self._reports(item):
            item.ihook.pytest_runtest_logreport(report=report)
        item.session._setupstate.teardown_exact(nextitem)  # a test before this one may have left its module's fixtures
        item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
        return True

    @pytest.hookimpl(trylast=True)
    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if self.child:
            data = self._config.hook.pytest_report_to_serializable(config=self._config, report=report)
            with Path(os.environ[REPORTS]).open("a", encoding="utf-8") as file:
                file.write(json.dumps(data) + "\n")

    def pytest_sessionstart(self, session: pytest.Session) -> None:
        self._config = session.config

    def _reports(self, item: pytest.Item) -> Iterator[pytest.TestReport]:
        """Those of one test; the first test of a file runs all of the file's."""
        if item.path not in self._files:
            tests = [i.nodeid for i in item.session.items if i.path == item.path and i.get_closest_marker(MARK)]
            self._files[item.path] = self._run(tests, item.config.rootpath)
        reports = self._files[item.path].get(item.nodeid, [])
        for data in reports:
            yield item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
        if not reports or reports[-1]["when"] != "teardown":
            words = f"The process with the pretend card ended before this test did.\n{self._output[-4000:]}"
            yield pytest.TestReport(item.nodeid, item.location, {}, "failed", words, "call")

    def _run(self, tests: list[str], root: Path) -> dict[str, list[dict[str, Any]]]:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "reports"
            environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {REPORTS: str(file)}
            command = [sys.executable, "-m", "pytest", "-p", "no:xdist", "-p", "no:cacheprovider", *tests]
            done = subprocess.run(
                command,
                cwd=root,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
            self._output = done.stdout
            reports: dict[str, list[dict[str, Any]]] = {}
            for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
                data = json.loads(line)
                reports.setdefault(data["nodeid"], []).append(data)
        return reports
