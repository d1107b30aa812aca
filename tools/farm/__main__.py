"""The farm as run.py starts it: `python tools/farm`. The pack is imported as ComfyUI does it, by its path."""

import importlib
import importlib.util
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = ""  # not this folder, whose modules have everyday names
    root = Path(__file__).resolve().parents[2]
    spec = importlib.util.spec_from_file_location("reelwire", root / "__init__.py")
    assert spec is not None
    sys.modules["reelwire"] = importlib.util.module_from_spec(spec)
    sys.exit(importlib.import_module("reelwire.tools.farm.command").main(sys.argv[1:]))
