"""Every template is opened and run as the page does it, in both renderers, on tiny files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from reelwire.bench.export_workflow import file_of
from reelwire.bench.templates import notes
from reelwire.tests.support.host import PACK, Host, shipped, workflow
from reelwire.tests.support.page.node_views import video_of
from reelwire.tests.support.page.pages import MOUNTED, PATH, becomes, fit, run
from reelwire.tests.support.page.traffic import listen

if TYPE_CHECKING:
    from playwright.sync_api import Page

SAMPLERS = ("ReelwireSampler", "ReelwireLongVideo")
ENDS = ("ReelwireDecodeToVideo", "ReelwireLongVideo", "ReelwireCompare")
# as a click on its card does
OPEN = f"""async title => {{
    const file = await fetch(app.api.apiURL(`/workflow_templates/{PACK}/${{title}}.json`));
    await app.loadGraphData(await file.json(), true, true, title, {{ openSource: "template" }});
}}"""
# a value is chosen as a person does it, whose widget tells its node
CHOOSE = """values => {
    for (const [id, field, value] of values) {
        const node = app.rootGraph.getNodeById(id), widget = node.widgets.find(({ name }) => name === field);
        widget.value = value;
        widget.callback?.(value, app.canvas, node);
    }
}"""
MISSING = """names => names.filter(name => ![...document.querySelectorAll("video")].some(
    ({ src, currentSrc }) => [src, currentSrc].some(from => decodeURIComponent(from).includes(name))))"""


def tiny_values(name: str) -> list[tuple[str, str, Any]]:
    """(node, widget, value) of what a twin has otherwise on tiny files, with two steps."""
    published = shipped(name)
    steps = {f"{at}.steps": 2 for at, node in published.items() if node["class_type"] in SAMPLERS}
    tiny = workflow(name, steps)
    assert {*tiny} == {*published}, "a node more would not be in the template"
    return [
        (at, field, value)
        for at, node in tiny.items()
        for field, value in node["inputs"].items()
        if value != published[at]["inputs"].get(field) and not isinstance(value, list)
    ]


@pytest.mark.parametrize("name", list(notes.CARDS))
def test_it_opens_and_runs(view: tuple[Page, str], host: Host, name: str) -> None:
    page, _ = view
    title = file_of(name).stem
    with listen(page, host.url) as traffic:
        page.evaluate(OPEN, title)
        page.wait_for_function(f"title => !app.configuringGraph && ({PATH})().includes(title)", arg=title)
        page.wait_for_function(MOUNTED)
        page.evaluate(CHOOSE, tiny_values(name))
        fit(page)
        kind, data = run(page)
        assert kind == "execution_success", data
        entry = host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]
        shown = {at: [file["filename"] for file in output.get("images", ())] for at, output in entry["outputs"].items()}
        for at, node in shipped(name).items():
            if node["class_type"] in ENDS:
                assert video_of(page, at)["src"].split("filename=")[1].split("&")[0] in shown[at]
            elif node["class_type"] == "SaveVideo":
                becomes(page, MISSING, [], shown[at])
    assert traffic.complaints == []
    assert traffic.abroad == []
