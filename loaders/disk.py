"""Room on disks, which is looked at before hours are spent on what does not go there."""

from __future__ import annotations

import os
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
    if usage.total <= 0:
        return None
    is_root = getattr(os, "geteuid", lambda: -1)() == 0  # who gets what a disk holds back from others
    return max(usage.free, usage.total - usage.used) if is_root else usage.free
