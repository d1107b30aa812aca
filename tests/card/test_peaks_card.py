"""The tiny models on the pretend card: what a step, an encoder or a VAE asks for is what it takes there."""

from __future__ import annotations

from pathlib import Path

import pytest
from reelwire.bench.memory import MIB, on_card, without_kernels
from reelwire.tests.support.card import Card

pytestmark = pytest.mark.on_card
KINDS = (
    "tiny-hunyuan-i2v-concat", "tiny-wan2.1-t2v", "tiny-wan2.1-vace", "tiny-cogvideox-5b", "tiny-mochi", "tiny-ltx-0.9.5", "tiny-svd",
)  # fmt: skip
SLACK = 1.5 * MIB  # pictures, tables and tensors of less than a block, which are nothing beside published networks


@pytest.mark.parametrize("name", KINDS)
def test_what_is_asked_for_covers_what_is_taken(tiny_models: Path, name: str) -> None:
    memory = on_card(tiny_models, name, Card())
    short = {
        part: (peak, without_kernels(memory.asked[part]))
        for part, peak in memory.peaks.items()
        if peak * 0.95 > without_kernels(memory.asked[part]) + SLACK
    }
    assert memory.peaks
    assert not short
