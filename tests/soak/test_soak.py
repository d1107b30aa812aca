"""What grows is seen, and a short soak leaves nothing behind."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from reelwire.samplers.caches.policies import choices
from reelwire.tests.soak.command import Result, beside, soak
from reelwire.tests.soak.graphs import GRAPHS as PAGE_GRAPHS
from reelwire.tests.soak.graphs import STOCK
from reelwire.tests.soak.kept import Kept, growing
from reelwire.tests.soak.mix import DISTURBANCES, GRAPHS, draw
from reelwire.tests.soak.page import OF_THE_PAGE, TIMES, PageResult, PageSample, per_run
from reelwire.tests.soak.samples import NUMBERS, Sample, curves, growth, picture, sample, write
from reelwire.tests.soak.varied import CALIBRATED, KINDS, REFUSED, SIZES, Names, rounds, varied
from reelwire.tests.support.card.host import CardHost
from reelwire.tests.support.host import Prompt

FLAT = [Sample(run, 8 * 10**8, 400, 40, 90, 0, 0) for run in range(0, 1001, 10)]


def grown(name: str, by: float) -> list[Sample]:
    """The samples with one number growing evenly by a share, or from 0 by a number."""
    rise = lambda each: getattr(each, name) * (1 + by * each.run / 1000) or by * each.run / 1000
    return [replace(each, **{name: rise(each)}) for each in FLAT]


def test_flat_is_flat() -> None:
    assert growth(FLAT) == dict.fromkeys(NUMBERS, 0)
    assert not Result(FLAT, digests=["a", "a"]).faults()
    assert len(Result(FLAT, digests=["a", "b"]).faults()) == 1


def test_what_fails_undisturbed_is_a_fault() -> None:
    ends = Counter({"nothing: success": 5, "memory: error": 3, "error: refused": 2})
    assert not Result(FLAT, ends, ["a", "a"]).faults()
    assert Result(FLAT, ends + Counter(["nothing: error"]), ["a", "a"]).faults() == [
        "1 runs that nothing disturbed: error"
    ]


@pytest.mark.parametrize("name", NUMBERS)
def test_growth_is_seen(name: str) -> None:
    faults = Result(grown(name, 2 if name in ("temporary", "leftovers") else 0.02), digests=["a", "a"]).faults()
    assert [fault.partition(" ")[0] for fault in faults] == [name]


def test_what_is_loaded_first_does_not_count() -> None:
    early = [replace(each, memory=each.memory // 4) if each.run < 80 else each for each in FLAT]
    assert not Result(early, digests=["a", "a"]).faults()


def test_the_mix_has_everything_and_follows_its_seed() -> None:
    runs = [draw(1, number) for number in range(200)]
    assert runs == [draw(1, number) for number in range(200)]
    assert {run.disturb for run in runs} == {*DISTURBANCES}
    assert {run.graph for run in runs} == {*GRAPHS}


def test_curves_are_written(tmp_path: Path) -> None:
    write(FLAT, tmp_path / "soak.csv")
    assert len((tmp_path / "soak.csv").read_text().splitlines()) == len(FLAT) + 1
    assert len(ElementTree.fromstring(picture(curves(FLAT))).findall("{*}polyline")) == len(NUMBERS)


def test_leftovers_are_counted(tmp_path: Path) -> None:
    import os

    for name in ("a.mp4", ".b.mp4.part.mp4", "long.unfinished/inputs.json", "stray.json"):
        path = tmp_path / "output" / "soak" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    (tmp_path / "tmp").mkdir()
    (tmp_path / "tmp" / "x").write_text("")
    taken = sample(3, os.getpid(), tmp_path)
    assert (taken.run, taken.leftovers, taken.temporary) == (3, 2, 1)
    assert min(taken.memory, taken.mapped, taken.threads, taken.files) > 0


def test_a_short_soak(card_host: CardHost) -> None:
    result = soak(card_host, 3, 1, lambda _: None, every=3)
    assert len({*result.digests}) == 1
    assert sum(result.ends.values()) == 3
    assert [each.leftovers for each in result.samples] == [0, 0]
    card_host.check()


def test_each_round_is_unlike_the_one_before(tmp_path: Path) -> None:
    """Every policy in each round; each prompt has another size, text, seed and name than any of its kind before."""
    for folder in ("input", *(f"models/{kind}" for kind in ("diffusers", "loras", "diffusion_models", "vae"))):
        (tmp_path / folder).mkdir(parents=True)
    names = Names(tmp_path)
    first, second, third = ([*each] for each in islice(rounds(names), 3))
    for before, after in pairwise((first, second, third)):
        assert alike(before, after) == {}
    assert {*alike(first, first)} == {kind for kind, _ in first}
    for each in (first, second, third):
        drawn = {kind: {*values(each, kind, "policy")} for kind in ("cached", "calibrated")}
        assert drawn["cached"] | drawn["calibrated"] == {*choices()}
        assert drawn["calibrated"] == {*CALIBRATED}
    for kind in ("text", "cached", "lora", "latent"):
        assert len({*sizes(first + second + third, kind)}) == min(3 * KINDS[kind][0], len(SIZES))


def alike(before: list[tuple[str, Prompt]], after: list[tuple[str, Prompt]]) -> dict[str, set[str]]:
    """Kind -> what of its prompts of two rounds is the same: a text, seed, name or speed of any two; the size of two in
    the same place."""
    same = defaultdict[str, set[str]](set)
    for kind in KINDS:
        for name in ("positive", "seed", "filename_prefix", "labels", "prompt", "price", "timeline", "speed"):
            if {*values(before, kind, name)} & {*values(after, kind, name)} - {"", 0}:
                same[kind].add(name)
        if any(size == other for size, other in zip(sizes(before, kind), sizes(after, kind), strict=True)):
            same[kind].add("size")
    return same


def values(prompts: list[tuple[str, Prompt]], kind: str, name: str) -> list[Any]:
    """What an input of this name holds in the prompts of a kind, where it is no link."""
    found = [each["inputs"].get(name) for at, prompt in prompts if at == kind for each in prompt.values()]
    return [value for value in found if value is not None and not isinstance(value, list)]


def sizes(prompts: list[tuple[str, Prompt]], kind: str) -> list[tuple[Any, ...]]:
    """The sizes of the videos in the prompts of a kind."""
    return [*zip(*(values(prompts, kind, name) for name in ("width", "height", "frames")), strict=False)]


def test_nothing_grows_with_prompts(card_host: CardHost) -> None:
    """40 prompts, and 40 others of the same kinds."""
    with varied(card_host) as more_prompts:
        expected = {(kind, kind not in REFUSED): times for kind, (times, _) in KINDS.items()}
        assert sum(expected.values()) == 40
        assert more_prompts() == expected
        before = _kept(card_host)
        assert more_prompts() == expected
        after = _kept(card_host)
    written = "nodes.host.outputs._written"
    assert before[written][0] < after[written][0] < (after[written][1] or 0), "what is bounded fills"
    assert growing(before, after) == {}


def _kept(host: CardHost) -> Kept:
    host.send("/history", {"clear": True})
    host.free()
    host.card.state(forget=True, collect=True)
    return {place: (count, most) for place, (count, most) in host.get("/reelwire_kept").items()}


@pytest.mark.parametrize("name", ["blobs", "our_blobs", "our_elements", "our_listeners", "host"])
def test_growth_of_a_page_is_seen(name: str) -> None:
    flat = [
        PageSample(run, 10**8 * (1 + run), 9000 + run, 2000 + run, 3, 1, 700, 90, 10**9) for run in range(0, 301, 10)
    ]
    grows = [replace(each, **{name: getattr(each, name) + each.run * getattr(each, name)}) for each in flat]
    assert not PageResult({"LiteGraph": flat}).faults()
    assert [fault.partition(" grew")[0] for fault in PageResult({"a": flat, "b": grows}).faults()] == [f"b: {name}"]


def page_samples(runs: int = 300, /, **more: float) -> list[PageSample]:
    """Samples of a page whose numbers grow by so much with each run."""
    flat = PageSample(0, 5 * 10**7, 1500, 550, 2, 1, 30, 29, 7 * 10**8)
    grown = lambda run: {name: getattr(flat, name) + int(by * run) for name, by in more.items()}
    return [replace(flat, run=run, **grown(run)) for run in range(0, runs + 1, 10)]


@pytest.mark.parametrize("stock", [-1, 0, 1, 3])
@pytest.mark.parametrize("name", OF_THE_PAGE)
def test_more_growth_than_of_a_stock_graph_is_seen(name: str, stock: float) -> None:
    """stock: what that lets grow, in parts of what is clearly more."""
    slack = OF_THE_PAGE[name]
    allowed, theirs = TIMES * max(stock, 0) * slack + slack, page_samples(**{name: stock * slack})
    for by, faults in ((allowed * 0.95, 0), (allowed * 1.1, 1)):
        found = PageResult({"a": page_samples(**{name: by})}, {"a": theirs}).faults()
        assert [fault.partition(" grew")[0] for fault in found] == [f"a: {name}"] * faults


def test_as_many_runs_are_compared() -> None:
    """A page that keeps less and less of each run is not better for having had more of them."""
    early, late = page_samples(150, heap=50_000), page_samples(600, heap=5_000)
    both = [*early, *(replace(each, run=each.run + 150, heap=each.heap + 150 * 45_000) for each in late[1:])]
    result = PageResult({"a": early}, {"a": both})
    assert per_run(both, "heap") < 10_000
    assert result.beside()["a"]["heap"] == (pytest.approx(50_000, rel=0.01), pytest.approx(50_000, rel=0.01))
    assert result.faults() == []
    assert beside(result.beside()).count("50,000.0") == 2


@pytest.mark.parametrize(("went", "faults"), [(7, 0), (5, 0), (4, 1)])
@pytest.mark.parametrize("kind", ["", "stock "])
def test_runs_that_fail_compare_nothing(kind: str, went: int, faults: int) -> None:
    ends = Counter({"success": 70, "error": 30} if kind else {})
    ends += Counter({f"{kind}success": went, f"{kind}error": 10 - went})
    assert len(PageResult({"a": page_samples()}, ends=ends).faults()) == faults


def test_a_page_is_laid_beside_stock_in_both_graphs() -> None:
    """Each changes as many widgets, in all kinds of runs; neither has a node of the other's."""
    graphs = {name: make() for name, make in PAGE_GRAPHS.items()}
    assert not any(each["class_type"].startswith("Reelwire") for each in graphs[STOCK].prompt.values())
    for kind in ("success", "refused", "error", "interrupted"):
        changed = {
            name: {(node, widget) for node, widget, _ in graph.changes(kind, 3)} for name, graph in graphs.items()
        }
        assert len({len(each) for each in changed.values()}) == 1
        for name, graph in graphs.items():
            assert all(widget in graph.prompt[node]["inputs"] for node, widget in changed[name])
