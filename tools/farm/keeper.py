"""Runs a command for as long as whoever started this holds its standard input: ComfyUI ends with its worker, however
that ends. Standard library only: it runs as a script."""

import subprocess
import sys
import threading

END_SECONDS = 10


def keep(command: list[str]) -> int:
    """Run a command until it ends, or until standard input does."""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL) as process:

        def watch() -> None:
            while sys.stdin.buffer.read(1024):
                pass
            process.terminate()
            try:
                process.wait(END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()

        threading.Thread(target=watch, daemon=True).start()
        return process.wait()


if __name__ == "__main__":
    sys.exit(keep(sys.argv[1:]))
