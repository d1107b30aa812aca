"""Thousands of damaged, hostile and odd files and prompts from a seed, and what becomes of each.

python -m tests.campaign --cases 10000 --seed 7            the long form; a table as markdown, and JSON with --json FILE
python -m tests.campaign --cases 200 --kinds config lora   some kinds alone
python -m tests.campaign --replay FILE ...                 cases that were kept, one after another

Verdicts: ran; words (refused in words of ours); noisy (refused, with a library's words in it); raw (any other error, or
a process that died); hung (over its bound); and of any of them: memory (took too much, or did not give it back), socket
(opened one, or started a program), outside (wrote outside of its folder). The files that the engine reads run in worker
processes, prompts and what their nodes read in a ComfyUI, for which COMFYUI_DIR names its folder. Where the system can,
all of it runs in a network of its own that leads nowhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .bases import make_bases
from .edits import Case
from .host_kinds import HOST_KINDS, Tried, host_cases
from .kinds import KINDS, cases_of
from .pool import Pool

VERDICTS = ("ran", "words", "noisy", "raw", "hung")
SEEN = ("memory", "socket", "outside")
BAD = ("raw", "hung", *SEEN)
# kind -> its share of all cases: the cheap ones that find most have most
SHARES = {
    "safetensors": 16,
    "folder": 8,
    "config": 20,
    "tokenizer": 10,
    "gguf": 6,
    "lora": 8,
    "calibration": 4,
    "job": 4,
    "timeline": 10,
    "prompt": 8,
    "latents": 2,
    "latent": 1,
    "picture": 2,
    "video": 1,
    "render": 1,
    "beside": 1,
}
Answer = tuple[Case, Mapping[str, Any]]


@dataclass
class Table:
    """What became of the cases. places: (verdict, place) -> how often, and an example."""

    seed: int
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    places: dict[tuple[str, ...], list[Any]] = field(default_factory=dict)

    def add(self, case: Case, answer: Mapping[str, Any]) -> list[str]:
        """Count one; the faults that it shows."""
        verdicts = [answer["verdict"], *answer["seen"]]
        self.counts.setdefault(case.kind, Counter()).update(["tried", *verdicts])
        for verdict in verdicts:
            if verdict in (*BAD, "noisy"):
                text = answer["seen"].get(verdict, answer["text"])
                where = text.rpartition(" at ")[2] if verdict in ("socket", "outside") else answer["place"]
                entry = self.places.setdefault((case.kind, verdict, where), [0, text[:160], _short(case)])
                entry[0] += 1
        return [verdict for verdict in verdicts if verdict in BAD]

    def markdown(self) -> str:
        """One line a kind, and one for all."""
        total = sum(self.counts.values(), Counter[str]())
        rows = [*sorted(self.counts.items()), ("all", total)]
        head = ["kind", "tried", *VERDICTS, *SEEN]
        lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
        lines += ["| " + " | ".join([name, *(str(counts[c]) for c in head[1:])]) + " |" for name, counts in rows]
        return "\n".join([*lines, "", f"seed {self.seed}"])

    def findings(self) -> str:
        """What is raw, hung or worse, by kind and place."""
        ordered = sorted(self.places.items(), key=lambda item: (item[0][1] == "noisy", item[0][0], -item[1][0]))
        return "\n".join(
            f"{count:4} {kind:<11} {verdict:<7} {where}\n       {text}\n       {example}"
            for (kind, verdict, where), (count, text, example) in ordered
        )


def _short(case: Case) -> str:
    return f"{case.base}/{case.target} {json.dumps(case.edits)[:240]} (number {case.number})"


def shared(count: int, kinds: Sequence[str]) -> dict[str, int]:
    """How many cases each kind has."""
    whole = sum(SHARES[kind] for kind in kinds)
    return {kind: max(1, count * SHARES[kind] // whole) for kind in kinds}


def tried(work: Path, counts: Mapping[str, int], seed: int, workers: int, traced: bool) -> Iterator[Answer]:
    """(case, verdict) of all cases; of the engine's kinds first."""
    bases, pool = work / "bases", Pool(work, workers, traced)
    engine = [case for kind, count in counts.items() if kind in KINDS for case in cases_of(kind, bases, seed, count)]
    yield from pool.run(engine)
    yield from ((Case("kernel", "", "", ()), _called(line)) for line in pool.calls)
    ours = {kind: count for kind, count in counts.items() if kind in HOST_KINDS}
    if ours:
        with ExitStack() as stack:
            host = stack.enter_context(Tried.boot(work))
            yield from ((case, host.run(case)) for case in host_cases(work, ours, seed))


