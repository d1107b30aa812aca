"""What diffusers' own loader and peft make of a LoRA, we make of it too: alphas and ranks in all their places."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.lora import LoRA, read_lora
from reelwire.tests.support.engine.models import needed
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.files.loras import LAYERS, matrices, network_of, write
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file
from torch import Tensor

pytestmark = [
    pytest.mark.filterwarnings("ignore:In CPU autocast"),
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
]
TARGETS = ["to_q", "to_out.0", "proj"]
# name -> arguments of peft's LoraConfig
CONFIGS: dict[str, dict[str, Any]] = {
    "alpha": {"r": 4, "lora_alpha": 10},
    "rank-stabilised": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 2,
        "lora_alpha": 5,
        "rank_pattern": {"blocks.0.attn1.to_q": 3, r".*attn2\.to_q": 4},
        "alpha_pattern": {r"blocks.[12].attn1.to_q": 1, "attn2.to_q": 7},
    },
    "patterns, rank-stabilised": {"r": 2, "lora_alpha": 5, "use_rslora": True, "rank_pattern": {"to_q": 4}},
    "dora": {"r": 3, "lora_alpha": 4, "use_dora": True},
    "bias of up": {"r": 3, "lora_alpha": 4, "lora_bias": True},
}


@cache
def peft() -> Any:
    """The library; to import it takes seconds."""
    return import_module("peft")


def open_model(folder: Path, family: str = "wan") -> VideoModel:
    return load(Recipe(family, "", files_of(folder / LAYERS[family][0]), "float32"), PlainMemory())


def run(model: VideoModel) -> Tensor:
    inputs = needed(model)
    conditioning = model.encode("a red circle", "", inputs["keyframes"])
    return sample(model, conditioning, Request(**{**inputs, "seed": 3, "steps": 1}))


def with_file(model: VideoModel, file: Path) -> VideoModel:
    contents = read_lora(file, model.checkpoint, network_of(model))
    assert not contents.notes
    return replace(model, loras=(LoRA(file, 1.0, 1.0, contents.deltas, settings=contents.settings),))


def randomise(network: torch.nn.Module) -> None:
    with seeded(7), torch.no_grad():
        for name, parameter in network.named_parameters():
            if any(word in name for word in ("lora_", "hada_", "lokr_")):
                parameter.add_(torch.randn(parameter.shape) * 0.2)


def equal(changed: Tensor, expected: Tensor, plain: Tensor) -> None:
    assert (changed - expected).abs().max() < 1e-5 * max(1.0, expected.abs().max().item())
    assert (changed - plain).abs().max() > 1e-3


PLACES = [
    *((name, "metadata") for name in CONFIGS),
    ("patterns", "metadata of a pipeline"),
    ("patterns", "folder"),
    ("dora", "folder"),
]


@pytest.mark.parametrize(("name", "place"), PLACES)
def test_alphas_and_ranks_as_peft_reads_them(tiny_models: Path, tmp_path: Path, name: str, place: str) -> None:
    reference = open_model(tiny_models)
    plain = run(reference)
    config = peft().LoraConfig(target_modules=TARGETS, **CONFIGS[name])
    with reference.use("transformer") as network:
        if place == "folder":
            wrapped = peft().get_peft_model(network, config)
            randomise(wrapped)
            wrapped.save_pretrained(tmp_path)
        else:
            network.add_adapter(config)
            randomise(network)
            _save(network, config, tmp_path, place)
    file = next(tmp_path.glob("*.safetensors"))
    equal(run(with_file(open_model(tiny_models), file)), run(reference), plain)


def _save(network: Any, config: Any, folder: Path, place: str) -> None:
    """As a training script of diffusers does it."""
    if place == "metadata":
        network.save_lora_adapter(folder)
        return
    from diffusers import WanPipeline
    from diffusers.training_utils import _collate_lora_metadata

    WanPipeline.save_lora_weights(
        folder,
        transformer_lora_layers=peft().get_peft_model_state_dict(network),
        **_collate_lora_metadata({"transformer": network}),
    )


@pytest.mark.parametrize("kind", ["LoHaConfig", "LoKrConfig"])
def test_other_forms_of_peft(tiny_models: Path, tmp_path: Path, kind: str) -> None:
    reference = open_model(tiny_models)
    plain = run(reference)
    with reference.use("transformer") as network:
        wrapped = peft().get_peft_model(network, getattr(peft(), kind)(r=2, alpha=3, target_modules=TARGETS))
        randomise(wrapped)
        wrapped.save_pretrained(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    equal(run(with_file(open_model(tiny_models), file)), run(reference), plain)


PIPELINES = {
    "wan": "WanPipeline",
    "hunyuan_video": "HunyuanVideoPipeline",
    "cogvideox": "CogVideoXPipeline",
    "mochi": "MochiPipeline",
    "ltx": "LTXPipeline",
}


@pytest.mark.parametrize("family", PIPELINES)
def test_diffusers_own_loader_gives_the_same(tiny_models: Path, tmp_path: Path, family: str) -> None:
    """A diffusers file whose alpha stands in its header, through the pipeline's own `lora_state_dict`."""
    import diffusers

    pipeline, file = getattr(diffusers, PIPELINES[family]), tmp_path / "lora.safetensors"
    _, layers = LAYERS[family]
    reference = open_model(tiny_models, family)
    plain, pairs = run(reference), matrices(reference, layers)
    write(file, "diffusers", pairs, layers)
    header = {"transformer.r": 3, "transformer.lora_alpha": 2, "transformer.target_modules": [*layers]}
    tensors = __import__("safetensors.torch").torch.load_file(file)
    save_file(tensors, file, {"format": "pt", "lora_adapter_metadata": json.dumps(header)})
    state, metadata = pipeline.lora_state_dict(file, return_lora_metadata=True)
    with reference.use("transformer") as network:
        pipeline.load_lora_into_transformer(state, network, metadata=metadata)
    equal(run(with_file(open_model(tiny_models, family), file)), run(reference), plain)


def test_a_makers_file_with_alphas(tiny_models: Path, tmp_path: Path) -> None:
    """Through the renaming of diffusers' loader, which wants whole blocks."""
    from diffusers import WanPipeline

    reference, file = open_model(tiny_models), tmp_path / "lora.safetensors"
    names = {"attn1": "self_attn", "attn2": "cross_attn"}
    outs = {"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "o"}
    layers = {
        f"blocks.{n}.{a}.{b}": f"blocks.{n}.{c}.{d}"
        for n in range(3)
        for a, c in names.items()
        for b, d in outs.items()
    }
    layers |= {
        f"blocks.{n}.ffn.{a}": f"blocks.{n}.ffn.{b}" for n in range(3) for a, b in (("net.0.proj", 0), ("net.2", 2))
    }
    plain, pairs = run(reference), matrices(reference, layers)
    write(file, "comfyui", pairs, layers)
    with reference.use("transformer") as network:
        WanPipeline.load_lora_into_transformer(WanPipeline.lora_state_dict(file), network)
    equal(run(with_file(open_model(tiny_models), file)), run(reference), plain)
