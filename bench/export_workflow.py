"""Makes what workflows/ shows in the page's gallery from its API twins, with a running ComfyUI that has this pack.

python bench/export_workflow.py                    all of it, in about three minutes
python bench/export_workflow.py wan_t2v any_t2v    these alone
python bench/export_workflow.py --only templates   as ComfyUI's own page exports them, with layout, note and files
python bench/export_workflow.py --only blueprints  subgraphs/*.json, which the page's library offers
python bench/export_workflow.py --only pictures    workflows/*.jpg
python bench/export_workflow.py --only rest        workflows/inputs/ and templates/memory.json, without a ComfyUI

The templates are made from the twins and bench/templates/: cards.json (title, note and drawing of each twin that has a
card), files.json (published files, and where their addresses were found), words.json, layout.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING or __package__:
    from .templates import blueprints, layout, notes
else:  # as a plain script
    sys.path.insert(0, str(Path(__file__).parent))
    from templates import blueprints, layout, notes

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page, Playwright

WORKFLOWS = Path(__file__).parent.parent / "workflows"
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
# the default graph loads after the extensions: what comes earlier is overwritten by it
READY = """() => window.app?.extensionManager?.workflow?.activeWorkflow && window.app.rootGraph?.nodes?.length > 0
    && !document.querySelector('.p-blockui-mask') && document.querySelector('#graph-canvas')"""
# the nodes of a twin, in the sizes that they need
LOAD = """async ([api, name, plan, controls]) => {
    const app = window.app;
    app.clean();  // else nodes are as tall as what others of the same id have shown
    await app.loadApiJson(api, name);
    await new Promise(drawn => setTimeout(drawn, 300));
    for (const node of app.rootGraph.nodes) {
        for (const widget of node.widgets ?? [])
            if (widget.name === "control_after_generate") widget.value = controls[node.id];
        const [width, height] = node.computeSize();
        const least = plan.least_heights[node.type] ?? 0;
        node.setSize(plan.sizes[node.type] ?? [plan.widths[node.type] ?? width, Math.max(height, least)]);
    }
    const links = [...app.rootGraph.links.values()];
    return [app.rootGraph.nodes.map(node => [node.id, node.type, ...node.size]),
            links.map(link => [link.origin_id, link.origin_slot, link.target_id, link.target_slot])];
}"""
# the same with places, groups, a note and files; as the page saves it
PLACE = """async ([places, led, groups, note, models]) => {
    const app = window.app, graph = app.rootGraph;
    for (const [id, x, y, width, height] of places) {
        graph.getNodeById(id).pos = [x, y];
        graph.getNodeById(id).setSize([width, height]);
    }
    for (const [id, files] of Object.entries(models)) graph.getNodeById(id).properties.models = files;
    for (const [from, output, to, input, points] of led) {
        const link = [...graph.links.values()].find(l => l.origin_id == from && l.origin_slot == output
            && l.target_id == to && l.target_slot == input);  // ids may be text
        for (const point of points) graph.createReroute(point, link);
    }
    for (const [title, left, top, right, bottom] of groups) {
        const group = new window.LiteGraph.LGraphGroup(title);
        group.pos = [left, top];
        group.size = [right - left, bottom - top];
        graph.add(group);
    }
    const text = window.LiteGraph.createNode("MarkdownNote");
    graph.add(text);
    text.pos = note.pos;
    text.setSize(note.size);
    text.widgets[0].value = note.text;
    return JSON.stringify((await app.graphToPrompt()).workflow);
}"""
FIXED = ("ReelwireCalibrateCache", "ReelwireLongVideo")  # what is kept on disk belongs to one seed
COMPARES = "ReelwireCompare"
LITEGRAPH: dict[str, Any] = {"Comfy.VueNodes.Enabled": False}  # whose nodes have other heights than those of Nodes 2.0
RUN_SECONDS = 600


@contextmanager
def open_page(url: str, firefox: str | None = None, **settings: Any) -> Iterator[Page]:
    """ComfyUI's page in a headless browser, when it is ready to take a workflow: in Chromium, or in the Firefox at a
    path. settings: of the page."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright, _browser(playwright, firefox) as browser:
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        # else a dialog of templates covers the canvas
        page.request.post(f"{url}/api/settings", data={"Comfy.TutorialCompleted": True, **settings})
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=240_000)
        yield page


