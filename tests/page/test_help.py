"""The help of every node in ComfyUI's own panel, in both languages: it is ours, whole, and fits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from reelwire.tests.support.host import ROOT, Host
from reelwire.tests.support.page.node_views import LOADER
from reelwire.tests.support.page.pages import becomes, choose, choose_language, click_title, fit, open_template
from reelwire.tests.support.page.traffic import listen

if TYPE_CHECKING:
    from playwright.sync_api import Page

NODES = sorted(folder.name for folder in (ROOT / "web" / "docs").iterdir() if folder.is_dir())
# a node of a type, in place of those that are there; it is selected first, as the panel shows help of what is selected
ALONE = """name => {
    const others = [...app.rootGraph.nodes], node = LiteGraph.createNode(name);
    app.rootGraph.add(node);
    app.canvas.deselectAll();
    app.canvas.select(node);
    app.canvas.onSelectionChange?.(app.canvas.selected_nodes);
    for (const other of others) app.rootGraph.remove(other);
    return String(node.id);
}"""
TITLE = "() => document.querySelector('.node-help-content h1')?.textContent"
# what is wrong with the help that is shown: what lies beyond its edge, or needs scrolling to it; what is not there
WRONG = """() => {
    const panel = document.querySelector(".node-help-content"), { right } = panel.getBoundingClientRect();
    const scrolls = part => part.clientWidth && part.scrollWidth > part.clientWidth + 1
        && getComputedStyle(part).overflowX !== "visible";
    const wide = [...panel.querySelectorAll("*")].filter(
        part => part.getBoundingClientRect().right > right + 1 || scrolls(part));
    const pictures = [...panel.querySelectorAll("img, video")].filter(
        picture => !(picture.naturalWidth || picture.videoWidth));
    const links = [...panel.querySelectorAll("a")].filter(link => !link.getAttribute("href").startsWith("https://"));
    return [...wide, ...pictures, ...links].map(part => part.outerHTML.slice(0, 120));
}"""
WORDS = "() => document.querySelector('.node-help-content').innerText.length"


def heading(name: str, language: str) -> str:
    text = (ROOT / "web" / "docs" / name / f"{language}.md").read_text(encoding="utf-8")
    return text.splitlines()[0].removeprefix("# ")


def opened_by_click(page: Page, renderer: str, name: str) -> None:
    """The help of a node, opened from its toolbox."""
    open_template(page, {"1": LOADER}, f"help in {renderer}")
    choose(page, "Comfy.RightSidePanel.IsOpen", False)
    node = page.evaluate(ALONE, name)
    fit(page)
    click_title(page, node)
    page.get_by_test_id("info-button").click()


@pytest.fixture
def closed(page: Page) -> Iterator[None]:
    """The panel is closed in the end, and the page English."""
    yield
    choose(page, "Comfy.RightSidePanel.IsOpen", False)
    choose_language(page, "en")


def test_it_opens_from_the_node(view: tuple[Page, str], closed: None) -> None:
    page, renderer = view
    opened_by_click(page, renderer, "ReelwireSampler")
    becomes(page, TITLE, heading("ReelwireSampler", "en"))
    becomes(page, WRONG, [])


def test_that_of_every_node_is_shown_whole(page: Page, host: Host, closed: None) -> None:
    """In the panel that stays open while others are selected."""
    assert {name for name in host.get("/object_info") if name.startswith("Reelwire")} == {*NODES}
    with listen(page, host.url) as traffic:
        for language in ("en", "zh"):
            choose_language(page, language)
            opened_by_click(page, language, NODES[-1])
            for name in reversed(NODES):
                page.evaluate(ALONE, name)
                becomes(page, TITLE, heading(name, language))
                becomes(page, WRONG, [])
                assert page.evaluate(WORDS) > 200
    assert traffic.complaints == []
    assert traffic.abroad == []
