"""A prompt that is held is released, dropped and taken back in the page's sidebar, by keyboard alone, in both
languages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reelwire.tests.support.host import Host, node
from reelwire.tests.support.page.node_views import LOOK, toast
from reelwire.tests.support.page.pages import WATCH, becomes, choose_language, ended, exported, load, run
from reelwire.tests.support.page.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page

REVIEW = "1"
TEXT = 'a <img src=x onerror="window.broken = 1"> bear on the page'
PRESS = """() => app.rootGraph.getNodeById(1).widgets.find(({ type }) => type === "button").callback()"""
# the first card of the list: its text and its buttons, and which of them has the keyboard
CARD = """() => {
    const card = document.querySelector(".reelwire-desk li");
    if (!card) return null;
    const buttons = [...card.querySelectorAll("button")];
    return [card.querySelector("blockquote").textContent, buttons.map(({ textContent }) => textContent),
        buttons.indexOf(document.activeElement)];
}"""
SAID = "() => document.querySelector('.reelwire-desk [role=status]').textContent"
UNNAMED = """() => [...document.querySelectorAll(".reelwire-desk button")].filter(
    button => !button.getAttribute("aria-label")).length"""


def test_a_person_decides_by_keyboard(view: tuple[Page, str], host: Host, screenshots: Screenshots) -> None:
    page, renderer = view
    for case in host.get("/reelwire/review")["prompts"]:  # of other tests
        host.send("/reelwire/review", {"id": case["id"], "action": "drop"})
    text = f"{TEXT}, {renderer}"
    graph = {
        REVIEW: node("ReelwirePromptReview", prompt=text, words="bear"),
        "2": node("PreviewAny", source=[REVIEW, 0]),
    }
    load(page, graph, f"review in {renderer}")
    assert run(page)[0] == "execution_error"
    toast(page, "“bear”")
    page.wait_for_function("() => app.rootGraph.getNodeById(1).widgets.some(({ type }) => type === 'button')")
    page.evaluate(PRESS)
    becomes(page, CARD, [text, ["Release", "Drop"], -1])
    screenshots.take(page, f"review {renderer}")
    screenshots.take(page, f"docs review {renderer}", ".reelwire-desk")

    page.locator(".reelwire-desk button").first.focus()
    page.keyboard.press("Enter")
    becomes(page, f"() => ({CARD})().slice(1)", [["Queue again", "Undo"], 0])
    becomes(page, SAID, "Released: it passes at the next run.")
    page.evaluate(WATCH)
    page.keyboard.press("Enter")
    assert ended(page)[0] == "execution_success"
    becomes(page, SAID, "The run that it has ended is queued again.")
    assert text in page.evaluate("() => app.rootGraph.getNodeById(2).widgets.map(({ value }) => value).join()")
    assert exported(page)[0][REVIEW]["inputs"].keys() == {"prompt", "words", "file", "action"}

    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    becomes(page, f"() => ({CARD})().slice(1)", [["Release", "Drop"], 1])
    choose_language(page, "zh")
    try:
        becomes(page, f"() => ({CARD})()[1]", ["放行", "丢弃"])
    finally:
        choose_language(page, "en")
    assert page.evaluate(UNNAMED) == 0
    assert page.evaluate("() => window.broken") is None
    assert not page.evaluate(LOOK, REVIEW)["error"]
    page.evaluate("() => app.extensionManager.command.execute('Workspace.ToggleSidebarTab.reelwire-review')")
