"""A test that waits in vain ends the run of tests, and tells what the threads of each ComfyUI do.

The tests after it would each wait as long for the same ComfyUI, until somebody ends the run, with all it has to tell.
"""

from __future__ import annotations

from collections.abc import Generator

import pytest

from ..host import BOOTED

SECONDS = 200  # that no test takes which waits for nothing


class Hung:
    """The plugin that ends the run of tests at one that fails by a timeout, of any kind, after SECONDS or more."""

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        report = yield
        what = "" if call.excinfo is None else f"{call.excinfo.typename} {call.excinfo.value}"
        if report.failed and call.duration >= SECONDS and "timeout" in what.lower():
            report.sections += [(f"threads of {url}", host.threads()) for url, host in BOOTED.items()]
            item.session.shouldfail = f"{item.nodeid} has waited {call.duration:.0f} s in vain."
        return report
