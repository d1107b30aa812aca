"""Ranks that die at random moments while they sample one clip:  python bench/ranks/deaths.py [--deaths 20]

A tiny model on two ranks. Deaths are os._exit inside of a rank, a while after its group began, and SIGKILL
from outside at random steps, of random ranks. The clip must come out as that of one process; each step is told once.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

import_pack()
from reelwire.loaders.notices import heard_by
from reelwire.loaders.request import Parallel, Request
from reelwire.samplers.denoise import RunSoFar, sample
from reelwire.samplers.parallel.clip.local import LocalLauncher
from reelwire.samplers.parallel.clip.ranks import Group
from reelwire.samplers.plan import plan
from reelwire.tests.support.parallel.ranks import Mortal, Tiny
from reelwire.training.tiny_models import make

MODEL = "tiny-wan2.1-t2v"
WITHIN = (8.0, 20.0)  # seconds after which a rank exits, when the first steps are done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        make(MODEL, Path(folder))
        run(Path(folder), asked.deaths, asked.steps, random.Random(asked.seed))


def run(folder: Path, deaths: int, steps: int, chance: random.Random) -> None:
    """Sample with deaths and without, and print what came of it."""
    exits, kills = deaths // 2, sorted(chance.sample(range(5, steps - 5), deaths - deaths // 2))
    orders = [folder / f"{number:02}-{chance.uniform(*WITHIN):.2f}.exit" for number in range(exits)]
    order = lambda: orders.pop().touch() if orders else None
    order()
    tiny, launcher = Tiny(folder, MODEL), LocalLauncher(60)
    model = tiny()
    prepared, conditioning = plan(model, Request(seed=3, steps=steps)), model.encode("a red circle", "a cat")
    group = Group(launcher, Mortal(tiny, folder), Parallel("", 2, "context"), ["cpu", "cpu"])
    told, killed, heard, began = list[int](), list[float](), list[float](), time.time()

    def on_step(done: int, count: int, run: RunSoFar) -> None:
        told.append(done)
        if kills and done >= kills[0]:
            kills.pop(0)
            killed.append(time.time())
            os.kill(chance.choice(launcher.processes).pid, signal.SIGKILL)

    def hear(notice: str) -> None:
        heard.append(time.time())
        order()
        print(f"{heard[-1] - began:.0f} s, after step {max(told, default=0)}: {notice}", flush=True)

    with heard_by(hear):
        latents = group.sample(conditioning, prepared, on_step, None, None, None)
    group.close()
    due = [float(path.read_text()) for path in folder.glob("*.due")]
    late = [min(at - moment for at in heard if at > moment - 0.1) for moment in (*killed, *due)]
    alone = sample(model, conditioning, prepared)
    print(f"{len(killed)} killed, {len(due)} exited, {group.restarts} restarts, noticed in {max(late):.2f} s at most")
    print(f"each step told once: {told == sorted(set(told))}; the same bytes: {torch.equal(latents, alone)}")


if __name__ == "__main__":
    main()
