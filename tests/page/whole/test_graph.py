"""What people do with nodes on the page, ours among them, in both renderers: the graph runs on, and results stay."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from reelwire.tests.support.host import node
from reelwire.tests.support.page.node_views import DECODE, PROMPT, SAMPLER, film, parts, video_of
from reelwire.tests.support.page.pages import MOUNTED, becomes, exported, open_template, run, settles

if TYPE_CHECKING:
    from playwright.sync_api import Page

CACHE = "2"
COUNT = "() => app.rootGraph.nodes.length"
SELECT = "ids => app.canvas.selectItems(ids.map(id => app.rootGraph.getNodeById(id)))"
COMMAND = "name => app.extensionManager.command.execute(name)"
KEEP_STATE = """() => {
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    (changeTracker.captureCanvasState ?? changeTracker.checkState).call(changeTracker);
}"""
VIDEO = """id => app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === "reelwire_panel")
    .element.querySelector("video")"""
SEEN = """id => {
    const node = app.rootGraph.getNodeById(id);
    const element = node.widgets.find(({ name }) => name === "reelwire_panel")?.element;
    return Boolean(element?.isConnected && element.checkVisibility() && element.offsetHeight > 20);
}"""
PASTE = """() => {
    app.canvas.copyToClipboard();
    app.canvas.pasteFromClipboard({ position: [1500, 900] });
}"""
# the prompt and the sampler as one node; its id
SUBGRAPH = """ids => {
    const nodes = new Set(ids.map(id => app.rootGraph.getNodeById(id)));
    return String(app.rootGraph.convertToSubgraph(nodes).node.id);
}"""


def do(page: Page, command: str, *ids: str) -> None:
    """A command of the page's on the nodes of these ids."""
    page.evaluate(SELECT, [*ids])
    page.evaluate(COMMAND, command)
    page.wait_for_function(MOUNTED)


def succeeds(page: Page) -> None:
    kind, data = run(page)
    assert kind == "execution_success", data


@pytest.fixture
def graph(view: tuple[Page, str], request: pytest.FixtureRequest) -> tuple[Page, str]:
    """The page with a graph of five nodes that nobody has run."""
    page, renderer = view
    name = f"{request.node.originalname} {renderer}"
    made = film("page/graph", seed=len(name))
    made[SAMPLER]["inputs"]["steps"] = 10
    open_template(page, made, name)
    return view


def inputs_of(page: Page, kind: str) -> list[dict[str, Any]]:
    return [node["inputs"] for node in exported(page)[0].values() if node["class_type"] == kind]


# labels of the rows of the first node that are cut off, or have no room at all beside their value
CUT = """() => {
    if (LiteGraph.vueNodesMode) {
        const rows = [...document.querySelectorAll("[data-node-id] .lg-node-widget")];
        const labels = rows.flatMap(row => [...row.querySelectorAll(".truncate")].slice(0, 1));
        return rows.length < 2 ? ["no rows"] : labels.filter(
            label => label.clientWidth < label.scrollWidth && !label.closest("button")).map(label => label.innerText);
    }
    return app.rootGraph.nodes.filter(({ size }) => size[0] < 400).map(({ type }) => type);
}"""


@pytest.mark.parametrize("kind", ["ReelwireLoadWan", "ReelwireLoRA"])
def test_names_of_files_leave_their_labels_room(view: tuple[Page, str], kind: str) -> None:
    page, renderer = view
    open_template(page, {"1": node(kind)}, f"{kind} in {renderer}")
    assert page.evaluate("kind => LiteGraph.createNode(kind).size[0]", kind) >= 400
    becomes(page, CUT, [])


def test_a_bypassed_cache_passes_its_model_through(graph: tuple[Page, str]) -> None:
    page, _ = graph
    do(page, "Comfy.Canvas.ToggleSelectedNodes.Bypass", CACHE)
    assert inputs_of(page, "ReelwireSampler")[0]["model"] == ["1", 0]
    succeeds(page)
    becomes(page, parts(("steps",)), [0], SAMPLER)  # no chart
    do(page, "Comfy.Canvas.ToggleSelectedNodes.Bypass", CACHE)
    succeeds(page)
    becomes(page, parts(("steps",)), [10], SAMPLER)


