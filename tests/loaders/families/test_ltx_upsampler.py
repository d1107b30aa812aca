"""Latents twice as wide and high: the network of a folder, and the models that have one."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.weights.bundle import files_of
from reelwire.tests.support.components import BUNDLED, seeded


@pytest.fixture(scope="module")
def upsampler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    channels = load(Recipe("ltx", "", files_of(BUNDLED), "float32"), PlainMemory()).facts.channels
    folder = tmp_path_factory.mktemp("upsampler")
    with seeded(1):
        LTXLatentUpsamplerModel(channels, 32, 1).save_pretrained(folder / "latent_upsampler")
    return folder


def test_latents_are_enlarged_with_the_small_ones_statistics(upsampler: Path) -> None:
    model = load(Recipe("ltx", "", files_of(BUNDLED), "float32"), PlainMemory())
    part = model.upsampler(upsampler)
    with seeded(2):
        latents = torch.randn(1, model.facts.channels, 3, 2, 4)
    plain, toned = (model.upscale(part, latents, adain) for adain in (0.0, 1.0))
    assert plain.shape == toned.shape == (1, model.facts.channels, 3, 4, 8)
    spread = latents.std((2, 3, 4))
    assert (toned.std((2, 3, 4)) - spread).abs().max() < 0.5 * (plain.std((2, 3, 4)) - spread).abs().max()


def test_other_families_have_none(upsampler: Path, tiny_models: Path) -> None:
    model = load(Recipe("mochi", "", files_of(tiny_models / "tiny-mochi"), "float32"), PlainMemory())
    with pytest.raises(InputError) as refused:
        model.upsampler(upsampler)
    assert refused.value.name == "model"
