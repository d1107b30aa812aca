"""Writes the tables of docs/choose.md and docs/choose.zh.md, which model when: what Estimate counts and others publish.

python bench/templates/choose.py    after bench/templates/memory.py

A table stands between <!-- table: name --> and <!-- end -->; the words around it are written by hand.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING or __package__:
    from . import notes
else:  # as a plain script
    sys.path.insert(0, str(Path(__file__).parents[1]))
    from templates import notes

HERE = Path(__file__).parent
DOCS = HERE.parent.parent / "docs"
PAGES = {"en": DOCS / "choose.md", "zh": DOCS / "choose.zh.md"}
FACTS = notes.CHOOSE
CARDS = ("8", "12", "16", "24", "48", "80")
TABLE = re.compile(r"(<!-- table: (.+?) -->\n).*?(<!-- end -->)", re.S)


def page(language: str) -> str:
    """A page with its tables made anew."""
    written = PAGES[language].read_text(encoding="utf-8")
    return TABLE.sub(lambda mark: mark[1] + "\n".join(table(mark[2], language)) + "\n" + mark[3], written)


def table(name: str, language: str) -> Iterator[str]:
    """The lines of the table of this name: one of TABLES, or "8 GB" and so on."""
    gb = name.removesuffix(" GB")
    if gb in CARDS:
        return by_card(gb, language)
    return TABLES[name](language)


def word(key: str, language: str, **values: object) -> str:
    return str(FACTS["words"][key][notes.LANGUAGES.index(language)]).format(**values)


def headed(key: str, language: str, rows: Iterable[Iterable[str]]) -> Iterator[str]:
    """A table under the heading of this key."""
    head = word(key, language)
    yield head
    yield "|" + " --- |" * (head.count("|") - 1)
    yield from (f"| {' | '.join(row)} |" for row in rows)


def at_a_glance(language: str) -> Iterator[str]:
    join = word("and", language).join
    rows = (
        (
            f"**{model['name']}**",
            join(word(task, language) for task in model["tasks"]),
            join(word(spoken, language) for spoken in model["languages"]) or word("no_prompt", language),
            _by_default(model["twins"][0], language),
            f"{model['quality']['total']:.2f}" if "quality" in model else "–",
            f"{_download(model['twins'][0], language)} GB",
            notes.linked(FACTS["licences"][model["licence"]], language),
        )
        for model in FACTS["models"]
    )
    return headed("at_a_glance", language, rows)


def _by_default(twin: str, language: str) -> str:
    usual = notes.MEMORY[twin]["defaults"]
    row = notes.MEMORY[twin]["rows"][0]
    seconds = int(row["size"].split(", ")[1]) / usual["fps"]
    return word("length", language, sized=notes.sized(row, language), seconds=seconds)


def _download(twin: str, language: str) -> str:
    """GB of all files of a template together."""
    sizes = [notes.FILES[file]["gb"] for file in _named(twin)]
    known = f"{sum(size for size in sizes if size):.1f}"
    return known if all(sizes) else word("some_unknown", language, gb=known)


def _named(twin: str) -> list[str]:
    prompt = json.loads((HERE.parent.parent / "workflows" / "api" / f"{twin}.json").read_text(encoding="utf-8"))
    return list(dict.fromkeys(file for _, file in notes.named(prompt)))


def by_card(gb: str, language: str) -> Iterator[str]:
    """What each template makes on a class of cards, and which do not run there."""
    rows, missing = list[tuple[str, ...]](), list[str]()
    for twin in _apart():
        row = notes.largest(notes.MEMORY[twin]["rows"], gb)
        if row is None:
            missing.append(_template(twin, language))
            continue
        rows.append(
            (
                _template(twin, language),
                notes.sized(row, language),
                word(row["cards"][gb], language),
                row["time"][gb][notes.LANGUAGES.index(language)],
                f"{notes.MEMORY[twin]['ram']} GB",
            )
        )
    yield from headed("card", language, rows)
    if missing:
        yield ""
        yield word("over", language, gb=gb, names=word("and", language).join(missing))


def _apart() -> Iterator[str]:
    """Every template, but one of those of a model that Estimate says the same of."""
    for model in FACTS["models"]:
        memories = [notes.MEMORY[twin] for twin in model["twins"]]
        yield from (twin for index, twin in enumerate(model["twins"]) if memories[index] not in memories[:index])


def _template(twin: str, language: str) -> str:
    card = notes.CARDS[twin]
    return str(card["zh"] if language == "zh" else card["title"])


def files(language: str) -> Iterator[str]:
    rows = (
        (
            f"**{model['name']}**" if index == 0 else "",
            f"[{file.split('/')[1]}]({notes.FILES[file]['url']})",
            f"`{file.split('/')[0]}`",
            str(notes.FILES[file]["gb"] or word("unknown", language)),
        )
        for model in FACTS["models"]
        for index, file in enumerate(dict.fromkeys(file for twin in model["twins"] for file in _named(twin)))
    )
    return headed("files", language, rows)


def quality(language: str) -> Iterator[str]:
    scored = [model for model in FACTS["models"] if "quality" in model]
    rows = (
        (
            f"**{model['name']}**",
            f"{row['total']:.2f}",
            *(f"{part:.2f}" for part in row.get("parts", ())),
            *(["–"] * (0 if "parts" in row else 2)),
            row["of"],
            notes.linked(FACTS["sources"][row["source"]], language),
        )
        for model, row in ((model, model["quality"]) for model in sorted(scored, key=lambda m: -m["quality"]["total"]))
    )
    return headed("quality", language, rows)


TABLES: dict[str, Callable[[str], Iterator[str]]] = {"at a glance": at_a_glance, "files": files, "quality": quality}


def main() -> None:
    for language, file in PAGES.items():
        file.write_text(page(language), encoding="utf-8")
        print(f"Wrote the tables of {file}.")


if __name__ == "__main__":
    main()
