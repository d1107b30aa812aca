"""Widgets that do nothing under a choice are hidden on the page, in both renderers; what was changed stays in sight."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest
from reelwire.tests.support.host import ROOT, Host, node
from reelwire.tests.support.page.pages import MOUNTED, becomes, open_template, settles

if TYPE_CHECKING:
    from playwright.sync_api import Page

GUIDANCE = {
    "start": 0,
    "end": 1,
    "low_noise_guidance": 0,
    "true_guidance": 0,
    "dynamic": False,
    "layers": "",
    "layer_scale": 2.8,
    "layer_start": 0.01,
    "layer_end": 0.2,
    "eta": 1,
    "momentum": 0,
    "threshold": 15,
}
CACHE = {"speed": 2, "threshold": 0, "interval": 3, "start": 0, "end": 1, "longest": 0, "order": "auto"}
PROMPT = {
    "1": node("ReelwireLoadLTX", checkpoint="bundled/tiny_ltx"),
    "2": node("ReelwireGuidance", model=["1", 0], method="cfg", **GUIDANCE),
    "3": node("ReelwireCache", model=["2", 0], policy="plan", **CACHE),
    "4": node("ReelwireControl", strength=1, prepare="as it is", start=0, end=1, low=0.4, high=0.8),
    "5": node("ReelwireLoRAStack", model=["3", 0]),
}
VISIBLE = """type => {
    const node = window.app.rootGraph.nodes.find(node => node.comfyClass === type);
    const mounted = document.querySelector(`[data-node-id="${node.id}"]`);
    const visible = node.widgets.filter(widget => !widget.hidden && node.isWidgetVisible(widget));
    const named = visible.map(widget => widget.name);
    if (!mounted) return named;
    const words = mounted.innerText.split("\\n");
    return named.filter(name => words.includes(name));
}"""
CHOOSE = """([type, name, value]) => {
    const node = window.app.rootGraph.nodes.find(node => node.comfyClass === type);
    const widget = node.widgets.find(widget => widget.name === name);
    widget.value = value;
    widget.callback?.(value, window.app.canvas, node);
}"""
PROMPTED = "async () => (await window.app.graphToPrompt()).output"
SIZES = "() => window.app.rootGraph.nodes.map(node => [node.comfyClass, ...node.size.map(Math.round)])"
RELOAD = "() => window.app.loadGraphData(window.app.rootGraph.serialize())"
HIDDEN = """() => window.app.rootGraph.nodes.find(node => node.comfyClass === "ReelwireGuidance")
    .widgets.filter(widget => widget.hidden).map(widget => widget.name)"""
CONNECT_WAN = """() => {
    const graph = window.app.rootGraph, wan = window.LiteGraph.createNode("ReelwireLoadWan");
    graph.add(wan);
    wan.connect(0, graph.nodes.find(node => node.comfyClass === "ReelwireGuidance"), 0);
}"""
APG = {"start", "end", "eta", "momentum", "threshold"}
SKIP_LAYER = {"start", "end", "layers", "layer_scale", "layer_start", "layer_end"}
ROWS = {f"lora_{number}" for number in range(2, 9)}
LORA = "loras/tiny-wan2.1-lora.safetensors"
# node, the widget that chooses, its value -> what is visible beside it; in Nodes 2.0 advanced widgets are folded
CHOICES = [
    ("ReelwireGuidance", "method", "cfg", {"start", "end"}, {"start", "end"}),
    ("ReelwireGuidance", "method", "apg", APG, APG),
    ("ReelwireGuidance", "method", "skip-layer", SKIP_LAYER, SKIP_LAYER),
    ("ReelwireCache", "policy", "plan", {"speed", "start", "end", "longest", "order"}, {"speed"}),
    ("ReelwireCache", "policy", "magcache", {"threshold", "start", "end", "longest", "order"}, {"threshold"}),
    ("ReelwireCache", "policy", "diffusers taylorseer", {"interval", "order"}, {"interval"}),
    ("ReelwireControl", "prepare", "blur", {"strength", "start", "end"}, {"strength"}),
    ("ReelwireLoRAStack", "lora_1", LORA, ROWS | {"strength_1", "distilled"}, ROWS | {"strength_1"}),
    ("ReelwireLoRAStack", "lora_1", "none", ROWS | {"distilled"}, ROWS),
    ("ReelwireControl", "prepare", "edges", {"strength", "start", "end", "low", "high"}, {"strength", "low", "high"}),
]


@pytest.fixture
def renderer(view: tuple[Page, str]) -> Iterator[str]:
    """The renderer in which the page shows PROMPT."""
    page, name = view
    open_template(page, PROMPT, "widgets")
    yield name
    page.evaluate("() => window.app.rootGraph.clear()")


def test_only_what_counts_is_visible(page: Page, renderer: str) -> None:
    for kind, chooser, value, every, unfolded in CHOICES:
        page.evaluate(CHOOSE, [kind, chooser, value])
        expected = {chooser} | (unfolded if renderer == "Nodes 2.0" else every)
        becomes(page, f"type => ({VISIBLE})(type).sort()", sorted(expected), kind)


def test_what_was_changed_stays_in_sight_and_all_values_are_sent(page: Page, renderer: str) -> None:
    page.evaluate(CHOOSE, ["ReelwireCache", "policy", "magcache"])
    page.evaluate(CHOOSE, ["ReelwireCache", "threshold", 0.25])
    page.evaluate(CHOOSE, ["ReelwireCache", "policy", "plan"])
    becomes(page, f"type => ({VISIBLE})(type).includes('threshold')", True, "ReelwireCache")
    sent = page.evaluate(PROMPTED)
    (cache,) = [entry["inputs"] for entry in sent.values() if entry["class_type"] == "ReelwireCache"]
    assert cache == {"model": cache["model"], "policy": "plan", **CACHE, "threshold": 0.25}


def test_a_saved_graph_comes_back_with_its_sizes(page: Page, renderer: str) -> None:
    for kind, chooser, value in (("ReelwireGuidance", "method", "apg"), ("ReelwireControl", "prepare", "edges")):
        page.evaluate(CHOOSE, [kind, chooser, value])
    before = settles(page, SIZES)
    for _ in range(2):
        page.evaluate(RELOAD)
        page.wait_for_function(MOUNTED)
        assert settles(page, SIZES) == before


def test_what_is_for_one_family_follows_the_loader(page: Page, renderer: str) -> None:
    assert {"low_noise_guidance", "true_guidance", "dynamic"} <= {*page.evaluate(HIDDEN)}
    page.evaluate(CONNECT_WAN)
    becomes(page, f"() => ({HIDDEN})().includes('low_noise_guidance')", False)
    assert {"true_guidance", "dynamic"} <= {*settles(page, HIDDEN)}


# of every node of ours: the words of its lists that have some, and its empty fields
SPOKEN = """types => types.flatMap(type => LiteGraph.createNode(type).widgets ?? []).flatMap(
    ({ name, options, element }) => [
    ...(options?.getOptionLabel ? options.values.map(value => [value, options.getOptionLabel(value)]) : []),
    ...(element?.placeholder ? [[name, element.placeholder]] : []),
])"""
SHOWN = """words => LiteGraph.vueNodesMode
    ? document.querySelector('[data-node-id="3"]').innerText.includes(words)
    : app.rootGraph.getNodeById(3).widgets.find(({ name }) => name === "policy")._displayValue === words"""


def words_of(language: str) -> dict[str, str]:
    """Key -> the word of a value of a list."""
    texts = json.loads((ROOT / "locales" / language / "main.json").read_text(encoding="utf-8"))["reelwire"]["messages"]
    return {key: text for key, text in texts.items() if key.startswith("option_")}


def test_lists_and_empty_fields_speak_chinese(view: tuple[Page, str], host: Host, chinese: Page) -> None:
    """The value stays what it is in graphs and prompts, and stands beside its word."""
    open_template(chinese, PROMPT, "words")
    names = [name for name in host.get("/object_info") if name.startswith("Reelwire")]
    said, english = dict(chinese.evaluate(SPOKEN, names)), words_of("en")
    assert {said.get(english[key]) for key in english} == {*words_of("zh").values()}
    assert all(f"（{english[key]}）" in text for key, text in words_of("zh").items())
    assert {said[field] for field in ("positive", "labels")} == {"正向提示词", "标签"}
    becomes(chinese, SHOWN, True, "计划（plan）")
    assert chinese.evaluate(PROMPTED)["3"]["inputs"]["policy"] == "plan"
    chinese.evaluate("() => window.app.rootGraph.clear()")


OTHER_PACK = """() => {
    const extension = window.app.extensions.find(({ name }) => name === "reelwire.hideWidgets");
    const own = () => "own";
    const node = { comfyClass: "Other", inputs: [{ type: "VIDEO_MODEL" }], widgets: [], onConnectionsChange: own };
    extension.beforeRegisterNodeDef({}, { name: "Other", input: { required: { odd: null } } });
    extension.nodeCreated(node);
    return node.onConnectionsChange === own;
}"""


def test_nodes_of_other_packs_are_left_alone(page: Page) -> None:
    assert page.evaluate(OTHER_PACK)


def test_conditions_name_what_there_is(host: Host) -> None:
    """The table that the page hides by: inputs of the same node, and values that they can have."""
    conditions = 0
    for name, definition in host.get("/object_info").items():
        inputs = {**definition["input"].get("required", {}), **definition["input"].get("optional", {})}
        for field, (_, options) in ((k, v) for k, v in inputs.items() if len(v) > 1):
            for other, wanted in options.get("reelwire", {}).get("when", {}).items():
                conditions += 1
                if other != "family" and wanted is not True:
                    values = wanted["not"] if isinstance(wanted, dict) else wanted
                    assert {*values} <= {*inputs[other][1]["options"]}, f"{name}.{field}: {json.dumps(wanted)}"
    assert conditions > 10
