"""Tries both ends of every range in requirements.txt, each in an environment of its own that is thrown away.

python3 bench/ranges.py                  the lowest and the highest versions; writes docs/dependencies.md
python3 bench/ranges.py --only lowest    one end; the file stays as it is

PyTorch is the same in both: it is linked from the environment of `python3 run.py test`, or of --python, so that an
environment costs its own few packages. What runs in it: every family against diffusers' own pipelines on tiny models,
all kinds of files and encoders, and each package that only one thing needs.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
from pack import import_pack

import_pack()
from reelwire.run import TORCH, VENV, python_of

PAGE = ROOT / "docs" / "dependencies.md"
TOOLS = ("pytest>=8", "pytest-timeout>=2", "hypothesis>=6", "accelerate>=1.0")
LINKED = re.compile(r"^(torch|triton|pytorch-triton.*|nvidia-.*|cuda-.*)$")  # large, and pinned by torch itself
TESTS = (
    "tests/samplers/test_parity.py::test_equals_the_reference_pipeline",
    "tests/samplers/test_ltx_parity.py",
    "tests/loaders/weights/test_sources.py::test_the_only_files_that_fit_are_taken",
    "tests/loaders/weights/test_sources.py::test_encoders_compute_what_they_did",
    "tests/loaders/weights/test_sources.py::test_the_embedded_tokenizer_is_sentencepieces_own",
    "tests/loaders/families/test_ltx_files.py::test_a_folder_with_only_spiece_model_gives_sentencepieces_ids",
    "tests/loaders/test_peaks.py::test_encoders",
    "tests/samplers/test_control.py::test_edges_of_a_square_are_its_outline",
    "tests/samplers/test_control.py::test_blur_keeps_the_mean_and_loses_the_details",
    "tests/repository/test_dependencies.py::test_av_writes_what_it_reads_with_metadata",
    "tests/repository/test_dependencies.py::test_gguf_blocks_are_the_librarys_own",
)
ENDS = ("lowest", "highest")


@dataclass(frozen=True)
class Range:
    """A line of requirements.txt: name>=low, or name>=low,<below."""

    name: str
    low: str
    below: str = ""

    def holds(self, version: str) -> bool:
        return numbers(self.low) <= numbers(version) and (not self.below or numbers(version) < numbers(self.below))


@dataclass(frozen=True)
class Trial:
    """What one end came to: the versions that pip put in, the words of pytest or pip, and whether all went well."""

    versions: Mapping[str, str]
    words: str
    passed: bool


def numbers(version: str) -> tuple[int, ...]:
    """A released version as numbers, without the zeros at its end: 4.0 is 4."""
    values = list(map(int, version.split(".")))
    while values and not values[-1]:
        values.pop()
    return tuple(values)


def read_ranges(text: str) -> list[Range]:
    """The ranges of a requirements file; raises ValueError for a line of another form."""
    ranges = []
    for line in filter(None, map(str.strip, text.splitlines())):
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)(?:,<([\d.]+))?", line)
        if match is None:
            raise ValueError(f"{line!r} is not name>=low or name>=low,<below.")
        ranges.append(Range(match[1], match[2], match[3] or ""))
    return ranges


def lowest(wanted: Range, offered: Iterable[str]) -> str:
    """The lowest released version of a range among those that are offered."""
    return min((v for v in offered if re.fullmatch(r"[\d.]+", v) and wanted.holds(v)), key=numbers)


def released(python: Path, name: str) -> list[str]:
    """All versions of a package that this Python could install, by pip."""
    said = output([python, "-m", "pip", "index", "versions", name])
    listed = re.search(r"^Available versions: (.*)$", said, re.M)
    return re.split(r",\s*", listed[1]) if listed else []


def output(command: Sequence[object]) -> str:
    return subprocess.run([*map(str, command)], capture_output=True, text=True, check=True).stdout


def make_environment(base: Path, folder: Path) -> Path:
    """A virtual environment with the torch of the Python `base` in hard links; its Python."""
    output([base, "-m", "venv", folder])
    python = python_of(folder)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    source, target = (Path(output([p, "-c", where]).strip()) for p in (base, python))
    for name in json.loads(output([base, "-c", TOP_LEVELS, LINKED.pattern])):
        if (source / name).is_dir() and not (target / name).exists():
            shutil.copytree(source / name, target / name, copy_function=link)
    return python


def link(source: str, target: str) -> None:
    """The same file under another name; a copy where the two lie on different disks."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


# prints, as JSON, what lies in site-packages for the distributions whose names fit a pattern
TOP_LEVELS = """import importlib.metadata, json, re, sys
fits = lambda d: re.match(sys.argv[1], (d.name or '').lower().replace('_', '-'))
files = (f for d in importlib.metadata.distributions() if fits(d) for f in d.files or ())
print(json.dumps(sorted({f.parts[0] for f in files} - {'..', '__pycache__'})))
"""


@contextmanager
def environment(end: str, base: Path, keep: Path | None) -> Iterator[Path]:
    """The Python of an end's environment: one that is thrown away, or that of the folder `keep`, made if need be."""
    with tempfile.TemporaryDirectory(prefix=f"{end}-", ignore_cleanup_errors=True) as temporary:
        folder = keep / end if keep else Path(temporary)
        python = python_of(folder)
        yield python if python.exists() else make_environment(base, folder)


