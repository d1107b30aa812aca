"""What runs by default, what `-m "not host"` runs, and how long that takes by the kept table."""

from __future__ import annotations

from collections import Counter

import pytest
from reelwire.tests.support import extensive, fast, schedule, seconds
from reelwire.tests.support.host import ROOT

LONGEST = 60.0  # seconds that one case of a test may take
TABLE = {"tests/a.py": {"test_long": 9.0, "test_some": 0.2, "test_half": 0.6}, "tests/b.py": {"test_longer": 20.0}}


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seconds, "table", lambda: TABLE)


def cases(test: str, count: int) -> list[str]:
    return [f"{test}[tiny-wan-{number}]" for number in range(count)]


@pytest.mark.usefixtures("table")
def test_a_test_on_many_models_runs_on_some_of_them() -> None:
    """On a quarter, where that takes no more than the budget, and on one at the least."""
    tests = {
        "tests/a.py::test_long": 8,
        "tests/a.py::test_some": 12,
        "tests/a.py::test_half": 40,
        "tests/c.py::test_c": 9,
    }
    everything = [case for test, count in tests.items() for case in cases(test, count)]
    kept = Counter(map(seconds.test_of, {*everything} - extensive.extensive(everything)))
    assert kept == {
        "tests/a.py::test_long": 1,
        "tests/a.py::test_some": 3,
        "tests/a.py::test_half": 3,
        "tests/c.py::test_c": 3,
    }
    assert extensive.extensive(everything) == extensive.extensive(reversed(everything)), "by name, not by place"


@pytest.mark.usefixtures("table")
def test_slow_ones_are_left_out() -> None:
    """The shortest of each file runs, and of the others as much as the budget holds."""
    everything = [*cases("tests/a.py::test_long", 2), *cases("tests/a.py::test_some", 9), "tests/b.py::test_longer"]
    assert sorted({*everything} - fast.slow(everything)) == [
        *cases("tests/a.py::test_some", 2),
        "tests/b.py::test_longer",
    ]


@pytest.mark.parametrize(
    ("hosted", "order"),
    [
        (True, ["nodes/test_host_b.py", "nodes/test_host_a.py", "page/test_page.py", "b.py", "a.py"]),
        (False, ["b.py", "a.py", "nodes/test_host_b.py", "nodes/test_host_a.py", "page/test_page.py"]),
    ],
)
def test_a_worker_takes_the_longest_of_its_kind(
    monkeypatch: pytest.MonkeyPatch, hosted: bool, order: list[str]
) -> None:
    """Those with a page after those with a host alone; when its own are done, those of the other."""
    times = {
        "a.py": 1.0,
        "b.py": 2.0,
        "nodes/test_host_a.py": 3.0,
        "nodes/test_host_b.py": 4.0,
        "page/test_page.py": 9.0,
    }
    monkeypatch.setattr(schedule, "seconds", times.__getitem__)
    waiting, taken = {f"tests/{file}": [file] for file in times}, list[str]()
    while waiting:
        taken.append(schedule.following(waiting, hosted))
        del waiting[taken[-1]]
    assert taken == [f"tests/{file}" for file in order]


def test_files_are_of_the_kind_that_their_fixtures_say(request: pytest.FixtureRequest) -> None:
    """Of the tests that were collected beside this one: else the worker of the engine's boots hosts of its own."""
    used = dict[str, set[str]]()
    for item in request.session.items:
        given = (
            {*item.callspec.params} if isinstance(item, pytest.Function) and hasattr(item, "callspec") else set[str]()
        )
        file = item.nodeid.partition("::")[0]
        used.setdefault(file, set()).update(
            {*getattr(item, "fixturenames", ())} - given
        )  # a parameter may be so called
    kinds = schedule.HOST_FIXTURES | {schedule.PAGE_FIXTURE}
    assert [file for file, names in used.items() if bool(names & kinds) != bool(schedule.HOSTED.search(file))] == []
    paged = [file for file, names in used.items() if schedule.PAGE_FIXTURE in names]
    assert paged == [file for file in used if schedule.PAGED.search(file)]


def test_the_table_holds_tests_that_are_there() -> None:
    for file, tests in seconds.table().items():
        text = (ROOT / file).read_text(encoding="utf-8")
        assert [name for name in tests if f"def {name}(" not in text] == [], file
        assert min(tests.values()) >= seconds.LISTED
        assert max(tests.values()) <= LONGEST, f"{file}: what does it wait for?"


def test_names_in_the_tables_are_those_of_tests() -> None:
    for name in (*extensive.FEW, *extensive.LEFT_OUT):
        file, _, test = name.partition("::")
        (path,) = (ROOT / "tests").rglob(file)
        assert f"def {test}" in path.read_text(encoding="utf-8"), name


def test_the_engines_tests_are_fast(pytestconfig: pytest.Config) -> None:
    """By the table, of the tests that were collected beside this one: in CI those are all."""
    collected = pytestconfig.stash[fast.COLLECTED]
    left = extensive.extensive(collected)
    usual = [nodeid for nodeid in collected if nodeid not in left]
    kept = {*usual} - fast.slow(usual)
    assert sum(map(seconds.seconds, kept)) <= fast.LIMIT
    assert {nodeid.partition("::")[0] for nodeid in kept} == {nodeid.partition("::")[0] for nodeid in collected}
