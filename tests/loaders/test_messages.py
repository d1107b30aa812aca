"""Every message for people has a key, an English and a Chinese text, and no sentence is told in another way."""

from __future__ import annotations

import ast
import copy
import json
import pickle
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from reelwire.loaders.messages import CheckpointError, InputError, about, data, either, message, message_of, sentences
from reelwire.loaders.request import Conditioning, Control, Guidance, Keyframe
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.lora import LoRA
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.speed import Speed
from reelwire.tests.support.host import PACK, ROOT

if TYPE_CHECKING:
    from playwright.sync_api import Page

FOLDERS = ("loaders", "samplers", "nodes")
FILES = [file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))]
BRACES = re.compile(r"\{(\w+)\}")
WORD = re.compile(r"[^\W\d_]{2}")  # letters side by side: what only numbers are put into has none
# who speaks to people -> the arguments that must be messages
SPEAKERS = {
    "InputError": slice(2, None),
    "CheckpointError": slice(0, 2),
    "OutOfMemory": slice(None),
    "ValueError": slice(None),
    "OSError": slice(None),
    "RuntimeError": slice(None),
    "say": slice(None),
    "tell": slice(None),
    "show": slice(None),
    "extended": slice(1, None),
    "explained": slice(None),
    "_wrong": slice(None),
}


def texts(language: str) -> dict[str, str]:
    file = ROOT / "locales" / language / "main.json"
    return json.loads(file.read_text(encoding="utf-8"))["reelwire"]["messages"]


def calls(file: Path) -> Iterator[tuple[ast.Call, str, ast.AST]]:
    """Each call in a file, with the last part of what is called and the function that it stands in."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    inside: dict[ast.AST, ast.AST] = {}
    for outer in ast.walk(tree):  # from the outside in, so that the innermost function stays
        if isinstance(outer, (ast.Module, ast.FunctionDef, ast.AsyncFunctionDef)):
            inside.update(dict.fromkeys(ast.walk(outer), outer))
    for node, function in inside.items():
        if isinstance(node, ast.Call):
            yield node, getattr(node.func, "id", getattr(node.func, "attr", "")), function


# ---------------------------------------------------------------- the texts


def test_both_languages_say_the_same_things() -> None:
    english, chinese = texts("en"), texts("zh")
    assert english.keys() == chinese.keys()
    for key, text in english.items():
        assert {*BRACES.findall(text)} == {*BRACES.findall(chinese[key])}, key
        assert re.fullmatch(r"[a-z][a-z0-9_]*", key)
        assert text.strip()
        assert chinese[key].strip()


def test_chinese_texts_are_chinese() -> None:
    """But for those that only put values side by side."""
    for key, text in texts("zh").items():
        words = re.sub(r"\{\w+\}", "", texts("en")[key])
        same = text == texts("en")[key]
        assert not same or not re.search("[a-z]{2}", words), f"{key} is not translated: {text}"


def messages_in(spec: object) -> Iterator[tuple[str, set[str]]]:
    """Each message in a family's spec.json: its key, and the names of its values."""
    if isinstance(spec, dict) and "key" in spec:
        yield spec["key"], {*spec.get("values", {})}
    children = spec.values() if isinstance(spec, dict) else spec if isinstance(spec, list) else ()
    for child in children:
        yield from messages_in(child)


def test_every_text_is_used_and_every_key_has_one() -> None:
    english, used = texts("en"), set[str]()
    for file in FILES:
        for call, name, _ in calls(file):
            if name != "message" or not call.args:
                continue
            where = f"{file.name}:{call.lineno}"
            key = call.args[0]
            assert isinstance(key, ast.Constant), f"{where}: a key is written out, so that it can be found"
            assert key.value in english, f"{where}: {key.value!r} has no text"
            used.add(key.value)
            names = {keyword.arg for keyword in call.keywords}
            if None not in names:
                assert names == {*BRACES.findall(english[key.value])}, f"{where}: the values of {key.value}"
    tables = (ROOT / "loaders").glob("weights/kinds/*.json")
    for file in sorted([*(ROOT / "loaders" / "families").glob("*/spec.json"), *tables]):
        for name, values in messages_in(json.loads(file.read_text(encoding="utf-8"))):
            assert name in english, f"{file}: {name!r} has no text"
            assert values == {*BRACES.findall(english[name])}, f"{file}: the values of {name}"
            used.add(name)
    scripts = (file for file in (ROOT / "web").rglob("*") if file.suffix in (".js", ".mjs"))
    for script in (file for file in scripts if file.parent.name != "vendor"):
        code = script.read_text(encoding="utf-8")
        own = {*re.findall(r'\b(?:key: |phrase\()"(\w+)"', code), *re.findall(r'"(timeline_\w+)"', code)}
        assert own <= english.keys(), f"{script.name}: {own - english.keys()}"
        used |= own
    assert used == english.keys(), f"not used: {sorted(english.keys() - used)}"


