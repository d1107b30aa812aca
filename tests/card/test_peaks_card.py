"""The tiny models on the pretend card: what a step, an encoder or a VAE asks for is what it takes there."""

from __future__ import annotations

from pathlib import Path

import pytest
from reelwire.bench.memory import MIB, on_card, without_kernels
from reelwire.tests.support.card import Card
from reelwire.tests.support.engine.models import PEAK_MODELS

pytestmark = pytest.mark.on_card
SLACK = 1.5 * MIB  # pictures, tables and tensors of less than a block, which are nothing beside published networks


@pytest.mark.parametrize("name", PEAK_MODELS)
def test_what_is_asked_for_covers_what_is_taken(tiny_models: Path, name: str) -> None:
    memory = on_card(tiny_models, name, Card())
    short = {
        part: (peak, without_kernels(memory.asked[part]))
        for part, peak in memory.peaks.items()
        if peak * 0.95 > without_kernels(memory.asked[part]) + SLACK
    }
    assert memory.peaks
    assert not short
