"""File name prefixes: what they may hold on every system, and what their tokens stand for."""

from __future__ import annotations

import json
import sys
import unicodedata
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from reelwire.loaders.messages import InputError

NOW = datetime(2026, 3, 7, 9, 5, 2)


@pytest.fixture(scope="module")
def names(comfyui: Path) -> Iterator[Any]:
    """nodes/host/names.py with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    from reelwire.nodes.host import names as module

    yield module
    sys.path.remove(str(comfyui))


# tabulators, C1 controls, soft hyphens, marks of direction, spaces without width, halves of a pair, tags
HIDDEN = (
    "\t\x80\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028\u2029\u202a\u202e\u2060\u2066\u2069\ufeff\ud800\udfff"
    "\ufffe\U000e0041"
)
BAD = [
    *(f"video/a{sign}b" for sign in ':*?"<>|\x00\n\t\x7f\ud800'),
    *(f"a{sign}/b" for sign in ':*?"<>|'),
    *("clip.", "clip ", "folder./clip", "folder /clip", "a. . /b"),
    *("CON", "nul", "video/PRN", "aux.old", "COM1", "com9.mp4", "LPT1/clip", "video/lpt¹", "CONIN$", "NUL .x"),
    *("../x", "a/../../x", "..\\x", "/tmp/x", "\\\\server\\share", "\\x", "C:\\x", "c:/x", "D:x"),
    *("", "/", "video/", "video\\", ".", "..", " ", "a/.", "a/..", "a/../..", "x/y/..", ". ", "\u00a0/ "),
    *(f"vi{sign}deo" for sign in HIDDEN),
    *(
        "\u202egpj.exe",
        "a\u2066b\u2069",
        "a\n\nb",
        "a\r/b",
        "\x1b[31mred",
        "a\x9b1m",
        "nul\u200b",
        "a\u200d",
        "\u200da",
    ),
    *("a/" * 3000 + "b", "x" * 999, "视" * 67, "e\u0301" * 67, "x/" * 111, "\\\\?\\C:\\x", "C:\\evil", "C:evil", "a:b"),
    *("x" * 201, "é" * 101, "/".join(["folder"] * 40), "%date:hh:mm%", "%date:yyyy?%", "%Sampler: one.seed%:"),
]
GOOD = [
    *(
        "video/reelwire",
        "clip",
        "a/b/c/d",
        "video\\clip",
        "视频/片段",
        "a.b.c",
        "CONSOLE",
        "com",
        "nullable",
        "x" * 200,
    ),
    *(
        "%year%-%month%/clip",
        "%date:yyyy-MM-dd%",
        "%date:yyyy/MM/dd%/clip",
        "%Sampler.seed%",
        "50%",
        "%Sampler: one.seed%",
    ),
    *("caf\u00e9", "cafe\u0301", "한글", "👨\u200d👩\u200d👧", "می\u200cخواهم", "a\u3000b", " a", "ﬁ", "ⅷ"),
    *("a/../b", "./a", "a//b", "[draft] a (1) 'b' & c;#=+,~!@^$"),
]


@pytest.mark.parametrize("prefix", BAD, ids=lambda prefix: repr(prefix[:20]))
def test_what_some_system_cannot_have_is_refused(names: Any, prefix: str) -> None:
    with pytest.raises(InputError) as refused:
        names.check_prefix(prefix)
    assert refused.value.name == "filename_prefix"
    assert refused.value.remedy


@pytest.mark.parametrize("prefix", GOOD, ids=lambda prefix: repr(prefix[:20]))
def test_what_all_can_have_is_taken(names: Any, prefix: str) -> None:
    names.check_prefix(prefix)


@settings(max_examples=200)
@given(st.text(st.characters(), max_size=60))
def test_any_prefix_is_taken_or_refused(names: Any, prefix: str) -> None:
    """What is taken is a name of UTF-8 without what cannot be seen, and leads nowhere else."""
    try:
        names.check_prefix(prefix)
    except InputError as refused:
        str(refused).encode()
        return
    prefix.encode()
    assert not {unicodedata.category(c) for c in prefix} & {"Cc", "Cs", "Zl", "Zp"}
    assert not prefix.startswith(("/", "\\"))


def test_sixty_megabytes(names: Any) -> None:
    for prefix in ("x" * 60_000_000, "%" * 10_000_000, "a/" * 10_000_000, "%a.b%" * 5_000_000):
        with pytest.raises(InputError) as refused:
            names.check_prefix(prefix)
        assert len(str(refused.value)) < 400


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("yyyy-MM-dd", "2026-03-07"),
        ("yy.M.d", "26.3.7"),
        ("hh-mm-ss", "09-05-02"),
        ("h_m_s", "9_5_2"),
        ("yyyyMMdd_hhmmss", "20260307_090502"),
        ("MMM", "033"),  # as the page: one pattern after another
        ("yyy", "26y"),
        ("week", "week"),
    ],
)
def test_dates_are_written_as_the_page_does(names: Any, token: str, text: str) -> None:
    assert names.with_date(f"a %date:{token}% b", NOW) == f"a {text} b"


PROMPT = {
    "1": {"class_type": "Sampler", "inputs": {"seed": 7, "guidance": 4.0, "shift": 2.5, "model": ["9", 0]}},
    "2": {"class_type": "Encode", "inputs": {"text": "a/b: c?"}, "_meta": {"title": "My prompt"}},
    "3": {"class_type": "Sampler", "inputs": {"seed": 8}, "_meta": {"title": "Second"}},
    "4": {"class_type": "Encode", "inputs": {"text": "..", "on": True, "none": None, "long": "ü" * 300}},
}
WORKFLOW = {"nodes": [{"id": 3, "type": "Sampler", "title": "Drawn", "properties": {"Node name for S&R": "Refiner"}}]}


@pytest.mark.parametrize(
    ("prefix", "text"),
    [
        ("a %Sampler.seed%", "a 7"),
        ("%Sampler.guidance%_%Sampler.shift%", "4_2.5"),
        ("%Refiner.seed%", "8"),
        ("%Drawn.seed%", "8"),
        ("%My prompt.text%/x", "a_b_ c_/x"),
        ("%3.seed%", "8"),
        ("%4.on%%4.none%", "true"),
        ("%4.text%/x", "_/x"),
        ("%date:yyyy%/%1.seed%/%width%", "2026/7/%width%"),
        ("plain", "plain"),
        ("a/../%1.seed%", "a/../7"),
    ],
)
def test_tokens_stand_for_what_widgets_hold(names: Any, prefix: str, text: str) -> None:
    assert names.resolved(prefix, names.nodes_of(PROMPT, WORKFLOW), NOW) == (text, [])


@pytest.mark.parametrize("prefix", ["%Nobody.seed%", "%Sampler.nothing%", "%Sampler.model%", "%No: one.seed%"])
def test_what_stands_for_nothing_stays_and_is_told(names: Any, prefix: str) -> None:
    text, notes = names.resolved(prefix, names.nodes_of(PROMPT, {}), NOW)
    assert text == prefix.replace(":", "_")
    assert [note.key for note in notes] == ["token_unknown"]


TITLES = {"KSampler": "KSampler (host's)"}


@pytest.mark.parametrize("kind", ["ReelwireSampler", "ReelwireLongVideo", "ReelwireLoRA", "ReelwireCache"])
def test_what_the_page_shows_of_a_node_names_it_in_every_language(names: Any, kind: str) -> None:
    pages = [json.loads(file.read_text()) for file in (names.LOCALES).glob("*/nodeDefs.json")]
    assert len(pages) == 2
    for page in pages:
        for widget, label in page[kind]["inputs"].items():
            nodes = names.nodes_of({"5": {"class_type": kind, "inputs": {widget: "v"}}}, None)
            for name in (widget, label["name"]):
                token = f"%{page[kind]['display_name']}.{name}%"
                assert names.resolved(token, nodes, NOW) == ("v", []) or "." in token[1:-1].replace(".", "", 1)


def test_what_the_host_calls_a_node_names_it(names: Any) -> None:
    nodes = names.nodes_of({"5": {"class_type": "KSampler", "inputs": {"seed": 4}}}, None, TITLES)
    assert names.resolved("%KSampler (host's).seed%", nodes, NOW) == ("4", [])


@pytest.mark.parametrize("word", ["date", "foo", "batch_num", "Width", "seed"])
@pytest.mark.parametrize("more", ["", "%date:yyyy%", "%1.seed%"])
def test_a_word_that_stands_for_nothing_is_told(names: Any, word: str, more: str) -> None:
    text, notes = names.resolved(f"a_%{word}%{more}", names.nodes_of(PROMPT, {}), NOW)
    assert text.startswith(f"a_%{word}%")
    assert [(note.key, note.values["token"]) for note in notes] == [("token_no_word", f"%{word}%")]


@pytest.mark.parametrize("prefix", ["50%", "50% of 100%", "%width%x%height%", "%year%", "a % b % c", "%1%"])
def test_a_percent_sign_is_no_token(names: Any, prefix: str) -> None:
    assert names.resolved(prefix, [], NOW) == (prefix, [])


def test_a_long_value_is_cut_to_a_name(names: Any) -> None:
    text, notes = names.resolved("a/%4.long%/%4.long%", names.nodes_of(PROMPT, {}), NOW)
    assert [note.key for note in notes] == ["name_fitted"]
    names.check_prefix(text)
    assert text.startswith("a/ü")


values = st.one_of(
    st.text(max_size=12), st.sampled_from(["..", ".", "", "CON", "nul.txt", "a/../..", " ", "x. ", "\ud800", "a" * 999])
)


@settings(max_examples=40)
@given(values, st.sampled_from(["%N.v%", "a/%N.v%/b", "%N.v%%N.v%", "%N.v%.%N.v%", "x%N.v%", "con%N.v%"]))
def test_no_value_makes_a_bad_name(names: Any, value: str, prefix: str) -> None:
    nodes = names.nodes_of({"1": {"class_type": "N", "inputs": {"v": value}}}, None)
    text, _ = names.resolved(prefix, nodes, NOW)
    names.check_prefix(text.replace("%", "_"))  # a value that looks like a token is none
    assert ".." not in text.split("/")


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
partly = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("class_type", "inputs", "_meta", "title", "properties", "id", "type"), anything)
)
WHOLE = {"N": {"class_type": "N", "inputs": {"v": 1}}}


@settings(max_examples=150)
@given(
    st.dictionaries(st.text(max_size=3), partly | anything, max_size=3),
    st.fixed_dictionaries({"nodes": st.lists(partly | anything, max_size=3) | anything}) | anything,
)
def test_whatever_comes_along_with_a_prompt(names: Any, prompt: dict[str, Any], workflow: Any) -> None:
    """Neither is made by a page, and the prefix is still a name."""
    text, _ = names.resolved("a/%N.v%/%M.v%", names.nodes_of({**prompt, **WHOLE}, workflow), NOW)
    names.check_prefix(text.replace("%", "_"))
