"""The running video as a moving picture on its node, in both renderers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from reelwire.tests.support.host import Host, Prompt, node
from reelwire.tests.support.page.node_views import DECODE, LOADER, ONE_PROMPT, SAMPLER, film, parts, video_of
from reelwire.tests.support.page.pages import WATCH, becomes, ended, load, run, settles
from reelwire.tests.support.page.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page

# what a person sees of the moving picture of a node, and how many other pictures of the same node can be seen
LIVE = """id => {
    const node = app.rootGraph.getNodeById(id);
    const element = node?.widgets?.find(widget => widget.name === "reelwire_panel")?.element;
    const figure = element?.querySelector(".reelwire-live");
    const image = figure?.querySelector("img");
    const seen = picture => picture.offsetHeight > 0 && !picture.closest(".reelwire-live");
    const around = document.querySelector(`[data-node-id="${id}"]`) ?? element;
    const style = figure && getComputedStyle(figure);
    return {
        frames: image ? Number(style.getPropertyValue("--reelwire-frames")) : 0,
        size: image && [image.naturalWidth, image.naturalHeight],
        moves: figure?.querySelector(".reelwire-reel").getAnimations().some(each => each.playState === "running"),
        name: figure?.querySelector("[role=img]").ariaLabel,
        marks: [...(figure?.querySelectorAll(".reelwire-marks > [style]") ?? [])].map(mark => Number(mark.style.flexGrow)),
        others: [...(around?.querySelectorAll("img, video") ?? [])].filter(seen).length,
    };
}"""


def slow(prefix: str, steps: int = 40) -> Prompt:
    """A graph whose sampling takes a few seconds."""
    graph = film(prefix)
    graph[SAMPLER]["inputs"] |= {"width": 192, "height": 128, "frames": 49, "steps": steps}
    return graph


def begin(page: Page) -> None:
    page.evaluate(WATCH)
    page.evaluate("() => app.queuePrompt(0, 1)")


def test_the_running_video_moves_on_its_node(view: tuple[Page, str], host: Host, screenshots: Screenshots) -> None:
    page, renderer = view
    host.free()
    load(page, slow(f"page/live {renderer}"), f"live in {renderer}")
    begin(page)
    page.wait_for_function(f"id => ({LIVE})(id).frames > 1", arg=SAMPLER)
    screenshots.take(page, f"live {renderer}")
    becomes(page, parts(("frames", "moves", "others"), LIVE), [7, True, 0], SAMPLER)
    assert ended(page)[0] == "execution_success"
    screenshots.take(page, f"live end {renderer}")
    assert settles(page, parts(("frames", "others"), LIVE), SAMPLER) == [7, 0]
    video_of(page, DECODE)
    assert settles(page, parts(("frames",), LIVE), DECODE) == [0]
