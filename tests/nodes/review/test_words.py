"""Which prompts a list of words finds, and what is kept of decisions."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from reelwire.loaders.messages import CheckpointError, InputError


@pytest.fixture(scope="module")
def review(comfyui: Path) -> Iterator[Any]:
    """The modules of nodes/review/ with ComfyUI's in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    names = ("words", "store")
    yield SimpleNamespace(**{name: import_module(f"reelwire.nodes.review.{name}") for name in names})
    sys.path.remove(str(comfyui))


@pytest.mark.parametrize(
    ("prompt", "entry"),
    [
        ("A BEAR walks", "bear"),
        ("a Ｂｅａｒ walks", "bear"),
        ("a béar walks", "Bear"),
        ("a b\u200bea\u00adr walks", "bear"),
        ("a b(ea:1.3)r walks", "bear"),
        ("a (bear:1.3)", "bear"),
        ("red_car", "red car"),
        ("a red \n  car", "red  car"),
        ("Straße", "STRASSE"),
        ("画一只bear在水里", "bear"),
        ("很多血腥的场面", "血腥"),
        ("很多血 腥的场面", "血腥"),
        ("ﾊﾞｲｵﾚﾝｽ", "バイオレンス"),
        ("폭력을 보여줘", "폭력"),
        ("what a f**k", "f**k"),
        ("c++ code", "c++"),
        ("café", "cafe\u0301"),
    ],
)
def test_writing_does_not_hide_a_word(review: Any, prompt: str, entry: str) -> None:
    assert review.words.matches(prompt, (entry,)) == (entry,)


@pytest.mark.parametrize(
    ("prompt", "entry"),
    [
        ("bearing and forbear", "bear"),
        ("bears", "bear"),
        ("a bored car and red, car", "red car"),
        ("流血", "血腥"),
        ("essex", "sex"),
        ("", "bear"),
    ],
)
def test_other_words_are_left_alone(review: Any, prompt: str, entry: str) -> None:
    assert review.words.matches(prompt, (entry,)) == ()


def test_a_list_is_read_by_lines(review: Any) -> None:
    assert review.words.entries_of("\ufeff bear \r\n# remark\n\n血腥\nbear", "words") == ("bear", "血腥")
    for wrong in ("\u200b", "x" * 201, "\n".join(map(str, range(10_001)))):
        with pytest.raises(InputError):
            review.words.entries_of(wrong, "words")


def test_ten_thousand_entries_are_looked_for_at_once(review: Any) -> None:
    entries = tuple(f"word{number}" for number in range(10_000))
    assert review.words.matches("lorem ipsum " * 1500 + "word77", entries) == ("word77",)


def test_decisions_outlast_the_process_and_are_for_one_text(review: Any, tmp_path: Path) -> None:
    store = review.store.Store(tmp_path / "own" / "review.json")
    case = store.hold("a bear", ("bear",))
    assert store.hold("a bear", ("bear",)).count == 2
    store.decide(case.id, "release", "anna\n", "10.0.0.1")
    again = review.store.Store(store.path)
    found = again.find("a bear")
    assert (found.state, found.by, found.address, found.matched) == ("released", "anna", "10.0.0.1", ("bear",))
    assert found.decided >= found.held > 0
    assert again.find("a bear ") is None
    assert [path.name for path in store.path.parent.iterdir()] == ["review.json"]
    with pytest.raises(LookupError):
        again.decide("0" * 32, "drop", "anna", "")


def test_what_waits_is_never_dropped_by_itself(review: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(review.store, "MOST", 3)
    store = review.store.Store(tmp_path / "review.json")
    cases = [store.hold(f"bear {number}", ("bear",)) for number in range(3)]
    with pytest.raises(InputError):
        store.hold("bear 3", ("bear",))
    assert len(store.cases()) == 3
    store.decide(cases[1].id, "release", "anna", "")
    store.hold("bear 3", ("bear",))
    assert {case.text for case in store.cases()} == {"bear 0", "bear 2", "bear 3"}
    monkeypatch.setattr(review.store, "ROOM", 2000)
    with pytest.raises(InputError):
        store.hold("bear" + "x" * 3000, ("bear",))


@pytest.mark.parametrize("edit", [lambda c: c[:-9], lambda c: c.replace("a bear", "a deer"), lambda c: "[]"])
def test_a_damaged_file_lets_nothing_pass(review: Any, tmp_path: Path, edit: Any) -> None:
    """Nor does a text that was put in place of another under its id; and nothing is written over it."""
    store = review.store.Store(tmp_path / "review.json")
    store.decide(store.hold("a bear", ("bear",)).id, "release", "anna", "")
    damaged = edit(store.path.read_text(encoding="utf-8"))
    store.path.write_text(damaged, encoding="utf-8")
    for act in (lambda: store.find("a deer"), lambda: store.hold("a deer", ("deer",))):
        with pytest.raises(CheckpointError):
            act()
    assert store.path.read_text(encoding="utf-8") == damaged


def test_the_file_holds_what_people_read(review: Any, tmp_path: Path) -> None:
    store = review.store.Store(tmp_path / "review.json")
    store.hold("一只熊", ("熊",))
    assert "一只熊" in store.path.read_text(encoding="utf-8")
    assert json.loads(store.path.read_text(encoding="utf-8"))["version"] == 1
