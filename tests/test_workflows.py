"""The shipped workflows: the page reads them, they equal their API twins, and the twins run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest
from PIL import Image
from reelwire.tests.host import PACK, ROOT, Host, workflow

if TYPE_CHECKING:
    from playwright.sync_api import Page

UI = sorted((ROOT / "workflows").glob("*.json"))
STOCK = ("nodes", "comfy_extras.")  # Python modules of the host's own nodes
DROP = """text => {
    const data = new DataTransfer();
    data.items.add(new File([text], "dropped.json", { type: "application/json" }));
    const at = { dataTransfer: data, bubbles: true, cancelable: true, clientX: 500, clientY: 400 };
    document.querySelector("#graph-canvas").dispatchEvent(new DragEvent("drop", at));
}"""
IDS = "() => window.app.rootGraph.nodes.map(node => String(node.id)).sort().join()"
EXPORT = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"

every = pytest.mark.parametrize("file", UI, ids=lambda file: file.stem)


def inputs(prompt: dict[str, Any]) -> dict[str, Any]:
    return {name: (node["class_type"], node["inputs"]) for name, node in prompt.items()}


@pytest.fixture
def canvas(page: Page) -> Iterator[Page]:
    """The page with an empty graph; no error of a pack's script may come while a test runs (the page has some of its own)."""
    page.evaluate("() => window.app.rootGraph.clear()")
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    said: list[str] = []
    listen = lambda error: said.extend([error.stack] if "/extensions/" in (error.stack or "") else [])
    page.on("pageerror", listen)
    yield page
    page.remove_listener("pageerror", listen)
    assert not said


def test_there_are_twins() -> None:
    assert UI
    assert [file.name for file in UI] == sorted(file.name for file in (ROOT / "workflows" / "api").glob("*.json"))


@every
def test_dropped_on_the_page_it_is_its_twin(canvas: Page, file: Path) -> None:
    text, twin = file.read_text(encoding="utf-8"), workflow(file.stem)
    canvas.evaluate(DROP, text)
    canvas.wait_for_function(f"() => ({IDS})() === {json.dumps(','.join(sorted(twin)))}", timeout=60_000)
    assert inputs(json.loads(canvas.evaluate(EXPORT))) == inputs(twin)


@every
def test_seeds_stay(file: Path) -> None:
    """A workflow that is run twice makes the same video twice."""
    samplers = [
        node for node in json.loads(file.read_text(encoding="utf-8"))["nodes"] if node["type"] == "ReelwireSampler"
    ]
    assert samplers
    assert all("fixed" in node["widgets_values"] for node in samplers)


@every
def test_it_is_offered_as_a_template(host: Host, file: Path) -> None:
    assert file.stem in host.get("/workflow_templates")[PACK]
    assert host.get(f"/api/workflow_templates/{PACK}/{file.name}") == json.loads(file.read_text(encoding="utf-8"))
    assert host.read(f"/api/workflow_templates/{PACK}/{file.stem}.jpg") == file.with_suffix(".jpg").read_bytes()


@every
def test_its_picture_shows_something(file: Path) -> None:
    with Image.open(file.with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert picture.width == 400
        darkest, brightest = picture.convert("L").getextrema()
        assert brightest - darkest > 50


@every
def test_it_needs_no_other_pack(host: Host, file: Path) -> None:
    known = host.get("/object_info")
    for node in workflow(file.stem).values():
        module = known[node["class_type"]]["python_module"]
        assert module == f"custom_nodes.{PACK}" or module.startswith(STOCK), f"{node['class_type']} is of {module}"


@every
def test_its_twin_makes_a_video(host: Host, file: Path) -> None:
    twin = workflow(file.stem)
    samplers = [name for name, node in twin.items() if node["class_type"] in ("ReelwireSampler", "ReelwireLongVideo")]
    entry = host.post(workflow(file.stem, {f"{name}.steps": 2 for name in samplers}))
    (video,) = host.videos(entry)
    with av.open(str(video)) as container:
        assert container.streams.video[0].frames > 1
