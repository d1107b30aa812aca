"""What a tokenizer does not know is named by its sign; languages are spoken of where letters of another are there."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders.common import little_world
from reelwire.loaders.common.prompts import read_prompt
from reelwire.loaders.common.tokenizers import BoundedTokenizer, load_tokenizer
from reelwire.loaders.messages import InputError, message
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.training import world
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
    return BoundedTokenizer(t5_tokenizer(), Path("t5"))


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
    assert note.endswith(message("little_world"))


BEYOND = [
    "a red circle moving left on a blue background",
    "a circle on a blue backdrop",
    "a ring on blue",
    "a red circle, a blue ring",
    "a red blue triangle growing",
    "a white circle on a black background",
    "a red circle with a blue (background:1.2)",
    "a video",
    "一个圆环在蓝色的背景上向左移动",
    "红色的圆,背景是蓝色",
    "一个白色的球",
]


@pytest.mark.parametrize("text", BEYOND)
def test_the_bundled_model_says_what_it_knows(text: str) -> None:
    """Of a prompt whose every word it knows, but not what they ask for."""
    tokenizer = load_tokenizer(BUNDLED / "tokenizer")
    known = str(message("little_world"))
    assert known in read_prompt(tokenizer, text, 128, "positive").notes
    assert known not in read_prompt(tokenizer, text, 128, "negative").notes
    with pytest.raises(InputError) as refused:
        read_prompt(tokenizer, "dogs", 128, "positive")
    assert refused.value.remedy == known


def test_nothing_is_said_of_what_it_has_learned() -> None:
    rng = random.Random(3)
    tokenizer = load_tokenizer(BUNDLED / "tokenizer")
    scenes, held_out = world.split()
    for scene in [*scenes[::3], *held_out]:
        for chinese in (False, True):
            for text in (world.caption(scene, rng, chinese), world.partial_caption(scene, rng, chinese)[0], ""):
                assert read_prompt(tokenizer, text, 128, "positive").notes == (), text


def test_its_words_are_those_of_its_training() -> None:
    chinese = {name: [word] for name, word in (world.ZH_COLOUR | world.ZH_BACKGROUND).items()} | world.ZH_SHAPE
    kinds = {"shapes": world.EN_SHAPE, "colours": world.EN_COLOUR, "backgrounds": world.EN_BACKGROUND}
    for kind, english in kinds.items():
        expected = {name: {*words, *chinese[name]} for name, words in english.items()}
        assert {name: {*words} for name, words in little_world.world()[kind].items()} == expected
        assert all(name in message("little_world") for name in english)
