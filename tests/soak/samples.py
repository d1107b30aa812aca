"""What a process and its folders hold at a moment, and whether that grows."""

from __future__ import annotations

import csv
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median
from typing import Any

import psutil

FLAT = 0.01  # share by which a number may grow from WARM to the end
WARM = 100  # runs after which all that is loaded once is loaded
WINDOW = 7  # samples of which the median is taken, at the beginning and at the end


@dataclass(frozen=True)
class Sample:
    """After a number of runs: bytes that the process has asked for, files that it has mapped, threads, open files,
    temporary files, and files in the output folder that no run should leave.

    Pages of libraries are not counted: they come when their code is first run, which may be late.
    """

    run: int
    memory: int
    mapped: int
    threads: int
    files: int
    temporary: int
    leftovers: int


NUMBERS = tuple(field.name for field in fields(Sample))[1:]
Curves = Mapping[str, Sequence[tuple[int, float]]]  # what it is -> (run, how much there was) of each sample


def sample(run: int, pid: int, base: Path) -> Sample:
    """What there is now."""
    process = psutil.Process(pid)
    maps = process.memory_maps()
    outputs = [path for path in (base / "output" / "soak").rglob("*") if path.is_file()]
    leftovers = sum(".part" in path.name or not _is_meant(path) for path in outputs)
    previews = (base / "temp").rglob("*"), "ComfyUI_temp_"  # the host's own, until it starts anew
    temporary = sum(path.is_file() and not path.name.startswith(previews[1]) for path in previews[0])
    temporary += sum(1 for _ in (base / "tmp").rglob("*"))
    handles = process.num_fds() if hasattr(process, "num_fds") else len(process.open_files())
    memory = sum(each.anonymous for each in maps) if hasattr(maps[0], "anonymous") else process.memory_full_info().uss
    mapped = len({each.path for each in maps if os.path.isabs(each.path)})
    return Sample(run, memory, mapped, process.num_threads(), handles, temporary, leftovers)


def _is_meant(path: Path) -> bool:
    """Whether a file is a video, or what an interrupted render keeps for the next run."""
    return path.suffix == ".mp4" or ".unfinished" in path.parent.name


def curves(samples: Sequence[Any], title: str = "") -> Curves:
    """The numbers of dataclasses with a `run` and numbers, one curve for each."""
    names = [field.name for field in fields(samples[0])][1:]
    return {f"{title}{name}": [(each.run, getattr(each, name)) for each in samples] for name in names}


def growth(samples: Sequence[Any], warm: int = WARM) -> dict[str, float]:
    """By what share each number has grown from `warm` runs to the end; from a number of 0, by how many."""
    grown = {}
    for name, curve in curves(samples).items():
        before, after = ends_of([each for each in curve if each[0] >= warm] or curve)
        grown[name] = (after - before) / (before or 1)
    return grown


def ends_of(curve: Sequence[tuple[int, float]]) -> tuple[float, float]:
    """The median of the first values of a curve, and that of the last."""
    values, most = [value for _, value in curve], max(1, min(WINDOW, len(curve) // 2))
    return median(values[:most]), median(values[-most:])


def write(samples: Sequence[Any], file: Path) -> None:
    """The samples as CSV."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, [field.name for field in fields(samples[0])])
        table.writeheader()
        table.writerows(map(asdict, samples))


# ---------------------------------------------------------------- a picture

WIDTH, HEIGHT, LEFT = 720, 90, 150


def picture(all_curves: Curves) -> str:
    """The curves over the runs, from 0 up, as SVG."""
    height = HEIGHT * len(all_curves)
    rows = [_row(name, index * HEIGHT, curve) for index, (name, curve) in enumerate(all_curves.items())]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, ground, *rows, "</svg>", ""])


def _row(name: str, top: int, curve: Sequence[tuple[int, float]]) -> str:
    (last, end), most = curve[-1], max(value for _, value in curve) or 1
    inner = HEIGHT - 30
    x = lambda run: LEFT + (WIDTH - LEFT - 20) * run / (last or 1)
    points = " ".join(f"{x(run):.1f},{top + 20 + inner * (1 - value / most):.1f}" for run, value in curve)
    words = f"{name}: {_short(end)} after {last} runs"
    line = f'<polyline points="{points}" fill="none" stroke="#2060c0" stroke-width="1.5"/>'
    axis = f'<path d="M{LEFT} {top + 20}V{top + 20 + inner}H{WIDTH - 20}" fill="none" stroke="#999"/>'
    label = f'<text x="{LEFT}" y="{top + 14}" font-size="12">{words}</text>'
    return (
        f'{label}<text x="{LEFT - 8}" y="{top + 30}" font-size="11" text-anchor="end">{_short(most)}</text>{axis}{line}'
    )


def _short(value: float) -> str:
    return f"{value / 2**20:.0f} MB" if value > 2**20 else f"{value:.0f}"
