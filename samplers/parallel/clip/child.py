"""A rank as a process of this machine: tasks come as pickles on its standard input, events leave on its output.

Run as a script; the first line says as which package, and from where, the code is imported. It ends when its input
does, so that no rank outlives the process that started it.
"""

from __future__ import annotations

import sys

del sys.path[0]  # this folder, whose modules are not meant by their bare names

import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import types  # noqa: E402


def main() -> None:
    """Serve as a rank until the input ends."""
    output = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no event
    start = json.loads(sys.stdin.buffer.readline())
    package = types.ModuleType(start["package"])
    package.__path__ = [start["root"]]
    sys.modules[start["package"]] = package
    serving = importlib.import_module(f"{start['package']}.samplers.parallel.clip.serving")
    serving.serve(sys.stdin.buffer, output)


if __name__ == "__main__":
    main()
