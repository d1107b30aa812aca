"""What a worker process runs before it knows the pack. Ray sends this class by value, so the standard library is all
that it may import; all else that is sent is bytes, which the pack itself reads."""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys

PACKAGE = "reelwire"  # the pack's name in a worker, whatever it is in the process that sends work
FOLDER = "REELWIRE_DIR"  # where the pack lies on a machine that has it at another place


class Worker:
    """One worker: `call` does work, and answers about it on another thread."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def call(self, function: str, content: bytes) -> bytes:
        """ "module:function" of the pack with packed arguments; what it returns, packed."""
        return self._wire().answer(function, content)  # type: ignore[attr-defined]

    def _wire(self) -> object:
        if PACKAGE not in sys.modules:
            folder = os.environ.get(FOLDER) or self._folder
            file = os.path.join(folder, "__init__.py")
            spec = importlib.util.spec_from_file_location(PACKAGE, file) if os.path.isfile(file) else None
            if spec is None:
                raise FileNotFoundError(file)
            sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)
        return importlib.import_module(f"{PACKAGE}.samplers.parallel.packing")
