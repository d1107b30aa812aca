"""Runs mypy over everything, with the repository importable as `reelwire` whatever its folder is called.

`python -m tools.check_types [mypy's options]`. Tests and scripts import the pack by that name; under another one mypy
would not see where those imports lead, and would take all that comes from there for `Any`.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from .source import PACK, ROOT

CACHE = ".mypy_cache"


def importable(root: Path = ROOT) -> Path:
    """A folder in which the repository is called `reelwire`: its own parent, or one with a link to it, which is always
    the same: mypy believes what it keeps of a file by the file's path."""
    if root.name == PACK:
        return root.parent
    folder = root / CACHE / "called"
    folder.mkdir(parents=True, exist_ok=True)
    link = folder / PACK
    try:
        if link.resolve() != root:  # not there yet, or the folder was moved since
            link.unlink(missing_ok=True)
            link.symlink_to(root, target_is_directory=True)
    except OSError as error:
        raise SystemExit(f"No link to {root} can be made ({error}): call the folder {PACK}.") from error
    return folder


def main(options: Sequence[str]) -> int:
    """mypy's status."""
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / CACHE))
    command = [sys.executable, "-m", "mypy", *settings, *options, "-p", PACK]
    return subprocess.run(command, cwd=importable(), check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
