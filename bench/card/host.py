"""ComfyUI on a real card:  python bench/card/host.py [workflows] [full] [--comfyui DIR] [--out FILE]

workflows: every shipped workflow on tiny files, in bfloat16, by a host without a card, and by hosts with it under
    DynamicVRAM (the default on NVIDIA cards), under the older manager (--disable-dynamic-vram), and with weights that
    wait in RAM (--novram). Frames of the three are compared with each other, and with the CPU's.
full: networks of published size, their weights zeros in sparse files, text to a finished video on a card that is given
    less memory than they have: seconds, the most that was used, what the host logged.
COMFYUI_DIR names the host where --comfyui does not. Rows go to host.json beside this file, by the card's name.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import ROOT, import_pack

import_pack()
from reelwire.bench.card.engine import write
from reelwire.tests.support.card.shortage import MOST_STEPS, Run, prompt_of, run
from reelwire.tests.support.engine.fake_peak import Imagined
from reelwire.tests.support.files.published import published
from reelwire.tests.support.host import Host, Prompt, boot, shipped
from reelwire.training import tiny_files
from reelwire.training.tiny_models import MODELS, make

GIB = 2**30
HOSTS: dict[str, tuple[str, ...]] = {
    "cpu": ("--cpu",),
    "dynamic": (),
    "legacy": ("--disable-dynamic-vram",),
    "novram": ("--novram", "--disable-dynamic-vram"),
}
# (family, variant, shipped workflow, GiB that the card has for it, (width, height, frames, steps))
FULL = (
    ("wan", "2.1-t2v-14b", "wan_t2v", 24, (832, 480, 33, 3)),
    ("ltx", "0.9.8-13b-dev", "ltx_t2v", 12, (768, 512, 97, 4)),
    ("wan", "2.1-t2v-14b", "wan_t2v", 12, (832, 480, 33, 3)),
)
Row = dict[str, Any]


def tiny_base(folder: Path) -> Path:
    """A base directory with all tiny models and files."""
    (folder / "models" / "diffusers").mkdir(parents=True)
    for name in MODELS:
        make(name, folder / "models" / "diffusers")
    for name in tiny_files.FILES:
        tiny_files.make(name, folder / "models")
    return folder


def copied(base: Path, folder: Path) -> Path:
    """Another base directory with the same models."""
    folder.mkdir()
    (folder / "models").symlink_to(base / "models", target_is_directory=True)
    return folder


# ---------------------------------------------------------------- tiny files


def workflow_rows(comfyui: Path, options: tuple[str, ...], names: list[str]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        base = tiny_base(Path(folder) / "models_base")
        hosts: dict[str, Host] = {
            kind: stack.enter_context(boot(comfyui, copied(base, Path(folder) / kind), (*more, *options), kind=Host))
            for kind, more in HOSTS.items()
        }
        for host in hosts.values():
            print(next((line for line in host.tail().splitlines() if "VRAM" in line), ""), flush=True)
        for name in names:
            yield {"table": "workflows", "workflow": name} | _beside(hosts, name)


def _beside(hosts: dict[str, Host], name: str) -> Row:
    """One workflow by all hosts at a time, twice on each."""
    seen, threads = dict[str, Any](), list[threading.Thread]()
    for kind, host in hosts.items():
        threads.append(threading.Thread(target=_twice, args=(host, kind, name, seen)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    row: Row = {kind: result for kind, result in seen.items() if isinstance(result, str)}
    runs = {kind: result for kind, result in seen.items() if not isinstance(result, str)}
    for one, other in (("dynamic", "legacy"), ("legacy", "novram"), ("cpu", "dynamic")):
        if one in runs and other in runs:
            row[f"{one} to {other}"] = _apart(runs[one][0], runs[other][0])
    row["again"] = {kind: _apart(*both) for kind, both in runs.items()}
    return row


def _twice(host: Host, kind: str, name: str, seen: dict[str, Any]) -> None:
    try:
        first = run(host, prompt_of(name))
        host.free()
        both = first, run(host, prompt_of(name))
    except Exception as error:  # noqa: BLE001 (an outcome of this host: the others go on)
        seen[kind] = f"{type(error).__name__}: {error}"[-400:]
        return
    seen[kind] = next((r.error for r in both if r.error), both)


def _apart(ours: Run, theirs: Run) -> Any:
    """(most, mean) of 255 between the frames of two runs."""
    if [v.shape for v in ours.videos] != [v.shape for v in theirs.videos]:
        return "other shapes"
    gaps = [np.abs(a.astype(int) - b.astype(int)) for a, b in zip(ours.videos, theirs.videos, strict=True)]
    return [int(max(g.max() for g in gaps)), round(float(np.mean([g.mean() for g in gaps])), 4)] if gaps else "no video"


# ---------------------------------------------------------------- published sizes


def full_rows(comfyui: Path, options: tuple[str, ...], managers: tuple[tuple[str, ...], ...]) -> Iterator[Row]:
    with tempfile.TemporaryDirectory() as folder:
        for family, variant, twin, room, size in FULL:
            published(f"{family}/{variant}", Path(folder) / "models" / "diffusers", Imagined())
            whole = torch.cuda.get_device_properties(0).total_memory / GIB
            for manager in managers:
                key = {"table": "full", "model": f"{family}/{variant}", "room_gib": room, "size": size}
                key["manager"] = "legacy" if manager else "dynamic"
                base = Path(folder) / f"{family}_{room}_{key['manager']}"
                base.mkdir()
                (base / "models").symlink_to(Path(folder) / "models", target_is_directory=True)
                reserved = ("--reserve-vram", str(round(whole - room, 1)))
                try:
                    with boot(comfyui, base, (*manager, *reserved, *options), kind=Host) as host:
                        yield key | _full(host, _prompt(twin, f"diffusers/{family}/{variant}", size))
                except Exception as error:  # noqa: BLE001 (an outcome of this model: the others go on)
                    yield key | {"error": f"{type(error).__name__}: {error}"[-1500:]}


def _prompt(twin: str, checkpoint: str, size: tuple[int, int, int, int]) -> Prompt:
    """A shipped workflow with this model."""
    width, height, frames, steps = size
    prompt = shipped(twin)
    model = next(node["inputs"] for node in prompt.values() if node["class_type"].startswith("ReelwireLoad"))
    model |= {k: "auto" for k in model if k != "precision"} | {"checkpoint": checkpoint, "precision": "bfloat16"}
    sampler = next(node["inputs"] for node in prompt.values() if node["class_type"] == "ReelwireSampler")
    sampler |= {"width": width, "height": height, "frames": frames, "steps": steps, "seed": 1}
    return prompt


def _full(host: Host, prompt: Prompt) -> Row:
    """The prompt once and, with all that is loaded by then, once more with another seed."""
    rows: Row = {}
    for name in ("first", "again"):
        next(n for n in prompt.values() if n["class_type"] == "ReelwireSampler")["inputs"]["seed"] += 1
        times: list[tuple[float, str]] = []
        with _most_used(host) as most:
            begin = time.perf_counter()
            seen = host.watch(prompt, _noting(times, begin))
            seconds = time.perf_counter() - begin
        errors = [f"{e['node_type']}: {e['exception_message']}"[:500] for e in seen.all("execution_error")]
        rows[name] = {"seconds": seconds, "most_used_gib": max(most) / GIB, "errors": errors, "events": times}
    host.free()
    rows["left_gib"] = _used(host) / GIB
    rows["log"] = [line for line in host.tail().splitlines() if "eelwire" in line or "oaded" in line][-12:]
    return rows


def _noting(times: list[tuple[float, str]], begin: float) -> Callable[[str, dict[str, Any]], None]:
    def note(kind: str, data: dict[str, Any]) -> None:
        if kind == "executing":
            times.append((round(time.perf_counter() - begin, 1), f"node {data.get('node')}"))
        if kind == "progress" and data["max"] <= MOST_STEPS:  # no files that are read
            times.append((round(time.perf_counter() - begin, 1), f"{data['node']}: {data['value']} of {data['max']}"))

    return note


def _used(host: Host) -> int:
    device = host.get("/system_stats")["devices"][0]
    return int(device["vram_total"] - device["vram_free"])


@contextmanager
def _most_used(host: Host) -> Iterator[list[int]]:
    """Bytes that the card had in use, a few times a second."""
    most, over = [0], threading.Event()

    def watch() -> None:
        while not over.wait(0.2):
            most[0] = max(most[0], _used(host))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield most
    finally:
        over.set()
        thread.join()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["workflows", "full"])
    parser.add_argument("--comfyui", type=Path, default=os.environ.get("COMFYUI_DIR"))
    parser.add_argument("--options", nargs="*", default=[], help="of the host, without their two dashes")
    parser.add_argument("--dynamic", action="store_true", help="full: under DynamicVRAM alone")
    parser.add_argument("--workflows", nargs="*", default=None)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA card here.")
    card = torch.cuda.get_device_name()
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    rows, options = known.setdefault(card, []), tuple(a.replace("+", "-") for a in arguments.options)
    names = arguments.workflows or sorted(file.stem for file in (ROOT / "workflows" / "api").glob("*.json"))
    managers = ((),) if arguments.dynamic else ((), ("--disable-dynamic-vram",))
    tables = {
        "workflows": lambda: workflow_rows(arguments.comfyui, options, names),
        "full": lambda: full_rows(arguments.comfyui, options, managers),
    }
    for name in arguments.tables:
        for row in tables[name]():
            print(json.dumps(row), flush=True)
            rows.append(row)
            write(arguments.out, known)


if __name__ == "__main__":
    main()
