"""The tiny models on the pretend card: what a step, an encoder or a VAE asks for is what it takes there."""

from __future__ import annotations

from pathlib import Path

import pytest
from reelwire.bench.memory import CARD_SIZES, Watched, without_kernels
from reelwire.loaders.bundle import files_of
from reelwire.loaders.families import load
from reelwire.loaders.video_model import Recipe
from reelwire.tests.support.card import Card
from reelwire.tests.test_families import MODELS, run

pytestmark = pytest.mark.on_card


@pytest.mark.parametrize("name", MODELS)
def test_what_is_asked_for_covers_what_is_taken(tiny_models: Path, name: str) -> None:
    memory = Watched("npu", Card())
    run(load(Recipe(MODELS[name], "", files_of(tiny_models / name), "bfloat16"), memory), **CARD_SIZES[MODELS[name]])
    for part, peak in memory.peaks.items():
        assert peak * 0.95 <= without_kernels(memory.asked[part]), part
