"""What an estimate says of time and cost, and its report."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from reelwire.loaders.parts import PlainMemory
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.estimate import cards
from reelwire.samplers.estimate.count import FITS, MOVES, SMALLER, Estimate, Machine, card_of, estimate
from reelwire.samplers.estimate.flops import Flops
from reelwire.samplers.estimate.rates import MOST_BYTES, measure
from reelwire.samplers.estimate.rates import needed as needed_bytes
from reelwire.samplers.estimate.report import facts, markdown, short
from reelwire.tests.support.engine.estimates import ANY, GIB
from reelwire.tests.support.engine.models import open_plain


def test_published_runs_are_counted_as_they_are_written(headers: Callable[[str], VideoModel]) -> None:
    """The share of a card's peak that runs reach rests on these operations; their seconds lie within the span."""
    for run in cards.published():
        request = Request(width=run["width"], height=run["height"], frames=run["frames"], steps=run["steps"])
        machine = Machine(f"cuda:0 NVIDIA {run['card']} : native", 1000 * GIB, 1000 * GIB)
        result = estimate(headers(run["model"]), request, machine)
        low, high = result.operations
        assert low == high
        assert run["petaflops"] == pytest.approx(low / 1e15, rel=5e-3), run
        assert cards.source(run["source"]).startswith("https://")
        here = result.times[0]
        assert here.basis == "published"
        assert here.seconds is not None
        assert here.seconds[0] <= run["seconds"] * 1.001
        assert here.seconds[1] >= run["seconds"] * 0.999
    least, most = cards.utilisation()
    assert 0.2 < least < most < 0.8


@pytest.mark.parametrize(
    ("device", "name"),
    [
        ("cuda:0 NVIDIA GeForce RTX 4060 Ti : cudaMallocAsync", "GeForce RTX 4060 Ti"),
        ("NVIDIA GeForce RTX 4060 Laptop GPU", None),
        ("NVIDIA GeForce RTX 4080 SUPER", None),
        ("NVIDIA GeForce RTX 4070 Ti SUPER", None),
        ("NVIDIA GeForce RTX 3060 Ti", None),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 3060 with Max-Q Design", None),
        ("NVIDIA H100 PCIe", None),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA A100-PCIE-40GB", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("Apple M4 Max", "Apple M4 Max"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA A100-SXM4-80GB", "A100"),
        ("AMD Radeon RX 7900 XTX", "Radeon RX 7900 XTX"),
        ("cpu", None),
        ("NVIDIA GeForce RTX 2080", None),
    ],
)
def test_a_device_is_known_by_its_name(device: str, name: str | None) -> None:
    card = cards.find_card(device)
    assert (card and card.name) == name


def test_every_card_has_a_source_and_every_class_a_card() -> None:
    assert all(cards.source(card.source) for card in cards.cards())
    assert all(cards.class_of(memory) for memory in cards.SIZES)


class Elsewhere(PlainMemory):
    """Another device with another room; nothing can be loaded there."""

    def __init__(self, device: str, room: int) -> None:
        super().__init__(device)
        self._room = room

    def room(self, part: str) -> int:
        return self._room


def test_the_table_is_the_same_on_every_machine(headers: Callable[[str], VideoModel]) -> None:
    """Cards that are asked about, their verdicts and their times, do not depend on the device that asks."""
    model = headers("wan/2.1-t2v-1.3b")
    plain, elsewhere = (
        estimate(replace(model, memory=Elsewhere(device, room)), Request(), replace(ANY, cpu=device == "cpu"))
        for device, room in (("cpu", 64 * GIB), ("mps", 2 * GIB))
    )
    sampled = [next(n.working for n in result.needs if n.phase == "sample") for result in (plain, elsewhere)]
    assert sampled[1] > 2 * sampled[0], "what this device holds of attention's scores is in its own needs"
    assert elsewhere.fits == plain.fits
    assert elsewhere.times == plain.times