def _browser(playwright: Playwright, firefox: str | None) -> Browser:
    if firefox:  # as it is, not a build of Playwright's own
        return playwright.firefox.launch(channel="moz-firefox", executable_path=firefox)
    chromium = os.environ.get("REELWIRE_CHROMIUM", "/usr/bin/chromium")
    return playwright.chromium.launch(executable_path=chromium, args=list(FLAGS))


def template(page: Page, name: str, api: dict[str, Any]) -> dict[str, Any]:
    """The UI form of a twin that has a card: laid out, grouped, with its note and its files, and the same each time."""
    controls = controls_of(api)
    sizes, links = page.evaluate(LOAD, [api, notes.CARDS[name]["title"], layout.PLAN, controls])
    nodes = [layout.Node(int(node), kind, round(width), round(height)) for node, kind, width, height in sizes]
    for node in nodes:
        named = notes.CARDS[name].get("groups", {})
        node.group = named.get(str(node.id), layout.PLAN["groups"].get(node.type, "load"))
    arrangement = layout.Layout({node.id: node for node in nodes}, [layout.Wire(*map(int, link)) for link in links])
    arrangement.arrange()
    left, top, right, bottom = map(round, arrangement.note())
    note = {"pos": [left, top], "size": [right - left, bottom - top], "text": notes.note(name, api)}
    workflow = page.evaluate(PLACE, [*_placed(arrangement), note, notes.models(api)])
    made = _same_each_time(json.loads(workflow), name)
    made["extra"]["linearData"] = app_mode(api)
    return made


def app_mode(api: dict[str, Any]) -> dict[str, Any]:
    """What the page's app mode shows of a twin: the widgets of layout.json, of the first sampler alone."""
    plan, first = layout.PLAN, dict[str, str]()
    for node, made in api.items():
        first.setdefault(made["class_type"] if made["class_type"] == "ReelwireSampler" else node, node)
    inputs = [
        (int(node), widget)
        for node in first.values()
        for widget in plan["app"].get(api[node]["class_type"], ())
        if not isinstance(api[node]["inputs"].get(widget), list)
    ]
    return blueprints.app_mode(inputs, [int(at) for at, made in api.items() if made["class_type"] in plan["results"]])


def controls_of(api: dict[str, Any]) -> dict[str, str]:
    """Node -> what happens to its seed after a run; videos that are compared keep the same."""
    is_compared = any(node["class_type"] == COMPARES for node in api.values())
    return {name: "fixed" if is_compared or node["class_type"] in FIXED else "randomize" for name, node in api.items()}


def _placed(arrangement: layout.Layout) -> tuple[list[Any], list[Any], list[Any]]:
    """Places of nodes, points of wires, boxes of groups, as the page's script takes them."""
    titles, boxes = layout.PLAN["titles"], layout.groups(arrangement.nodes.values())
    return (
        [[node.id, *map(round, (node.x, node.y, node.width, node.height))] for node in arrangement.nodes.values()],
        [[*wire, points] for wire, points in arrangement.led.items()],
        [[titles[group], *map(round, boxes[group])] for group in titles if group in boxes],
    )


def _same_each_time(workflow: dict[str, Any], name: str) -> dict[str, Any]:
    workflow["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://github.com/reelwire/reelwire/workflows/{name}"))
    for node in workflow["nodes"]:  # text widths differ by a fraction between machines
        node.update({k: [round(v) for v in node[k]] for k in ("pos", "size")})
    workflow["extra"].pop("ds", None)  # where the window was looking; without it the page shows the whole graph
    return workflow


def to_text(workflow: dict[str, Any]) -> str:
    """JSON with one line for each node and link, so that differences can be read."""
    one_a_line = lambda items: "[\n" + ",\n".join(f"    {json.dumps(i, ensure_ascii=False)}" for i in items) + "\n  ]"
    values = {
        k: one_a_line(v) if isinstance(v, list) and v else json.dumps(v, ensure_ascii=False)
        for k, v in workflow.items()
    }
    return "{\n" + ",\n".join(f"  {json.dumps(k)}: {v}" for k, v in values.items()) + "\n}\n"


