"""The tiny models on the pretend card: what a step, an encoder or a VAE asks for covers what it takes there, to the byte.

Tiny networks are narrow: what a count of tensors a token leaves out, as masks and tables of positions, weighs more in them
than in published ones, so that the bound above is wide here.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from reelwire.bench.memory import Watched
from reelwire.loaders.bundle import files_of
from reelwire.loaders.families import load
from reelwire.loaders.peaks import KERNELS, SHARE
from reelwire.loaders.video_model import Recipe
from reelwire.tests.support.card import Card
from reelwire.tests.test_families import MODELS, run

pytestmark = pytest.mark.on_card


@pytest.mark.parametrize("name", MODELS)
def test_what_is_asked_for_covers_what_is_taken(tiny_models: Path, name: str) -> None:
    memory = Watched("npu", Card())
    run(load(Recipe(MODELS[name], "", files_of(tiny_models / name), "bfloat16"), memory))
    for part, peak in memory.peaks.items():
        counted = (memory.asked[part] - KERNELS) / (1 + SHARE)
        assert peak <= counted / 0.95, f"{part}: {peak} taken, {counted:.0f} counted"
