"""A test that waits in vain ends the run of tests, and tells what each ComfyUI does."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from reelwire.tests.support.host import Host
from reelwire.tests.support.hung import SECONDS, Hung


def report_of(outcome: str, seconds: float, error: Exception | None = None) -> tuple[str, list[tuple[str, str]]]:
    """Why no test follows one that ended so, and what its report tells beside its error."""
    item: Any = SimpleNamespace(nodeid="a test", session=SimpleNamespace(shouldfail=""))
    told = None if error is None else SimpleNamespace(typename=type(error).__name__, value=error)
    call: Any = SimpleNamespace(duration=seconds, excinfo=told)
    ended: Any = outcome
    report = pytest.TestReport("a test", ("a", 1, "a test"), {}, ended, "its error", "setup")
    hook = Hung().pytest_runtest_makereport(item, call)
    next(hook)
    with pytest.raises(StopIteration) as end:
        hook.send(report)
    assert end.value.value is report
    return item.session.shouldfail, report.sections


def test_one_that_waits_in_vain_is_the_last(host: Host) -> None:
    why, sections = report_of("failed", SECONDS, TimeoutError("The prompt did not end."))
    assert why == f"a test has waited {SECONDS} s in vain."
    told = dict(sections)[f"threads of {host.url}"]
    assert "in prompt_worker" in told, told
    host.post_nothing()  # it goes on


@pytest.mark.parametrize(
    ("outcome", "seconds", "error"),
    [
        ("failed", SECONDS - 1.0, TimeoutError("waited")),
        ("failed", 2.0 * SECONDS, AssertionError("1 == 2")),
        ("passed", 2.0 * SECONDS, None),
    ],
)
def test_others_are_followed_by_the_next(outcome: str, seconds: float, error: Exception | None) -> None:
    assert report_of(outcome, seconds, error) == ("", [])
