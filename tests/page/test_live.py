"""The running video as a moving picture on its node, in both renderers.

One run of each renderer goes through what a person may do while it is under way; another goes to its end.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from reelwire.tests.support.host import Host, Prompt, node
from reelwire.tests.support.page.node_views import DECODE, LOADER, LOOK, ONE_PROMPT, SAMPLER, film, parts, video_of
from reelwire.tests.support.page.pages import (
    WATCH,
    becomes,
    ended,
    load,
    open_template,
    reload,
    run,
    settles,
    switch,
)
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
    const marks = [...(figure?.querySelectorAll(".reelwire-marks > [class^=reelwire-mark-]") ?? [])];
    const button = figure?.querySelector("button");
    return {
        frames: image ? Math.round(image.offsetHeight / image.parentElement.offsetHeight) : 0,
        shape: image && image.parentElement.offsetWidth / image.parentElement.offsetHeight,
        place: image?.style.transform,
        names: [figure?.querySelector("[role=img]").ariaLabel, button?.ariaLabel],
        marks: marks.map(mark => Number(mark.style.flexGrow)),
        legend: [...(figure?.querySelectorAll("figcaption span") ?? [])].map(each => each.textContent),
        others: [...(around?.querySelectorAll("img, video") ?? [])].filter(seen).length,
        source: image?.src ?? "",
    };
}"""
COMES = f"id => ({LIVE})(id).frames === 13"
PRESS = """id => app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === "reelwire_panel")
    .element.querySelector(".reelwire-pause").click()"""
# each state of the marks, their legend and the first line of a node, in order
RECORD = f"""id => {{
    window.recorded = [];
    window.recording = setInterval(() => {{
        const {{ marks, legend }} = ({LIVE})(id);
        const now = [marks, legend, ({LOOK})(id).lines[0]];
        if (JSON.stringify(now) !== JSON.stringify(window.recorded.at(-1))) window.recorded.push(now);
    }}, 50);
}}"""
# the page says how large a preview came, which reads as the size of the video
SIZE_IS_SAID = """() => /\\d+ x \\d+/.test(document.querySelector("#graph-canvas-container")?.innerText
    ?? document.body.innerText)"""
INTERRUPT = "() => app.api.interrupt()"


def slow(prefix: str, steps: int) -> Prompt:
    """A graph with so many steps, of about 30 ms each."""
    graph = film(prefix)
    graph[SAMPLER]["inputs"] |= {"width": 96, "height": 64, "frames": 49, "steps": steps, "model": ["1", 0]}
    return graph


def moves(page: Page) -> None:
    """Wait until the sampler's picture shows another frame than now."""
    place = page.evaluate(LIVE, SAMPLER)["place"]
    page.wait_for_function(f"([id, place]) => ({LIVE})(id).place !== place", arg=[SAMPLER, place])


@pytest.fixture(scope="module")
def running(view: tuple[Page, str], host: Host) -> Iterator[tuple[Page, str, str]]:
    """The page while a sampling is under way that goes on until it is interrupted; its renderer, and its workflow."""
    page, renderer = view
    host.free()
    here = open_template(page, slow(f"page/endless {renderer}", 1000), f"endless in {renderer}")
    page.evaluate(WATCH)
    page.evaluate("() => app.queuePrompt(0, 1)")
    page.wait_for_function(COMES, arg=SAMPLER)
    yield page, renderer, here
    host.send("/interrupt", {})


def test_the_running_video_moves_and_is_shown_once(running: tuple[Page, str, str], screenshots: Screenshots) -> None:
    page, renderer, _ = running
    becomes(page, parts(("frames", "others"), LIVE), [13, 0], SAMPLER)
    assert not page.evaluate(SIZE_IS_SAID)
    moves(page)
    screenshots.take(page, f"live {renderer}")
    screenshots.take(page, f"docs live {renderer}", ".reelwire-panel:has(.reelwire-live)")
    first = page.evaluate(LIVE, SAMPLER)["source"]
    page.wait_for_function(f"([id, first]) => ({LIVE})(id).source !== first", arg=[SAMPLER, first])
    assert page.evaluate(LIVE, SAMPLER)["shape"] == pytest.approx(96 / 64, rel=0.02)


def test_the_node_says_how_far_it_is(running: tuple[Page, str, str]) -> None:
    page, *_ = running
    page.wait_for_function(f"id => /^Step \\d+ of 1000, about .* left$/.test(({LOOK})(id).lines[0])", arg=SAMPLER)


