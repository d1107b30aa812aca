"""What a tokenizer does not know is named by its sign; languages are spoken of where letters of another are there."""

from __future__ import annotations

from typing import Any

import pytest
from reelwire.loaders.common.prompts import read_prompt
from reelwire.loaders.common.tokenizers import load_tokenizer
from reelwire.loaders.messages import InputError
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.training.tiny_text import t5_tokenizer

ENGLISH = "The T5-XXL of published models reads English"
# prompt -> the signs that are named, and whether languages are spoken of
CASES = {
    "a red — circle": ("—", False),
    "a “red” circle": ("“ ”", False),
    "a red 🎬 circle": ("🎬", False),
    "a red 圆 and 方": ("圆 方", True),
    "a red круг": ("к р у г", True),
    "a red サークル": ("サ ー ク ル", True),
    "a ☃ red\u200bcircle 🎬🎬": ("☃ U+200B 🎬", False),
    "a red 一二三四五六七八九十": ("一 二 三 四 五 六 七 八 …", True),
}


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """One that knows ASCII alone."""
    return t5_tokenizer()


@pytest.mark.parametrize("text", CASES)
def test_named_by_their_signs(tokenizer: Any, text: str) -> None:
    signs, foreign = CASES[text]
    (note,) = read_prompt(tokenizer, text, 64, "negative").notes
    assert f"negative: the text encoder does not know {signs}: " in note
    assert (ENGLISH in note) == foreign


@pytest.mark.parametrize("text", CASES)
def test_nothing_but_unknown_signs_is_refused(tokenizer: Any, text: str) -> None:
    signs, foreign = CASES[text]
    unknown = signs.replace("U+200B", "").replace(" …", "")
    with pytest.raises(InputError) as refused:
        read_prompt(tokenizer, f"({unknown}:1.2)", 64, "positive")
    assert ("English" in str(refused.value)) == foreign
    assert signs.split()[0] in refused.value.rule


@pytest.mark.parametrize("text", ["", "   ", "a red circle", r"\{a} $ ~ ^ | <b>"])
def test_what_is_known_is_not_spoken_of(tokenizer: Any, text: str) -> None:
    assert read_prompt(tokenizer, text, 64, "positive").notes == ()


def test_a_backslash_on_the_bundled_model_is_no_chinese() -> None:
    tokenizer = load_tokenizer(BUNDLED / "tokenizer")
    for text in ("a red circle \\ {", "a red circle 🎬"):
        for note in read_prompt(tokenizer, text, 128, "positive").notes:
            assert ENGLISH not in note


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a red qwerty on asdf", "qwerty asdf"),
        ("a blue square", "square"),
        ("一个红色的圆和恐龙", "和 恐 龙"),
    ],
)
def test_the_bundled_model_names_words(text: str, named: str) -> None:
    (note,) = read_prompt(load_tokenizer(BUNDLED / "tokenizer"), text, 128, "positive").notes
    assert f"does not know {named}: " in note