def sentence(node: ast.AST | None, function: ast.AST) -> str:
    """The first piece of text in an expression that is no message; names are followed to what they were set to."""
    if isinstance(node, ast.Constant):
        return str(node.value) if isinstance(node.value, str) and WORD.search(node.value) else ""
    if isinstance(node, ast.JoinedStr):
        pieces = "".join(str(part.value) for part in node.values if isinstance(part, ast.Constant))
        return ast.unparse(node) if WORD.search(pieces) else ""
    if isinstance(node, ast.Name):
        return next(filter(None, (sentence(value, function) for value in values_of(node.id, function))), "")
    kinds = (ast.IfExp, ast.BoolOp, ast.BinOp, ast.Tuple, ast.List, ast.Starred)
    children = [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.Compare)] if node else []
    if isinstance(node, ast.IfExp):
        children = [node.body, node.orelse]
    return next(filter(None, (sentence(child, function) for child in children)), "") if isinstance(node, kinds) else ""


def values_of(name: str, function: ast.AST) -> Iterator[ast.AST]:
    """What a name is set to in a function."""
    for node in ast.walk(function):
        if not isinstance(node, ast.Assign):
            continue
        for target in node.targets:
            if isinstance(target, ast.Name) and target.id == name:
                yield node.value
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                pairs = zip(target.elts, node.value.elts, strict=False)
                yield from (value for one, value in pairs if isinstance(one, ast.Name) and one.id == name)


def untranslated(file: Path) -> list[str]:
    """Sentences that a file tells people without a key."""
    found = []
    for call, name, function in calls(file):
        given = [*call.args[SPEAKERS[name]], *(keyword.value for keyword in call.keywords)] if name in SPEAKERS else []
        if name == "InputError" and isinstance(call.args[1], ast.JoinedStr):
            given.append(call.args[1])
        if name == "InputError" and isinstance(call.args[1], ast.Constant) and " " in str(call.args[1].value):
            given.append(call.args[1])
        found += [f"{file.name}:{call.lineno}: {text}" for text in (sentence(arg, function) for arg in given) if text]
    return found


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_told_without_a_key(folder: str) -> None:
    found = [text for file in FILES if ROOT / folder in file.parents for text in untranslated(file)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        'def f():\n    raise InputError("frames", 3, "It is wrong.", message("use_0"))',
        'def f():\n    raise InputError("frames", f"{3} frames", message("use_0"))',
        'def f(x):\n    rule = f"It is {x}."\n    raise CheckpointError(rule, message("use_0"))',
        'def f(x):\n    rule, y = ("Wrong." if x else message("use_0")), 1\n    raise InputError("frames", x, rule)',
        'def f(tell):\n    tell("Something " + "else")',
        'def f():\n    report.tell("Memory ran out.")',
        'def f():\n    raise OSError("No room is left.")',
    ],
)
def test_the_scan_finds_what_it_looks_for(tmp_path: Path, code: str) -> None:
    file = tmp_path / "code.py"
    file.write_text(code, encoding="utf-8")
    assert len(untranslated(file)) == 1


# ---------------------------------------------------------------- messages and errors


def test_a_message_is_its_text_and_knows_its_key() -> None:
    text = message("frames_rule", title="LTX-Video", step=8)
    assert text == "LTX-Video makes 8n+1 frames."
    assert (text.key, text.values) == ("frames_rule", {"title": "LTX-Video", "step": 8})
    for same in (copy.deepcopy(text), pickle.loads(pickle.dumps(text))):
        assert (same, same.key, same.values) == (text, text.key, text.values)


