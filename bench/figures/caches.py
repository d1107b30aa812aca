"""Tables and pictures of what bench/caches.py has measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle, pairwise
from statistics import median
from typing import Any

import numpy as np

STEPS, RATES = 30, (1.5, 2.0, 3.0)
OURS, PEER, FEWER = "ours", "peer", "fewer steps"


def at_rate(rows: list[dict[str, Any]], rate: float, value: str) -> float | None:
    """A method's value at a share of computed steps, by straight lines between its settings; None outside of them."""
    points = sorted({(row["computed"], row[value]) for row in rows})
    wanted = STEPS / rate
    for (x0, y0), (x1, y1) in pairwise(points):
        if x0 <= wanted <= x1:
            return y0 + (y1 - y0) * (wanted - x0) / (x1 - x0)
    return None


def best(table: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """For each rate: our best method, the best peer, and fewer steps, in dB."""
    for rate in RATES:
        winners: dict[str, tuple[str, float]] = {}
        for method, entry in table.items():
            value = at_rate(entry["rows"], rate, "psnr")
            if value is not None and value > winners.get(entry["kind"], ("", -math.inf))[1]:
                winners[entry["kind"]] = method, round(value, 2)
        yield f"{rate:g}x", winners


def at_rates(result: Mapping[str, Any]) -> Iterator[str]:
    """A table in Markdown: for each method and rate the mean, median and worst prompt in dB, and the mean SSIM."""
    values = ("psnr", "psnr_median", "psnr_worst", "ssim")
    for name, entry in result.items():
        yield f"| {name} ({entry['prompts']} prompts) | {' | '.join(f'{rate:g}x' for rate in RATES)} |"
        yield "|---" * (len(RATES) + 1) + "|"
        for method, lines in entry["methods"].items():
            cells = [[at_rate(lines["rows"], rate, value) for value in values] for rate in RATES]
            words = [_cell([value for value in cell if value is not None]) for cell in cells]
            yield f"| {method} | {' | '.join(words)} |"


def _cell(values: list[float]) -> str:
    """Mean, median and worst in dB, and SSIM; a dash where they are not known."""
    return "{:.1f} / {:.1f} / {:.1f}, {:.4f}".format(*values) if values else "-"


# ---------------------------------------------------------------- the picture

SIZE, COLUMNS, MARGIN, COLOURS = (460, 360), 2, 46, {OURS: "#1f6feb", PEER: "#5b6575", FEWER: "#d9730d"}
LOWEST, HIGHEST = 15, 80  # dB
FEWEST = 6  # computed steps that are drawn


def front(methods: Sequence[Mapping[str, Any]], value: str) -> list[tuple[float, float]]:
    """(computed steps, dB) of the settings that no other one of these methods beats at as few steps: a Pareto front."""
    rows = [row for method in methods for row in method["rows"] if row["computed"] >= FEWEST]
    known = sorted((row["computed"], -row[value]) for row in rows)
    points: list[tuple[float, float]] = []
    for computed, negative in known:
        if not points or -negative > points[-1][1]:
            points.append((computed, -negative))
    return points


def draw(result: Mapping[str, Any]) -> str:
    """An SVG: a panel for each model, two in a row."""
    width, height = SIZE
    columns = min(len(result), COLUMNS)
    whole = width * columns, height * -(-len(result) // columns)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{whole[0]}" height="{whole[1]}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{whole[0]}" height="{whole[1]}" fill="white"/>',
    ]
    for number, (name, entry) in enumerate(result.items()):
        row, column = divmod(number, columns)
        parts += [
            f'<g transform="translate({column * width} {row * height})">',
            *_panel(name, entry["methods"]),
            "</g>",
        ]
    return "\n".join([*parts, "</svg>"]) + "\n"


def _x(steps: float) -> float:
    return MARGIN + (SIZE[0] - MARGIN - 110) * (steps - FEWEST) / (STEPS - FEWEST)


def _y(db: float) -> float:
    share = (min(max(db, LOWEST), HIGHEST) - LOWEST) / (HIGHEST - LOWEST)
    return SIZE[1] - MARGIN - (SIZE[1] - 2 * MARGIN) * share


def _line_of(points: Sequence[tuple[float, float]], style: str, title: str) -> str:
    places = " ".join(f"{_x(a):.1f},{_y(b):.1f}" for a, b in points)
    return f'<polyline points="{places}" fill="none" {style}><title>{title}</title></polyline>'


def _panel(name: str, methods: Mapping[str, Any]) -> Iterator[str]:
    """PSNR over computed steps: a thin line for each method, a wide one for the front of each kind, and a broken one
    for its front by the worst prompt."""
    yield f'<text x="{MARGIN}" y="20" font-size="13">{name}: PSNR (dB) over computed steps of {STEPS}</text>'
    for db in range(20, HIGHEST + 1, 10):
        yield f'<line x1="{MARGIN}" x2="{_x(STEPS)}" y1="{_y(db)}" y2="{_y(db)}" stroke="#eee"/>'
        yield f'<text x="{MARGIN - 22}" y="{_y(db) + 4}">{db}</text>'
    for rate in (1.25, *RATES):
        yield f'<text x="{_x(STEPS / rate) - 8:.1f}" y="{SIZE[1] - 26}">{rate:g}x</text>'
    for method, lines in methods.items():
        points = sorted((row["computed"], row["psnr"]) for row in lines["rows"] if row["computed"] >= FEWEST)
        yield _line_of(points, f'stroke="{COLOURS[lines["kind"]]}" stroke-width="1" stroke-opacity=".35"', method)
    for kind, colour in COLOURS.items():
        alike = [lines for lines in methods.values() if lines["kind"] == kind]
        for value, dashes in (("psnr", ""), ("psnr_worst", ' stroke-dasharray="3 3"')):
            yield _line_of(front(alike, value), f'stroke="{colour}" stroke-width="2"{dashes}', f"{kind}, {value}")
    for i, (kind, colour) in enumerate(COLOURS.items()):
        yield f'<rect x="{_x(STEPS) + 8}" y="{60 + 18 * i}" width="10" height="4" fill="{colour}"/>'
        yield f'<text x="{_x(STEPS) + 22}" y="{66 + 18 * i}">{kind}</text>'
    yield f'<text x="{_x(STEPS) + 8}" y="{66 + 18 * len(COLOURS)}">broken: worst</text>'


# ---------------------------------------------------------------- what a run said of itself

ESTIMATED = "corrected plan, calibrated"
MOST = 90  # dB, as far as a node says them
SPOTS = ("#1f6feb", "#d9730d", "#2da44e", "#8250df", "#cf222e", "#5b6575")
SIDE = 400


def told(entry: Mapping[str, Any]) -> list[tuple[float, float]]:
    """(estimated, measured) PSNR in dB of each prompt at each speed of the corrected plan."""
    rows = entry["methods"].get(ESTIMATED, {"rows": ()})["rows"]
    rows = [row for row in rows if "estimated_each" in row]
    pairs = [pair for row in rows for pair in zip(row["estimated_each"], row["psnr_each"], strict=True)]
    return [(min(said, MOST), min(was, MOST)) for said, was in pairs if said is not None]


def rank_correlation(pairs: Sequence[tuple[float, float]]) -> float:
    """Spearman's, equal values sharing the mean of their ranks."""
    estimated, measured = map(_ranks, zip(*pairs, strict=True))
    return float(np.corrcoef(estimated, measured)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    """The place of each value among all, from 1 on."""
    _, place, count = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(count) - (count - 1) / 2)[place]


def ranks_alike(result: Mapping[str, Any]) -> Iterator[str]:
    """A table in Markdown: how well the estimates of the error rank and meet the measured ones, by model and in all."""
    known = {name: told(entry) for name, entry in result.items()}
    known = {name: pairs for name, pairs in known.items() if pairs}
    if not known:
        return
    yield "| model | runs | rank correlation | half within | nine in ten within | too high by, at most |"
    yield "|---|---|---|---|---|---|"
    everything = [pair for pairs in known.values() for pair in pairs]
    for name, pairs in (*known.items(), ("all", everything)):
        apart = sorted(abs(said - was) for said, was in pairs)
        most = max(said - was for said, was in pairs)
        close = f"{median(apart):.1f} dB | {apart[math.ceil(0.9 * len(apart)) - 1]:.1f} dB | {most:.1f} dB"
        yield f"| {name} | {len(pairs)} | {rank_correlation(pairs):.2f} | {close} |"


def draw_estimates(result: Mapping[str, Any]) -> str:
    """An SVG: the estimated PSNR of each run to the right, the measured one upwards, a colour for each model."""
    at = lambda db: MARGIN + (SIDE - MARGIN - 10) * (min(max(db, LOWEST), MOST) - LOWEST) / (MOST - LOWEST)
    up = lambda db: SIDE - at(db)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{SIDE + 110}" height="{SIDE}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{SIDE + 110}" height="{SIDE}" fill="white"/>',
        f'<line x1="{at(LOWEST)}" y1="{up(LOWEST)}" x2="{at(MOST)}" y2="{up(MOST)}" stroke="#999"/>',
        f'<text x="{SIDE / 2}" y="{SIDE - 8}">estimated (dB)</text>',
        f'<text x="12" y="{SIDE / 2}" transform="rotate(-90 12 {SIDE / 2})">measured (dB)</text>',
    ]
    for db in range(20, MOST + 1, 10):
        parts.append(f'<text x="{at(db) - 6:.1f}" y="{SIDE - MARGIN + 16}">{db}</text>')
        parts.append(f'<text x="{MARGIN - 20}" y="{up(db) + 4:.1f}">{db}</text>')
    for number, ((name, entry), colour) in enumerate(zip(result.items(), cycle(SPOTS), strict=False)):
        dots = (f'<circle cx="{at(x):.1f}" cy="{up(y):.1f}" r="2.5"/>' for x, y in told(entry))
        parts.append(f'<g fill="{colour}" fill-opacity=".6">{"".join(dots)}</g>')
        parts.append(f'<text x="{SIDE + 4}" y="{40 + 18 * number}" fill="{colour}">{name}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"
