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
        if report.failed and call.duration >= SECONDS and call.excinfo is not None and _is_timeout(call.excinfo):
            report.sections += [(f"threads of {url}", host.threads()) for url, host in BOOTED.items()]
            item.session.shouldfail = f"{item.nodeid} has waited {call.duration:.0f} s in vain."
        return report


def _is_timeout(error: pytest.ExceptionInfo[BaseException]) -> bool:
    """Of Python, Playwright, a socket, or pytest-timeout, which fails as any test does."""
    words = str(error.value)
    return "Timeout" in error.typename or words.startswith("Timeout") or "timed out" in words
