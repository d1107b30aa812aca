"""A LoRA that changes nothing is said, whatever its form; one that changes anything is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reelwire.loaders.weights.lora import LoRA, applied, read_lora
from reelwire.tests.support.files.loras import FORMS, State, keys_of, library_layer, network_of, open_lora_model
from safetensors.torch import save_file
from torch import Tensor, nn

LAYER, KEY = "blocks.0.ffn.net.0.proj", "lora_unet_blocks_0_ffn_0"
LINEAR = [form for form in FORMS if "tucker" not in form]


def shown(folder: Path, file: Path, state: State) -> tuple[bool, bool]:
    """(whether a file is said to change nothing, whether it does)."""
    save_file({f"{KEY}.{name}": value.clone().contiguous() for name, value in state.items()}, file)
    model = open_lora_model(folder, "wan")
    part = network_of(model)
    contents = read_lora(file, model.checkpoint, part)
    with model.use(part.name) as network, torch.no_grad():
        layer, x = network.get_submodule(LAYER), torch.ones(1, part.tensors[f"{LAYER}.weight"][1])
        before = layer(x)
        lora = LoRA(file, 1.0, 1.0, contents.deltas)
        with applied(network, part.name, (lora,), torch.device("cpu")) as switch:
            switch(0, 1)
            after: Tensor = network.get_submodule(LAYER)(x)
    return "lora_zero" in keys_of(contents.notes), torch.equal(before, after)


@pytest.mark.parametrize("form", LINEAR)
def test_a_file_is_said_to_change_nothing_when_it_does(tiny_models: Path, tmp_path: Path, form: str) -> None:
    """Each of its tensors at 0, and all."""
    shape = network_of(open_lora_model(tiny_models, "wan")).tensors[f"{LAYER}.weight"]
    state = library_layer(form, nn.Linear(shape[1], shape[0]))[0]
    assert shown(tiny_models, tmp_path / "whole.safetensors", state) == (False, False)
    for number, name in enumerate([*state, ""]):
        zeroed = {key: value * (0 if name in (key, "") and "dora" not in key else 1) for key, value in state.items()}
        said, nothing = shown(tiny_models, tmp_path / f"{number}.safetensors", zeroed)
        assert said == nothing or (nothing and "dora" in form), name


@pytest.mark.parametrize("zeros", [1, 3])
def test_one_layer_of_several_is_enough(tiny_models: Path, tmp_path: Path, zeros: int) -> None:
    state: State = {}
    model = open_lora_model(tiny_models, "wan")
    width = network_of(model).tensors["blocks.0.attn1.to_q.weight"][0]
    for block in range(3):
        key = f"diffusion_model.blocks.{block}.self_attn.q"
        up = torch.zeros(width, 2) if block < zeros else torch.ones(width, 2)
        state |= {f"{key}.lora_down.weight": torch.ones(2, width), f"{key}.lora_up.weight": up}
    save_file(state, tmp_path / "lora.safetensors")
    notes = read_lora(tmp_path / "lora.safetensors", model.checkpoint, network_of(model)).notes
    assert ("lora_zero" in keys_of(notes)) == (zeros == 3)
