"""Builds the pretend card's C++ for the torch that is installed: one call of g++, cached beside the environment.

python -m tests.support.card.build     builds it, or finds it as it was built before; a check of `run.py test`.
                                       Where there is no compiler, root on Debian gets one, others are told how.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
CACHE = Path(os.environ.get("REELWIRE_STATE") or ROOT / ".reelwire") / "card"
FLAGS = ("-O1", "-g0", "-std=c++20", "-fPIC", "-shared", "-Wall", "-Werror", "-Wno-error=deprecated-declarations")


class NoCompilerError(RuntimeError):
    """There is nothing to build the card with."""


def library() -> Path:
    """The built card; made first where it is not there for this torch and this source.

    Raises NoCompilerError where there is no C++ compiler, RuntimeError with its words where it fails.
    """
    import torch

    sources = sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")])
    content = b"".join(file.read_bytes() for file in sources) + " ".join([torch.__version__, *FLAGS]).encode()
    target = CACHE / f"card-{hashlib.sha256(content).hexdigest()[:16]}.so"
    if not target.exists():
        _compile(Path(torch.__file__).parent, int(torch.compiled_with_cxx11_abi()), target)
    return target


def _compile(torch_folder: Path, abi: int, target: Path) -> None:
    """Whole or not at all, also where two build at once."""
    compiler = _compiler()
    if compiler is None:
        raise NoCompilerError(
            "The tests on the pretend graphics card need g++ 11 or newer (or CXX), and there is none. "
            "Install it (on Debian and Ubuntu: apt install g++), then run the tests again."
        )
    headers = [f"-isystem{torch_folder / 'include' / part}" for part in ("", "torch/csrc/api/include")]
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        draft = Path(folder) / target.name
        command = [
            compiler,
            *FLAGS,
            f"-D_GLIBCXX_USE_CXX11_ABI={abi}",
            *headers,
            str(HERE / "card.cpp"),
            "-o",
            str(draft),
            f"-L{torch_folder / 'lib'}",
            "-lc10",
            "-ltorch_cpu",
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"The pretend graphics card does not compile (see {HERE}):\n{done.stderr[-4000:]}")
        draft.replace(target)


def _compiler() -> str | None:
    return shutil.which(os.environ.get("CXX", "g++"))


def _install_compiler() -> None:
    """As root on Debian; elsewhere nothing happens."""
    if not Path("/etc/debian_version").exists() or os.geteuid() != 0:
        return
    for command in (["apt-get", "update"], ["apt-get", "install", "-y", "g++"]):
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode:
            raise NoCompilerError(
                f"{' '.join(command)} failed (status {done.returncode}): install g++, then run this again."
            )


def main() -> int:
    try:
        if _compiler() is None:
            _install_compiler()
        library()
    except RuntimeError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
