"""Runs a command for as long as whoever started this holds its standard input, then removes a folder: ComfyUI ends with
its worker, however that ends, and leaves nothing. Standard library only: it runs as a script."""

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import threading

END_SECONDS = 10
ENDED = "ended"  # a file that says so


def die_with_parent() -> None:
    """On Linux, have this process end with the one that started it, even where that is killed outright."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def keep(folder: str, command: list[str]) -> int:
    """Run a command until it ends, or until standard input does; its status."""
    before = None if sys.platform == "win32" else die_with_parent
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, preexec_fn=before) as process:

        def watch() -> None:
            while os.read(0, 1024):
                pass
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
            shutil.rmtree(folder, ignore_errors=True)

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        status = process.wait()
        if os.path.isdir(folder):  # whoever started this reads the log first
            with open(os.path.join(folder, ENDED), "w", encoding="utf-8") as file:
                file.write(str(status))
        watching.join()
        return status


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1], sys.argv[2:]))
