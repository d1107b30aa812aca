"""What an estimate says against what the pretend card saw, for every tiny model; and the warning before a run."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.bundle import files_of
from reelwire.loaders.families import load
from reelwire.loaders.video_model import Part, PlainMemory, Recipe, Request
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.estimate import Machine, estimate
from reelwire.tests.host import node, workflow
from reelwire.tests.support.card import Card
from reelwire.tests.support.card.host import CardHost, boot_on_card
from reelwire.tests.test_families import MODELS, PROMPT, every, needed

LARGE = 256  # pixels: weights and fixed costs of tiny models would hide the working memory at their own 64


class Alone(PlainMemory):
    """Has one part on the card at a time, and notes for each the most that the card held while it was in use."""

    def __init__(self, card: Card) -> None:
        super().__init__("npu")
        self.peaks: dict[str, int] = {}
        self._card = card

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[Any]:
        for name in [name for name in self._modules if name != part.name]:
            del self._modules[name]
        gc.collect()
        with super().use(part, activations) as module:
            self._card.reset_peak()
            yield module
            self.peaks[part.name] = max(self.peaks.get(part.name, 0), self._card.peak())

    def room(self, part: str) -> int:
        return 2**40


def said_and_seen(tiny_models: Path, name: str) -> tuple[dict[str, int], dict[str, int]]:
    """(what an estimate says of each part, weights included; the peaks of the card while it was in use), in bytes."""
    memory = Alone(Card())
    model = load(Recipe(MODELS[name], "", files_of(tiny_models / name), "bfloat16"), memory)
    size = {} if getattr(model.facts, "fixed", None) else {"width": LARGE, "height": LARGE}
    inputs = {**needed(model), "steps": 2, "seed": 3, **size}
    conditioning = model.family.encode(model, PROMPT, "", inputs["keyframes"])
    latents = sample(model, conditioning, Request(**inputs))
    with torch.no_grad():
        for _ in stream_frames(model, latents):
            pass
    said = estimate(model, Request(**inputs), Machine("npu", 2**40, 2**40))
    expected = {need.part: need.weights + need.working for need in said.needs}
    return expected, memory.peaks


@pytest.mark.on_card
@pytest.mark.filterwarnings("ignore:In (CPU|NPU) autocast")
@every
def test_peaks_are_as_estimated(tiny_models: Path, name: str) -> None:
    """Each phase within 15%, never 5% under: weights and working memory together."""
    expected, peaks = said_and_seen(tiny_models, name)
    assert {*peaks} <= {*expected}
    for part, peak in peaks.items():
        assert 0.95 < expected[part] / peak < 1.15, part


@pytest.fixture(scope="module")
def card_host(comfyui: Path, tiny_models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[CardHost]:
    base = tmp_path_factory.mktemp("estimate_on_card")
    (base / "models" / "diffusers").mkdir(parents=True)
    for folder in tiny_models.iterdir():
        (base / "models" / "diffusers" / folder.name).symlink_to(folder, target_is_directory=True)
    with boot_on_card(comfyui, base) as running:
        yield running


def test_the_sampler_warns_before_it_starts(card_host: CardHost) -> None:
    """With too small a card it says so on the node and in the log; with room it says nothing."""

    def noted(size: int) -> str:
        card_host.card.set_cap(size)
        graph = workflow("any_t2v", {"3.steps": 2, "3.width": 256, "3.height": 256, "4.filename_prefix": "warned/clip"})
        graph["1"] = node("ReelwireLoadWan", checkpoint="diffusers/tiny-wan2.1-t2v", precision="float32")
        begin = len(card_host.log)
        seen = card_host.watch(graph)
        texts = [str(data) for data in seen.all("progress_text")]
        return card_host.log[begin:].decode(errors="replace") + "".join(texts)

    assert "it may run out of memory" not in noted(2 << 30)
    card_host.free()
    warned = noted(8 << 20)
    assert "Sampling 9 frames of 256x256 needs about" in warned
    assert "even with its weights waiting in RAM, and the card has" in warned
    card_host.card.set_cap(2 << 30)


def test_the_node_tells_of_the_card(card_host: CardHost) -> None:
    from reelwire.tests.test_host_estimate import asked, told

    lines, _, numbers = told(card_host, asked("ReelwireLoadWan", "diffusers/tiny-wan2.1-t2v", price=1.0))
    assert not numbers["machine"]["cpu"]
    assert "of card)" in lines[0]
    assert numbers["machine"]["room"] < 2.1 * 2**30
