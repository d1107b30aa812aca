"""Mixed runs of all families on tiny models in one ComfyUI on a pretend card, with interrupts, errors and shortages of
memory between, and what they leave behind.

python -m tests.soak --runs 1000 --seed 1 --csv soak.csv --svg soak.svg

Fails where memory, threads, open files or temporary files grow by more than 1% from run 100 to the end, where a run
leaves something in the output folder, or where the same seed does not make the same frames at the end as at the
beginning. COMFYUI_DIR names ComfyUI's folder.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..support.card.host import CardHost, boot_on_card
from ..support.tiny_base import comfyui_folder, tiny_base
from .mix import draw, perform, reference
from .samples import FLAT, NUMBERS, WARM, Sample, growth, picture, sample, write

EVERY = 10  # runs between two samples


@dataclass
class Result:
    """samples: after every few runs; ends: how many runs ended how; digests: of the fixed run, first and last."""

    samples: list[Sample] = field(default_factory=list)
    ends: Counter[str] = field(default_factory=Counter)
    digests: list[str] = field(default_factory=list)

    def faults(self, warm: int = WARM) -> list[str]:
        """What is not flat, in words."""
        grown = growth(self.samples, warm)
        faults = [f"{name} grew by {share:.2%}" for name, share in grown.items() if share > FLAT]
        same = len({*self.digests}) == 1
        return faults + ([] if same else ["the same seed did not make the same frames"])


def soak(host: CardHost, runs: int, seed: int, tell: Callable[[str], None], every: int = EVERY) -> Result:
    """Perform the runs of a seed on a host."""
    result = Result()
    result.digests.append(reference(host))
    for number in range(runs + 1):
        if number % every == 0:
            result.samples.append(_settled(host, number))
            tell(f"{number:5} runs, {dict(result.ends)}, {result.samples[-1]}")
        if number < runs:
            run = draw(seed, number)
            result.ends[f"{run.disturb}: {perform(host, run)}"] += 1
    result.digests.append(reference(host))
    return result


def _settled(host: CardHost, number: int) -> Sample:
    """A sample of what is held where nothing is in use."""
    host.send("/history", {"clear": True})
    host.free()
    host.card.state(collect=True)
    taken = sample(number, host.pid, host.base)
    shutil.rmtree(host.base / "output" / "soak", ignore_errors=True)
    return taken


def main(arguments: Sequence[str]) -> int:
    """1 where something grows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csv", type=Path)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args(arguments)
    began, base = time.monotonic(), Path(tempfile.mkdtemp(prefix="reelwire_soak_"))
    os.environ["TMPDIR"] = str(base / "comfyui" / "tmp")
    try:
        (base / "comfyui" / "tmp").mkdir(parents=True)
        with boot_on_card(comfyui_folder(), tiny_base(base / "comfyui")) as host:
            result = soak(host, options.runs, options.seed, lambda text: print(text, flush=True))
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if options.csv:
        write(result.samples, options.csv)
    if options.svg:
        options.svg.write_text(picture(result.samples), encoding="utf-8")
    warm = min(WARM, options.runs // 3)
    grown = growth(result.samples, warm)
    print(f"\n| number | growth from run {warm} to {options.runs} |\n|---|---:|")
    print("\n".join(f"| {name} | {grown[name]:.2%} |" for name in NUMBERS))
    print(f"\n{dict(result.ends)}\nsame frames: {len({*result.digests}) == 1}\n{time.monotonic() - began:.0f} s")
    faults = result.faults(warm)
    print("\n".join(faults) or "flat")
    return int(bool(faults))
