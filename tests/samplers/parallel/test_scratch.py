"""Folders of processes that were killed are removed, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from reelwire.samplers.parallel.scratch import LOCK, YOUNG, Scratch

ROOT = Path(__file__).parents[3]
CHILD = f"""
import sys
sys.path.insert(0, {str(ROOT / "bench")!r})
from pack import import_pack
import_pack()
from reelwire.samplers.parallel.scratch import Scratch
print(Scratch("test").path, flush=True)
sys.stdin.read()
"""


def aged(folder: Path) -> Path:
    """A folder, made long ago."""
    before = time.time() - 2 * YOUNG
    os.utime(folder, (before, before))
    return folder


def test_what_a_killed_process_leaves_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    strange = tmp_path / "reelwire-test-strange"
    strange.mkdir()
    aged(strange)
    command, variables = [sys.executable, "-c", CHILD], {**os.environ, "TMPDIR": str(tmp_path), "TEMP": str(tmp_path)}
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, env=variables, text=True, **streams) as process:  # type: ignore[call-overload]
        theirs = aged(Path(process.stdout.readline().strip()))
        Scratch("test").remove()
        assert (theirs / LOCK).is_file(), "its process is there"
        process.kill()
        process.wait(30)
    aged(theirs)
    own = Scratch("test")
    assert not theirs.exists()
    assert strange.is_dir(), "nobody says that it may go"
    Scratch("test").remove()
    assert own.path.is_dir()
    own.remove()
    assert [*tmp_path.iterdir()] == [strange]
