"""LoRA files in three key forms add exactly what a merged checkpoint has, and leave the model itself alone."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.families.wan import Wan
from reelwire.loaders.messages import CheckpointError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.lora import LoRA, applied, read_lora
from reelwire.tests.support.engine.models import needed
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.files.loras import ALPHA, LAYERS, RANK, matrices, network_of, write
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
# layers that are one in the published files:
# family -> (its name, ours in their order, whether their halves are swapped)
FUSED = {
    "hunyuan_video": ("double_blocks.0.img_attn_qkv", [f"transformer_blocks.0.attn.to_{n}" for n in "qkv"], False),
    "hunyuan_video single": (
        "single_blocks.0.linear1",
        [*(f"single_transformer_blocks.0.attn.to_{n}" for n in "qkv"), "single_transformer_blocks.0.proj_mlp"],
        False,
    ),
    "mochi": ("blocks.0.attn.qkv_x", [f"transformer_blocks.0.attn1.to_{n}" for n in "qkv"], False),
    "mochi gate": ("blocks.1.mlp_x.w1", ["transformer_blocks.1.ff.net.0.proj"], True),
}
FORMS = ("diffusers", "comfyui", "kohya")


def open_model(folder: Path, name: str, family: str) -> VideoModel:
    return load(Recipe(family, "", files_of(folder / name), "float32"), PlainMemory())


def run(model: VideoModel, **changes: Any) -> Tensor:
    inputs = needed(model)
    conditioning = model.encode("a red circle", "", inputs["keyframes"])
    return sample(model, conditioning, Request(**{**inputs, "seed": 3, "steps": 3, **changes}))


def merged(
    folder: Path,
    name: str,
    family: str,
    pairs: dict[str, tuple[Tensor, Tensor]],
    strength: float,
    parts: tuple[str, ...] = (),
) -> VideoModel:
    model = open_model(folder, name, family)
    for part in parts or (network_of(model).name,):
        with model.use(part) as network:
            for layer, (down, up) in pairs.items():
                weight = network.get_submodule(layer).weight
                weight.data = weight.data + strength * ALPHA / RANK * (up @ down.flatten(1)).reshape(weight.shape)
    return model


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("family", LAYERS)
def test_it_equals_a_merged_checkpoint(tiny_models: Path, tmp_path: Path, family: str, form: str) -> None:
    name, layers = LAYERS[family]
    model, file = open_model(tiny_models, name, family), tmp_path / "lora.safetensors"
    pairs = matrices(model, layers)
    write(file, form, pairs, layers)
    plain = run(model)
    with_lora = replace(
        model, loras=(LoRA(file, 0.7, 0.7, read_lora(file, model.checkpoint, network_of(model)).deltas),)
    )
    changed = run(with_lora)
    assert (changed - plain).abs().max() > 1e-3
    expected = run(merged(tiny_models, name, family, pairs, 0.7))
    assert (changed - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())
    assert torch.equal(run(model), plain), "the other branch of the graph sees the LoRA"
    assert torch.equal(run(with_lora), changed)


@pytest.mark.parametrize("form", ["comfyui", "kohya"])
@pytest.mark.parametrize("case", FUSED)
def test_fused_layers_are_divided(tiny_models: Path, tmp_path: Path, case: str, form: str) -> None:
    family, (theirs, ours, swapped) = case.split()[0], FUSED[case]
    model, file = open_model(tiny_models, LAYERS[family][0], family), tmp_path / "lora.safetensors"
    shapes = [network_of(model).tensors[f"{name}.weight"] for name in ours]
    with seeded(8):
        down, up = torch.randn(RANK, shapes[0][1]) * 0.2, torch.randn(sum(s[0] for s in shapes), RANK) * 0.2
    write(file, form, {"fused": (down, up)}, {"fused": theirs})
    changed = run(
        replace(model, loras=(LoRA(file, 1.0, 1.0, read_lora(file, model.checkpoint, network_of(model)).deltas),))
    )
    parts = torch.cat(up.chunk(2)[::-1]) if swapped else up
    pairs = {name: (down, part) for name, part in zip(ours, parts.split([s[0] for s in shapes]), strict=True)}
    expected = run(merged(tiny_models, LAYERS[family][0], family, pairs, 1.0))
    assert (changed - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())
    assert (changed - run(model)).abs().max() > 1e-4


def test_two_loras_add_up_and_zero_is_nothing(tiny_models: Path, tmp_path: Path) -> None:
    name, layers = LAYERS["wan"]
    model, file = open_model(tiny_models, name, "wan"), tmp_path / "lora.safetensors"
    pairs = matrices(model, layers)
    write(file, "diffusers", pairs, layers)
    deltas = read_lora(file, Wan.checkpoint, network_of(model)).deltas
    of = lambda *strengths: run(replace(model, loras=tuple(LoRA(file, s, s, deltas) for s in strengths)))
    assert torch.equal(of(0.0), run(model))
    assert (of(0.3, 0.4) - of(0.7)).abs().max() < 1e-5
    assert torch.equal(of(), run(model))


def test_strengths_of_two_experts(tiny_models: Path, tmp_path: Path) -> None:
    name, (_, layers) = "tiny-wan2.2-t2v-a14b", LAYERS["wan"]
    model, file = open_model(tiny_models, name, "wan"), tmp_path / "lora.safetensors"
    pairs = matrices(model, layers)
    write(file, "kohya", pairs, layers)
    deltas = read_lora(file, Wan.checkpoint, network_of(model)).deltas
    for high, low, parts in (
        (0.8, 0.0, ("transformer",)),
        (0.0, 0.8, ("transformer_2",)),
        (0.8, 0.8, ("transformer", "transformer_2")),
    ):
        made_with = run(replace(model, loras=(LoRA(file, high, low, deltas),)), steps=6)
        once = _merged_kept(tiny_models, name, pairs, parts)
        assert (made_with - run(once, steps=6)).abs().max() < 1e-4


def _kept(network: Any, progress: object) -> Any:
    return network


def _merged_kept(folder: Path, name: str, pairs: Any, parts: tuple[str, ...]) -> VideoModel:
    """Merged experts that stay in memory, though in a run one makes room for the other."""
    model = open_model(folder, name, "wan")
    changed = {}
    for part in ("transformer", "transformer_2"):
        one = merged(folder, name, "wan", pairs if part in parts else {}, 0.8, (part,))
        with one.use(part) as network:
            changed[part] = replace(model.parts[part], load=partial(_kept, network))
    return replace(model, parts={**model.parts, **changed})


def test_biases_norms_and_whole_differences(tiny_models: Path, tmp_path: Path) -> None:
    model, file = open_model(tiny_models, "tiny-wan2.1-t2v", "wan"), tmp_path / "lora.safetensors"
    part, places = (
        network_of(model),
        {
            "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
            "blocks.1.norm2": "blocks.1.norm3",
            "blocks.1.attn1.norm_k": "blocks.1.self_attn.norm_k",
        },
    )
    with seeded(6):
        pairs = {name: torch.randn(part.tensors[f"{name}.weight"]) * 0.1 for name in places}
        bias = torch.randn(part.tensors["blocks.0.attn1.to_q.bias"]) * 0.1
    save_file(
        {f"diffusion_model.{places[k]}.diff": v for k, v in pairs.items()}
        | {"diffusion_model.blocks.0.self_attn.q.diff_b": bias},
        file,
    )
    deltas = read_lora(file, Wan.checkpoint, part).deltas
    with model.use("transformer") as network, torch.no_grad():
        x = dict(
            hidden_states=torch.randn(1, 16, 2, 4, 4),
            timestep=torch.tensor([500.0]),
            encoder_hidden_states=torch.randn(1, 6, 32),
            return_dict=False,
        )
        with applied(network, "transformer", (LoRA(file, 0.5, 0.5, deltas),)):
            made_with = network(**x)[0]
        for name, value in pairs.items():
            network.get_submodule(name).weight.data += 0.5 * value
        network.get_submodule("blocks.0.attn1.to_q").bias.data += 0.5 * bias
        assert (network(**x)[0] - made_with).abs().max() < 1e-5


REFUSED = {
    "another family": (
        {
            "diffusion_model.double_blocks.0.img_attn_proj.lora_down.weight": torch.zeros(2, 24),
            "diffusion_model.double_blocks.0.img_attn_proj.lora_up.weight": torch.zeros(24, 2),
        },
        r"matches nothing in this model \(double_blocks",
    ),
    "another width": (
        {
            "transformer.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 48),
            "transformer.blocks.0.attn1.to_q.lora_B.weight": torch.zeros(48, 2),
        },
        r"1 of its 1 layer matches nothing.*blocks.0.attn1.to_q",
    ),
    "one half": ({"transformer.blocks.0.attn1.to_q.lora_A.weight": torch.zeros(2, 24)}, "matches nothing"),
    "a checkpoint": ({"patch_embedding.weight": torch.zeros(2)}, "keys patch_embedding.weight are none of a LoRA"),
    "half a LoKr": ({"lora_unet_blocks_0_self_attn_q.lokr_w1": torch.zeros(2, 2)}, "1 of its 1 layer matches nothing"),
    "OFT": ({"lora_unet_blocks_0_self_attn_q.oft_blocks": torch.zeros(2, 2)}, "oft_blocks are none of a LoRA"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_is_named(tiny_models: Path, tmp_path: Path, name: str) -> None:
    keys, message = REFUSED[name]
    file = tmp_path / "lora.safetensors"
    save_file(keys, file)
    model = open_model(tiny_models, "tiny-wan2.1-t2v", "wan")
    with pytest.raises(CheckpointError, match=message):
        read_lora(file, Wan.checkpoint, network_of(model))
