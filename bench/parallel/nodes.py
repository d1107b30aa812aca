"""A farm over two nodes of Ray on this machine, one of which is killed half-way and a third added then:

python bench/parallel/nodes.py --comfyui COMFYUI --base BASE [--jobs 200]
python bench/parallel/nodes.py --comfyui COMFYUI --base BASE --ratio    2 workers against 1, each pinned to a core

BASE: a base directory of ComfyUI with the tiny models. Every job is the first template at two steps with a seed of its
own.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench"))
from pack import import_pack

import_pack()
from reelwire.tests.support.host import workflow

HEAD, OTHERS = "127.0.0.1", "127.0.0.{}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--comfyui", type=Path, required=True)
    parser.add_argument("--base", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--ratio", action="store_true")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nodes-") as name:
        folder = Path(name)
        (folder / "token").write_text(secrets.token_hex(32), encoding="utf-8")
        (folder / "token").chmod(0o600)
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(folder / "token"), RAY_USAGE_STATS_ENABLED="0")
        (ratio if asked.ratio else deaths)(asked, folder)


def deaths(asked: argparse.Namespace, folder: Path) -> None:
    """The farm with a node that is killed and another that comes."""
    with ExitStack() as stack:
        address = f"{HEAD}:{free_port()}"
        stack.enter_context(node(folder, address))
        victim = stack.enter_context(node(folder, address, 2))
        began, done, killed = time.monotonic(), 0, False
        for line in farm(asked, folder, jobs(folder, asked.jobs), address):
            done += " s on " in line
            if " s on " not in line:
                print(f"{time.monotonic() - began:.0f} s: {line.strip()}", flush=True)
            if done == asked.jobs // 2 and not killed:
                kill(victim)
                killed = True
                print(f"{time.monotonic() - began:.0f} s: node 2 killed after {done} jobs", flush=True)
                threading.Thread(target=stack.enter_context, args=(node(folder, address, 3),)).start()
        report(folder, asked.jobs, time.monotonic() - began)


def ratio(asked: argparse.Namespace, folder: Path) -> None:
    """Jobs a second of one worker, then of two, each on a core of its own."""
    with ExitStack() as stack:
        address = f"{HEAD}:{free_port()}"
        stack.enter_context(node(folder, address, 1, pinned(0)))
        first = jobs(folder, asked.jobs, "one")
        one = rate(asked, folder, first, address)
        stack.enter_context(node(folder, address, 2, pinned(1)))
        two = rate(asked, folder, jobs(folder, asked.jobs, "two"), address)
        print(f"1 worker {one:.2f} jobs/s, 2 workers {two:.2f} jobs/s, ratio {two / one:.2f}")


def pinned(core: int) -> tuple[str, ...]:
    """What keeps a command on one core."""
    return "taskset", "-c", str(core)


def rate(asked: argparse.Namespace, folder: Path, file: Path, address: str) -> float:
    """Jobs a second between a run's first files of all workers and its last."""
    times = [time.monotonic() for line in farm(asked, folder, file, address) if " s on " in line]
    load = os.getloadavg()[0]
    print(f"{file.stem}: {len(times)} jobs, load of the machine {load:.1f}", flush=True)
    few = len(times) // 5
    return (len(times) - 1 - few) / (times[-1] - times[few])


def jobs(folder: Path, count: int, name: str = "jobs") -> Path:
    """A list of so many jobs."""
    (folder / "w.json").write_text(json.dumps(workflow("ltx_t2v", {"3.steps": 2})), encoding="utf-8")
    file = folder / f"{name}.jsonl"
    lines = [json.dumps({"name": f"{number:04}", "seed": number}) for number in range(count)]
    file.write_text("\n".join(lines), encoding="utf-8")
    return file


def farm(asked: argparse.Namespace, folder: Path, file: Path, address: str) -> Iterator[str]:
    """What the command says, line by line."""
    command = [sys.executable, ROOT / "tools" / "farm", file, "--workflow", folder / "w.json", "--address", address]
    command += ["--host", asked.comfyui, "--base", asked.base]
    with subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        yield from process.stdout or ()
        if process.wait():
            raise SystemExit(f"The farm ended with {process.returncode}.")


@contextmanager
def node(
    folder: Path, address: str, number: int = 1, within: Sequence[str] = (), more: Mapping[str, str] | None = None
) -> Iterator[psutil.Process]:
    """A node of the cluster with room for one worker; the first is its head. within: a command that runs what follows
    it; more: variables beside this process's."""
    port = address.rpartition(":")[2]
    role = ["--head", "--port", port, "--include-dashboard=false", "--temp-dir", str(folder / "r")]
    role = role if number == 1 else ["--address", address]
    place = HEAD if number == 1 else OTHERS.format(number)
    command = [*within, str(Path(sys.executable).with_name("ray")), "start", *role, "--node-ip-address", place]
    log = (folder / f"node{number}.log").open("wb")
    command, variables = [*command, "--num-cpus", "1", "--block"], {**os.environ, **(more or {})}
    with log, subprocess.Popen(command, stdout=log, stderr=log, env=variables) as process:
        top = psutil.Process(process.pid)
        end = time.monotonic() + 90
        while "To terminate" not in (folder / f"node{number}.log").read_text() and time.monotonic() < end:
            if process.poll() is not None:
                raise SystemExit((folder / f"node{number}.log").read_text())
            time.sleep(0.2)
        try:
            yield top
        finally:
            kill(top)


def kill(top: psutil.Process) -> None:
    """A node with all its processes at once, as a machine that loses power."""
    with suppress(psutil.NoSuchProcess):
        for process in [*top.children(recursive=True), top]:
            with suppress(psutil.NoSuchProcess):
                process.kill()


def free_port() -> int:
    with socket.create_server((HEAD, 0)) as server:
        return int(server.getsockname()[1])


def report(folder: Path, count: int, seconds: float) -> None:
    """How many files there are, whole and once, and where they were made."""
    files = sorted(path.stem for path in (folder / "jobs.farm").glob("*.mp4"))
    rows = [*csv.DictReader((folder / "jobs.farm" / "report.csv").read_text(encoding="utf-8").splitlines())]
    machines = {row["machine"] for row in rows}
    tried = sum(int(row["tries"]) for row in rows)
    log = (folder / "jobs.farm" / "farm.log.jsonl").read_text(encoding="utf-8").splitlines()
    written = [record["key"] for record in map(json.loads, log) if record.get("file")]
    print(
        f"{len(files)} files of {count}, {len(written) - len(set(written))} written twice, by {len(machines)} workers"
    )
    print(f"{count - len(files)} missing, {tried} tried again, {seconds:.0f} s")


if __name__ == "__main__":
    main()
