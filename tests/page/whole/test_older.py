"""Graphs that another version saved, in both renderers: each widget has the value of its name, and the graph runs."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from reelwire.tests.support.host import ROOT
from reelwire.tests.support.page.node_views import DECODE, SAMPLER, film, video_of
from reelwire.tests.support.page.pages import LOADED_ANEW, drop, exported, open_template, run

if TYPE_CHECKING:
    from playwright.sync_api import Page

OLDEST = ROOT / "tests" / "released" / "0.1"
NAMES = "reelwire_widgets"


def opened(page: Page, graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """A saved graph, dropped on the page: the inputs of its nodes by their ids, as they are queued."""
    page.evaluate("() => { window.nodesBefore = app.rootGraph.nodes; }")
    drop(page, json.dumps(graph), [str(node["id"]) for node in graph["nodes"]])
    page.wait_for_function(LOADED_ANEW)
    return {name: node["inputs"] for name, node in exported(page)[0].items()}


def saved_sampler(page: Page, renderer: str) -> tuple[dict[str, Any], dict[str, Any]]:
    """(a graph as the page saves it, its sampler), in which no value of the sampler is the default."""
    graph = film(f"page/older {renderer}")
    graph[SAMPLER]["inputs"] |= {"model": ["1", 0], "frames": 9, "steps": 2, "guidance": 3.0, "fps": 12.0, "seed": 11}
    open_template(page, graph, f"saved in {renderer}")
    saved = exported(page)[1]
    (sampler,) = [node for node in saved["nodes"] if str(node["id"]) == SAMPLER]
    return saved, sampler


def test_a_graph_of_the_oldest_version_opens_and_runs(view: tuple[Page, str]) -> None:
    page, _ = view
    graph = json.loads((OLDEST / "any_t2v.json").read_text(encoding="utf-8"))
    twin = json.loads((OLDEST / "api" / "any_t2v.json").read_text(encoding="utf-8"))
    inputs = opened(page, graph)
    for name, node in twin.items():
        assert {key: inputs[name].get(key) for key in node["inputs"]} == node["inputs"]
    (sampler,) = [name for name, node in twin.items() if node["class_type"] == "ReelwireSampler"]
    assert (inputs[sampler]["loop"], inputs[sampler]["frames_from"]) == (False, "frames"), "what came later"
    page.evaluate(
        """id => { app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === "steps").value = 2; }""",
        sampler,
    )
    kind, data = run(page)
    assert kind == "execution_success", data
    (decode,) = [name for name, node in twin.items() if node["class_type"] == "ReelwireDecodeToVideo"]
    assert ".mp4" in video_of(page, decode)["src"]


@pytest.mark.parametrize("kept", [5, 3])
def test_widgets_that_came_later_have_their_defaults(view: tuple[Page, str], kept: int) -> None:
    """Whatever the page has shown of a graph of the same id before."""
    page, renderer = view
    saved, sampler = saved_sampler(page, renderer)
    sampler["widgets_values"] = sampler["widgets_values"][:kept]
    del sampler["properties"][NAMES]
    now = opened(page, saved)[SAMPLER]
    assert (now["frames"], now["steps"], now["guidance"]) == (9, *((2, 3.0) if kept == 5 else (0, 0)))
    assert (now["seed"], now["fps"], now["loop"]) == (0, 0, False)


def test_widgets_in_another_order_keep_their_values(view: tuple[Page, str]) -> None:
    page, renderer = view
    saved, sampler = saved_sampler(page, renderer)
    names, values = sampler["properties"][NAMES], sampler["widgets_values"]
    assert len(names) == len(values)
    pairs = [*zip(names, values, strict=True)][::-1]
    pairs = [("gone", "a text"), *(pair for pair in pairs if pair[0] != "fps")]  # one is no more, one was not yet
    sampler["properties"][NAMES], sampler["widgets_values"] = ([pair[at] for pair in pairs] for at in (0, 1))
    now = opened(page, saved)[SAMPLER]
    assert (now["frames"], now["steps"], now["guidance"], now["seed"], now["fps"]) == (9, 2, 3.0, 11, 0)
    kind, data = run(page)
    assert kind == "execution_success", data
    assert ".mp4" in video_of(page, DECODE)["src"]
