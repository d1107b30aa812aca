"""The pack as the Comfy registry gets it: what git tracks, less what .comfyignore names, in one archive."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

from .host import ROOT


def packed() -> list[str]:
    """The files, as `comfy node pack` chooses them: paths from the repository's root."""
    from pathspec import GitIgnoreSpec

    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    ignored = GitIgnoreSpec.from_lines((ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines())
    return [file for file in tracked.splitlines() if not ignored.match_file(file) and (ROOT / file).is_file()]


def archive(target: Path) -> Path:
    """All of them in a zip file."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as made:
        for file in packed():
            made.write(ROOT / file, file)
    return target