def run(url: str, api: dict[str, Any]) -> bytes:
    """The first video that an API workflow makes."""
    body = json.dumps({"prompt": api}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{url}/history/{prompt_id}") as answer:
            entry = json.load(answer).get(prompt_id)
        if entry:
            break
        time.sleep(0.2)
    else:
        raise TimeoutError(f"ComfyUI did not end the run in {RUN_SECONDS} s.")
    if entry["status"]["status_str"] != "success":
        raise RuntimeError(f"The run failed: {entry['status']['messages'][-1]}")
    file = next(
        f for output in entry["outputs"].values() for f in output.get("images", []) if f["filename"].endswith(".mp4")
    )
    with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(file)}") as answer:
        return answer.read()


def upload(url: str, file: Path) -> None:
    """Put a file into ComfyUI's input folder, where templates load it from."""
    mark = uuid.uuid4().hex
    parts = (("image", file.name, file.read_bytes()), ("overwrite", "", b"true"))
    body = b"".join(
        f'--{mark}\r\nContent-Disposition: form-data; name="{field}"'.encode()
        + (f'; filename="{name}"' if name else "").encode()
        + b"\r\n\r\n"
        + content
        + b"\r\n"
        for field, name, content in parts
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={mark}"}
    request = urllib.request.Request(f"{url}/upload/image", body + f"--{mark}--\r\n".encode(), headers)
    with urllib.request.urlopen(request) as answer:
        answer.read()


def file_of(name: str) -> Path:
    """The template of a twin that has a card; its picture lies beside it."""
    return WORKFLOWS / f"{notes.CARDS[name]['title']}.json"


def twin(name: str) -> dict[str, Any]:
    return json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8"))


def make_templates(url: str, names: list[str]) -> None:
    with open_page(url, **LITEGRAPH) as page:
        for name in names:
            file_of(name).write_text(to_text(template(page, name, twin(name))), encoding="utf-8")


def make_blueprints(url: str, _: list[str]) -> None:
    blueprints.FOLDER.mkdir(exist_ok=True)
    with open_page(url, **LITEGRAPH) as page:
        for name in blueprints.BLUEPRINTS:
            made = blueprints.blueprint(page, name, controls_of(blueprints.prompt(name)))
            (blueprints.FOLDER / f"{name}.json").write_text(to_text(made), encoding="utf-8")


def make_pictures(url: str, names: list[str]) -> None:
    from templates import pictures

    for file in (WORKFLOWS / "inputs").iterdir():
        upload(url, file)
    for name in names:
        pictures.picture(url, name, run).save(file_of(name).with_suffix(".jpg"), quality=88)


def make_rest(*_: object) -> None:
    """What needs no ComfyUI: the example files, and what Estimate says of cards."""
    from templates import inputs, memory

    inputs.main()
    notes.MEMORY.update(memory.main())


def clear() -> None:
    """Remove templates whose card has another title now."""
    for file in (*WORKFLOWS.glob("*.json"), *WORKFLOWS.glob("*.jpg")):
        if file.stem not in {card["title"] for card in notes.CARDS.values()}:
            file.unlink()


STEPS: dict[str, Callable[[str, list[str]], None]] = {
    "rest": make_rest,
    "templates": make_templates,
    "blueprints": make_blueprints,
    "pictures": make_pictures,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="twins to make it of; all that have a card if none is named")
    parser.add_argument("--url", default="http://127.0.0.1:8188", help="of the running ComfyUI")
    parser.add_argument("--only", choices=STEPS, help="one step")
    options = parser.parse_args()
    names = options.names or list(notes.CARDS)
    clear()
    for step in [options.only] if options.only else STEPS:
        STEPS[step](options.url, names)
    print(f"Made {', '.join(names)} in {WORKFLOWS}.")


if __name__ == "__main__":
    main()
