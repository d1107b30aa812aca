"""Compare Videos on the page: the grid plays on the node, with its table below, in both renderers and in Chinese."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from reelwire.tests.support.clips import write_shades
from reelwire.tests.support.host import Host, Prompt, node
from reelwire.tests.support.page.node_views import LOOK, video_of
from reelwire.tests.support.page.pages import becomes, choose_language, fit, load, reload, run
from reelwire.tests.support.page.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page

COMPARE = "3"
TABLE = f"""() => {{
    const box = app.rootGraph.getNodeById({COMPARE}).widgets.find(({{ name }}) => name === "reelwire_panel")
        ?.element.querySelector(".reelwire-figures");
    const rows = [...(box?.querySelectorAll("tr") ?? [])];
    return rows.map(row => [...row.cells].map(cell => cell.textContent));
}}"""
BOX = """() => {
    const box = document.querySelector(".reelwire-figures");
    box.focus();
    return [document.activeElement === box, box.getAttribute("role"), box.getAttribute("aria-label").length > 10];
}"""

FITS = """() => {
    const { scrollWidth, clientWidth } = document.querySelector(".reelwire-figures");
    return scrollWidth <= clientWidth;
}"""


@pytest.fixture(scope="module")
def clips(host: Host) -> Prompt:
    """A graph that compares two clips of the input folder."""
    for name, size in (("wide", (96, 64)), ("upright", (32, 64))):
        write_shades(host.base / "input" / f"page_{name}.mp4", 8, 8, size)
    return {
        "1": node("LoadVideo", file="page_wide.mp4"),
        "2": node("LoadVideo", file="page_upright.mp4"),
        COMPARE: node(
            "ReelwireCompare",
            video_1=["1", 0],
            video_2=["2", 0],
            labels="宽\n<b>upright</b>",
            price=2.5,
            filename_prefix="page/compare",
        ),
    }


def test_the_grid_plays_above_its_table(view: tuple[Page, str], clips: Prompt, screenshots: Screenshots) -> None:
    page, renderer = view
    load(page, clips, f"compare in {renderer}")
    assert run(page)[0] == "execution_success"
    assert "compare_" in video_of(page, COMPARE)["src"]
    becomes(
        page,
        f"() => ({TABLE})().slice(0, 3)",
        [
            ["Video", "宽", "<b>upright</b>"],
            ["Model", "unknown", "unknown"],
            ["Picture", "96x64, 8 frames, 8 fps", "32x64, 8 frames, 8 fps"],
        ],
    )
    shown: dict[str, Any] = page.evaluate(LOOK, COMPARE)
    assert not shown["error"]
    assert shown["others"] == 0
    assert page.evaluate(BOX) == [True, "group", True]
    assert page.evaluate(FITS)
    fit(page)
    screenshots.take(page, f"compare {renderer}")
    screenshots.take(page, f"docs compare {renderer}", ".reelwire-panel:has(.reelwire-figures)")
    table = page.evaluate(TABLE)
    reload(page)
    becomes(page, TABLE, table)
    assert "compare_" in video_of(page, COMPARE)["src"]

    choose_language(page, "zh")
    try:
        becomes(page, f"() => ({TABLE})()[2]", ["画面", "96x64，8 帧，8 fps", "32x64，8 帧，8 fps"])
    finally:
        choose_language(page, "en")
