"""What is wrong with a cluster, a worker or a number of ranks, as a real ComfyUI tells it, and after how many seconds:

python bench/parallel/refusals.py --comfyui COMFYUI --base BASE

BASE: a base directory of ComfyUI with the tiny models. Nodes of Ray on this machine; one of them does not see the
models, in a mount namespace of its own, for which Linux wants root.
"""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

import_pack()
from reelwire.bench.parallel.nodes import ROOT, free_port, node
from reelwire.tests.support.host import Host, Prompt, boot, workflow
from reelwire.tests.support.host import node as placed

NOT_THE_PACK = shutil.ignore_patterns(".git", ".reelwire", "tests", "docs", "training", "workflows", "__pycache__")
TOKEN = {"RAY_AUTH_MODE": "token", "RAY_USAGE_STATS_ENABLED": "0"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="refusals-") as name:
        folder = Path(name)
        of_addresses(asked, folder)
        of_workers(asked, folder, "a worker whose Reelwire is of another version", {"REELWIRE_DIR": older(folder)})
        of_workers(asked, folder, "a worker without Reelwire", {"REELWIRE_DIR": "/nowhere"})
        hide = f'mount -t tmpfs none "{(asked.base / "models").resolve()}" && exec "$@"'
        of_workers(asked, folder, "a worker without the models", {}, ("unshare", "-m", "sh", "-c", hide, "sh"))


def of_addresses(asked: argparse.Namespace, folder: Path) -> None:
    """What is told of an address, and of a clip, by one host, whose token is not the cluster's."""
    with cluster(folder, "theirs", {}) as address, host(asked, token(folder, "ours")) as comfyui:
        tell(comfyui, "nobody listens", f"127.0.0.1:{free_port()}")
        tell(comfyui, "what listens is no Ray", comfyui.url.rpartition("/")[2])
        tell(comfyui, "another token", address)
        tell(comfyui, "more ranks than heads", "", "context", 5)


def of_workers(
    asked: argparse.Namespace, folder: Path, what: str, more: Mapping[str, str], within: tuple[str, ...] = ()
) -> None:
    """What is told of a cluster whose only worker is of no use."""
    with cluster(folder, what, more, within) as address, host(asked, token(folder, what)) as comfyui:
        tell(comfyui, what, address)


def tell(comfyui: Host, what: str, address: str, mode: str = "jobs", workers: int = 1) -> None:
    """One row: the seconds until the error, and its words."""
    began = time.monotonic()
    words = comfyui.refuse(spread(address, mode, workers)).message
    print(f"| {what} | {time.monotonic() - began:.1f} s | {' '.join(words.split())} |", flush=True)


def spread(address: str, mode: str, workers: int) -> Prompt:
    """A template whose tokens can be shared out and whose files lie outside of the pack, with its model in Parallel."""
    prompt = workflow("wan_t2v", {"3.model": ["90", 0], "3.steps": 2})
    return prompt | {"90": placed("ReelwireParallel", model=["1", 0], address=address, workers=workers, mode=mode)}


@contextmanager
def cluster(folder: Path, name: str, more: Mapping[str, str], within: tuple[str, ...] = ()) -> Iterator[str]:
    """The address of a cluster of one node, which has a token of its own."""
    place, address = Path(tempfile.mkdtemp(dir=folder)), f"127.0.0.1:{free_port()}"  # Ray's sockets want short paths
    with node(place, address, 1, within, {**token(folder, name), **more}):
        yield address


def token(folder: Path, name: str) -> dict[str, str]:
    """Variables that name a token, which is made where it is not there yet."""
    file = folder / f"{name}.token"
    if not file.exists():
        file.write_text(secrets.token_hex(32), encoding="utf-8")
        file.chmod(0o600)
    return {**TOKEN, "RAY_AUTH_TOKEN_PATH": str(file)}


@contextmanager
def host(asked: argparse.Namespace, variables: Mapping[str, str]) -> Iterator[Host]:
    """A ComfyUI with these variables."""
    with boot(asked.comfyui, asked.base, environment=variables, kind=Host) as comfyui:
        yield comfyui


def older(folder: Path) -> str:
    """A copy of the pack that says it is another version."""
    shutil.copytree(ROOT, folder / "older", ignore=NOT_THE_PACK)
    project = folder / "older" / "pyproject.toml"
    text = project.read_text(encoding="utf-8")
    project.write_text(text.replace('version = "', 'version = "0.0.1+', 1), encoding="utf-8")
    return os.fspath(folder / "older")


if __name__ == "__main__":
    main()
