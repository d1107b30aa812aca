"""The blueprints of subgraphs/: the page offers them, they are what it exports, and each runs behind any loader."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import av
import pytest
from reelwire.bench.export_workflow import controls_of
from reelwire.bench.export_workflow import file_of as template_of
from reelwire.bench.templates import blueprints
from reelwire.tests.support.host import Host
from reelwire.tests.support.page.node_views import ONE_PROMPT
from reelwire.tests.support.page.pages import becomes, render_with, run, settles

if TYPE_CHECKING:
    from playwright.sync_api import Page

# name -> (renderer, class of a loader, its checkpoint, what is set on the node outside)
RUNS: dict[str, tuple[str, str, str, dict[str, Any]]] = {
    "Text to video": (
        "Nodes 2.0",
        "ReelwireLoadWan",
        "diffusers/tiny-wan2.1-t2v",
        {"width": 64, "height": 64, "frames": 5},
    ),
    "Image to video": ("LiteGraph", "ReelwireLoadLTX", "bundled/tiny_ltx", {"frames": 9, "seed": 3}),
    "Long video": ("LiteGraph", "ReelwireLoadLTX", "bundled/tiny_ltx", {"frames": 33, "timeline": ONE_PROMPT}),
}
every = pytest.mark.parametrize("name", blueprints.BLUEPRINTS)
SEARCH = "input[role=combobox]"
# the page's mask may be left behind, where its fading out was not drawn
EMPTY = """() => {
    document.querySelectorAll(".p-blockui-mask").forEach(mask => mask.remove());
    app.rootGraph.clear();
}"""
OUTSIDE = (
    "() => app.rootGraph.nodes.filter(node => node.isSubgraphNode?.()).map(node => [node.title, node.flags.ghost])"
)
# connects what a blueprint needs, and sets what is shown outside
CONNECT = """([name, kind, checkpoint, values]) => {
    const graph = app.rootGraph, node = graph.nodes.find(({ title }) => title === name);
    const add = (type, input, place) => {
        const made = LiteGraph.createNode(type);
        graph.add(made);
        made.pos = [-500, place * 400];
        made.connect(0, node, node.inputs.findIndex(({ name }) => name === input));
        return made;
    };
    const set = (made, values) => {
        for (const [widget, value] of Object.entries(values))
            made.widgets.find(({ name }) => name === widget).value = value;
    };
    set(add(kind, "model", 0), { checkpoint });
    if (node.inputs.some(({ name }) => name === "image"))
        set(add("LoadImage", "image", 1), { image: "reelwire_left.png" });
    set(node, values);
    for (const inner of node.subgraph.nodes)
        if (inner.widgets.some(({ name }) => name === "steps")) set(inner, { steps: 2 }); // which is not outside
}"""
ERRORS = "() => [...document.querySelectorAll('.p-toast-message-error')].map(toast => toast.innerText)"
# the video on the node outside, once it can be seen
SHOWN = """() => [...document.querySelectorAll("[data-node-id] video")].some(video => video.readyState > 1)"""


def file_of(name: str) -> dict[str, Any]:
    return json.loads((blueprints.FOLDER / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture
def empty(page: Page) -> Page:
    page.evaluate(EMPTY)
    return page


def insert(page: Page, name: str) -> None:
    """Put a blueprint into the graph as a person does: search, choose, click."""
    page.evaluate("() => app.extensionManager.command.execute('Workspace.SearchBox.Toggle')")
    page.locator(SEARCH).fill(name)
    page.get_by_role("option").filter(has_text="Blueprints / Reelwire").filter(has_text=name).first.click()
    becomes(page, OUTSIDE, [[name, True]])
    page.evaluate("() => document.querySelectorAll('.p-overlay-mask').forEach(mask => mask.remove())")  # fading out
    page.mouse.move(700, 400)
    page.mouse.move(900, 300, steps=3)
    page.mouse.down()
    page.mouse.up()
    becomes(page, OUTSIDE, [[name, None]])


def test_the_page_takes_all_of_them(host: Host, empty: Page) -> None:
    """One without a subgraph in it would greet every user with an error."""
    entries = host.get("/global_subgraphs").items()
    ours = {entry["name"]: key for key, entry in entries if entry["source"] == "custom_node"}
    assert {*ours} == {*blueprints.BLUEPRINTS}
    for name, key in ours.items():
        assert json.loads(host.get(f"/global_subgraphs/{key}")["data"]) == file_of(name)
    assert settles(empty, ERRORS) == []


@every
def test_it_is_what_the_page_exports(empty: Page, name: str) -> None:
    assert blueprints.blueprint(empty, name, controls_of(blueprints.prompt(name))) == file_of(name)


@every
def test_prompt_size_and_seed_are_outside(name: str) -> None:
    """One node with a widget for each, of which app mode is told."""
    made = file_of(name)
    (node,), (subgraph,) = made["nodes"], made["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    outside = [entry["name"] for entry in node["inputs"] if "widget" in entry]
    assert {*outside} & {"positive", "timeline"}
    assert {"width", "height", "frames", "seed"} <= {*outside}
    assert made["extra"]["linearData"]["inputs"] == [[str(node["id"]), widget] for widget in outside]
    assert len(node["widgets_values"]) == len(outside)
    assert [output["type"] for output in node["outputs"]] == ["VIDEO"]


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_behind_a_loader(host: Host, empty: Page, name: str) -> None:
    renderer, kind, checkpoint, values = RUNS[name]
    render_with(empty, renderer)
    try:
        insert(empty, name)
        empty.evaluate(CONNECT, [name, kind, checkpoint, values])
        ended, data = run(empty)
        assert ended == "execution_success", data
        entry = host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]
        (video,) = host.videos(entry)
        with av.open(str(video)) as container:
            assert container.streams.video[0].frames == values["frames"]
        if renderer == "Nodes 2.0":
            empty.wait_for_function(SHOWN)
    finally:
        render_with(empty, "LiteGraph")


def test_a_template_is_ready_for_app_mode(empty: Page) -> None:
    """Its prompt, size and seed are there without building an app, and nothing else of the graph."""
    graph = json.loads(template_of("any_t2v").read_text(encoding="utf-8"))
    empty.evaluate("graph => app.loadGraphData(graph)", graph)
    empty.wait_for_function("id => app.rootGraph.id === id", arg=graph["id"])
    toggle = "() => app.extensionManager.command.execute('Comfy.ToggleLinear')"
    try:
        empty.evaluate(toggle)
        empty.get_by_text("Number of runs").wait_for()
        for widget in ("positive", "negative", "width", "height", "frames", "seed"):
            empty.get_by_text(widget, exact=True).filter(visible=True).first.wait_for()
        assert empty.get_by_text("guidance", exact=True).filter(visible=True).count() == 0
    finally:
        empty.evaluate(toggle)
        render_with(empty, "LiteGraph")
