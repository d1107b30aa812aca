"""What must be the same in all processes, so that they make the same bytes."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ...loaders.messages import message

PACKAGES = ("torch", "diffusers", "transformers")


def versions() -> dict[str, str]:
    """Name -> version, of the pack and of what it computes with."""
    return {"Reelwire": _own(), **{name: _of(name) for name in PACKAGES}}


def _own() -> str:
    project = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    return project.split('version = "', 1)[1].split('"', 1)[0]


def _of(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "-"


def differences(asked: dict[str, str]) -> list[str]:
    """What is of another version here, in words."""
    here = versions()
    pairs = ((name, theirs, here.get(name, "-")) for name, theirs in asked.items())
    return [
        message("worker_version", name=name, theirs=theirs, here=own) for name, theirs, own in pairs if own != theirs
    ]
