"""What an estimate says against what the pretend card saw, for every tiny model; and the warning before a run."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.bench.memory import CARD_SIZES, Watched, on_card, without_kernels
from reelwire.loaders.families import load
from reelwire.loaders.parts import Recipe
from reelwire.loaders.request import Control, Request
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.estimate import rates
from reelwire.samplers.estimate.count import Machine, estimate
from reelwire.samplers.estimate.rates import measure, needed
from reelwire.tests.support.card import Card
from reelwire.tests.support.card.host import CardHost
from reelwire.tests.support.engine.models import MODELS, PEAK_MODELS
from reelwire.tests.support.engine.models import needed as needed_by
from reelwire.tests.support.host import node, workflow


@pytest.mark.on_card
@pytest.mark.filterwarnings("ignore:In (CPU|NPU) autocast")
@pytest.mark.parametrize("name", PEAK_MODELS)
def test_an_estimate_says_what_a_run_asks_for(tiny_models: Path, name: str) -> None:
    """The bytes of the weights, and of working memory (tests/card/test_peaks_card.py compares those with a run's)."""
    memory = on_card(tiny_models, name, Card())
    model = load(Recipe(MODELS[name], "", files_of(tiny_models / name), "bfloat16"), memory)
    size, given = CARD_SIZES[MODELS[name]], needed_by(model)
    if given["control"] is not None:
        given["control"] = Control(torch.zeros(size["frames"], 64, 64, 3))
    result = estimate(model, Request(**{**size, **given}), Machine("npu", 2**40, 2**40, kind="npu"))
    said = {need.part: need for need in result.needs}
    with memory.use(model.parts["vae"]) as vae:
        assert said["vae"].weights == pytest.approx(sum(tensor.nbytes for tensor in vae.parameters()), rel=0.01)
    networks = [part for part in memory.asked if part.startswith(("transformer", "unet"))]
    assert networks
    for part in networks:
        assert said[part].working == pytest.approx(without_kernels(memory.asked[part]), abs=1)


@pytest.mark.on_card
def test_measuring_takes_what_it_asks_for(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However fast the machine: here no call is long enough, up to as many tokens as the room allows, and the longest
    is made several times over."""
    monkeypatch.setattr(rates, "LONG_ENOUGH", float("inf"))
    name, card, device = "tiny-wan2.1-t2v", Card(), torch.device("npu")
    model = load(Recipe(MODELS[name], "", files_of(tiny_models / name), "bfloat16"), Watched("npu", card))
    model = replace(model, facts=replace(model.facts, hidden_size=512))
    request = model.complete(Request(width=256, height=256, frames=33))
    gc.collect()
    card.reset_peak()
    before = card.allocated()
    measure(model, request, device, 0.3)
    assert 0.5 * needed(model, request, device) < card.peak() - before <= needed(model, request, device) + 2**20


WARNED = "it may run out of memory"


def _sampled(prefix: str) -> dict[str, Any]:
    graph = workflow("any_t2v", {"3.steps": 2, "3.width": 128, "3.height": 128, "4.filename_prefix": prefix})
    graph["1"] = node("ReelwireLoadWan", checkpoint="diffusers/tiny-wan2.1-t2v", precision="float32")
    return graph


def _long(prefix: str) -> dict[str, Any]:
    """The node that warns is number 3, as above."""
    size = dict(
        width=128,
        height=128,
        frames=17,
        window=9,
        overlap=5,
        steps=2,
        guidance=0.0,
        sampler="default",
        preset="default",
    )
    timeline = json.dumps({"prompts": [{"at": 0, "text": "a circle"}]})
    return {
        "1": node("ReelwireLoadWan", checkpoint="diffusers/tiny-wan2.1-t2v", precision="float32"),
        "3": node("ReelwireLongVideo", model=["1", 0], timeline=timeline, filename_prefix=prefix, seed=1, **size),
    }


@pytest.mark.parametrize("graph", [_sampled, _long])
def test_it_warns_before_it_starts(card_host: CardHost, graph: Callable[[str], dict[str, Any]]) -> None:
    """With too small a card it says so on the node, where it stays, and in the log; with room it says nothing."""

    def noted(size: int) -> str:
        card_host.card.set_cap(size)
        begin = len(card_host.log)
        seen = card_host.watch(graph(f"warned/{graph.__name__}_{size}"))
        texts = [note["text"] for data in seen.all("reelwire.note") for note in data["messages"]]
        stays = [str(data["output"]) for data in seen.all("executed") if data["node"] == "3"]
        words = card_host.log[begin:].decode(errors="replace") + "".join(texts)
        assert (WARNED in "".join(stays)) == (WARNED in words)
        return words

    assert WARNED not in noted(2 << 30)
    card_host.free()
    warned = noted(64 << 20)
    assert "Sampling 9 frames of 128x128 needs about" in warned
    assert "even with its weights waiting in RAM, and the card has" in warned
    card_host.card.set_cap(2 << 30)
    card_host.free()


def test_the_node_tells_of_the_card(card_host: CardHost) -> None:
    from reelwire.tests.support.engine.estimates import asked, estimated

    _, page, numbers = estimated(card_host, asked("ReelwireLoadWan", "diffusers/tiny-wan2.1-t2v", price=1.0))
    assert not numbers["machine"]["cpu"]
    assert "of card)" in page
    assert numbers["machine"]["room"] < 2.1 * 2**30
