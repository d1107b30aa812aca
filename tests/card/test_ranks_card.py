"""One clip on two pretend cards: what each rank's card holds at most, beside one card that does it all."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.samplers.parallel.clip.ranks import Group
from reelwire.tests.support.parallel.cards import Peaked, ranks_on_cards
from reelwire.tests.support.parallel.ranks import Case, Tiny

CLOSE = 5e-6  # as test_card_engine.py
WAN, EXPERTS, LTX = "tiny-wan2.1-t2v", "tiny-wan2.2-t2v-a14b", "tiny-ltx-0.9.5"
SIZE = {"width": 256, "height": 256, "frames": 25, "steps": 2}


@pytest.fixture(scope="module")
def cards(tiny_models: Path) -> Iterator[Group]:
    with ranks_on_cards(Tiny(tiny_models, WAN)) as group:
        yield group


CASES = {
    "context wan": ("context", WAN, 1.0),
    "context ltx": ("context", LTX, 1.0),
    "context hunyuan": ("context", "tiny-hunyuan-t2v", 1.0),
    "context cogvideox": ("context", "tiny-cogvideox-2b", 1.0),
    "branches wan": ("branches", WAN, 1.02),
    "branches ltx": ("branches", LTX, 1.0),
    "experts": ("experts", EXPERTS, 1.02),
}


@pytest.mark.parametrize("name", CASES)
def test_no_rank_needs_more_than_one_card_alone(cards: Group, tiny_models: Path, name: str) -> None:
    """The same latents as one card's, and peaks of both that are at most the share of one card's that is named."""
    mode, model, share = CASES[name]
    case = Case(Tiny(tiny_models, model), mode, SIZE)
    alone: list[Any] = cards.run(lambda: Peaked(case, alone=True))
    both: list[Any] = cards.run(lambda: Peaked(case))
    (latents, _), (expected, whole) = both[0], alone[0]
    peaks = [peak for _, peak in both]
    torch.testing.assert_close(latents, expected, rtol=0, atol=CLOSE)
    assert min(peaks) > 0
    assert max(peaks) <= whole * share
