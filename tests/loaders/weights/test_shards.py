"""Networks in several files: under every name that they are published with, with an index and without one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reelwire.loaders.families import family, load
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.weights.find import complete
from reelwire.loaders.weights.safetensors import read_file, read_folder
from reelwire.loaders.weights.shards import shards_of
from reelwire.tests.support.files.files import scaled_fp8
from reelwire.training import tiny_files
from safetensors.torch import load_file, save_file

COUNT = 3
STATE = {f"layer.{i}.weight": torch.full((2, 2), float(i)) for i in range(7)}
# how shards are called: diffusers' and transformers' names, and weights in 16 bits before and behind the number
NAMES = ("diffusion_pytorch_model-{}", "model-{}", "diffusion_pytorch_model.fp16-{}", "model-{}.fp16", "anything-{}")
INDEXES = (
    "diffusion_pytorch_model.safetensors.index.json",
    "model.safetensors.index.json",
    "diffusion_pytorch_model.safetensors.index.fp16.json",
    "model.safetensors.index.fp16.json",
    "model.fp16.safetensors.index.json",
)


def shards(folder: Path, name: str, add: float = 0.0) -> dict[str, str]:
    """Files of this name in a folder; the weight map of an index."""
    folder.mkdir(exist_ok=True, parents=True)
    places = dict[str, str]()
    for number in range(COUNT):
        file = f"{name.format(f'{number + 1:05}-of-{COUNT:05}')}.safetensors"
        part = {key: value + add for key, value in list(STATE.items())[number::COUNT]}
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
    return places


def index(folder: Path, name: str, places: Any) -> None:
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": places}))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("index_name", [*INDEXES, ""])
def test_all_are_read(tmp_path: Path, name: str, index_name: str) -> None:
    places = shards(tmp_path, name)
    if index_name:
        index(tmp_path, index_name, places)
    assert read_folder(tmp_path).keys() == STATE.keys()
    for file in tmp_path.glob("*.safetensors"):  # any of them, chosen as a single file
        assert read_file(file)[0].keys() == STATE.keys()


@given(
    name=st.sampled_from(NAMES), index_name=st.sampled_from([*INDEXES, ""]), gone=st.sets(st.integers(0, 2), min_size=1)
)
def test_those_that_are_missing_are_named(
    tmp_path_factory: pytest.TempPathFactory, name: str, index_name: str, gone: set[int]
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    places = shards(folder, name)
    if index_name:
        index(folder, index_name, places)
    files = sorted(folder.glob("*.safetensors"))
    for number in gone:
        files[number].unlink()
    left = [file for file in files if file.exists()]
    with pytest.raises(CheckpointError) as refusal:
        read_folder(folder)
    if left or index_name:
        assert all(files[number].name in str(refusal.value) for number in gone)
        assert not any(file.name in str(refusal.value) for file in left)
    for file in left:
        with pytest.raises(CheckpointError) as refusal:
            read_file(file)
        assert all(files[number].name in str(refusal.value) for number in gone)


def test_of_several_the_plain_and_whole_one_is_read(tmp_path: Path) -> None:
    value = lambda: load_file(next(iter(read_folder(tmp_path).values())).file)["layer.0.weight"][0, 0].item()
    index(tmp_path, INDEXES[2], shards(tmp_path, NAMES[2], add=100.0))
    assert value() == 100.0
    index(tmp_path, INDEXES[0], shards(tmp_path, NAMES[0], add=10.0))
    assert value() == 10.0
    (tmp_path / f"diffusion_pytorch_model-00002-of-{COUNT:05}.safetensors").unlink()
    assert value() == 100.0, "the whole set goes before the plain name"
    save_file(STATE, tmp_path / "model.safetensors")
    assert value() == 0.0, "one file for all goes before shards"


def test_an_index_of_files_that_were_renamed(tmp_path: Path) -> None:
    """Those that are there count themselves, so they are read."""
    index(tmp_path, INDEXES[0], {key: f"old-{file}" for key, file in shards(tmp_path, NAMES[1]).items()})
    assert read_folder(tmp_path).keys() == STATE.keys()


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"weight_map": []}',
        '{"weight_map": {}}',
        '{"weight_map": {"a": "../x.safetensors"}}',
        '{"weight_map": {"a": 3}}',
    ],
)
def test_an_index_that_cannot_be_read(tmp_path: Path, content: str) -> None:
    shards(tmp_path, NAMES[0])
    (tmp_path / INDEXES[0]).write_text(content)
    with pytest.raises(CheckpointError, match=rf"{INDEXES[0]}"):
        read_folder(tmp_path)


def test_scales_go_with_weights_in_another_shard(tmp_path: Path) -> None:
    whole = tmp_path / "whole.safetensors"
    numbers = scaled_fp8(whole, {"a.weight": torch.randn(64, 64), "b.weight": torch.randn(64, 64)}, new=True)
    state = load_file(whole)
    for number, keys in enumerate((list(state)[::2], list(state)[1::2]), 1):
        save_file({key: state[key] for key in keys}, tmp_path / f"x-{number:05}-of-00002.safetensors")
    apart, together = (read_file(tmp_path / name)[0] for name in ("x-00002-of-00002.safetensors", whole.name))
    assert apart.keys() == together.keys() == numbers.keys()
    assert all({*entry.scales} == {*together[key].scales} for key, entry in apart.items())


def test_a_text_encoder_of_several_files_is_one_choice(tmp_path: Path) -> None:
    """auto takes it, by its first file."""
    for name in tiny_files.FILES:
        if "high_noise" in name or name.startswith(("vae/tiny-wan", "text_encoders/tiny-umt5")):
            tiny_files.make(name, tmp_path)
    encoder = tmp_path / "text_encoders/tiny-umt5.safetensors"
    state = load_file(encoder)
    encoder.unlink()
    for number in (1, 2):
        part = {key: state[key] for key in list(state)[number - 1 :: 2]}
        save_file(part, encoder.with_name(f"umt5-{number:05}-of-00002.safetensors"))
    (tmp_path / "alone.safetensors").symlink_to(next((tmp_path / "diffusion_models").iterdir()))
    offered = {
        part: {file.name: file for file in sorted((tmp_path / folder).iterdir())}
        for part, folder in (("text_encoder", "text_encoders"), ("vae", "vae"))
    }
    files = complete(family("wan").checkpoint, {"checkpoint": tmp_path / "alone.safetensors"}, offered, {})
    assert files["text_encoder"].name == "umt5-00001-of-00002.safetensors"
    assert len(shards_of(files["text_encoder"])) == 2
    conditioning = load(Recipe("wan", "", files, "float32"), PlainMemory()).encode("a red circle", "")
    assert torch.isfinite(conditioning.branches["cond"]["text"]).all()
