"""A pack beside ours in a ComfyUI that is tried: notes which sockets and programs are opened and what is written
outside of the host's folders. Nothing else of it is for use."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

LOG = "REELWIRE_CAMPAIGN_LOG"  # the file that it writes to; the folders that may be written lie in its folder
NODE_CLASS_MAPPINGS: dict[str, type] = {}


def _begin(log: Path) -> None:
    """Watch from now on, into the log."""
    file = Path(__file__).resolve().parents[1] / "watch.py"
    spec = importlib.util.spec_from_file_location("reelwire_campaign_watch", file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stream = log.open("a", encoding="utf-8", buffering=1)
    module.Watch(lambda kind, text: stream.write(f"{kind} {text}\n")).start(log.parent)


_begin(Path(os.environ[LOG]))
