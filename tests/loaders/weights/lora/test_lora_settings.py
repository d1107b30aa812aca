"""What a LoRA file says of its alphas, what its numbers must be, and the steps and blocks on which it works."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import CheckpointError, InputError
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.lora import LoRA, applied, block_factors, canonical, parse_blocks, settings_file
from reelwire.tests.support.files.loras import (
    LAYERS,
    State,
    keys_of,
    low_rank,
    low_rank_pair,
    network_of,
    open_lora_model,
    read_state,
)
from safetensors.torch import save_file
from torch import nn

LAYER = "transformer.blocks.0.attn1.to_q"


@pytest.fixture(scope="module")
def wan(tiny_models: Path) -> VideoModel:
    return open_lora_model(tiny_models, "wan", "tiny-wan2.1-t2v")


# ---------------------------------------------------------------- settings and numbers


def scale(wan: VideoModel, file: Path, contents: Any) -> float:
    """What the query's product is multiplied with."""
    down, up = low_rank_pair()
    with wan.use("transformer") as network, torch.no_grad():
        layer, x = network.get_submodule("blocks.0.attn1.to_q"), torch.randn(3, 24)
        with applied(network, "transformer", (LoRA(file, 1.0, 1.0, contents.deltas),)):
            return float(
                ((layer(x) - nn.functional.linear(x, layer.weight, layer.bias)) / (x @ (up @ down).T)).median()
            )


QUERY_STATE = dict(zip((f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"), low_rank_pair(), strict=True))
HEADERS: dict[str, tuple[State, dict[str, Any], float, list[str]]] = {
    "alpha / rank": ({}, {"transformer.r": 2, "transformer.lora_alpha": 5}, 2.5, []),
    "no prefix": ({}, {"r": 2, "lora_alpha": 5}, 2.5, []),
    "the second expert's": (
        {},
        {"transformer.r": 2, "transformer.lora_alpha": 5, "transformer_2.r": 2, "transformer_2.lora_alpha": 1},
        2.5,
        [],
    ),
    "a text encoder's": ({}, {"text_encoder.r": 2, "text_encoder.lora_alpha": 5}, 1.0, []),
    "a tensor goes first": (
        {"transformer.blocks.0.attn1.to_q.alpha": torch.tensor(8.0)},
        {"transformer.r": 2, "transformer.lora_alpha": 5},
        4.0,
        [],
    ),
    "a broken pattern": ({}, {"r": 2, "lora_alpha": 5, "alpha_pattern": {"(": 1}}, 1.0, ["lora_settings_unreadable"]),
    "words for numbers": ({}, {"r": "two", "lora_alpha": 5}, 1.0, ["lora_settings_unreadable"]),
    "a list": ({}, [1], 1.0, ["lora_settings_unreadable"]),  # type: ignore[dict-item]
}


# headers that say it in single values
SINGLE: dict[str, tuple[dict[str, str], float]] = {
    "of a network": ({"transformer.lora_alpha": "5", "transformer.r": "2"}, 2.5),
    "of the file": ({"lora_alpha": "5.0", "rank": "2"}, 2.5),
    "no rank": ({"lora_alpha": "3"}, 1.5),
    "another word": ({"network_alpha": "1", "network_dim": "2"}, 0.5),
    "rank-stabilised": ({"lora_alpha": "2", "r": "2", "use_rslora": "True"}, 2**0.5),
    "a pattern": ({"lora_alpha": "2", "r": "2", "alpha_pattern": '{"attn1.to_q": 6}'}, 3.0),
    "of something else": ({"rank": "2", "format": "pt", "ss_network_alpha": "1"}, 1.0),
}


@pytest.mark.parametrize("case", SINGLE)
def test_alpha_in_single_values_of_the_header(wan: VideoModel, tmp_path: Path, case: str) -> None:
    header, expected = SINGLE[case]
    contents = read_state(wan, tmp_path / "x.safetensors", QUERY_STATE, header=header)
    assert scale(wan, tmp_path / "x.safetensors", contents) == pytest.approx(expected, rel=1e-3)
    assert not contents.notes


@pytest.mark.parametrize("case", HEADERS)
def test_alpha_in_the_header(wan: VideoModel, tmp_path: Path, case: str) -> None:
    more, settings, expected, notes = HEADERS[case]
    header = {"lora_adapter_metadata": json.dumps(settings)}
    contents = read_state(wan, tmp_path / "x.safetensors", QUERY_STATE | more, header=header)
    assert scale(wan, tmp_path / "x.safetensors", contents) == pytest.approx(expected, rel=1e-3)
    assert keys_of(contents.notes) == notes


def test_a_config_beside_the_only_file_of_a_folder_is_its(wan: VideoModel, tmp_path: Path) -> None:
    file, config = tmp_path / "style.safetensors", tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"peft_type": "LORA", "r": 2, "lora_alpha": 5}), encoding="utf-8")
    alone = read_state(wan, file, QUERY_STATE)
    assert settings_file(file) == config
    assert scale(wan, file, alone) == pytest.approx(2.5, rel=1e-3)
    save_file(QUERY_STATE, tmp_path / "other.safetensors")
    among = read_state(wan, file, QUERY_STATE)
    assert keys_of(among.notes) == ["lora_config_unused"]
    assert scale(wan, file, among) == pytest.approx(1.0, rel=1e-3)
    named = read_state(wan, tmp_path / "adapter_model.safetensors", QUERY_STATE)
    assert scale(wan, tmp_path / "adapter_model.safetensors", named) == pytest.approx(2.5, rel=1e-3)
    assert not named.notes


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("role", ["lora_down.weight", "lora_up.weight", "alpha"])
def test_numbers_that_are_none_are_the_loras(
    wan: VideoModel, tmp_path: Path, number: float, dtype: torch.dtype, role: str
) -> None:
    state = {key: value.to(dtype) for key, value in low_rank("blocks.0.self_attn.q").items()}
    state[f"diffusion_model.blocks.0.self_attn.q.{role}"].view(-1)[-1] = number
    with pytest.raises(CheckpointError, match=r"x\.safetensors, a LoRA, holds numbers that are not finite") as error:
        read_state(wan, tmp_path / "x.safetensors", state)
    assert role in str(error.value)


