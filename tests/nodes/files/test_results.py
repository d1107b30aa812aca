"""What is remembered of written files: enough to see that one is gone, and no more however long the server runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest


@pytest.fixture
def outputs(comfyui: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """nodes/host/outputs.py with ComfyUI's modules in this process, its running node with the widget `x` of a test."""
    monkeypatch.syspath_prepend(str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    from reelwire.nodes.host import outputs as module

    monkeypatch.setattr(module, "_inputs", lambda cls: {"x": cls.x})
    module._written.clear()
    yield module
    module._written.clear()


def node(x: int) -> Any:
    return SimpleNamespace(__name__="Writer", hidden=SimpleNamespace(unique_id="4"), x=x)


def test_files_that_are_gone_count_until_they_are_forgotten_and_after(outputs: Any, tmp_path: Path) -> None:
    """A count that fell would be a fingerprint that the host has results of."""
    files = [tmp_path / f"{number}.mp4" for number in range(100)]
    counts = []
    for number, file in enumerate(files):
        file.touch()
        outputs.remember_file(node(0), file)
        if number % 2:
            file.unlink()
        counts.append(outputs.files_gone(node(0), {"x": 0}))
    assert counts == [(number + 1) // 2 for number in range(100)]
    assert len(outputs.gone_notes(node(0))) == outputs.MOST_FILES / 2
    assert outputs.gone_notes(node(0)) == []


def test_what_is_kept_is_bounded(outputs: Any, tmp_path: Path) -> None:
    for number in range(100):
        outputs.remember_file(node(0), tmp_path / f"{number}.mp4")
    assert outputs.files_gone(node(0), {"x": 0}) == outputs.MOST_FILES
    for number in range(1, outputs.MOST_RESULTS + 500):
        outputs.remember_file(node(number), tmp_path / "a.mp4")
        outputs.files_gone(node(0), {"x": 0})  # as each prompt asks of its nodes
    assert len(outputs._written) == outputs.MOST_RESULTS
    assert max(len(results.files) for results in outputs._written.values()) == outputs.MOST_FILES
    assert outputs.files_gone(node(0), {"x": 0}), "what is still asked for was forgotten"
