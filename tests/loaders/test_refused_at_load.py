"""Whatever part of a checkpoint is damaged, incomplete or another model's is refused when it is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.families.ltx import LTX
from reelwire.loaders.families.ltx.upsampler import load_upsampler
from reelwire.loaders.messages import CheckpointError, InputError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.lora import read_lora
from reelwire.tests.support.engine.components import BUNDLED, ltx_transformer, ltx_vae, t5
from reelwire.tests.support.engine.models import MODELS
from reelwire.tests.support.engine.sampling import sample
from safetensors.torch import load_file, save_file
from torch import Tensor

State = dict[str, Tensor]
FAMILIES = {
    "tiny-wan2.1-i2v": ("transformer", "vae", "text_encoder", "image_encoder"),
    "tiny-hunyuan-t2v": ("transformer", "vae", "text_encoder", "text_encoder_2"),
    "tiny-cogvideox-2b": ("transformer", "vae", "text_encoder"),
    "tiny-mochi": ("transformer", "vae", "text_encoder"),
    "tiny-ltx-0.9.0": ("transformer", "vae", "text_encoder"),
    "tiny-svd": ("unet", "vae", "image_encoder"),
}


def short(state: State, key: str) -> State:
    return {k: v for k, v in state.items() if k != key}


def narrow(state: State, key: str) -> State:
    return {**state, key: state[key].flatten()[:-1].clone()}


def renamed(state: State, key: str) -> State:
    return {**short(state, key), key.replace("weight", "wejght"): state[key]}


def whole(state: State, key: str) -> State:
    return {**state, key: state[key].to(torch.int8)}


DAMAGES: tuple[Callable[[State, str], State], ...] = (short, narrow, renamed, whole)


def copied(source: Path, target: Path, part: str) -> Path:
    """A checkpoint folder as links, but for one part, which may be changed."""
    shutil.copytree(source, target, copy_function=lambda a, b: Path(b).symlink_to(Path(a).resolve()))
    shutil.rmtree(target / part)
    shutil.copytree(source / part, target / part)
    return target


def opened(folder: Path, family: str) -> Any:
    return load(Recipe(family, "", files_of(folder), "float32"), PlainMemory())


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in FAMILIES.items() for part in parts])
def test_a_folders_weights(tiny_models: Path, tmp_path: Path, name: str, part: str, damage: Any) -> None:
    folder = copied(tiny_models / name, tmp_path / "x", part)
    file = next((folder / part).glob("*.safetensors"))
    state = load_file(file)
    save_file(damage(state, sorted(k for k in state if k.endswith("weight"))[-1]), file)
    with pytest.raises(CheckpointError, match=rf"{file.name} does not fit .*Nothing was loaded"):
        opened(folder, MODELS[name])


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in FAMILIES.items() for part in parts[:2]])
def test_a_folders_configs(tiny_models: Path, tmp_path: Path, name: str, part: str) -> None:
    """Without one of its keys, or with nonsense for it, a config is refused in words, or loads by a default."""
    folder = copied(tiny_models / name, tmp_path / "x", part)
    file = folder / part / "config.json"
    config = json.loads(file.read_text())
    refused = 0
    changes = [{k: v for k, v in config.items() if k != key} for key in config]
    changes += [{**config, key: "nonsense"} for key, value in config.items() if isinstance(value, int)]
    for changed in changes:
        file.write_text(json.dumps(changed))
        try:
            opened(folder, MODELS[name])
        except CheckpointError:
            refused += 1
    assert refused


# what contradicts another entry, or the weights, only where the network computes
CONTRADICTIONS: tuple[tuple[str, str, dict[str, Any]], ...] = (
    ("tiny-hunyuan-t2v", "transformer", {"rope_axes_dim": [4, 4]}),
    ("tiny-hunyuan-t2v", "transformer", {"rope_axes_dim": [4, 5, 3]}),
    ("tiny-hunyuan-t2v", "transformer", {"rope_axes_dim": [8, 4, 4]}),
    ("tiny-hunyuan-t2v", "transformer", {"rope_axes_dim": ...}),
    ("tiny-cogvideox-5b", "transformer", {"sample_width": 1}),
    ("tiny-wan2.1-i2v", "vae", {"latents_mean": [0.0] * 15}),
    ("tiny-wan2.1-i2v", "vae", {"latents_std": [1.0] * 17}),
    ("tiny-mochi", "vae", {"latents_std": [1.0]}),
)


def with_config(source: Path, target: Path, part: str, changes: dict[str, Any]) -> Path:
    """A checkpoint folder with entries of one config changed, or left out for `...`."""
    folder = copied(source, target, part)
    file = folder / part / "config.json"
    entries = {**json.loads(file.read_text()), **changes}
    file.write_text(json.dumps({key: value for key, value in entries.items() if value is not ...}))
    return folder


@pytest.mark.parametrize(("name", "part", "changes"), CONTRADICTIONS)
def test_a_config_that_contradicts_itself(
    tiny_models: Path, tmp_path: Path, name: str, part: str, changes: dict[str, Any]
) -> None:
    folder = with_config(tiny_models / name, tmp_path / "x", part, changes)
    with pytest.raises(CheckpointError, match=next(iter(changes))):
        opened(folder, MODELS[name])


def test_what_a_network_alone_finds_out(tiny_models: Path, tmp_path: Path) -> None:
    """An error of its own code is refused in words and names the part; one of ours, or of a card, stays what it is."""
    model = opened(copied(tiny_models / "tiny-wan2.1-t2v", tmp_path / "x", "transformer"), "wan")
    with model.use("transformer") as network:
        network.rope.freqs_cos = network.rope.freqs_cos[:1]
    conditioning = model.encode("a red circle", "")
    with pytest.raises(CheckpointError, match="transformer") as caught:
        sample(model, conditioning, Request(steps=1, seed=1))
    assert isinstance(caught.value.__cause__, RuntimeError)
    for error in (IndexError("of ours"), RuntimeError("of ours"), torch.OutOfMemoryError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), model.use("vae"):
            raise error


def test_a_damaged_part_can_be_replaced(tiny_models: Path, tmp_path: Path) -> None:
    """What another file is chosen for is not read from the folder."""
    folder = copied(tiny_models / "tiny-cogvideox-2b", tmp_path / "x", "text_encoder")
    file = next((folder / "text_encoder").glob("*.safetensors"))
    whole = tmp_path / "t5.safetensors"
    shutil.copy(file, whole)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=rf"{file.name} .*damaged"):
        opened(folder, "cogvideox")
    model = load(Recipe("cogvideox", "", {**files_of(folder), "text_encoder": whole}, "float32"), PlainMemory())
    assert model.parts["text_encoder"].tensors


@pytest.mark.parametrize("part", ["transformer", "vae"])
def test_another_models_part(tiny_models: Path, tmp_path: Path, part: str) -> None:
    folder = copied(tiny_models / "tiny-ltx-0.9.0", tmp_path / "x", part)
    shutil.rmtree(folder / part)
    shutil.copytree(tiny_models / "tiny-wan2.1-t2v" / part, folder / part)
    with pytest.raises(CheckpointError, match=r"Wan|lacks|does not fit"):
        opened(folder, "ltx")


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("key", ["transformer_blocks.1.ff.net.2.weight", "vae.decoder.conv_out.conv.weight", "text"])
def test_ltx_as_a_single_file(tmp_path: Path, key: str, damage: Any) -> None:
    weights = {f"model.diffusion_model.{k}": v for k, v in ltx_transformer(captions=32).state_dict().items()}
    weights |= {f"vae.{k}": v.contiguous() for k, v in ltx_vae("0.9.0").state_dict().items()}
    text = {k: v.clone() for k, v in t5(32).state_dict().items()}
    damaged = "t5.safetensors" if key == "text" else "ltx.safetensors"
    if key == "text":
        text = damage(text, "encoder.block.0.layer.1.DenseReluDense.wi_1.weight")
    else:
        weights = damage(weights, key if key.startswith("vae.") else f"model.diffusion_model.{key}")
    config = {"config": json.dumps({"transformer": {"num_attention_heads": 2}})}
    save_file(weights, tmp_path / "ltx.safetensors", config)
    save_file(text, tmp_path / "t5.safetensors")
    files = {"checkpoint": tmp_path / "ltx.safetensors", "text_encoder": tmp_path / "t5.safetensors"}
    with pytest.raises(CheckpointError, match=rf"{damaged} (does not fit|lacks)"):
        load(Recipe("ltx", "", {**files, "tokenizer": BUNDLED / "tokenizer"}, "float32"), PlainMemory())


@pytest.mark.parametrize("damage", DAMAGES)
def test_an_upsampler(tmp_path: Path, damage: Any) -> None:
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    LTXLatentUpsamplerModel(16, 32, 1).save_pretrained(tmp_path / "latent_upsampler")
    assert load_upsampler(tmp_path, 16, "float32").name
    with pytest.raises(CheckpointError, match=r"of 16 channels. The model's latents need .* of 8 channels"):
        load_upsampler(tmp_path, 8, "float32")
    file = next((tmp_path / "latent_upsampler").glob("*.safetensors"))
    state = load_file(file)
    save_file(damage(state, "final_conv.weight"), file)
    with pytest.raises(CheckpointError, match=rf"{file.name} does not fit LTXLatentUpsamplerModel"):
        load_upsampler(tmp_path, 16, "float32")


@pytest.mark.parametrize("broken", ["alpha", "rank", "half"])
def test_a_lora(tiny_models: Path, tmp_path: Path, broken: str) -> None:
    part = opened(tiny_models / "tiny-ltx-0.9.0", "ltx").parts["transformer"]
    layer = "transformer_blocks.0.attn1.to_q"
    out, wide = part.tensors[f"{layer}.weight"]
    rank = 0 if broken == "rank" else 2
    state = {
        f"transformer.{layer}.lora_A.weight": torch.zeros(rank, wide),
        f"transformer.{layer}.alpha": torch.ones(3 if broken == "alpha" else 1),
    }
    if broken != "half":
        state[f"transformer.{layer}.lora_B.weight"] = torch.zeros(out, rank)
    save_file(state, tmp_path / "x.safetensors")
    with pytest.raises(CheckpointError, match=r"x.safetensors does not fit: 1 of its 1 layer matches"):
        read_lora(tmp_path / "x.safetensors", LTX.checkpoint, part)


@pytest.mark.parametrize("which", ["positive", "negative"])
@pytest.mark.parametrize("name", [name for name in FAMILIES if name != "tiny-svd"])
def test_a_prompt_that_is_too_long_is_refused_before_the_text_encoder_is_read(
    tiny_models: Path, name: str, which: str
) -> None:
    model = opened(tiny_models / name, MODELS[name])
    prompts = {"positive": "a red circle", "negative": "", which: "a red circle " * 400}
    memory = model.memory
    with pytest.raises(InputError, match=rf"{which} = .*tokens, the model reads"):
        model.encode(prompts["positive"], prompts["negative"])
    assert not memory._modules
