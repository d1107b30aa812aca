"""What a person does on ComfyUI's page: load a graph, run it, look at it in one renderer or the other."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from .host import Prompt

RENDERERS = {"LiteGraph": False, "Nodes 2.0": True}
SECONDS = 120_000  # in milliseconds, as Playwright counts
LOAD = """async ([api, name]) => {
    await app.loadApiJson(api, name);
    app.nodeOutputs = {}; // which this way of loading keeps
    for (const node of app.rootGraph.nodes)
        for (const widget of node.widgets ?? []) if (widget.name === "control_after_generate") widget.value = "fixed";
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
DRAWN = "() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))"


def choose(page: Page, setting: str, value: Any) -> None:
    """Set one of the page's settings."""
    page.evaluate("([name, value]) => app.extensionManager.setting.set(name, value)", [setting, value])
    page.evaluate(DRAWN)


def render_with(page: Page, renderer: str) -> None:
    """Show nodes with one of RENDERERS."""
    choose(page, "Comfy.VueNodes.Enabled", RENDERERS[renderer])
    page.wait_for_function(f"() => LiteGraph.vueNodesMode === {json.dumps(RENDERERS[renderer])}")


def load(page: Page, graph: Prompt, name: str) -> None:
    """A graph in a new tab, laid out, with seeds that stay, all of it in view."""
    page.evaluate(LOAD, [graph, name])
    page.wait_for_function(f"() => app.extensionManager.workflow.activeWorkflow.path.includes({json.dumps(name)})")
    page.evaluate(DRAWN)
    fit(page)


def fit(page: Page) -> None:
    """All of the graph in view, as large as that can be."""
    page.evaluate("() => app.extensionManager.command.execute('Comfy.Canvas.FitView')")
    page.wait_for_timeout(600)  # it is animated


def run(page: Page) -> tuple[str, dict[str, Any]]:
    """Press Run and wait; the event that ended it, with its data."""
    page.evaluate(WATCH)
    page.evaluate("() => app.queuePrompt(0, 1)")
    page.wait_for_function("() => window.ended", timeout=SECONDS)
    kind, data = page.evaluate("() => window.ended")
    page.evaluate(DRAWN)
    return kind, data


def exported(page: Page) -> tuple[Prompt, dict[str, Any]]:
    """(the API form, the UI form) of the graph, as the page would save them."""
    made = json.loads(page.evaluate("async () => JSON.stringify(await app.graphToPrompt())"))
    return made["output"], made["workflow"]
