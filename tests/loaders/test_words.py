"""How the texts of both languages read: one of a thing and many, labels as the page shows them, seconds in one way."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from reelwire.loaders.messages import InputError, data, inputs_named, message, message_of
from reelwire.tests.support.host import ROOT

# things that can be counted, as the texts write them behind a number
COUNTED = (
    r"blocks|bytes|channels|characters|columns|days|distances|entries|forwards|frames|heads|keyframes|layers|levels|"
    r"masks|names|notes|numbers|objects|pixels|predictions|prompts|references|runs|samples|sounds|steps|tensors|"
    r"tokens|timesteps|windows"
)
BARE = re.compile(rf"\{{(\w+)\}} (?:(?:given|latent|more|new) )?(?:{COUNTED})\b")
FORMS = re.compile(r"\{(\w+)\|(?:[^{}]|\{\w+\})*\}")  # {count|one|many}
NEVER_ONE = {"most", "least", "counts", "longest", "multiple"}  # names of limits, which are all larger
NO_COUNT = {("kernel_no_mask", "title"), ("preset_steps", "preset"), ("works_alone", "file")}  # are verbs
# what looks like an input and is none: a choice, which the page shows as it is, a key of a timeline, a file, a unit, a
# function of PyTorch
NO_INPUT = {
    "connect_source_or_frames": "frames",
    "distilled_steps": "distilled",
    "folder_no_tokenizer": "model",
    "frames_unused": "source",
    "job_set_back": "start",
    "job_start_over": "start",
    "keyframes_list": "keyframes",
    "needs_capability_7": "compile",
    "needs_compiler": "compile",
    "source_flash": "attention",
    "vae_cogvideox_file": "vae",
    "mochi_vae_remedy": "vae",
    "vae_mochi": "vae",
    "write_unit": "frames",
}
UNITS = {"fps"}


def of(language: str, file: str) -> dict[str, Any]:
    return json.loads((ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))


ENGLISH, CHINESE = (of(language, "main")["reelwire"]["messages"] for language in ("en", "zh"))
# input -> what a Chinese page calls it
INPUTS = [(name, entry["name"]) for node in of("zh", "nodeDefs").values() for name, entry in node["inputs"].items()]
LABELS = dict(INPUTS)


# ---------------------------------------------------------------- one and many


def test_what_is_counted_has_a_word_for_one() -> None:
    bare = {
        (key, name)
        for key, text in ENGLISH.items()
        for name in BARE.findall(FORMS.sub("", text))
        if name not in NEVER_ONE and (key, name) not in NO_COUNT
    }
    assert not bare, "write {count} {count|frame|frames}"


def test_no_text_leaves_it_to_the_reader() -> None:
    assert [key for key, text in ENGLISH.items() if "(s)" in text] == []


@pytest.mark.parametrize("key", [key for key, text in ENGLISH.items() if FORMS.search(text)])
def test_one_and_many_differ_and_leave_no_braces(key: str) -> None:
    names = {*re.findall(r"\{(\w+)", ENGLISH[key])}
    one, many = (message(key, **dict.fromkeys(names, value)) for value in (1, 7))
    assert one.replace("1", "7") != many
    assert not {*"{|}"} & {*one, *many}


@pytest.mark.parametrize("one", [1, 1.0, "1"])
def test_one_is_one_however_it_comes(one: object) -> None:
    assert message("count_frames", count=one) == f"{one} frame"
    assert message("count_frames", count=0) == "0 frames"


# ---------------------------------------------------------------- names of inputs


def test_chinese_texts_call_inputs_as_the_chinese_page_does() -> None:
    words = lambda text: {*re.findall(r"[A-Za-z_]\w*", re.sub(r"\{[^}]*\}|models/\w+", "", text), re.ASCII)}
    named = {name for name, label in LABELS.items() if label != name} - UNITS
    texts = {key: text for key, text in CHINESE.items() if not key.startswith("option_")}  # these name values
    found = {key: words(text) & named - {NO_INPUT.get(key)} for key, text in texts.items()}
    assert {key: names for key, names in found.items() if names} == {}


def test_the_exceptions_are_needed() -> None:
    assert [key for key, name in NO_INPUT.items() if name not in CHINESE[key] or name not in LABELS] == []


def test_what_chinese_texts_quote_is_there() -> None:
    """Names of nodes and labels of inputs in quotation marks, and of ComfyUI its own nodes and its button."""
    titles = {re.sub("（.*?）", "", node["display_name"]) for node in of("zh", "nodeDefs").values()}
    full = {node["display_name"] for node in of("zh", "nodeDefs").values()}
    of_host = {"加载音频", "加载图像", "加载视频", "获取视频组件", "运行"}
    quoted = {name for text in CHINESE.values() for name in re.findall("“([^”]+)”", text)}
    assert quoted <= titles | full | {label for _, label in INPUTS} | of_host


def test_an_error_names_its_inputs_so_that_the_page_can_label_them() -> None:
    error = InputError("start, end", "1, 0", message("use_span"))
    assert (error.name, str(error)) == ("start, end", "start, end = 1, 0: Use 0 <= start < end <= 1.")
    names = data(message_of(error))["values"]["name"]["values"]
    assert [names[place]["values"] for place in ("first", "second")] == [{"id": "start"}, {"id": "end"}]
    assert data(inputs_named("width"))["key"] == "input_name"


# ---------------------------------------------------------------- times


def test_seconds_are_written_in_one_way() -> None:
    """In Chinese by a word, in English by s."""
    shown = re.compile(r"[}\d] ?(?:s|secs?|seconds?|min|h)\b")
    assert [key for key, text in CHINESE.items() if shown.search(text)] == []
    words = re.compile(r"[}\d] ?(?:secs?|seconds?|minutes|hours)\b")
    assert [key for key, text in ENGLISH.items() if words.search(text)] == []
