"""A worker in a plain process, without Ray: what a recipe makes elsewhere."""

from __future__ import annotations

import pickle
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reelwire.samplers.parallel.packing import packed, unpacked

ROOT = Path(__file__).parents[3]
CHILD = """
import importlib.util, pickle, sys
spec = importlib.util.spec_from_file_location("bootstrap", sys.argv[1] + "/samplers/parallel/bootstrap.py")
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
worker, out, sys.stdout = module.Worker(sys.argv[1]), sys.stdout.buffer, sys.stderr
while True:
    try:
        function, content = pickle.load(sys.stdin.buffer)
    except EOFError:
        break
    pickle.dump(worker.call(function, content), out)
    out.flush()
"""


class ProcessWorker:
    """Calls into another process."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def call(self, function: str, *arguments: Any) -> Any:
        """What a function of samplers/parallel/worker.py says there."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        pickle.dump((f"samplers.parallel.worker:{function}", packed(arguments)), self._process.stdin)
        self._process.stdin.flush()
        return unpacked(pickle.load(self._process.stdout))


@contextmanager
def process_worker() -> Iterator[ProcessWorker]:
    """A worker process for the block."""
    command = [sys.executable, "-c", CHILD, str(ROOT)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield ProcessWorker(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait(30)
