"""Imports the repository as the package `reelwire`, whatever its folder is called, as ComfyUI does."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def import_pack() -> None:
    """Makes `import reelwire` work, where it does not yet."""
    if "reelwire" in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(
        "reelwire", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    if spec is None or spec.loader is None:
        raise ImportError(f"{ROOT} is not a package")
    sys.modules["reelwire"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules["reelwire"])
