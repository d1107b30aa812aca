"""Room on disks, which is looked at before hours are spent on what does not go there."""

from __future__ import annotations

import shutil
from pathlib import Path


def free_bytes(folder: Path) -> int | None:
    """How much the disk of a folder still takes, of one that is not there yet that of the folder which it will lie in;
    None where its file system does not say, as some on networks do."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return usage.free if usage.total > 0 else None