def test_without_a_card_the_table_is_in_the_precision_of_cards(headers: Callable[[str], VideoModel]) -> None:
    model = headers("wan/2.1-t2v-14b")
    narrow = estimate(replace(model, recipe=replace(model.recipe, dtype="bfloat16")), Request(), ANY)
    wide = estimate(replace(model, recipe=replace(model.recipe, dtype="float32")), Request(), ANY)
    assert (wide.times, wide.fits) == (narrow.times, narrow.fits)
    assert wide.ram > 1.5 * narrow.ram
    words = "Here in float32; the rows of cards are in bfloat16, as a card loads it."
    assert words in short(wide)
    assert words not in short(narrow)
    assert "float32" in markdown(wide).splitlines()[0]


def test_a_limit_counts_on_cards(headers: Callable[[str], VideoModel]) -> None:
    model = headers("wan/2.1-t2v-14b")
    free, limited = (estimate(model, Request(), replace(card_of(80), limit=most * GIB)) for most in (0, 2))
    assert (free.fits[0][1][80], limited.fits[0][1][80]) == (FITS, MOVES)
    slower, faster = limited.times[-1].seconds, free.times[-1].seconds
    assert slower is not None
    assert faster is not None
    assert slower[1] > faster[1]


def test_all_that_does_not_fit_is_named_largest_first(headers: Callable[[str], VideoModel]) -> None:
    result = estimate(headers("wan/2.1-t2v-14b"), Request(), Machine("a small processor", 2 * GIB, 2 * GIB, cpu=True))
    failing = [line.split()[0] for line in short(result) if " does not fit, it needs " in line]
    sizes = {need.part: need.least(result.machine) for need in result.needs}
    assert failing == sorted(sizes, key=lambda part: -sizes[part])
    assert short(result)[0] == "Does not fit on a small processor."


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        ((0.0004, 0.3), "under 1 s"),
        ((0.5, 3.14), "under 1 s to 3.1 s"),
        ((100.0, 7000.0), "1.7 min to 1.9 h"),
        ((7200 * 3600.0, 12345 * 3600.0), "300 days to 510 days"),
    ],
)
def test_times_can_be_read(seconds: tuple[float, float], words: str) -> None:
    assert cards.in_words(seconds) == words


def test_price_is_by_the_hour(result: Estimate) -> None:
    row = replace(result, price=3.6).times[-1]
    assert row.seconds is not None
    assert row.cost == pytest.approx(tuple(second * 0.001 for second in row.seconds))
    assert replace(result, price=0.0).times[-1].cost is None


def test_weights_that_wait_cost_time(headers: Callable[[str], VideoModel]) -> None:
    model = headers("wan/2.1-t2v-14b")
    times = {row.memory: row.seconds for row in estimate(model, Request(), ANY).times}
    assert times[8] is None, "it does not fit"
    small, large = times[12], times[48]
    assert small is not None
    assert large is not None
    assert small[1] > large[1] * 2
    moved = replace(ANY, name="NVIDIA GeForce RTX 4090", cpu=False, room=20 * GIB)
    here, roomy = (
        estimate(model, Request(), machine).times[0].seconds for machine in (moved, replace(moved, room=80 * GIB))
    )
    assert here is not None
    assert roomy is not None
    assert here[1] > roomy[1]


def test_this_machine_is_measured(tiny_models: Path) -> None:
    """About a second, and what it says holds within what is stated for a run of a tiny model's larger sister."""
    model = open_plain(tiny_models, "tiny-wan2.1-t2v")
    begin = time.perf_counter()
    rates = measure(model, model.complete(Request()), torch.device("cpu"), 0.1)
    assert time.perf_counter() - begin < 30
    assert all(1e6 < rate < 1e15 for rate in rates)
    result = estimate(model, Request(), ANY, rates=rates)
    assert [row.basis for row in result.times] == ["measured"] + ["published"] * len(cards.SIZES)
    assert result.times[0].where == ANY.name


