"""Ranks of one clip, and Ray's workers of many, that die at random moments of their runs:

python bench/ranks/deaths.py ranks [--deaths 20] [--part 1/4]
python bench/ranks/deaths.py workers [--deaths 20] [--part 1/4]

A tiny model. Half of the deaths are os._exit inside of a process, half SIGKILL from outside, of a random one of two, at
a random step of the run and a random moment of it. What comes out must be what one process makes; each row says how
soon a death was noticed. --part: that much of the deaths, for a machine on which all of them take long.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

if "reelwire" not in sys.modules:
    import_pack()
from reelwire.loaders.notices import heard_by
from reelwire.loaders.request import Conditioning, Parallel, Request
from reelwire.samplers.denoise import RunSoFar, sample
from reelwire.samplers.parallel import jobs
from reelwire.samplers.parallel.clip.local import LocalLauncher
from reelwire.samplers.parallel.clip.ranks import Group
from reelwire.samplers.plan import plan
from reelwire.tests.support.parallel.fuse import Fuse
from reelwire.tests.support.parallel.ranks import Tiny
from reelwire.training.tiny_models import make

MODEL = "tiny-wan2.1-t2v"
LATE = 0.2  # seconds after a step within which a process dies
JOB_STEPS = 2000  # of a worker's job, whose steps are heard of twice a second


@dataclass
class Death:
    """One that is to come. step: after which; at, noticed: when it was, by the clock."""

    exits: bool
    step: int
    after: float
    at: float = 0.0
    noticed: float = 0.0

    def cause(self, fuse: Fuse, process: int) -> None:
        """It happens a moment from now, whatever the process is at."""
        threading.Timer(self.after, self._now, (fuse, process)).start()

    def _now(self, fuse: Fuse, process: int) -> None:
        self.at = time.monotonic()
        if self.exits:
            fuse.light(process)
        else:
            os.kill(process, signal.SIGKILL)

    def row(self, steps: int) -> str:
        kind = "os._exit" if self.exits else "SIGKILL"
        return f"| {kind} | {self.step} of {steps} | {self.noticed - self.at:.2f} s |"


@dataclass
class Deaths:
    """All of a bench, in the order of their steps."""

    steps: int
    coming: list[Death]
    done: list[Death] = field(default_factory=list)

    def notice(self, _: object = None) -> None:
        """What was last is noticed now."""
        if self.done and self.done[-1].at and not self.done[-1].noticed:
            self.done[-1].noticed = time.monotonic()
            print(self.done[-1].row(self.steps), flush=True)

    def next(self) -> Death:
        self.done.append(self.coming.pop(0))
        return self.done[-1]

    @property
    def worst(self) -> float:
        return max(death.noticed - death.at for death in self.done)


def chosen(count: int, steps: int, chance: random.Random) -> list[Death]:
    """Half of each kind, anywhere in the first four fifths of so many steps: they are heard of late."""
    kinds = [number < count // 2 for number in range(count)]
    chance.shuffle(kinds)
    return [Death(kind, chance.randrange(1, steps * 4 // 5), chance.uniform(0, LATE)) for kind in kinds]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("of", choices=["ranks", "workers"])
    parser.add_argument("--deaths", type=int, default=20)
    parser.add_argument("--steps", type=int, default=0, help="of a run; 0: as many as it takes to hear of them")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", default="1/1", metavar="NUMBER/COUNT")
    asked = parser.parse_args()
    kind: Callable[[Path, Deaths, random.Random], str] = {"ranks": of_ranks, "workers": of_workers}[asked.of]
    chance, steps = random.Random(asked.seed), asked.steps or {"ranks": 400, "workers": JOB_STEPS}[asked.of]
    number, count = map(int, asked.part.split("/"))
    deaths = Deaths(steps, chosen(asked.deaths, steps, chance)[number - 1 :: count])
    with tempfile.TemporaryDirectory() as name:
        make(MODEL, Path(name))
        print("| death | after step | noticed |\n|---|---|---|", flush=True)
        words = kind(Path(name), deaths, chance)
    happened = [death.exits for death in deaths.done if death.noticed]
    kills, missed = happened.count(False), len(deaths.done) - len(happened) + len(deaths.coming)
    print(f"{happened.count(True)} exits, {kills} kills, noticed in {deaths.worst:.2f} s at most; {words}")
    if missed:
        raise SystemExit(f"{missed} deaths came too late: the run was over. Take more --steps.")


def with_fuse(conditioning: Conditioning, fuse: Fuse) -> Conditioning:
    """What arms whoever unpickles it."""
    notes: Any = (fuse,)
    return replace(conditioning, notes=notes)


def of_ranks(folder: Path, deaths: Deaths, chance: random.Random) -> str:
    """One clip on two ranks, with all deaths on the way."""
    deaths.coming.sort(key=lambda death: death.step)
    tiny, launcher, fuse = Tiny(folder, MODEL), LocalLauncher(60), Fuse(str(folder))
    model = tiny()
    prepared, conditioning = plan(model, Request(seed=3, steps=deaths.steps)), model.encode("a red circle", "a cat")
    group = Group(launcher, tiny, Parallel("", 2, "context"), ["cpu", "cpu"])
    reported = list[int]()

    def on_step(done: int, count: int, run: RunSoFar) -> None:
        reported.append(done)
        is_over = not deaths.done or deaths.done[-1].noticed
        if is_over and deaths.coming and done >= deaths.coming[0].step:
            deaths.next().cause(fuse, chance.choice(launcher.processes).pid)

    with heard_by(lambda words: deaths.notice(words)):
        latents = group.sample(with_fuse(conditioning, fuse), prepared, on_step, None, None, None)
    group.close()
    alone = sample(model, conditioning, prepared)
    once = reported == sorted(set(reported))
    return f"{group.restarts} restarts, each step told once: {once}, the same bytes: {torch.equal(latents, alone)}"


def of_workers(folder: Path, deaths: Deaths, chance: random.Random) -> str:
    """A clip for each death, by two of Ray's workers."""
    tiny, fuse = Tiny(folder, MODEL), Fuse(str(folder))
    model = replace(tiny(), parallel=Parallel("", 2))
    equal = list[bool]()
    for seed in range(len(deaths.coming)):
        prepared, conditioning = plan(model, Request(seed=seed, steps=deaths.steps)), model.encode("a red circle", "")
        death, job = deaths.next(), jobs.submit(model, with_fuse(conditioning, fuse), prepared)
        while not job.is_done:
            if not death.at and job.look.done >= death.step:
                found = re.search(r"\((\d+)\)", job.ticket.machine)
                assert found is not None
                time.sleep(death.after)
                death._now(fuse, int(found[1]))
            if job.ticket.losses:
                deaths.notice()
            time.sleep(0.005)
        equal.append(torch.equal(job.result().latents, sample(model, conditioning, prepared)))
        print(f"  done elsewhere, with the same bytes: {equal[-1]}", flush=True)
    jobs.close_all()
    return f"the same bytes: {sum(equal)} of {len(equal)}"


if __name__ == "__main__":
    main()
