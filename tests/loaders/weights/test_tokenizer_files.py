"""Tokenizers that others wrote: what no published one says is refused in words, and soon; panics stay inside."""

from __future__ import annotations

import base64
import copy
import json
import random
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders.common.prompts import read_prompt
from reelwire.loaders.common.tokenizer_files import check_charsmap, check_sentencepiece
from reelwire.loaders.common.tokenizers import MOST_CHARACTERS, load_tokenizer
from reelwire.loaders.messages import CheckpointError, InputError, RefusedError
from reelwire.tests.support.files.files import train_pieces

Json = dict[str, Any]
TEXT = "a red circle, (moving) right 猫 \u2028 x́"


@pytest.fixture(scope="module")
def comfy_tokenizers(comfyui: Path) -> dict[str, Path]:
    folder = comfyui / "comfy"
    return {
        "t5": folder / "text_encoders" / "t5_tokenizer",
        "llama": folder / "text_encoders" / "llama_tokenizer",
        "clip": folder / "sd1_tokenizer",
    }


@pytest.fixture
def umt5(tiny_models: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_models / "tiny-wan2.1-t2v" / "tokenizer", tmp_path / "tokenizer"))


def rewritten(folder: Path, change: Callable[[Json], object]) -> Path:
    file = folder / "tokenizer.json"
    values = json.loads(file.read_text(encoding="utf-8"))
    change(values)
    file.write_text(json.dumps(values))
    return folder


def step(kind: str, **values: Any) -> Json:
    return {"type": kind, **values}


def replace(content: str, **pattern: str) -> Json:
    return step("Replace", pattern=pattern, content=content)


def charsmap(trie: bytes, texts: bytes) -> Json:
    content = base64.b64encode(len(trie).to_bytes(4, "little") + trie + texts).decode()
    return step("Precompiled", precompiled_charsmap=content)


