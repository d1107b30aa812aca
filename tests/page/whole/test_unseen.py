"""Nodes 2.0: nodes of ours that are far out of sight are left out by the browser, and are as large as they were."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from reelwire.tests.support.host import node
from reelwire.tests.support.page.node_views import SAMPLER, film
from reelwire.tests.support.page.pages import load, render_with, settles

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

STOCK, FAR = "90", "91"
PLACE = f"""() => app.rootGraph.nodes.forEach((node, i) => {{
    node.pos = [450 * i, ["{STOCK}", "{FAR}"].includes(String(node.id)) ? 9000 : 0];
}})"""
LOOK = """id => {
    app.canvas.ds.scale = 1;
    app.canvas.centerOnNode(app.rootGraph.getNodeById(id));
    app.canvas.setDirty(true, true);
}"""
DRAWN = """id => document.querySelector(`[data-node-id="${id}"] [data-testid="node-title"]`)
    .checkVisibility({ contentVisibilityAuto: true })"""
HEIGHT = """id => document.querySelector(`[data-node-id="${id}"]`).offsetHeight"""
MARKED = """id => document.querySelector(`[data-node-id="${id}"]`)?.matches("[data-reelwire-unseen]")"""
ADVANCED = """() => document.querySelector('[data-node-id="91"] [data-testid="advanced-inputs-button"]').click()"""


@pytest.fixture(scope="module")
def spread(page: Page) -> Iterator[Page]:
    """A graph with a sampler of ours and a node of ComfyUI's far below the others."""
    render_with(page, "Nodes 2.0")
    graph = film("page/unseen")
    graph |= {FAR: graph[SAMPLER], STOCK: node("EmptyImage", width=64, height=64, batch_size=1, color=0)}
    load(page, graph, "unseen")
    page.evaluate(PLACE)
    page.wait_for_function(MARKED, arg=FAR)
    yield page
    render_with(page, "LiteGraph")


def look(page: Page, at: str) -> None:
    page.evaluate(LOOK, at)
    settles(page, "() => [...app.canvas.ds.offset]")


def test_what_is_far_away_is_not_drawn(spread: Page) -> None:
    look(spread, SAMPLER)
    spread.wait_for_function(f"() => !({DRAWN})('{FAR}')")
    assert spread.evaluate(DRAWN, SAMPLER)
    assert spread.evaluate(DRAWN, STOCK), "a node that is not ours was touched"
    look(spread, FAR)
    spread.wait_for_function(f"() => ({DRAWN})('{FAR}')")


def test_it_keeps_its_size_until_it_is_seen(spread: Page) -> None:
    look(spread, FAR)
    seen = settles(spread, f"() => ({HEIGHT})('{FAR}')")
    look(spread, SAMPLER)
    spread.wait_for_function(f"() => !({DRAWN})('{FAR}')")
    assert spread.evaluate(HEIGHT, FAR) == seen
    spread.evaluate(ADVANCED)
    look(spread, FAR)
    assert settles(spread, f"() => ({HEIGHT})('{FAR}')") > seen, "its advanced inputs have no room"


def test_another_graph_is_measured_in_whole(spread: Page) -> None:
    """Elements of nodes are used again for those of the same id in another graph."""
    load(spread, {FAR: node("EmptyImage", width=64, height=64, batch_size=1, color=0)}, "another graph")
    spread.wait_for_function(f"() => !({MARKED})('{FAR}')")
    spread.wait_for_timeout(2500)  # in which a node of ours would be marked
    assert not spread.evaluate(MARKED, FAR)