@pytest.mark.parametrize("device", ["cpu", "mps"])
def test_measuring_takes_few_bytes(headers: Callable[[str], VideoModel], device: str) -> None:
    """Of the widest network at its full length too, and where attention holds its scores."""
    model = headers("wan/2.1-t2v-14b")
    assert model.facts.hidden_size == 5120
    assert 2**28 < needed_bytes(model, model.complete(Request()), torch.device(device)) <= MOST_BYTES


# ---------------------------------------------------------------- the report


@pytest.fixture(scope="module")
def result(headers: Callable[[str], VideoModel]) -> Estimate:
    model = replace(headers("wan/2.2-t2v-a14b"), cache=EasyCache())
    return estimate(model, Request(), card_of(24), price=1.5, rates=(1e14, 5e13))


def test_the_page_is_made_of_whole_tables(result: Estimate) -> None:
    page = markdown(result)
    lines = page.splitlines()
    for before, line in pairwise(lines):
        if line.startswith("|") and before.startswith("|"):
            assert line.count("|") == before.count("|")
    for heading in ("Memory", "Computing", "Time", "What fits where", "Where the numbers come from"):
        assert f"## {heading}" in lines
    assert all(f"{memory} GB" in page for memory in cards.SIZES)
    assert "nan" not in page.lower()
    assert "inf" not in page.split()
    assert all(len(line) < 240 for line in short(result))


def test_an_unknown_machine_is_told(result: Estimate) -> None:
    words = "No rate of NVIDIA GeForce RTX 3060 Ti is known: switch calibrate on, and it is measured."
    machine = replace(card_of(8), name="NVIDIA GeForce RTX 3060 Ti")
    unknown = replace(result, machine=machine, rates=None)
    assert words in short(unknown)
    assert words in markdown(unknown).splitlines()
    assert "No rate of" not in markdown(replace(unknown, machine=replace(machine, name="NVIDIA GeForce RTX 3060")))
    assert "No rate of" not in markdown(result)


@pytest.mark.parametrize(
    ("storage", "kind", "room", "helps"),
    [("", "BF16", 24, True), ("fp8", "BF16", 24, False), ("", "F8_E4M3", 24, False), ("", "BF16", 80, False)],
)
def test_smaller_weights_are_advised_where_there_are_larger(
    result: Estimate, storage: str, kind: str, room: float, helps: bool
) -> None:
    """Not for a network that is small already, nor where it fits and others move."""
    model = result.model
    parts = {
        name: replace(part, dtypes=dict.fromkeys(part.tensors, kind)) if name.startswith("transformer") else part
        for name, part in model.parts.items()
    }
    model = replace(model, recipe=replace(model.recipe, storage=storage), parts=parts)
    moving = replace(result.needs[0], weights=200 * GIB)
    assert moving.phase == "encode"
    needs = (moving, *result.needs[1:])
    page = markdown(replace(result, model=model, machine=card_of(int(room)), needs=needs))
    assert "come in layer by layer" in page
    assert (SMALLER in page) == helps


def test_the_numbers_can_be_read_back(result: Estimate) -> None:
    numbers = json.loads(json.dumps(facts(result), allow_nan=False))
    assert numbers["version"] == 2
    assert {*numbers} == {
        "version",
        "model",
        "request",
        "machine",
        "verdict",
        "memory",
        "computing",
        "time",
        "fits",
        "measured",
        "sources",
        "notes",
    }
    assert [phase["part"] for phase in numbers["memory"]["phases"]] == [need.part for need in result.needs]
    assert all(phase["kept"] + phase["moved"] == phase["weights"] for phase in numbers["memory"]["phases"])
    assert numbers["computing"]["experts"].keys() == {"transformer", "transformer_2"}
    assert numbers["computing"]["total"] == list(result.operations)
    assert Flops(numbers["computing"]["forward"], numbers["computing"]["attention"]) == result.forward
    assert numbers["measured"] == {"products": 1e14, "attention": 5e13}
