"""The report of a comparison as one HTML file that asks no other host for anything."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from html import escape
from string import Template
from urllib.parse import quote

from .table import FIRST_NUMBER

PAGE = Template("""<!doctype html>
<html lang="$language">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; media-src 'self' file: data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #d5d9e0; --dim: #5b6472; --shade: #f4f5f7; }
@media (prefers-color-scheme: dark) { :root { --line: #343943; --dim: #9ea6b2; --shade: #1a1d24; } }
body { max-width: 1200px; margin: 0 auto; padding: 24px; font: 16px/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 16px; font-size: 24px; overflow-wrap: anywhere; }
video { display: block; width: 100%; border-radius: 6px; background: #000; }
.scroll { overflow-x: auto; margin: 20px 0; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 8px 12px; text-align: left; vertical-align: top; }
th { border-bottom: 2px solid var(--line); color: var(--dim); font-weight: 600; white-space: nowrap; }
tbody tr { border-bottom: 1px solid var(--line); }
tbody tr:nth-child(odd) { background: var(--shade); }
tbody th { border: 0; color: inherit; white-space: normal; overflow-wrap: anywhere; }
.number { text-align: right; white-space: nowrap; }
small { display: block; color: var(--dim); }
ul { padding-left: 20px; color: var(--dim); font-size: 14px; }
</style>
</head>
<body>
<h1>$title</h1>
<video src="$video" poster="$poster" controls loop muted playsinline aria-label="$title"></video>
<div class="scroll"><table>
<thead><tr>$head</tr></thead>
<tbody>
$rows
</tbody>
</table></div>
<ul>
$basis
</ul>
</body>
</html>
""")


def html(
    title: str,
    language: str,
    file: str,
    poster: bytes,
    head: Sequence[str],
    rows: Sequence[Sequence[str]],
    details: Sequence[Sequence[str]],
    basis: Sequence[str],
) -> str:
    """The page. language: "en" or "zh"; file: the video's name, which lies beside the page; poster: a JPEG;
    details: what stands small below each cell, "" for nothing; basis: lines on where the figures come from."""
    return PAGE.substitute(
        title=escape(title),
        language=escape(language),
        video=escape(quote(file)),
        poster=f"data:image/jpeg;base64,{base64.b64encode(poster).decode()}",
        head="".join(f'<th scope="col"{_numeric(column)}>{escape(cell)}</th>' for column, cell in enumerate(head)),
        rows="\n".join(_row(row, small) for row, small in zip(rows, details, strict=True)),
        basis="\n".join(f"<li>{escape(line)}</li>" for line in basis),
    )


def _row(row: Sequence[str], details: Sequence[str]) -> str:
    cells = []
    for column, (cell, detail) in enumerate(zip(row, details, strict=True)):
        kind = "td" if column else "th"
        scope = "" if column else ' scope="row"'
        small = f"<small>{escape(detail)}</small>" if detail else ""
        cells.append(f"<{kind}{scope}{_numeric(column)}>{escape(cell)}{small}</{kind}>")
    return f"<tr>{''.join(cells)}</tr>"


def _numeric(column: int) -> str:
    return ' class="number"' if column >= FIRST_NUMBER else ""
