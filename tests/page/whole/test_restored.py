"""What our nodes write gives its graph back where it is dropped on the page, in both renderers."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Any

from reelwire.tests.support.host import Host, Prompt, node
from reelwire.tests.support.page.node_views import LOADER, ONE_PROMPT, PROMPT, SAMPLER, film
from reelwire.tests.support.page.pages import LOADED_ANEW, MOUNTED, becomes, exported, load, open_template, run, settles

if TYPE_CHECKING:
    from playwright.sync_api import Page

FORMATS = {"film": "mp4", "web": "webm (VP9)", "edit": "mov (ProRes 422 HQ)"}
TYPES = {".mp4": "video/mp4", ".webm": "video/webm", ".mov": "video/quicktime", ".png": "image/png"}
PLACES = "() => app.rootGraph.nodes.map(({ id, pos, size }) => [id, ...pos, ...size])"
DROP = """([name, type, content]) => {
    window.nodesBefore = app.rootGraph.nodes;
    const bytes = Uint8Array.from(atob(content), character => character.charCodeAt());
    const data = new DataTransfer();
    data.items.add(new File([bytes], name, { type }));
    const at = { dataTransfer: data, bubbles: true, cancelable: true, clientX: 500, clientY: 400 };
    document.querySelector("#graph-canvas").dispatchEvent(new DragEvent("drop", at));
}"""


def writers(folder: str) -> Prompt:
    """A graph with each node that writes a file."""
    graph: Prompt = {"1": LOADER, PROMPT: film("")[PROMPT]}
    graph[SAMPLER] = node("ReelwireSampler", model=["1", 0], conditioning=[PROMPT, 0], steps=2, seed=7)
    for at, (name, form) in enumerate(FORMATS.items(), 10):
        writes = {"filename_prefix": f"{folder}/{name}", "format": form}
        graph[str(at)] = node("ReelwireDecodeToVideo", model=["1", 0], latent=[SAMPLER, 0], **writes)
    settings: dict[str, Any] = {"frames": 33, "steps": 2, "filename_prefix": f"{folder}/long"}
    graph["20"] = node("ReelwireLongVideo", model=["1", 0], timeline=ONE_PROMPT, **settings)
    graph["21"] = node("ReelwireCompare", video_1=["10", 0], video_2=["20", 0], filename_prefix=f"{folder}/compared")
    return graph


def saved(page: Page) -> tuple[Prompt, dict[str, Any]]:
    """What the page saves of the graph: its prompt; nodes with values, places and sizes; wires and groups."""
    prompt, graph = exported(page)
    parts = ("id", "type", "pos", "size", "mode", "widgets_values", "properties")
    kept: dict[str, Any] = {"nodes": [{part: each.get(part) for part in parts} for each in graph["nodes"]]}
    return prompt, kept | {part: graph[part] for part in ("links", "groups")}


def test_every_file_gives_its_graph_back(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    folder = f"restored_{renderer.replace(' ', '_')}"
    open_template(page, writers(folder), folder)
    places = settles(page, PLACES)
    before = saved(page)
    kind, data = run(page)
    assert kind == "execution_success", data
    files = sorted(file for file in (host.base / "output" / folder).iterdir() if file.suffix in TYPES)
    assert [file.suffix for file in files].count(".png") == 1
    assert len(files) == len(FORMATS) + 3  # a long video, and a comparison with its picture
    for file in files:
        load(page, {"1": LOADER}, f"before {file.name}")
        page.evaluate(DROP, [file.name, TYPES[file.suffix], base64.b64encode(file.read_bytes()).decode()])
        page.wait_for_function(LOADED_ANEW)
        page.wait_for_function(MOUNTED)
        becomes(page, PLACES, places)
        assert saved(page) == before, file.name