DAMAGES: dict[str, Callable[[Json], object]] = {
    "a regular expression that never ends": lambda v: v.update(normalizer=replace("", Regex="(a+)+$")),
    "one that does not compile": lambda v: v.update(normalizer=replace("", Regex="(")),
    "one that splits": lambda v: v.update(
        pre_tokenizer=step("Split", pattern={"Regex": "(x|xx)*y"}, behavior="Isolated", invert=False)
    ),
    "a replacement that grows": lambda v: v.update(normalizer=replace("a" * 10**6, String="a")),
    "many that grow a little": lambda v: v.update(
        normalizer=step("Sequence", normalizers=[replace("aaaa", String="a")] * 12)
    ),
    "an empty pattern": lambda v: v.update(normalizer=replace("a", String="")),
    "sequences in one another": lambda v: v.update(
        normalizer=step("Sequence", normalizers=[step("Sequence", normalizers=[step("NFC")] * 9)] * 9)
    ),
    "a charsmap that leaves its trie": lambda v: v.update(normalizer=charsmap(b"\xff\xff\xff\x7f" * 256, b"a\0")),
    "a charsmap whose trie is too large": lambda v: v.update(normalizer=charsmap(b"", b"a\0")),
    "a charsmap with a long text": lambda v: v.update(normalizer=charsmap(bytes(1024), b"a" * 10**6 + b"\0")),
    "a template with ten thousand texts": lambda v: v.update(
        post_processor=step("TemplateProcessing", single=[{"Sequence": {"id": "A", "type_id": 0}}] * 10**4)
    ),
    "padding to a billion": lambda v: v.update(padding={"strategy": {"Fixed": 10**9}}),
    "an unknown kind": lambda v: v.update(pre_tokenizer=step("Nonsense")),
    "no model": lambda v: v.pop("model"),
    "a score that is no number": lambda v: v["model"]["vocab"].__setitem__(0, ["x", "y"]),
    "a score without bounds": lambda v: v["model"]["vocab"].__setitem__(0, ["x", 1e300]),
    "an unknown sign beyond the vocabulary": lambda v: v["model"].update(unk_id=10**9),
    "a negative one": lambda v: v["model"].update(unk_id=-1),
    "no vocabulary": lambda v: v["model"].update(vocab=[]),
    "a null": lambda v: v.update(model=None),
    "a list": lambda v: v.update(normalizer=[1]),
    "an added token without a text": lambda v: v["added_tokens"].append({"id": 3}),
    "one with a huge number": lambda v: v["added_tokens"].append({"id": 10**12, "content": "x"}),
    "an odd decoder": lambda v: v.update(decoder=step("Replace", pattern={"Regex": "(a*)*b"}, content="")),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_no_published_one_says_is_refused(umt5: Path, damage: str) -> None:
    start = time.process_time()
    with pytest.raises(CheckpointError) as refused:
        load_tokenizer(rewritten(umt5, DAMAGES[damage]))
    assert umt5.name in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert time.process_time() - start < 5


SIDECARS: dict[str, str] = {
    "extra_ids": '{"extra_ids": 1000000000}',
    "a list": "[]",
    "deep": '{"a":' * 10**5,
    "long tokens": json.dumps({"additional_special_tokens": ["x" * 10**5]}),
    "cut": '{"pad_token": ',
}


@pytest.mark.parametrize("case", SIDECARS)
def test_files_beside_a_tokenizer(umt5: Path, case: str) -> None:
    (umt5 / "tokenizer_config.json").write_text(SIDECARS[case])
    with pytest.raises(CheckpointError):
        load_tokenizer(umt5)


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"x" * 1000, bytes(range(256)) * 9, b"\x0a\xff\xff\xff\x7f"])
@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json", "vocab.json"])
def test_files_of_no_kind(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    (tmp_path / "merges.txt").write_bytes(content)
    with pytest.raises(CheckpointError):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("name", ["t5", "llama", "clip"])
def test_published_ones_are_taken(comfy_tokenizers: dict[str, Path], name: str) -> None:
    assert len(load_tokenizer(comfy_tokenizers[name])(TEXT).input_ids) > 5


def test_a_text_of_any_length_ends_neither_thread_nor_time(comfy_tokenizers: dict[str, Path]) -> None:
    """12 MB of spaces made Llama 3's regular expression panic, in Rust."""
    tokenizer = load_tokenizer(comfy_tokenizers["llama"])
    assert tokenizer(" " * MOST_CHARACTERS).input_ids
    with pytest.raises(InputError):
        tokenizer(" " * 12_000_000)
    with pytest.raises(InputError):
        tokenizer(["a" * MOST_CHARACTERS, "a"])


def test_a_prompt_is_measured_before_it_is_read(umt5: Path) -> None:
    tokenizer = load_tokenizer(umt5)
    with pytest.raises(InputError) as refused:
        read_prompt(tokenizer, " " * 10**7, 512, "positive")
    assert refused.value.name == "positive"
    assert len(str(refused.value)) < 400


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of all that lies in a JSON value, but for the vocabulary's pieces beyond the first."""
    for key, inner in list(value.items() if isinstance(value, dict) else enumerate(value[:3])):
        yield value, key
        if isinstance(inner, (dict, list)):
            yield from places(inner)


ODD: tuple[Any, ...] = (
    None,
    -1,
    0,
    2**70,
    1e308,
    "",
    "x" * 10**5,
    "\ud800",
    [],
    {},
    [[]],
    {"type": "Sequence"},
    True,
    "Regex",
    "(a+)+$",
)


def test_a_mutated_tokenizer_is_words_or_works(tiny_models: Path, tmp_path: Path) -> None:
    """Each place of the file with odd values: nothing else than our refusal comes out, and no thread ends."""
    rng = random.Random(7)
    kinds = ("tiny-wan2.1-t2v/tokenizer", "tiny-hunyuan-t2v/tokenizer", "tiny-hunyuan-t2v/tokenizer_2")
    outcomes = {"refused": 0, "works": 0}
    for kind in kinds:
        folder = Path(shutil.copytree(tiny_models / kind, tmp_path / kind.replace("/", "-")))
        whole = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        for _ in range(100):
            values = copy.deepcopy(whole)
            container, key = rng.choice(list(places(values)))
            container[key] = rng.choice(ODD)
            (folder / "tokenizer.json").write_text(json.dumps(values))
            try:
                tokenizer = load_tokenizer(folder)
                tokenizer(TEXT)
                tokenizer([TEXT], padding="max_length", max_length=300, truncation=True, return_tensors="pt")
                outcomes["works"] += 1
            except RefusedError as error:
                assert len(str(error)) < 1000  # noqa: PT017
                outcomes["refused"] += 1
    assert outcomes["refused"] > 100
    assert outcomes["works"] > 3


def spiece(folder: Path) -> bytes:
    sentences = ["a red circle moving right", "a blue square moving left", "the cat is up"] * 20
    return train_pieces(folder, sentences, 29).read_bytes()


def test_a_mutated_sentencepiece_model_is_words_or_works(tmp_path: Path) -> None:
    """Its library in C++ looks at nothing: what passes our check must not end the process."""
    rng, model = random.Random(3), spiece(tmp_path)
    check_sentencepiece(model)
    outcomes = {"refused": 0, "works": 0}
    for _ in range(300):
        damaged = bytearray(model)
        for _ in range(rng.choice((1, 1, 4, 30))):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        if rng.random() < 0.2:
            damaged = damaged[: rng.randrange(len(damaged))]
        (tmp_path / "spiece.model").write_bytes(damaged)
        try:
            load_tokenizer(tmp_path)(TEXT)
            outcomes["works"] += 1
        except RefusedError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 20


def test_the_published_charsmap_passes_and_any_jump_out_of_it_does_not(comfy_tokenizers: dict[str, Path]) -> None:
    values = json.loads((comfy_tokenizers["t5"] / "tokenizer.json").read_text(encoding="utf-8"))
    content = bytearray(base64.b64decode(values["normalizer"]["normalizers"][0]["precompiled_charsmap"]))
    check_charsmap(bytes(content))
    content[4:8] = b"\x00\xfe\xff\x7f"
    with pytest.raises(ValueError, match=r"\d"):
        check_charsmap(bytes(content))
