"""What a process and its folders hold at a moment, and whether that grows."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from statistics import median

import psutil

FLAT = 0.01  # share by which a number may grow from WARM to the end
WARM = 100  # runs after which all that is loaded once is loaded
WINDOW = 7  # samples of which the median is taken, at the beginning and at the end


@dataclass(frozen=True)
class Sample:
    """After a number of runs: bytes that are resident and that are the process' alone, threads, open files, temporary
    files, and files in the output folder that no run should leave."""

    run: int
    rss: int
    uss: int
    threads: int
    files: int
    temporary: int
    leftovers: int


NUMBERS = tuple(field.name for field in fields(Sample))[1:]


def sample(run: int, pid: int, base: Path) -> Sample:
    """What there is now."""
    process = psutil.Process(pid)
    memory = process.memory_full_info()
    outputs = [path for path in (base / "output" / "soak").rglob("*") if path.is_file()]
    leftovers = sum(".part" in path.name or not _is_meant(path) for path in outputs)
    previews = (base / "temp").rglob("*"), "ComfyUI_temp_"  # the host's own, until it starts anew
    temporary = sum(path.is_file() and not path.name.startswith(previews[1]) for path in previews[0])
    temporary += sum(1 for _ in (base / "tmp").rglob("*"))
    handles = process.num_fds() if hasattr(process, "num_fds") else len(process.open_files())
    return Sample(run, memory.rss, memory.uss, process.num_threads(), handles, temporary, leftovers)


def _is_meant(path: Path) -> bool:
    """Whether a file is a video, or what an interrupted render keeps for the next run."""
    return path.suffix == ".mp4" or ".unfinished" in path.parent.name


def growth(samples: Sequence[Sample], warm: int = WARM) -> dict[str, float]:
    """By what share each number has grown from `warm` runs to the end; from a number of 0, by how many."""
    later = [each for each in samples if each.run >= warm] or list(samples)
    count = max(1, min(WINDOW, len(later) // 2))
    first, last = later[:count], later[-count:]
    grown = {}
    for name in NUMBERS:
        before, after = (median(getattr(each, name) for each in some) for some in (first, last))
        grown[name] = (after - before) / (before or 1)
    return grown


def write(samples: Sequence[Sample], file: Path) -> None:
    """The samples as CSV."""
    with file.open("w", newline="", encoding="utf-8") as stream:
        table = csv.DictWriter(stream, [field.name for field in fields(Sample)])
        table.writeheader()
        table.writerows(map(asdict, samples))


# ---------------------------------------------------------------- a picture

WIDTH, HEIGHT, LEFT = 720, 90, 150


def picture(samples: Sequence[Sample]) -> str:
    """One curve for each number over the runs, from 0 up, as SVG."""
    height = HEIGHT * len(NUMBERS)
    rows = [_row(name, index * HEIGHT, samples) for index, name in enumerate(NUMBERS)]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    ground = f'<rect width="{WIDTH}" height="{height}" fill="white"/>'
    return "\n".join([head, ground, *rows, "</svg>", ""])


def _row(name: str, top: int, samples: Sequence[Sample]) -> str:
    values, runs = [getattr(each, name) for each in samples], [each.run for each in samples]
    most, last = max(values) or 1, max(runs) or 1
    inner = HEIGHT - 30
    x = lambda run: LEFT + (WIDTH - LEFT - 20) * run / last
    points = " ".join(f"{x(r):.1f},{top + 20 + inner * (1 - v / most):.1f}" for r, v in zip(runs, values, strict=True))
    words = f"{name}: {_short(values[-1])} after {runs[-1]} runs"
    line = f'<polyline points="{points}" fill="none" stroke="#2060c0" stroke-width="1.5"/>'
    axis = f'<path d="M{LEFT} {top + 20}V{top + 20 + inner}H{WIDTH - 20}" fill="none" stroke="#999"/>'
    label = f'<text x="{LEFT}" y="{top + 14}" font-size="12">{words}</text>'
    return (
        f'{label}<text x="{LEFT - 8}" y="{top + 30}" font-size="11" text-anchor="end">{_short(most)}</text>{axis}{line}'
    )


def _short(value: float) -> str:
    return f"{value / 2**20:.0f} MB" if value > 2**20 else f"{value:.0f}"
