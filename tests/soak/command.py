"""Mixed runs of all families on tiny models in one ComfyUI on a pretend card, with interrupts, errors and shortages of
memory between, and what they leave behind.

python -m tests.soak --runs 1000 --seed 1 --csv soak.csv --svg soak.svg

python -m tests.soak --page 60 --svg page.svg          minutes of ComfyUI's page in Chromium, in both of its renderers

python -m tests.soak --page 60 --stock                 half of them with a graph of ComfyUI's own nodes, for comparison

Fails where memory, mapped files, threads, open files or temporary files grow by more than 1% from run 100 to the end,
where a run leaves something in the output folder, where one that nothing disturbs fails, or where the same seed does
not make the same frames at the end as at the beginning; of the page: where blob URLs, our elements and listeners or the
host's memory grow by more than 1% from run 80 on, and where a run lets the page's heap, nodes or listeners grow by
clearly more than one of the stock graph. COMFYUI_DIR names ComfyUI's folder, REELWIRE_CHROMIUM the browser.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..support.card.host import CardHost, boot_on_card
from ..support.host import Host, boot
from ..support.tiny_base import comfyui_folder, tiny_base
from .mix import draw, perform, reference
from .page import soak_pages, warm_of
from .samples import FLAT, WARM, Sample, curves, growth, picture, sample, write

EVERY = 10  # runs between two samples
# what PyTorch's libraries keep by the shapes that they have met, 1,024 of them, and for the next product; kept small so
# that it is full long before WARM. And tensors, which lie on the card elsewhere, kept out of glibc's heap: it takes in
# larger and larger ones as it goes, and what is in use there lies between more and more that is not
LIBRARIES = {
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "MKL_DISABLE_FAST_MM": "1",
    "MALLOC_MMAP_THRESHOLD_": "65536",
}


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
        faults += [f"{count} runs that nothing disturbed: {end}" for end, count in self._undisturbed()]
        return faults if len({*self.digests}) == 1 else [*faults, "the same seed did not make the same frames"]

    def _undisturbed(self) -> Iterator[tuple[str, int]]:
        """(how it ended, how many) of runs that nothing disturbed and that did not succeed."""
        for end, count in self.ends.items():
            disturb, _, how = end.partition(": ")
            if disturb == "nothing" and how != "success":
                yield how, count


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
    host.card.state(forget=True, collect=True)
    taken = sample(number, host.pid, host.base)
    shutil.rmtree(host.base / "output" / "soak", ignore_errors=True)
    return taken


@contextmanager
def _base() -> Iterator[Path]:
    """A base directory with tiny models, in which the temporary files of this process and its host lie too."""
    folder = Path(tempfile.mkdtemp(prefix="reelwire_soak_"))
    os.environ["TMPDIR"] = str(folder / "comfyui" / "tmp")
    try:
        (folder / "comfyui" / "tmp").mkdir(parents=True)
        yield tiny_base(folder / "comfyui")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--runs", type=int, default=1000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--page", type=float, metavar="MINUTES", help="in place of the runs")
    options.add_argument("--stock", action="store_true", help="with --page: beside a graph of ComfyUI's own nodes")
    options.add_argument("--csv", type=Path, help="where the samples go; of the page, one file for each renderer")
    options.add_argument("--svg", type=Path, help="where the curves go")
    return options


def main(arguments: Sequence[str]) -> int:
    """1 where something grows."""
    options, began = parser().parse_args(arguments), time.monotonic()
    if options.stock and not options.page:
        parser().error("--stock goes with --page")
    os.environ.update(LIBRARIES)
    faults = _page(options) if options.page else _runs(options)
    print(f"{time.monotonic() - began:.0f} s", *(faults or ["flat"]), sep="\n")
    return int(bool(faults))


def _tell(text: str) -> None:
    print(text, flush=True)


def _runs(options: argparse.Namespace) -> list[str]:
    """What is not flat after the runs, in words."""
    with _base() as base, boot_on_card(comfyui_folder(), base) as host:
        result = soak(host, options.runs, options.seed, _tell)
    if options.csv:
        write(result.samples, options.csv)
    if options.svg:
        options.svg.write_text(picture(curves(result.samples)), encoding="utf-8")
    warm = min(WARM, options.runs // 3)
    _tell(table(result.samples, warm))
    _tell(f"\n{dict(result.ends)}\nsame frames: {len({*result.digests}) == 1}")
    return result.faults(warm)


def _page(options: argparse.Namespace) -> list[str]:
    """What is not flat after the minutes of the page, in words."""
    with _base() as base, boot(comfyui_folder(), base, kind=Host) as host:
        result = soak_pages(host, options.page, _tell, options.stock)
    all_samples = {**result.samples, **{f"{renderer}, stock": each for renderer, each in result.stock.items()}}
    drawn = dict[str, Sequence[tuple[int, float]]]()
    for renderer, samples in all_samples.items():
        drawn |= curves(samples, f"{renderer}, ")
        _tell(f"\n{renderer}\n{table(samples, warm_of(samples))}")
        if options.csv:
            write(samples, options.csv.with_stem(f"{options.csv.stem}-{renderer.replace(', ', '-').replace(' ', '_')}"))
    if options.svg:
        options.svg.write_text(picture(drawn), encoding="utf-8")
    if result.stock:
        _tell(f"\n{beside(result.beside())}")
    _tell(f"\n{dict(result.ends)}")
    return result.faults()


def beside(rows: Mapping[str, Mapping[str, tuple[float, float]]]) -> str:
    """What each run of ours and of the stock graph adds to the page, as markdown."""
    lines = [
        f"| {renderer} | {name} | {ours:,.1f} | {stock:,.1f} |"
        for renderer, row in rows.items()
        for name, (ours, stock) in row.items()
    ]
    return "\n".join(["| renderer | each run adds | ours | stock |", "|---|---|---:|---:|", *lines])


def table(samples: Sequence[Any], warm: int) -> str:
    """What there was at some runs, and the growth, as markdown."""
    grown, at = growth(samples, warm), {each.run: each for each in samples}
    runs = [run for run in (10, 100, 1000) if run in at] or [samples[-1].run]
    head = " | ".join(["number", *(f"run {run}" for run in runs), f"growth from run {warm} to {samples[-1].run}"])
    rows = [
        " | ".join([name, *(f"{getattr(at[run], name):,}" for run in runs), f"{share:.2%}"])
        for name, share in grown.items()
    ]
    return "\n".join([f"| {head} |", "|---|" + "---:|" * (len(runs) + 1), *(f"| {row} |" for row in rows)])
