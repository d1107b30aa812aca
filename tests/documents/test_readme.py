"""README.md and README.zh.md say the same, briefly, and what they point to is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "README.zh.md")
LINK = re.compile(r"\]\(([^)\s]+)\)")
every = pytest.mark.parametrize("name", PAGES)


def text_of(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def anchor(title: str) -> str:
    """What GitHub calls a heading in an address."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


@every
def test_it_is_short(name: str) -> None:
    assert len(text_of(name).splitlines()) <= 150


@pytest.mark.parametrize("document", [*PAGES, *(f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md"))])
def test_what_it_points_to_is_there(document: str) -> None:
    text = text_of(document)
    local = [link for link in LINK.findall(text) if not link.startswith("http")]
    assert local or "://" in text or document.endswith("dependencies.md")
    assert [link for link in local if not _is_there(document, link)] == []


def _is_there(page: str, link: str) -> bool:
    """A file, and the heading in it that a link names after a #."""
    name, _, heading = link.partition("#")
    file = (ROOT / page).parent / name if name else ROOT / page
    if not heading:
        return file.exists()
    titles = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.M) if file.exists() else []
    return heading in map(anchor, titles)


def test_both_languages_have_the_same_parts() -> None:
    """As many headings, rows of tables and points in each part, the same files and the same addresses."""
    english, chinese = (re.split(r"^## .*$", text_of(name), flags=re.M) for name in PAGES)
    shape = lambda part: [len(re.findall(mark, part, re.M)) for mark in (r"^\|", r"^- ", r"!\[")]
    assert [*map(shape, english)] == [*map(shape, chinese)]
    outward = lambda parts: sorted(link for part in parts for link in LINK.findall(part) if link.startswith("http"))
    assert outward(english) == outward(chinese)
    code = lambda parts: {word for part in parts for word in re.findall(r"`([\w.]+)`", part)}
    assert code(english) == code(chinese)


PAIRS = [PAGES, ("docs/choose.md", "docs/choose.zh.md")]
# a number that is no part of a name or of a file
FIGURE = re.compile(r"(?<![\w.])\d+(?:\.\d+)*(?![\w.]*\w)|\d+(?= GB| MB)")
both = pytest.mark.parametrize("pages", PAIRS, ids=lambda pages: pages[0])


@both
def test_both_languages_have_the_same_figures(pages: tuple[str, str]) -> None:
    """Part by part; of a table, that of models has its own test of the rows."""
    english, chinese = (
        [sorted(FIGURE.findall(re.sub(r"^\|.*$", "", part, flags=re.M))) for part in _parts(name)] for name in pages
    )
    assert english == chinese
    assert any(english)


@both
def test_both_languages_have_the_same_headings_and_tables(pages: tuple[str, str]) -> None:
    """Headings of the same levels in the same order, and tables of as many rows and columns."""
    english, chinese = (re.findall(r"^#+(?= )", text_of(name), re.M) for name in pages)
    assert english == chinese
    columns = [[row.count("|") for row in re.findall(r"^\|.*$", text_of(name), re.M)] for name in pages]
    assert columns[0] == columns[1]


def _parts(name: str) -> list[str]:
    return re.split(r"^## .*$", text_of(name), flags=re.M)


def test_something_moves() -> None:
    """A video pack shows a video, of a size that a page loads at once."""
    from PIL import Image

    file = ROOT / "docs" / "demo.webp"
    with Image.open(file) as picture:
        assert picture.n_frames > 10  # type: ignore[attr-defined]
    assert file.stat().st_size < 2 << 20
