"""A process that runs cases one after another and sees what each does: `python -m tests.campaign.worker FOLDER`.

A case comes as a line of JSON and goes as one. What the pack raises is judged here; what takes too long, is judged by
the process that waits.
"""

from __future__ import annotations

import ctypes
import faulthandler
import gc
import json
import os
import re
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .watch import Watch, place

ROOM = 4 * 2**30  # bytes that a worker may take beside what it has when it is ready
PEAK, KEPT = 2**30, 2**26  # bytes that a case may take, and leave behind
LONGEST = 2000  # letters of a refusal: what came is named, not echoed
# of a library's or of Python's own words in a refusal, which tell a person nothing
NOISE = re.compile(
    r"Traceback|size mismatch|shape '\[|KeyError|NoneType|has no attribute|out of bounds|unexpected keyword"
    r"|object is not|positional argument|unsupported operand|not supported between|must be real number"
    r"|cannot be interpreted as"
)


def judged(error: BaseException | None) -> dict[str, str]:
    """The verdict on how a case ended: "ran", "words" or "raw", what was said, and the place where it was raised."""
    from reelwire.loaders.messages import Message, message_of

    if error is None:
        return {"verdict": "ran", "text": "", "place": ""}
    said, where = message_of(error), place(traceback.extract_tb(error.__traceback__))
    text = f"{type(error).__name__}: {said}"
    if not isinstance(said, Message):
        return {"verdict": "raw", "text": text[:400], "place": where}
    if len(said) > LONGEST:
        return {"verdict": "raw", "text": f"a refusal of {len(said)} letters: {text[:200]}", "place": where}
    return {"verdict": "noisy" if NOISE.search(said) else "words", "text": text[:400], "place": where, "key": said.key}


def run(case: Any, folder: Path, bases: Path, watch: Watch, seen: dict[str, str]) -> dict[str, Any]:
    """The verdict on one case, run in a folder of its own."""
    from .kinds import play

    folder.mkdir(parents=True)
    seen.clear()
    before, error = _memory("VmRSS"), None
    _reset_peak()
    began = time.process_time()
    watch.start(folder, Path(os.environ["TMPDIR"]))
    try:
        play(folder, bases, case)
    except BaseException as raised:  # noqa: BLE001 - a panic of a Rust library is no Exception
        error = raised
    watch.stop()
    result: dict[str, Any] = {**judged(error), "seconds": round(time.process_time() - began, 3)}
    error = None
    peak = _memory("VmHWM") - before
    _collect()
    kept = _memory("VmRSS") - before
    if peak > PEAK or kept > KEPT:
        seen["memory"] = f"peak {peak / 2**20:.0f} MB, left {kept / 2**20:.0f} MB; {result['text'][:120]}"
    shutil.rmtree(folder, ignore_errors=True)
    return {**result, "seen": dict(seen)}


def _memory(what: str) -> int:
    """A line of /proc/self/status in bytes; 0 where there is none."""
    with suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith(what):
                return int(line.split()[1]) * 1024
    return 0


def _reset_peak() -> None:
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _collect() -> None:
    """Give back to the system what nobody holds."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def _limit() -> None:
    """No case may eat the machine."""
    with suppress(ImportError, ValueError, OSError):
        import resource

        most = _memory("VmSize") + ROOM
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def answer(stream: Any, content: Mapping[str, Any]) -> None:
    """Send a line."""
    stream.write(json.dumps(content) + "\n")
    stream.flush()


def main(folder: Path, warm: bool) -> None:
    """Run cases until there are no more. warm: open all sound models first."""
    from .edits import Case
    from .kinds import warm_up

    out = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    with open(folder / f"stacks-{os.getpid()}", "w") as stacks:
        if hasattr(signal, "SIGUSR1"):
            faulthandler.register(signal.SIGUSR1, stacks, all_threads=True)
        seen = dict[str, str]()
        watch = Watch(seen.setdefault)
        if warm:
            warm_up(folder.parent / "bases")
        gc.collect()
        gc.freeze()  # what is there now need not be looked through after each case
        _limit()
        answer(out, {"pid": os.getpid()})
        for number, line in enumerate(sys.stdin):
            case = Case(**json.loads(line))
            answer(out, run(case, folder / f"{os.getpid()}-{number}", folder.parent / "bases", watch, seen))


if __name__ == "__main__":
    from bench.pack import import_pack

    import_pack()
    from reelwire.tests.campaign import worker

    worker.main(Path(sys.argv[1]), "cold" not in sys.argv)
