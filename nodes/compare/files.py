"""What lies beside the video of a comparison: its table as a web page, and as a picture with a moment of the grid."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from ...loaders.files import why_unwritten, write_new
from ...loaders.messages import message
from ..words import clock
from .language import LANGUAGES, said
from .lettering import Lettering
from .page import html
from .still import still
from .table import Table, basis

if TYPE_CHECKING:
    from PIL.Image import Image

QUALITY = 88  # of the JPEG in the page


def write_report(
    path: Path, table: Table, grid: Image, lettering: Lettering, language: str, metadata: Mapping[str, str]
) -> list[Path]:
    """Write the page and the picture beside a video, under its name; returns them. grid: a moment of it. Raises
    OSError, in words."""
    head = [said(cell, language) for cell in table.head()]
    rows = [[said(cell, language) for cell in row] for row in table.rows()]
    contents = {
        ".html": _page(path.name, table, grid, head, rows, language).encode(),
        ".png": _png(still(grid, head, rows, lettering), metadata),
    }
    files = []
    for ending, content in contents.items():
        file = path.with_suffix(ending)
        try:
            files.append(write_new(file, content))
        except OSError as error:
            raise OSError(message("file_unwritten", file=file.name, error=why_unwritten(error))) from error
    return files


def _page(file: str, table: Table, grid: Image, head: list[str], rows: list[list[str]], language: str) -> str:
    poster = BytesIO()
    grid.save(poster, "JPEG", quality=QUALITY)
    title = " / ".join(entry.label for entry in table.entries)
    lines = [said(line, language) for line in basis(table.entries, table.price)]
    details = [[said(cell, language) for cell in row] for row in _details(table)]
    return html(title, LANGUAGES[language], file, poster.getvalue(), head, rows, details, lines)


def _details(table: Table) -> list[list[str]]:
    """What stands small below each cell of the table."""
    found = []
    for entry in table.entries:
        by_name = {"model": "", "time": ""}
        if "seed" in entry.note:
            by_name["model"] = message("compare_seed", seed=entry.note["seed"])
        if entry.run is not None and entry.run.decoding:
            phases = {"sampling": clock(entry.run.sampling), "decoding": clock(entry.run.decoding)}
            by_name["time"] = message("compare_phases", **phases)
        found.append([by_name.get(name, "") for name in table.columns])
    return found


def _png(image: Image, metadata: Mapping[str, str]) -> bytes:
    """A PNG that restores its graph when it is dropped on the page, as those of the host do."""
    from PIL.PngImagePlugin import PngInfo

    notes, file = PngInfo(), BytesIO()
    for name, text in metadata.items():
        notes.add_text(name, text)
    image.save(file, "PNG", pnginfo=notes)
    return file.getvalue()