def try_end(end: str, base: Path, ranges: Sequence[Range], keep: Path | None = None) -> Trial:
    """One end's packages in an environment, and the tests in it."""
    with environment(end, base, keep) as python:
        pins = {r.name: lowest(r, released(python, r.name)) for r in ranges} if end == "lowest" else {}
        wanted = [f"{n}=={v}" for n, v in pins.items()] or [line for line in requirements().splitlines() if line]
        command = [python, "-m", "pip", "install", "--upgrade", TORCH[0], *TOOLS, *wanted]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        if done.returncode:
            return Trial(pins, conflict(done.stdout + done.stderr), False)
        listed = json.loads(output([python, "-m", "pip", "list", "--format=json"]))
        versions = {p["name"].lower().replace("_", "-"): p["version"] for p in listed}
        return Trial(versions, *run_tests(python))


def conflict(said: str) -> str:
    """What pip says about packages that do not go together."""
    lines = [line.strip() for line in said.splitlines() if re.search(r"depends on|ERROR: (Cannot|No matching)", line)]
    return "pip: " + " ".join(lines or said.splitlines()[-1:])


def run_tests(python: Path) -> tuple[str, bool]:
    """(pytest's last line, whether all passed); what failed goes to the terminal."""
    command = [python, "-m", "pytest", "-p", "no:cacheprovider", *TESTS]
    variables = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
    variables |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*map(str, command)], cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    if done.returncode:
        print(done.stdout[-6000:], done.stderr[-2000:], sep="\n")
    last = (done.stdout.strip() or "nothing ran").splitlines()[-1].strip("= ")
    return re.sub(r" in [\d.:() ]+s.*", "", last), done.returncode == 0


def requirements() -> str:
    return (ROOT / "requirements.txt").read_text(encoding="utf-8")


def page(ranges: Sequence[Range], trials: Mapping[str, Trial]) -> str:
    """docs/dependencies.md."""
    rows = ["| package | range | lowest | highest | what for |", "| --- | --- | --- | --- | --- |"]
    for r in ranges:
        allowed = f">= {r.low}" + (f", < {r.below}" if r.below else "")
        tried = (trials[end].versions.get(r.name, "-") for end in ENDS)
        rows.append(f"| {' | '.join((r.name, allowed, *tried, WHAT_FOR[r.name]))} |")
    rows.append("| **engine tests** | | " + " | ".join(trials[end].words for end in ENDS) + " | |")
    return HEAD + "\n".join(rows) + "\n" + FOOT


WHAT_FOR = {
    "av": "writing video frame by frame; ComfyUI brings it too",
    "diffusers": "the models' architectures and schedulers, kept by the people who publish them",
    "einops": "shapes that can be read",
    "ftfy": "cleans Wan's prompts as in its training; without it, Chinese punctuation reads otherwise",
    "gguf": "reading GGUF files",
    "kornia": "edges, gray and blur of control videos; ComfyUI brings it too",
    "packaging": "compares versions of kernels for attention; transformers brings it too",
    "protobuf": "tokenizers in sentencepiece's form",
    "safetensors": "reading weights without running code",
    "sentencepiece": "tokenizers in its form",
    "transformers": "text encoders, image encoders and tokenizers",
}
FOOT = """
torch, Pillow and numpy come with ComfyUI. cache-dit is optional: its DBCache is a policy of the Cache node.
Ray (`reelwire[distributed]`, >= 2.49, 270 MB) is optional: it starts, watches and ends the workers of Parallel and of
`run.py farm`, on one machine or several, and carries what they are given; nothing of it is imported before that.
The tests alone want peft and lycoris-lora, the references of LoRA, LoHa, LoKr and DoRA: as a requirement, lycoris-lora
would bring 5 s of imports and compilers of its own for formulas of a few lines (loaders/weights/lora/products.py); and
axe-playwright-python, which brings axe-core: it finds what a screen reader cannot tell.

The page's timeline brings two small libraries along, in `web/vendor/` with their licences, so that nothing is fetched:

- @use-gesture/vanilla 10.3.1, for drags by mouse, pen and finger: `DragGesture` alone, 21 kB, made by `esbuild --bundle
  --format=esm --minify`. interact.js listens on the document, which no pointer event of a node reaches in Nodes 2.0.
- tinykeys 3.1.0, for keys by names that are the same on a Mac: 1 kB, `dist/tinykeys.modern.js` as it is.
"""
HEAD = f"""# Other packages

Both ends of every range in `requirements.txt`, tried together by `python3 bench/ranges.py`, which writes this page: the
engine's tests (every family against diffusers' own pipelines, difference 0.0), with {TORCH[0].replace("==", " ")}
on a CPU.

"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=ENDS, help="one end alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="the environments stay there and are used again")
    parser.add_argument("--python", type=Path, default=python_of(VENV), help="a Python that has torch")
    options = parser.parse_args()
    if not options.python.exists():
        parser.error(f"{options.python} is not there: run `python3 run.py test` once, or give --python")
    ranges, trials = read_ranges(requirements()), {}
    for end in (options.only,) if options.only else ENDS:
        start = time.monotonic()
        trials[end] = try_end(end, options.python.absolute(), ranges, options.keep)
        tried = {r.name: trials[end].versions.get(r.name) for r in ranges}
        print(f"{end}: {trials[end].words} ({time.monotonic() - start:.0f} s)\n  {tried}", flush=True)
    passed = all(trial.passed for trial in trials.values())
    if passed and not options.only:
        PAGE.write_text(page(ranges, trials), encoding="utf-8")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
