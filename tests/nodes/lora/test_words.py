"""What LoRA nodes say: which work, how strongly, and which inputs do nothing; and names of files as other nodes write
them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import open_ltx
from safetensors.torch import save_file


@pytest.fixture(scope="module")
def nodes(comfyui: Path) -> Iterator[Any]:
    """The LoRA nodes' words and the host's folders, with ComfyUI's modules in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = not torch.cuda.is_available()
    from reelwire.nodes.host import folders
    from reelwire.nodes.lora import shared

    yield SimpleNamespace(folders=folders, shared=shared)
    sys.path.remove(str(comfyui))


def lora(path: Path, layers: tuple[str, ...], rank: int = 2) -> Path:
    """A LoRA of ones for attention layers of the bundled LTX-Video."""
    tensors = open_ltx(BUNDLED).parts["transformer"].tensors
    width = tensors["transformer_blocks.0.attn1.to_q.weight"][0]
    state = {}
    for layer in layers:
        state[f"transformer.{layer}.lora_A.weight"] = torch.ones(rank, width)
        state[f"transformer.{layer}.lora_B.weight"] = torch.ones(width, rank)
    save_file(state, path)
    return path


QUERIES = tuple(f"transformer_blocks.{n}.attn1.to_{x}" for n in range(2) for x in "qk")
ROWS: list[tuple[dict[str, Any], list[str]]] = [
    ({}, ["lora_works_rank"]),
    ({"strength": 0.0}, ["lora_off"]),
    ({"blocks": "0: 0.5"}, ["lora_works_rank"]),
    ({"blocks": "0: 0.5, rest: 0"}, ["lora_works_rank", "blocks_rest"]),
    ({"blocks": "rest: 0"}, ["lora_works_rank", "blocks_rest"]),
    ({"blocks": "0-1: 0"}, ["lora_blocks_off"]),
]


@pytest.mark.parametrize(("row", "keys"), ROWS)
def test_what_a_lora_does_is_told(nodes: Any, tmp_path: Path, row: dict[str, Any], keys: list[str]) -> None:
    file, model = lora(tmp_path / "a.safetensors", QUERIES), open_ltx(BUNDLED)
    changed, notes = nodes.shared.with_lora(model, nodes.shared.Row(file, **row))
    assert [note.key for note in notes] == keys
    assert len(changed.loras) == (keys != ["lora_off"])
    if keys[0] == "lora_works_rank":
        assert (notes[0].values["count"], notes[0].values["rank"]) == (4, "2")


def test_a_file_in_two_rows_is_told(nodes: Any, tmp_path: Path) -> None:
    row = nodes.shared.Row(lora(tmp_path / "a.safetensors", QUERIES))
    once, _ = nodes.shared.with_lora(open_ltx(BUNDLED), row)
    _, notes = nodes.shared.with_lora(once, row)
    assert "lora_twice" in [note.key for note in notes]


@pytest.mark.parametrize("content", [b"", b"<html>", b"\x10\0\0\0\0\0\0\0{"])
def test_a_row_at_strength_0_is_as_if_it_was_not_there(nodes: Any, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "bad.safetensors").write_bytes(content)
    model = open_ltx(BUNDLED)
    changed, notes = nodes.shared.with_lora(model, nodes.shared.Row(tmp_path / "bad.safetensors", 0.0))
    assert (changed, [note.key for note in notes]) == (model, ["lora_off"])


def test_numbers_of_a_distillation_are_told(nodes: Any) -> None:
    """LTX-Video has no flow shift: those with one were made for other models."""
    keys = {
        name: [note.key for note in nodes.shared.preset_notes(open_ltx(BUNDLED), name)]
        for name in nodes.shared.DISTILLED
    }
    assert keys.pop("none") == []
    assert {*map(tuple, keys.values())} == {("distilled_sets", "distilled_strange")}


CHOICES = {name: Path(name) for name in ("loras/a.safetensors", "loras/style/b.safetensors", "loras/x/b.safetensors")}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("loras/a.safetensors", "loras/a.safetensors"),
        ("a.safetensors", "loras/a.safetensors"),
        ("loras\\a.safetensors", "loras/a.safetensors"),
        ("style\\b.safetensors", "loras/style/b.safetensors"),
        ("x/b.safetensors", "loras/x/b.safetensors"),
    ],
)
def test_a_file_is_found_by_the_name_that_other_nodes_give_it(nodes: Any, name: str, path: str) -> None:
    assert nodes.folders.choose("lora", name, CHOICES) == Path(path)


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("b.safetensors", "did_you_mean"),  # there are two
        ("loras/a.safetensor", "did_you_mean"),
        ("", "put_model"),
        ("../a.safetensors", "did_you_mean"),
        ("zzz", "put_model"),
    ],
)
def test_what_is_not_there_is_refused_with_what_is_near(nodes: Any, name: str, remedy: str) -> None:
    with pytest.raises(InputError) as refused:
        nodes.folders.choose("lora", name, CHOICES)
    assert (refused.value.name, getattr(refused.value.remedy, "key", "")) == ("lora", remedy)
