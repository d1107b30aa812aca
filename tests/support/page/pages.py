"""What a person does on ComfyUI's page: load a graph, run it, look at it in one renderer or the other.

The page does most things later than it is asked to. A test therefore waits for what it expects (`becomes`), or, where
it measures, until nothing moves any more (`settles`), and never for a number of seconds: on a slow machine they are too
few. `pytest tests/page --slow-page 4` shows what a machine four times slower does to a test.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from ....bench.export_workflow import READY

if TYPE_CHECKING:
    import pytest
    from playwright.sync_api import Page

    from ..host import Prompt

OPTION, FIREFOX = "--slow-page", "--firefox"
RENDERERS = {"LiteGraph": False, "Nodes 2.0": True}
WAIT_SECONDS = 60  # for what the page does by itself
RUN_MILLISECONDS = 240_000  # for a run of a graph, as Playwright counts
STILL_FRAMES = 12  # so many pictures of the screen without a change mean that nothing moves
# graphs without an id are one to the page's store of widgets: what a prompt leaves out would be as in the one before
LOAD = """async ([api, name]) => {
    await app.loadApiJson(api, name);
    app.nodeOutputs = {}; // which this way of loading keeps
    for (const node of app.rootGraph.nodes) {
        const { required, optional } = node.constructor.nodeData.input;
        for (const widget of node.widgets ?? []) {
            const [, options] = { ...required, ...optional }[widget.name] ?? [];
            if (widget.name === "control_after_generate") widget.value = "fixed";
            else if (options?.default !== undefined && !(widget.name in api[node.id].inputs))
                widget.value = options.default;
        }
    }
    app.rootGraph.arrange();
}"""
WATCH = """() => {
    window.ended = undefined;
    const ends = ["execution_success", "execution_error", "execution_interrupted"];
    const listeners = ends.map(name => [name, ({ detail }) => {
        window.ended = [name, detail];
        for (const [other, listener] of listeners) app.api.removeEventListener(other, listener);
    }]);
    for (const [name, listener] of listeners) app.api.addEventListener(name, listener);
}"""
# a point of a node's title on the screen
TITLE = """id => {
    const { pos: [x, y] } = app.rootGraph.getNodeById(id), { scale, offset } = app.canvas.ds;
    const { left, top } = app.canvas.canvas.getBoundingClientRect();
    return [(x + 60 + offset[0]) * scale + left, (y - 15 + offset[1]) * scale + top];
}"""
DRAWN = "() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"
# every node of the graph is there: in Nodes 2.0 each has an element of its own
MOUNTED = """() => !LiteGraph.vueNodesMode || app.rootGraph.nodes.every(
    node => document.querySelector(`[data-node-id="${node.id}"] [data-testid=node-inner-wrapper]`))"""
PATH = "() => app.extensionManager.workflow.activeWorkflow?.path"
GRAPH_ID = "() => app.rootGraph.id"
OPEN = "name => app.loadGraphData({ ...app.rootGraph.serialize(), id: crypto.randomUUID() }, true, true, name)"
SHOWS = f"path => !app.configuringGraph && ({PATH})() === path"
DROP = """text => {
    const data = new DataTransfer();
    data.items.add(new File([text], "dropped.json", { type: "application/json" }));
    const at = { dataTransfer: data, bubbles: true, cancelable: true, clientX: 500, clientY: 400 };
    document.querySelector("#graph-canvas").dispatchEvent(new DragEvent("drop", at));
}"""
NODES = "window.app.rootGraph.nodes.filter(node => !node.isVirtualNode)"
IDS = f"() => {NODES}.map(node => String(node.id)).sort().join()"
# a new language makes the page fetch all definitions of nodes and load its workflow anew
SET_LANGUAGE = """language => {
    window.nodesBefore = app.rootGraph.nodes;
    return app.extensionManager.setting.set("Comfy.Locale", language);
}"""
LOADED_ANEW = "() => app.rootGraph.nodes !== window.nodesBefore && !app.configuringGraph"
# what the page keeps in the browser for a reload: which workflow is in front, and its graph
KEPT = """() => {
    const path = app.extensionManager.workflow.activeWorkflow.path;
    const read = (storage, start) => Object.keys(storage).filter(key => key.startsWith(start))
        .map(key => JSON.parse(storage.getItem(key)));
    const inFront = read(sessionStorage, "Comfy.Workflow.OpenPaths:").some(
        ({ paths, activeIndex }) => paths[activeIndex] === path);
    const values = nodes => JSON.stringify(nodes.map(({ id, widgets_values }) => [id, widgets_values]));
    const now = app.rootGraph.serialize();
    return inFront && read(localStorage, "Comfy.Workflow.Draft.v2:").map(({ data }) => JSON.parse(data)).some(
        graph => graph.id === now.id && values(graph.nodes) === values(now.nodes));
}"""


def add_option(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, type=float, default=1, metavar="TIMES", help="slow the page's scripts down so many times")
    parser.addoption(FIREFOX, metavar="PATH", help="show the page in this Firefox in place of Chromium")


def prepare(page: Page, times: float) -> None:
    """Let the page's scripts take so many times as long as on this machine, and let no map lie over the nodes."""
    choose(page, "Comfy.Minimap.Visible", False)
    page.set_default_timeout(WAIT_SECONDS * 1000)
    if times > 1:
        page.context.new_cdp_session(page).send("Emulation.setCPUThrottlingRate", {"rate": times})


# ---------------------------------------------------------------- waiting