def test_a_muted_cache_is_a_missing_connection(graph: tuple[Page, str]) -> None:
    page, _ = graph
    do(page, "Comfy.Canvas.ToggleSelectedNodes.Mute", CACHE)
    page.evaluate("() => app.queuePrompt(0, 1)")
    becomes(page, "() => Object.keys(app.extensionManager.lastNodeErrors ?? {})", [SAMPLER])
    do(page, "Comfy.Canvas.ToggleSelectedNodes.Mute", CACHE)
    assert inputs_of(page, "ReelwireSampler")[0]["model"] == [CACHE, 0]


def test_a_copy_has_the_same_values_and_undo_takes_it_back(graph: tuple[Page, str]) -> None:
    page, _ = graph
    count = page.evaluate(COUNT)
    page.evaluate(KEEP_STATE)
    page.evaluate(SELECT, [SAMPLER])
    page.evaluate(PASTE)
    page.evaluate(KEEP_STATE)
    page.wait_for_function(MOUNTED)
    assert page.evaluate(COUNT) == count + 1
    first, second = page.evaluate(
        """() => app.rootGraph.nodes.filter(({ type }) => type === "ReelwireSampler").map(
            ({ widgets }) => widgets.filter(({ serialize }) => serialize !== false).map(({ value }) => value))"""
    )
    assert first == second
    for _ in range(4):  # a step back may be one of what the page has noted by itself
        if settles(page, COUNT) == count:
            break
        page.evaluate(COMMAND, "Comfy.Undo")
    assert page.evaluate(COUNT) == count


def test_a_collapsed_node_hides_its_results_until_it_is_expanded(graph: tuple[Page, str]) -> None:
    page, _ = graph
    succeeds(page)
    video_of(page, DECODE)
    do(page, "Comfy.Canvas.ToggleSelectedNodes.Collapse", DECODE)
    becomes(page, SEEN, False, DECODE)
    assert settles(page, SEEN, DECODE) is False
    do(page, "Comfy.Canvas.ToggleSelectedNodes.Collapse", DECODE)
    becomes(page, SEEN, True, DECODE)
    video_of(page, DECODE)
    page.evaluate(f"id => ({VIDEO})(id).pause()", DECODE)  # as a person does
    for seen in (False, True):
        do(page, "Comfy.Canvas.ToggleSelectedNodes.Collapse", DECODE)
        becomes(page, SEEN, seen, DECODE)
    assert settles(page, f"id => ({VIDEO})(id).paused", DECODE)


def test_a_graph_with_a_group_runs(graph: tuple[Page, str]) -> None:
    page, _ = graph
    do(page, "Comfy.Graph.GroupSelectedNodes", CACHE)
    assert page.evaluate("() => app.rootGraph.groups.length") == 1
    succeeds(page)
    video_of(page, DECODE)


def test_a_subgraph_of_prompt_and_sampler_runs_and_is_unpacked(graph: tuple[Page, str]) -> None:
    page, _ = graph
    before = [inputs_of(page, kind) for kind in ("ReelwireEncodePrompt", "ReelwireSampler")]
    outer = page.evaluate(SUBGRAPH, [PROMPT, SAMPLER])
    page.wait_for_function(MOUNTED)
    succeeds(page)
    video_of(page, DECODE)
    page.evaluate(SELECT, [outer])
    page.evaluate(COMMAND, "Comfy.Graph.UnpackSubgraph")
    becomes(page, COUNT, 5)
    links = lambda values: {name: value for name, value in values.items() if not isinstance(value, list)}
    after = [inputs_of(page, kind) for kind in ("ReelwireEncodePrompt", "ReelwireSampler")]
    assert [links(one) for (one,) in after] == [links(one) for (one,) in before]
    succeeds(page)
    video_of(page, DECODE)
