"""What nodes show can be read by a screen reader; a template is opened and run without an error of ours, or a request
to another host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from reelwire.tests.support.host import PACK, ROOT, Host, node
from reelwire.tests.support.page.node_views import LOADER, SENTENCE, keyframes, toast, video_of
from reelwire.tests.support.page.pages import drop, fit, load, open_template, run
from reelwire.tests.support.page.traffic import Traffic, listen

if TYPE_CHECKING:
    from playwright.sync_api import Page

TEMPLATE = "Text to video, faster with a cache - any model"
SERIOUS = ("serious", "critical")
OURS = '[class^="reelwire"], [class*=" reelwire"]'
# a moving picture of two frames with a join on every node that has a panel
FILM = f"""async ids => {{
    const {{ show }} = await import("/extensions/{PACK}/panel.mjs");
    const canvas = Object.assign(document.createElement("canvas"), {{ width: 64, height: 128 }});
    canvas.getContext("2d").fillRect(0, 0, 64, 64);
    const picture = canvas.toDataURL("image/jpeg").split(",")[1];
    const live = {{ picture, frames: 2, ratio: 1, seconds: 1, marks: [1, 0, 1, 0] }};
    for (const id of ids) show(app.rootGraph.getNodeById(id), {{ live }});
}}"""


STORY = {
    "prompts": [{"at": 0, "text": "A red circle"}, {"at": 1, "text": "A blue ring"}],
    "keyframes": [{"at": 0, "image": "reelwire_left.png"}, {"at": 1.28, "image": "reelwire_right.png"}],
}
OPEN_DESK = "() => app.rootGraph.getNodeById(1).widgets.find(({ type }) => type === 'button').callback()"


@pytest.fixture(scope="module")
def ran(view: tuple[Page, str], host: Host) -> Iterator[tuple[Page, Traffic, list[str]]]:
    """The page after a template was dropped on it and run; its traffic; and ids of its nodes."""
    page, _ = view
    host.free()
    template = json.loads((ROOT / "workflows" / f"{TEMPLATE}.json").read_text(encoding="utf-8"))
    ids = {str(n["id"]): n["type"] for n in template["nodes"] if n["type"] != "MarkdownNote"}
    with listen(page, host.url) as traffic:
        drop(page, json.dumps(template), list(ids))
        kind, ending = run(page)
        assert kind == "execution_success", ending
        video_of(page, next(name for name, type_of in ids.items() if type_of == "ReelwireDecodeToVideo"))
        yield page, traffic, list(ids)


def findings(page: Page) -> list[dict[str, Any]]:
    """What axe-core finds serious or critical in elements of ours, each with where."""
    count = page.locator(OURS).count()
    assert count >= 4, "there is nothing of ours to look at"
    violations = Axe().run(page, {"include": [[OURS]]}).response["violations"]
    return [
        {"rule": each["id"], "help": each["help"], "where": [node["html"][:200] for node in each["nodes"]]}
        for each in violations
        if each["impact"] in SERIOUS
    ]


def test_nothing_was_complained_of(ran: tuple[Page, Traffic, list[str]]) -> None:
    assert ran[1].complaints == []


def test_nothing_was_asked_of_another_host(ran: tuple[Page, Traffic, list[str]]) -> None:
    assert ran[1].abroad == []


def test_what_a_run_leaves_can_be_read(ran: tuple[Page, Traffic, list[str]]) -> None:
    page, _, ids = ran
    page.evaluate(FILM, ids[:2])
    page.wait_for_selector(".reelwire-marks")
    assert findings(page) == []


def test_an_error_can_be_read(ran: tuple[Page, Traffic, list[str]]) -> None:
    page, *_ = ran
    load(page, keyframes(8, 8), "failed and read")
    assert run(page)[0] == "execution_error"
    toast(page, SENTENCE)
    assert findings(page) == []


def test_a_timeline_can_be_read(view: tuple[Page, str]) -> None:
    """Its blocks, what is said of the chosen one, the pictures to choose from, and its text."""
    page, renderer = view
    settings: dict[str, Any] = {"timeline": json.dumps(STORY), "frames": 65}
    open_template(page, {"1": LOADER, "2": node("ReelwireLongVideo", model=["1", 0], **settings)}, f"read {renderer}")
    fit(page)
    page.wait_for_selector(".reelwire-tl-window")
    page.locator(".reelwire-tl-picture[data-index='1'] > input").focus()
    assert findings(page) == []
    page.get_by_role("button", name="Choose another picture than").click()
    page.get_by_role("button", name="reelwire_left.png", exact=True).wait_for()
    assert findings(page) == []
    page.get_by_role("button", name="reelwire_left.png", exact=True).click()
    page.get_by_role("button", name="Text", exact=True).click()
    assert findings(page) == []


def test_held_prompts_can_be_read(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    review = node("ReelwirePromptReview", prompt=f"a bear, read in {renderer}", words="bear")
    load(page, {"1": review, "2": node("PreviewAny", source=["1", 0])}, f"held in {renderer}")
    assert run(page)[0] == "execution_error"
    page.evaluate(OPEN_DESK)
    page.get_by_role("button", name="Release").first.wait_for()
    assert findings(page) == []
    page.get_by_role("button", name="Release").first.click()
    page.get_by_role("button", name="Undo").first.wait_for()
    assert findings(page) == []
    page.evaluate("() => app.extensionManager.command.execute('Workspace.ToggleSidebarTab.reelwire-review')")
    for case in host.get("/reelwire/review")["prompts"]:
        host.send("/reelwire/review", {"id": case["id"], "action": "drop"})


def test_a_comparison_can_be_read(view: tuple[Page, str]) -> None:
    page, renderer = view
    clips = {"1": node("LoadVideo", file="tiny_clip.mp4"), "2": node("LoadVideo", file="tiny_clip.mp4")}
    settings: dict[str, Any] = {"labels": "one\ntwo", "price": 2.5, "filename_prefix": f"page/read {renderer}"}
    compare = node("ReelwireCompare", video_1=["1", 0], video_2=["2", 0], **settings)
    load(page, clips | {"3": compare}, f"compared in {renderer}")
    assert run(page)[0] == "execution_success"
    video_of(page, "3")
    page.wait_for_selector(".reelwire-figures")
    assert findings(page) == []