def test_it_can_be_paused(running: tuple[Page, str, str]) -> None:
    page, *_ = running
    assert page.evaluate(LIVE, SAMPLER)["names"] == [
        "What has been made so far, as a moving picture",
        "Pause the moving picture",
    ]
    page.evaluate(PRESS, SAMPLER)
    assert page.evaluate(LIVE, SAMPLER)["names"][1] == "Play the moving picture"
    place = page.evaluate(LIVE, SAMPLER)["place"]
    page.wait_for_timeout(1000)  # as long as four frames would take
    assert page.evaluate(LIVE, SAMPLER)["place"] == place
    page.evaluate(PRESS, SAMPLER)
    moves(page)


# how many frames the picture goes on in three seconds while the page takes so long for each drawing of itself
TURNS = """async ([id, milliseconds]) => {
    const image = app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === "reelwire_panel")
        .element.querySelector(".reelwire-screen");
    let turns = 0;
    const seen = new MutationObserver(() => turns++);
    seen.observe(image, { subtree: true, attributes: true, attributeFilter: ["style"] });
    const end = performance.now() + 3000;
    while (performance.now() < end) {
        const start = await new Promise(requestAnimationFrame);
        while (performance.now() < start + milliseconds);
    }
    seen.disconnect();
    return turns;
}"""


def test_it_leaves_frames_out_where_the_page_is_slow(running: tuple[Page, str, str]) -> None:
    """Of the 19 that it would show else; a few more come with new pictures."""
    page, *_ = running
    assert 0 < page.evaluate(TURNS, [SAMPLER, 120]) <= 10


def test_another_workflow_shows_nothing_of_it(running: tuple[Page, str, str]) -> None:
    page, renderer, here = running
    other = open_template(page, slow(f"page/other {renderer}", 4), f"other of {renderer}")
    assert other != here
    assert settles(page, parts(("frames", "others"), LIVE), SAMPLER) == [0, 0]
    for _ in range(2):  # over the tab in which the other was made
        switch(page, "Previous")
    page.wait_for_function(COMES, arg=SAMPLER)


def test_the_next_picture_comes_after_a_reload(running: tuple[Page, str, str]) -> None:
    page, *_ = running
    reload(page)
    page.wait_for_function(COMES, arg=SAMPLER)
    moves(page)
    becomes(page, parts(("others",), LIVE), [0], SAMPLER)


def test_an_interrupt_leaves_nothing(running: tuple[Page, str, str]) -> None:
    page, *_ = running
    page.evaluate(WATCH)
    page.evaluate(INTERRUPT)
    assert ended(page)[0] == "execution_interrupted"
    becomes(page, parts(("frames", "others"), LIVE), [0, 0], SAMPLER)
    becomes(page, parts(("lines",)), [[]], SAMPLER)
    assert settles(page, parts(("frames", "others"), LIVE), SAMPLER) == [0, 0]


# ---------------------------------------------------------------- to the end


@pytest.fixture
def idle(view: tuple[Page, str], host: Host) -> tuple[Page, str]:
    """The page where nothing runs: what `running` has begun may be under way still."""
    host.send("/interrupt", {})
    host.free()
    return view


def test_the_last_picture_stays_and_gives_way_to_the_video(idle: tuple[Page, str]) -> None:
    page, renderer = idle
    load(page, slow(f"page/live {renderer}", 20), f"live in {renderer}")
    assert run(page)[0] == "execution_success"
    video_of(page, DECODE)
    assert settles(page, parts(("frames", "others"), LIVE), SAMPLER) == [13, 0]
    assert settles(page, parts(("frames", "others"), LIVE), DECODE) == [0, 1]


def test_a_long_video_shows_its_newest_window_with_its_join(idle: tuple[Page, str]) -> None:
    page, renderer = idle
    settings: dict[str, Any] = {"frames": 33, "window": 25, "overlap": 9, "steps": 40, "seed": 7}
    settings["filename_prefix"] = f"page/joins {renderer}"
    graph = {"1": LOADER, "2": node("ReelwireLongVideo", model=["1", 0], timeline=ONE_PROMPT, **settings)}
    load(page, graph, f"joins in {renderer}")
    page.evaluate(RECORD, "2")
    assert run(page)[0] == "execution_success"
    shown = page.evaluate("() => { clearInterval(window.recording); return window.recorded; }")
    marks = [counts for counts, *_ in shown if counts]
    assert {tuple(counts) for counts in marks} == {(0, 0, 3, 3), (3, 3, 3, 0)}
    assert {tuple(legend) for counts, legend, _ in shown if counts == [3, 3, 3, 0]} == {
        ("window before", "join", "new")
    }
    assert any((line or "").startswith("Window 2 of 2: Step ") for *_, line in shown)
    video_of(page, "2")
    assert settles(page, parts(("frames", "others"), LIVE), "2") == [0, 1]
