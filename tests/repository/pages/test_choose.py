"""docs/choose.md: its tables are what Estimate and the sources say, in both languages alike."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from reelwire.bench.templates import choose, memory, notes

every = pytest.mark.parametrize("language", notes.LANGUAGES)


@every
def test_its_tables_are_fresh(language: str) -> None:
    assert choose.page(language) == choose.PAGES[language].read_text(encoding="utf-8"), (
        "python bench/templates/choose.py"
    )


@pytest.mark.parametrize("name", ["ltx_multiscale", "wan_lora_distilled"])
def test_what_it_says_of_cards_is_what_estimate_says(name: str, tmp_path: Path) -> None:
    """Of two passes and of a LoRA's few steps; tests of the templates ask for two more."""
    assert memory.asked(notes.CARDS[name], tmp_path) == notes.MEMORY[name]


def test_every_model_with_a_template_is_there() -> None:
    named = [twin for model in choose.FACTS["models"] for twin in model["twins"]]
    assert sorted(named) == sorted(notes.MEMORY)


def test_every_table_has_its_place_in_both_pages() -> None:
    for page in choose.PAGES.values():
        names = re.findall("<!-- table: (.+?) -->", page.read_text(encoding="utf-8"))
        assert names == ["at a glance", *(f"{gb} GB" for gb in choose.CARDS), "files", "quality"]
        assert len(choose.TABLE.findall(page.read_text(encoding="utf-8"))) == len(names)


def test_both_languages_tell_the_same_figures() -> None:
    """Sizes, times, gigabytes, scores and addresses, row by row; names of templates are words."""
    figures = lambda language: [
        re.findall(r"https?://[^)\s]+|\d+(?:\.\d+)?", row.split("|", 2)[2])
        for row in choose.page(language).splitlines()
        if row.startswith("|")
    ]
    assert figures("en") == figures("zh")


def test_each_class_of_cards_has_every_template_once() -> None:
    """It runs there, or it is named as one that does not."""
    titles = [notes.CARDS[twin]["title"] for twin in notes.MEMORY if twin != "cache_calibrate"]
    for gb in choose.CARDS:
        text = "\n".join(choose.table(f"{gb} GB", "en"))
        table, _, missing = text.partition("Not on")
        assert [title for title in titles if f"| {title} |" not in table and title not in missing] == []
        assert all(not missing or f"| {title} |" not in table for title in missing.split(": ")[-1].split(", "))


def test_a_score_has_a_source() -> None:
    for model in choose.FACTS["models"]:
        quality = model.get("quality")
        assert model["licence"] in choose.FACTS["licences"]
        assert quality is None or (0 < quality["total"] < 100 and quality["source"] in choose.FACTS["sources"])
    used = {model["quality"]["source"] for model in choose.FACTS["models"] if "quality" in model}
    assert used == {*choose.FACTS["sources"]}
