"""Each form of a LoRA adds what the library that wrote it merges, in linear layers, convolutions and fused layers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import Network, PlainMemory, Recipe
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.lora import LoRA, applied, read_lora
from reelwire.tests.support.files.loras import FORMS, LAYERS, library_layer, network_of
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file
from torch import Tensor, nn

# kind of layer -> (family, the layer, its name in a file, the layers that it is made of there)
PLACES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "linear": ("wan", ("blocks.0.ffn.net.0.proj",), "lora_unet_blocks_0_ffn_0"),
    "conv3d": ("wan", ("patch_embedding",), "diffusion_model.patch_embedding"),
    "conv2d": ("svd", ("conv_in",), "lora_unet_conv_in"),
    "fused": (
        "hunyuan_video",
        tuple(f"transformer_blocks.0.attn.to_{n}" for n in "qkv"),
        "lora_unet_double_blocks_0_img_attn_qkv",
    ),
}
CONVOLUTIONS = ("tucker",)  # forms that only kernels have


def open_model(folder: Path, family: str) -> VideoModel:
    return load(Recipe(family, "", files_of(folder / LAYERS[family][0]), "float32"), PlainMemory())


def joined(layers: list[Network]) -> Network:
    """The layer of a file that these are parts of."""
    if len(layers) == 1:
        return layers[0]
    whole = nn.Linear(layers[0].in_features, sum(layer.out_features for layer in layers))
    whole.weight.data = torch.cat([layer.weight for layer in layers])
    whole.bias.data = torch.cat([layer.bias for layer in layers])
    return whole


def outputs(network: Network, names: tuple[str, ...], x: Tensor) -> list[Tensor]:
    return [network.get_submodule(name)(x) for name in names]


CASES = [
    (place, form) for place in PLACES for form in FORMS if place.startswith("conv") or not form.endswith(CONVOLUTIONS)
]


@pytest.mark.parametrize(("place", "form"), CASES)
def test_it_equals_what_the_library_merges(tiny_models: Path, tmp_path: Path, place: str, form: str) -> None:
    (family, names, key), file = PLACES[place], tmp_path / "lora.safetensors"
    model = open_model(tiny_models, family)
    part = network_of(model)
    with model.use(part.name) as network, torch.no_grad():
        layers = [network.get_submodule(name) for name in names]
        whole = joined(layers)
        saved, weight, bias = library_layer(form, whole)
        save_file({f"{key}.{ending}": value.contiguous() for ending, value in saved.items()}, file)
        contents = read_lora(file, model.checkpoint, part)
        assert not contents.notes
        with seeded(4):
            sizes = [8] * (whole.weight.ndim - 2) if whole.weight.ndim > 2 else []
            x = torch.randn((2, whole.weight.shape[1], *sizes) if sizes else (2, 5, whole.weight.shape[1]))
        plain = outputs(network, names, x)
        for strength in (1.0, 0.3):
            with applied(network, part.name, (LoRA(file, strength, strength, contents.deltas),)):
                changed = outputs(network, names, x)
            for layer, rows in zip(layers, _rows(layers), strict=True):
                own = layer.weight.data, layer.bias.data
                layer.weight.data = own[0] + strength * (weight[rows] - own[0])
                if bias is not None:
                    layer.bias.data = own[1] + strength * (bias[rows] - own[1])
                layer.kept = own
            merged = outputs(network, names, x)
            for layer in layers:
                layer.weight.data, layer.bias.data = layer.kept
            scale = max(1.0, *(each.abs().max().item() for each in merged))
            differences = [(a - b).abs().max().item() for a, b in zip(changed, merged, strict=True)]
            assert max(differences) < 1e-5 * scale, differences
            assert min((a - b).abs().max() for a, b in zip(changed, plain, strict=True)) > 1e-4
        assert all(map(torch.equal, outputs(network, names, x), plain))


def _rows(layers: list[Network]) -> list[slice]:
    ends = torch.tensor([len(layer.weight) for layer in layers]).cumsum(0).tolist()
    return [slice(end - len(layer.weight), end) for end, layer in zip(ends, layers, strict=True)]
