"""The blueprints of subgraphs/, which the page's library offers: one node with prompt, size and seed, made by the page.

`python bench/export_workflow.py --only blueprints` writes them, from twins and blueprints.json.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FOLDER = ROOT / "subgraphs"
CATEGORY, PREVIEW = "Reelwire", "$$canvas-image-preview"  # as the page calls what it shows of a node's output
BLUEPRINTS = {
    name: facts
    for name, facts in json.loads((HERE / "blueprints.json").read_text(encoding="utf-8")).items()
    if name != "about"
}
Graph = dict[str, dict[str, object]]
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")
# converts all but the nodes that stay outside, gives the new node the inputs and the output that it shows, and returns
# it with its subgraph as the page's own "Publish Subgraph" writes them
CONVERT = """async ([api, name, outside, shown, labels, controls]) => {
    const app = window.app, pause = () => new Promise(done => setTimeout(done, 500));
    app.clean();
    await app.loadApiJson(api, name);
    await pause();
    const graph = app.rootGraph;
    for (const { id, widgets } of graph.nodes)
        for (const widget of widgets ?? [])
            if (widget.name === "control_after_generate") widget.value = controls[id];
    const inner = new Set(graph.nodes.filter(node => !outside.includes(node.type)));
    const { subgraph, node } = graph.convertToSubgraph(inner);
    await pause();
    for (const input of node.inputs.filter(input => input.widget).map(input => input._subgraphSlot))
        subgraph.removeInput(input);
    for (const [type, widget] of shown) {
        const owner = subgraph.nodes.find(node => node.type === type);
        const slot = owner.getSlotFromWidget(owner.widgets.find(({ name }) => name === widget));
        const input = subgraph.addInput(widget, String(slot.type));
        input.connect(slot, owner);
    }
    for (const input of subgraph.inputs) input.label = labels[input.name] ?? input.label;
    for (const input of node.inputs) input.label = labels[input.name] ?? input.label;
    const last = subgraph.nodes.find(node => node.outputs.some(({ type }) => type === "VIDEO"));
    const slot = last.outputs.find(({ type }) => type === "VIDEO");
    subgraph.addOutput("video", "VIDEO").connect(slot, last);
    subgraph.name = node.title = name;
    node.setSize([320, node.computeSize()[1]]);
    await pause();
    const { nodes, subgraphs } = app.canvas._serializeItems([node]);
    return JSON.stringify({ nodes, subgraphs });
}"""


def prompt(name: str) -> Graph:
    """The twin that a blueprint is made from, less what is left out."""
    facts = BLUEPRINTS[name]
    twin = json.loads((ROOT / "workflows" / "api" / f"{facts['twin']}.json").read_text(encoding="utf-8"))
    kept = dict(twin)
    for place, value in facts["changes"].items():
        at, entry = place.split(".")
        kept[at]["inputs"][entry] = value
    for node in kept.values():
        node["inputs"] = {k: v for k, v in node["inputs"].items() if not isinstance(v, list) or v[0] in kept}
    return kept


def blueprint(page: Page, name: str, controls: dict[str, str]) -> dict[str, object]:
    """A blueprint as the page exports it, the same each time. controls: node -> what happens to its seed."""
    facts = BLUEPRINTS[name]
    arguments = [prompt(name), name, facts["outside"], facts["shown"], _labels(facts["shown"]), controls]
    made = json.loads(page.evaluate(CONVERT, arguments))
    (node,), (subgraph,) = made["nodes"], made["subgraphs"]
    node |= {"pos": [0, 0], "size": [round(side) for side in node["size"]]}
    last = next(inner["id"] for inner in subgraph["nodes"] if any(out["type"] == "VIDEO" for out in inner["outputs"]))
    node["properties"]["previewExposures"] = [
        {"name": PREVIEW, "sourceNodeId": str(last), "sourcePreviewName": PREVIEW}
    ]
    subgraph |= {"description": facts["description"], "category": CATEGORY}
    for item in subgraph["nodes"]:
        item.update({key: [round(value) for value in item[key]] for key in ("pos", "size")})
    workflow = {
        "revision": 0,
        "last_node_id": node["id"],
        "last_link_id": 0,
        "nodes": [node],
        "links": [],
        "version": 0.4,
        "definitions": {"subgraphs": [subgraph]},
        "extra": {
            "BlueprintDescription": facts["description"],
            "linearData": app_mode([(node["id"], widget) for _, widget in facts["shown"]], [node["id"]]),
        },
    }
    return _same_each_time(workflow, name)


def app_mode(inputs: list[tuple[int, str]], outputs: list[int]) -> dict[str, object]:
    """What the page's app mode shows of a workflow, as its `extra.linearData`: widgets by their nodes, and the nodes
    whose results it shows."""
    return {"inputs": [[str(node), widget] for node, widget in inputs], "outputs": [str(node) for node in outputs]}


def _labels(shown: list[list[str]]) -> dict[str, str]:
    """Input -> its label in both languages, as the nodes' own texts say it."""
    texts = [
        json.loads((ROOT / "locales" / code / "nodeDefs.json").read_text(encoding="utf-8")) for code in ("en", "zh")
    ]
    said = lambda kind, widget: [text[kind]["inputs"][widget].get("name") or widget for text in texts]
    return {widget: " / ".join(dict.fromkeys(said(kind, widget))) for kind, widget in shown}


def _same_each_time(workflow: dict[str, object], name: str) -> dict[str, object]:
    """With ids that follow from the name, where the page draws them at random."""
    text, ids = json.dumps(workflow, ensure_ascii=False), dict[str, str]()
    for old in UUID.findall(text):
        ids.setdefault(
            old, str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://github.com/reelwire/reelwire/{name}/{len(ids)}"))
        )
    result: dict[str, object] = json.loads(UUID.sub(lambda match: ids[match[0]], text))
    return result