def _called(line: str) -> dict[str, Any]:
    """A system call of a worker that reached for the network or a program, as the kernel saw it."""
    return {"verdict": "ran", "text": "", "place": "", "seen": {"socket": f"{line[:200]} at the kernel"}}


def replay(work: Path, files: Sequence[Path], traced: bool) -> Iterator[Answer]:
    """(case, verdict) of kept cases."""
    cases = [Case.load(file) for file in files]
    yield from Pool(work, 1, traced).run(case for case in cases if case.kind in KINDS)
    ours = [case for case in cases if case.kind in HOST_KINDS]
    if ours:
        with Tried.boot(work) as host:
            yield from ((case, host.run(case)) for case in ours)


def keep(folder: Path, case: Case, answer: Mapping[str, Any], faults: Sequence[str], most: int = 400) -> None:
    """A small file of a case that shows a fault, to be played again."""
    folder.mkdir(parents=True, exist_ok=True)
    if sum(1 for _ in folder.iterdir()) < most:
        name = f"{case.kind}-{'-'.join(faults)}-{case.seed}-{case.number}.json"
        case.save(folder / name, verdict=answer["verdict"], text=answer["text"], place=answer["place"])


def parser() -> argparse.ArgumentParser:
    """The options."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--cases", type=int, default=10_000)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--kinds", nargs="+", choices=[*SHARES], default=[*SHARES], metavar="KIND")
    options.add_argument("--workers", type=int, default=max(1, min(8, (os.cpu_count() or 2))))
    options.add_argument("--keep", type=Path, metavar="FOLDER", help="where failures are kept")
    options.add_argument("--replay", type=Path, nargs="+", metavar="FILE")
    options.add_argument("--json", type=Path, metavar="FILE", help="where the table goes as JSON")
    options.add_argument("--findings", type=Path, metavar="FILE", help="where each place with a fault goes")
    return options


def main(arguments: Sequence[str], network: str) -> int:
    """1 where a case was raw, hung or worse. network: which one it has, in words."""
    options = parser().parse_args(arguments)
    print(f"network: {network}", flush=True)
    work, table, began = Path(tempfile.mkdtemp(prefix="reelwire_campaign_")), Table(options.seed), time.monotonic()
    try:
        make_bases(work / "bases")
        counts = shared(options.cases, options.kinds)
        answers = (
            replay(work, options.replay, True)
            if options.replay
            else tried(work, counts, options.seed, options.workers, True)
        )
        for number, (case, answer) in enumerate(answers, 1):
            faults = table.add(case, answer)
            if faults and options.keep:
                keep(options.keep, case, answer, faults)
            if options.replay:
                print(f"{_short(case)}\n  {answer}")
            elif number % 500 == 0:
                print(f"{number} cases, {time.monotonic() - began:.0f} s", flush=True)
            if options.findings and number % 100 == 0:
                options.findings.write_text(table.findings() + "\n", encoding="utf-8")
    finally:
        shutil.rmtree(work, ignore_errors=True)
    print(table.findings(), table.markdown(), f"{time.monotonic() - began:.0f} s", sep="\n\n")
    if options.findings:
        options.findings.write_text(f"{table.findings()}\n\n{table.markdown()}\n", encoding="utf-8")
    if options.json:
        content = {"seed": options.seed, "network": network, "kinds": {k: dict(c) for k, c in table.counts.items()}}
        options.json.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return int(any(counts[verdict] for counts in table.counts.values() for verdict in BAD))