def becomes(page: Page, script: str, expected: Any, argument: Any = None, seconds: float = WAIT_SECONDS) -> None:
    """Wait until a script returns `expected`, as the page's own JSON; what it returned last tells what is wrong."""
    end = time.monotonic() + seconds
    while (value := page.evaluate(script, argument)) != expected and time.monotonic() < end:
        page.evaluate(DRAWN)
    assert value == expected, f"after {seconds} s the page shows {value!r} instead of {expected!r}"


def settles(page: Page, script: str, argument: Any = None) -> Any:
    """What a script returns once it has returned the same for STILL_FRAMES pictures of the screen."""
    still = f"""async argument => {{
        const look = {script};
        for (let frame = 0, still = 0, last; frame < 1000; frame++) {{
            await new Promise(requestAnimationFrame);
            const value = await look(argument);
            const now = JSON.stringify(value);
            still = now === last ? still + 1 : 0;
            last = now;
            if (still === {STILL_FRAMES}) return [value];
        }}
        return [];
    }}"""
    values = page.evaluate(still, argument)
    assert values, f"this never ends to change: {script}"
    return values[0]


# ---------------------------------------------------------------- doing


def choose(page: Page, setting: str, value: Any) -> None:
    """Set one of the page's settings."""
    page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [setting, value])
    page.evaluate(DRAWN)


def choose_language(page: Page, language: str) -> None:
    """Set the page's language; ends when the page has loaded its workflow anew in it."""
    if page.evaluate("() => app.extensionManager.setting.get('Comfy.Locale')") == language:
        return
    page.evaluate(SET_LANGUAGE, language)
    page.wait_for_function(LOADED_ANEW)
    page.evaluate(DRAWN)


def render_with(page: Page, renderer: str) -> None:
    """Show nodes with one of RENDERERS."""
    choose(page, "Comfy.VueNodes.Enabled", RENDERERS[renderer])
    page.wait_for_function(f"() => LiteGraph.vueNodesMode === {json.dumps(RENDERERS[renderer])}")
    page.wait_for_function(MOUNTED)


def load(page: Page, graph: Prompt, name: str) -> None:
    """A graph in a new tab, laid out, with seeds that stay, all of it in view."""
    page.evaluate(LOAD, [graph, name])
    page.wait_for_function(
        f"name => !app.configuringGraph && ({PATH})().includes(name)",
        arg=name,
    )
    page.wait_for_function(MOUNTED)
    fit(page)


def open_template(page: Page, graph: Prompt, name: str) -> str:
    """The same as a template is opened, with an id of its own, which is returned.

    Graphs without an id are one to the page's store of widgets: in Nodes 2.0 it keeps options of what it showed before.
    """
    load(page, graph, f"API of {name}")
    page.evaluate(OPEN, name)
    page.wait_for_function(f"name => !app.configuringGraph && ({PATH})().includes(name)", arg=f"/{name}")
    page.wait_for_function(MOUNTED)
    return page.evaluate(GRAPH_ID)


def drop(page: Page, text: str, ids: list[str]) -> None:
    """A workflow file, dropped on the page; ends when its nodes are there, whose ids are these."""
    page.evaluate(DROP, text)
    page.wait_for_function(f"ids => ({IDS})() === ids", arg=",".join(sorted(ids)))


def fit(page: Page) -> None:
    """All of the graph in view, as large as that can be."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    settles(page, "() => [app.canvas.ds.scale, ...app.canvas.ds.offset]")


def click_title(page: Page, name: str) -> None:
    """Click on the title of the node of an id."""
    page.mouse.click(*settles(page, TITLE, name))


def run(page: Page) -> tuple[str, dict[str, Any]]:
    """Press Run and wait; the event that ended it, with its data."""
    page.evaluate(WATCH)
    page.evaluate("() => app.queuePrompt(0, 1)")
    return ended(page)


def ended(page: Page) -> tuple[str, dict[str, Any]]:
    """The event that ended the run for which WATCH has waited, with its data, when the page has drawn it."""
    page.wait_for_function("() => window.ended", timeout=RUN_MILLISECONDS)
    kind, data = page.evaluate("() => window.ended")
    page.evaluate(DRAWN)
    return kind, data


def switch(page: Page, direction: str) -> None:
    """Show the "Previous" or the "Next" tab."""
    before = page.evaluate(PATH)
    page.evaluate(f"() => app.extensionManager.command.execute('Workspace.{direction}OpenedWorkflow')")
    page.wait_for_function(f"before => !app.configuringGraph && ({PATH})() !== before", arg=before)
    page.wait_for_function(MOUNTED)
    page.evaluate(DRAWN)


def renew(page: Page) -> None:
    """Load the page anew, whatever it then shows; of one that has kept a graph without nodes it never ends."""
    page.reload(wait_until="domcontentloaded")
    page.wait_for_function(READY)


def reload(page: Page) -> None:
    """Load the page anew, once it has kept what is open; ends when it shows the same workflow again. What shows no
    node, as some tests leave it, would never count as ready: the default graph takes its place."""
    if page.evaluate("() => !app.rootGraph.nodes.length"):
        page.evaluate("() => app.loadGraphData()")
    path = page.evaluate(PATH)
    page.evaluate("() => app.api.dispatchCustomEvent('graphChanged', app.rootGraph.serialize())")
    page.wait_for_function(KEPT)
    renew(page)
    page.wait_for_function(SHOWS, arg=path)
    page.wait_for_function(MOUNTED)


def exported(page: Page) -> tuple[Prompt, dict[str, Any]]:
    """(the API form, the UI form) of the graph, as the page would save them."""
    made = json.loads(page.evaluate("async () => JSON.stringify(await app.graphToPrompt())"))
    return made["output"], made["workflow"]
