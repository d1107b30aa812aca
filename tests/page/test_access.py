"""What nodes show can be read by a screen reader; a template is opened and run without an error of ours, or a request
to another host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from reelwire.tests.support.host import PACK, ROOT, Host
from reelwire.tests.support.page.node_views import SENTENCE, keyframes, toast, video_of
from reelwire.tests.support.page.pages import drop, load, run
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