def test_messages_within_messages_reach_the_page() -> None:
    text = sentences(message("use_value", value=either(8, 16)), "", message("use_0"))
    assert text == "Use 8 or 16. Use 0."
    sent = json.loads(json.dumps(data(text), allow_nan=False))
    assert sent["key"] == "sentences"
    assert sent["values"]["first"]["values"]["value"] == {
        "key": "or_list",
        "values": {"first": "8", "second": "16"},
        "text": "8 or 16",
    }
    assert data("plain") == {"key": "", "values": {}, "text": "plain"}


def test_numbers_that_json_has_not_are_sent_as_text() -> None:
    sent = data(message("image_value", name=float("nan")))
    assert sent == {"key": "image_value", "values": {"name": "nan"}, "text": "image nan"}


def test_an_error_says_a_sentence_and_keeps_its_parts() -> None:
    error = InputError("frames", 18, message("frames_rule", title="LTX", step=8), message("use_0"))
    assert str(error) == "frames = 18: LTX makes 8n+1 frames. Use 0."
    assert (error.name, error.value, error.rule, error.remedy) == ("frames", 18, "LTX makes 8n+1 frames.", "Use 0.")
    assert data(message_of(error))["values"]["first"]["values"]["rule"]["key"] == "frames_rule"
    file = CheckpointError(message("holds_no_vae", file="a.gguf"), message("download_again"))
    assert str(file) == "a.gguf holds no VAE. Download it again."
    assert str(InputError("frames", 18, message("use_0"))) == "frames = 18: Use 0."


def test_an_error_in_a_message_stands_for_what_it_says() -> None:
    inner = ValueError(message("format_rotated"))
    text = message("format_wrong", file="a", layer="b", format="c", error=inner)
    assert getattr(text.values["error"], "key", "") == "format_rotated"
    assert message("no_entries", folder="a", file=OSError("x")).values["file"] == "x"


@pytest.mark.parametrize("kind", [InputError, CheckpointError])
def test_type_names_show_no_folder(kind: type) -> None:
    assert f"{kind.__module__}.{kind.__qualname__}" == f"reelwire.{kind.__name__}"


def test_errors_about_a_thing_name_the_node_that_made_it() -> None:
    error = InputError("strength", 0, message("use_1"))
    with pytest.raises(InputError), about(Control(node=("Control", "7"))), about(None):
        raise error
    assert error.node == ("Control", "7")
    with pytest.raises(InputError), about(Control(node=("Control", "8"))):
        raise error
    assert error.node == ("Control", "7"), "the nearest cause stays"


@pytest.mark.parametrize("kind", [Keyframe, Control, Conditioning, Guidance, VideoModel, LoRA, Policy, Speed])
def test_the_node_is_no_part_of_what_a_thing_is(kind: Any) -> None:
    """Not of its equality, its hash, nor of the words that unfinished renders and calibrations keep."""
    (node,) = (field for field in fields(kind) if field.name == "node")
    assert (node.compare, node.repr, node.hash, node.default) == (False, False, None, None)


# ---------------------------------------------------------------- the page


TRANSLATE = f"async message => (await import('/extensions/{PACK}/messages.mjs')).translate(message)"
LOCALE = "locale => window.app.extensionManager.setting.set('Comfy.Locale', locale)"


@pytest.fixture
def chinese(page: Page) -> Iterator[Page]:
    page.evaluate(LOCALE, "zh")
    yield page
    page.evaluate(LOCALE, "en")


def test_the_page_says_it_in_chinese(chinese: Page) -> None:
    error = InputError(
        "frames", 18, message("frames_rule", title="LTX", step=8), message("use_value", value=either(17, 25))
    )
    assert chinese.evaluate(TRANSLATE, data(message_of(error))) == "帧数 = 18：LTX 的帧数须为 8n+1。请填 17 或 25。"


@pytest.mark.parametrize("sent", [data("of another pack"), {"key": "not_there", "values": {}, "text": "as it is"}])
def test_what_has_no_text_is_said_as_it_is(chinese: Page, sent: dict[str, Any]) -> None:
    assert chinese.evaluate(TRANSLATE, sent) == sent["text"]


def test_english_stays_english(page: Page) -> None:
    page.evaluate(LOCALE, "en")
    assert page.evaluate(TRANSLATE, data(message("use_0"))) == "Use 0."
