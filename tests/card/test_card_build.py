"""How the pretend card is built: once for each source and torch, whole or not at all, or refused in words."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from reelwire.tests.support.card import attached, build
from reelwire.tests.support.card.pytest_card import MARK

ROOT = Path(__file__).parents[2]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder for what is built."""
    monkeypatch.setattr(build, "CACHE", tmp_path / "card")
    return tmp_path / "card"


def compiler(folder: Path, script: str) -> str:
    """A program that does this with the compiler's arguments."""
    file = folder / "cxx"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_without_a_compiler_it_says_what_to_install(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no such compiler")
    with pytest.raises(build.NoCompilerError, match=r"need g\+\+ 11 or newer .* apt install g\+\+"):
        build.library()


def test_what_the_compiler_says_is_told(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", compiler(tmp_path, "echo card.cpp:1: no such header >&2; exit 1"))
    with pytest.raises(RuntimeError, match=r"does not compile .*\ncard.cpp:1: no such header"):
        build.library()
    assert not [*cache.iterdir()], "nothing is left of a build that failed"


def test_it_is_built_once(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anew only for another source or another torch."""
    copy = 'while [ "$1" != -o ]; do shift; done; echo built > "$2"'
    monkeypatch.setenv("CXX", compiler(tmp_path, copy))
    first = build.library()
    assert first.read_text() == "built\n"
    assert [*cache.iterdir()] == [first]
    monkeypatch.setenv("CXX", "no such compiler")
    assert build.library() == first
    monkeypatch.setattr("torch.__version__", "0.0")
    with pytest.raises(build.NoCompilerError):
        build.library()


def test_it_is_one_of_the_checks(tmp_path: Path) -> None:
    """As `run.py test` calls it; a failure is its words and its status, without a traceback."""
    environment = {"PATH": str(tmp_path), "CXX": "no such compiler", "REELWIRE_STATE": str(tmp_path)}
    no_root = "import os; os.geteuid = lambda: 1"
    code = f"{no_root}; import runpy; runpy.run_module('tests.support.card.build', run_name='__main__')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("The tests on the pretend graphics card need g++ 11 or newer")
    assert "tests.support.card.build" in (ROOT / "run.py").read_text(encoding="utf-8")


def test_this_process_has_no_card(request: pytest.FixtureRequest) -> None:
    """Only tests that are marked run where there is one; the others of a worker must not see a device more."""
    assert request.node.get_closest_marker(MARK) is None
    assert not attached()