# ---------------------------------------------------------------- steps, blocks, identity


def test_a_lora_is_on_between_its_steps(wan: VideoModel, tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    contents = read_state(
        wan, file, low_rank("blocks.0.self_attn.q") | {"diffusion_model.blocks.0.diff_m": torch.ones(1, 6, 24)}
    )
    loras = tuple(
        LoRA(file, s, s, contents.deltas, None, *span) for s, span in ((1.0, (0.25, 0.75)), (2.0, (0.5, 1.0)))
    )
    with wan.use("transformer") as network, torch.no_grad():
        table = network.get_parameter("blocks.0.scale_shift_table")
        layer, own, x = network.get_submodule("blocks.0.attn1.to_q"), table.clone(), torch.randn(3, 24)
        plain = layer(x)
        with applied(network, "transformer", (LoRA(file, 1.0, 1.0, contents.deltas),)):
            one = layer(x) - plain
        with applied(network, "transformer", loras) as switch:
            for level, strength in enumerate((0, 1, 3, 2)):
                switch(level, 4)
                assert (layer(x) - plain - strength * one).abs().max() < 1e-5
                assert torch.allclose(table, own + strength)
        assert torch.equal(table, own)
        assert torch.equal(layer(x), plain)


TENSORS = (*(f"blocks.{n}.attn1.to_q.weight" for n in range(3)), "proj_out.weight", "vace_blocks.0.proj_out.weight")
LAYERS_OF = [name.removesuffix(".weight") for name in TENSORS]
BLOCKS: dict[str, dict[str, float]] = {
    "": {},
    "0-2: 1, rest: 1": {},
    "1: .5": {"blocks.1.attn1.to_q": 0.5},
    "0-1：0，2：-2；rest：0.1": {
        "blocks.0.attn1.to_q": 0.0,
        "blocks.1.attn1.to_q": 0.0,
        "blocks.2.attn1.to_q": -2.0,
        "proj_out": 0.1,
    },
    "3: 7": {"vace_blocks.0.proj_out": 7.0},
}


@pytest.mark.parametrize("text", BLOCKS)
def test_strengths_of_blocks(text: str) -> None:
    ranges = parse_blocks(text)
    assert block_factors(ranges, ("blocks", "vace_blocks"), TENSORS, LAYERS_OF) == BLOCKS[text]
    assert parse_blocks(canonical(ranges)) == tuple(sorted(r for r in ranges if r[2] != 1))


BAD_BLOCKS = (
    "x",
    "1",
    "1:",
    "1: x",
    "3-1: 1",
    "1: nan",
    "1: inf",
    "1: 1e9",
    "-1: 1",
    "0-2: 1, 2: 0",
    "rest: 1, rest: 2",
    "1: 1: 1",
)


@pytest.mark.parametrize("text", BAD_BLOCKS)
def test_other_texts_for_blocks_are_refused(text: str) -> None:
    with pytest.raises(InputError) as error:
        parse_blocks(text)
    assert error.value.name == "blocks"


@pytest.mark.parametrize("family", LAYERS)
def test_a_block_that_there_is_not_is_refused_with_those_that_there_are(tiny_models: Path, family: str) -> None:
    model = open_lora_model(tiny_models, family)
    tensors, lists = network_of(model).tensors, model.stacks.lists if model.stacks else ()
    last = next(n for n in range(20) if refused(partial(block_factors, parse_blocks(f"{n}: 2"), lists, tensors, ())))
    assert last > 1
    with pytest.raises(InputError, match=rf"blocks = 0-{last}: This model has the blocks 0 to"):
        block_factors(parse_blocks(f"0-{last}: 2"), lists, tensors, ())
    layers = {name.rpartition(".")[0] for name in tensors}
    factors = block_factors(parse_blocks(f"0-{last - 1}: 0, rest: 2"), lists, tensors, layers)
    assert factors.keys() == layers
    assert {*factors.values()} == {0.0, 2.0}


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except InputError:
        return True
    return False


CHANGES: dict[str, dict[str, Any]] = {
    "strength": {"strength": 0.5},
    "a little strength": {"strength": 1.0000001},
    "low_noise": {"low_noise": 0.5},
    "start": {"start": 0.1},
    "end": {"end": 0.9},
    "blocks": {"blocks": "0-1: 0.5"},
    "settings": {"settings": "0123abcd"},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whatever_decides_is_in_the_identity(tmp_path: Path, change: str) -> None:
    plain = LoRA(tmp_path, 1.0, 0.7, {})
    assert plain.identity == "1 0.7", "as in renders that earlier versions began"
    assert replace(plain, **CHANGES[change]).identity != plain.identity
