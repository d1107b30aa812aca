"""What grows is seen, and a short soak leaves nothing behind."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest
from reelwire.tests.soak.command import Result, soak
from reelwire.tests.soak.kept import Kept, growing
from reelwire.tests.soak.mix import DISTURBANCES, GRAPHS, draw
from reelwire.tests.soak.page import PageResult, PageSample
from reelwire.tests.soak.samples import NUMBERS, Sample, curves, growth, picture, sample, write
from reelwire.tests.soak.varied import KINDS, REFUSED, varied
from reelwire.tests.support.card.host import CardHost

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


def test_nothing_grows_with_prompts(card_host: CardHost) -> None:
    """30 prompts, and 30 others of the same kinds."""
    with varied(card_host) as more_prompts:
        expected = {(kind, kind not in REFUSED): times for kind, (times, _) in KINDS.items()}
        assert sum(expected.values()) == 30
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
