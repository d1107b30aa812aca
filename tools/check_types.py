"""Runs mypy over everything, with the repository importable as `reelwire` whatever its folder is called.

`python -m tools.check_types [mypy's options]`. Tests and scripts import the pack by that name; under another one mypy
would not see where those imports lead, and would take all that comes from there for `Any`.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from .source import PACK, ROOT


@contextmanager
def importable(root: Path = ROOT) -> Iterator[Path]:
    """A folder in which the repository is called `reelwire`: its own parent, or one with a link to it."""
    if root.name == PACK:
        yield root.parent
        return
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / PACK
        try:
            link.symlink_to(root, target_is_directory=True)
        except OSError as error:
            raise SystemExit(f"No link to {root} can be made ({error}): call the folder {PACK}.") from error
        yield Path(folder)


def main(options: Sequence[str]) -> int:
    """mypy's status."""
    settings = ("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(ROOT / ".mypy_cache"))
    with importable() as folder:
        command = [sys.executable, "-m", "mypy", *settings, *options, "-p", PACK]
        return subprocess.run(command, cwd=folder, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
