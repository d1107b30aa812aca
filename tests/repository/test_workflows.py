"""The shipped workflows: the page reads the templates, they equal their API twins, and the twins run on tiny files."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import pytest
from PIL import Image
from reelwire.bench.export_workflow import app_mode, controls_of, file_of
from reelwire.bench.templates import layout, notes
from reelwire.tests.support.host import PACK, ROOT, Host, shipped, workflow
from reelwire.tests.support.page.pages import WAIT_SECONDS, drop, settles
from reelwire.tests.support.tiny import table

if TYPE_CHECKING:
    from playwright.sync_api import Page

WAIT = WAIT_SECONDS * 1000  # as Playwright counts
TWINS = sorted(file.stem for file in (ROOT / "workflows" / "api").glob("*.json"))
INPUTS = sorted(file.name for file in (ROOT / "workflows" / "inputs").iterdir())
STOCK = ("nodes", "comfy_extras.")  # Python modules of the host's own nodes
EXPORT = "async () => JSON.stringify((await window.app.graphToPrompt()).output)"
# where the page draws each wire's ends, by the numbers of a link
ENDS = """() => [...window.app.rootGraph.links.values()].map(l => {
    const [from, to] = [l.origin_id, l.target_id].map(id => window.app.rootGraph.getNodeById(id));
    return [[l.origin_id, l.origin_slot, l.target_id, l.target_slot],
            [...from.getOutputPos(l.origin_slot)], [...to.getInputPos(l.target_slot)]];
})"""
RENDERER = "on => window.app.extensionManager.setting.set('Comfy.VueNodes.Enabled', on)"
BOXES = """[...document.querySelectorAll("[data-node-id]")].map(node => [node, node.getBoundingClientRect()])
    .filter(([, box]) => box.width > 0)
    .map(([node, box]) => [node.dataset.nodeId, box.left, box.top, box.right, box.bottom])"""
# each node that loads a picture or a clip shows it
PICTURES = """() => {
    const loaders = window.app.rootGraph.nodes.filter(node => ["LoadImage", "LoadVideo"].includes(node.type));
    return loaders.every(node => {
        const picture = document.querySelector(`[data-node-id="${node.id}"] :is(img, video)`);
        return picture && (picture.complete || picture.readyState > 0);
    });
}"""
NEAR, ROW = 4, 30  # of the page's units

every = pytest.mark.parametrize("name", list(notes.CARDS))
every_twin = pytest.mark.parametrize("name", TWINS)


def template(name: str) -> dict[str, Any]:
    return json.loads(file_of(name).read_text(encoding="utf-8"))


def inputs(prompt: dict[str, Any]) -> dict[str, Any]:
    """Class and inputs of each node, less what the page adds while it shows a clip."""
    values = lambda node: {name: value for name, value in node["inputs"].items() if name != "video-preview"}
    return {name: (node["class_type"], values(node)) for name, node in prompt.items()}


def drop_template(page: Page, name: str) -> None:
    """A template, dropped on the page; ends when its nodes are there."""
    drop(page, file_of(name).read_text(encoding="utf-8"), [*shipped(name)])


@pytest.fixture
def canvas(page: Page) -> Iterator[Page]:
    """The page with an empty graph; no script of a pack may fail while a test runs (the page has errors of its own)."""
    page.evaluate("() => window.app.rootGraph.clear()")
    page.evaluate("() => new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)))")
    said: list[str] = []
    listen = lambda error: said.extend([error.stack] if "/extensions/" in (error.stack or "") else [])
    page.on("pageerror", listen)
    yield page
    page.remove_listener("pageerror", listen)
    assert not said


# ---------------------------------------------------------------- in the page


@every
def test_dropped_on_the_page_it_is_its_twin(canvas: Page, name: str) -> None:
    drop_template(canvas, name)
    assert inputs(json.loads(canvas.evaluate(EXPORT))) == inputs(shipped(name))
    graph = layout.of(template(name))
    for numbers, start, end in canvas.evaluate(ENDS):
        wire = layout.Wire(*map(int, numbers))
        ends = (graph.nodes[wire.source].exit(wire.output), graph.nodes[wire.target].entry(wire.input))
        near = NEAR if wire.input < sockets_of(name, wire.target) else ROW
        assert (*start, *end) == pytest.approx([v for point in ends for v in point], abs=near)


def sockets_of(name: str, node: int) -> int:
    """How many sockets a node has before those of its widgets, whose rows the page moves when others are hidden."""
    (made,) = (each for each in template(name)["nodes"] if each["id"] == node)
    return sum("widget" not in socket for socket in made.get("inputs", ()))


def test_the_page_offers_the_files_that_are_missing(canvas: Page) -> None:
    drop_template(canvas, "wan_i2v")
    canvas.get_by_text("View details").evaluate("button => button.click()")
    offered = canvas.get_by_test_id("missing-model-download")
    files = [entry["name"] for entries in notes.models(shipped("wan_i2v")).values() for entry in entries]
    assert len(files) == 4
    for file in files:
        canvas.get_by_text(file, exact=True).first.wait_for(timeout=WAIT)
    assert offered.count() == len(files)


def test_example_files_come_with_the_template_that_loads_them(host: Host, canvas: Page) -> None:
    folder = host.base / "input"
    for file in INPUTS:
        (folder / file).unlink(missing_ok=True)
    drop_template(canvas, "ltx_keyframes")
    canvas.get_by_text("reelwire_left.png, reelwire_right.png").wait_for(timeout=WAIT)
    for side in ("left", "right"):
        name = f"reelwire_{side}.png"
        assert (folder / name).read_bytes() == (ROOT / "workflows" / "inputs" / name).read_bytes()
    assert not (folder / "reelwire_clip.mp4").exists(), "this template loads no clip"
    drop_template(canvas, "any_v2v")
    canvas.get_by_text("reelwire_clip.mp4.").wait_for(timeout=WAIT)
    assert canvas.get_by_text("Missing").count() == 0


def test_a_file_of_ones_own_is_left_alone(host: Host, canvas: Page) -> None:
    """A picture of the same name is not replaced."""
    own = host.base / "input" / "reelwire_left.png"
    Image.new("RGB", (64, 64), "green").save(own)
    before = own.read_bytes()
    drop_template(canvas, "ltx_i2v")
    canvas.wait_for_function("() => window.app.rootGraph.nodes.some(node => node.imgs?.length)", timeout=WAIT)
    assert own.read_bytes() == before
    own.write_bytes((ROOT / "workflows" / "inputs" / own.name).read_bytes())


@every
def test_it_is_offered_as_a_template(host: Host, name: str) -> None:
    file = file_of(name)
    place = f"/api/workflow_templates/{PACK}/{file.stem.replace(' ', '%20')}"
    assert file.stem in host.get("/workflow_templates")[PACK]
    assert host.get(f"{place}.json") == template(name)
    assert host.read(f"{place}.jpg") == file.with_suffix(".jpg").read_bytes()


@pytest.mark.parametrize("name", ["any_t2v", "ltx_keyframes", "wan_vace", "wan_fun_control"])
def test_nothing_overlaps_in_nodes_2(canvas: Page, name: str) -> None:
    """There nodes are as tall as their content, the note too."""
    canvas.evaluate(RENDERER, True)
    try:
        drop_template(canvas, name)
        canvas.wait_for_function(f"count => {BOXES}.length === count", arg=len(shipped(name)) + 1, timeout=WAIT)
        canvas.wait_for_function(PICTURES)
        boxes = settles(canvas, f"() => {BOXES}")
    finally:
        canvas.evaluate(RENDERER, False)
    assert not [(one, other) for one, other in combinations(boxes, 2) if layout.overlap(one[1:], other[1:])]


# ---------------------------------------------------------------- as files


def test_templates_are_those_with_a_card() -> None:
    """One card a task, and no more than the gallery shows at once."""
    folder = ROOT / "workflows"
    assert {file.stem for file in folder.glob("*.json")} == {card["title"] for card in notes.CARDS.values()}
    assert {file.stem for file in folder.glob("*.jpg")} == {card["title"] for card in notes.CARDS.values()}
    assert {*notes.CARDS} <= {*TWINS}
    assert len({card["title"].lower() for card in notes.CARDS.values()}) == len(notes.CARDS) <= 30


@every
def test_seeds_say_what_a_second_run_does(name: str) -> None:
    """Another video, but where what lies on disk belongs to one seed, seeds are listed, or videos are compared."""
    words, controls = ("fixed", "randomize"), controls_of(shipped(name))
    seeds = [
        (node["id"], word)
        for node in template(name)["nodes"]
        for word in node.get("widgets_values", ())
        if word in words
    ]
    assert seeds
    listed = {node["id"] for node in template(name)["nodes"] if node["type"] == "PrimitiveInt"}
    assert all(word == ("fixed" if node in listed else controls[str(node)]) for node, word in seeds)


@every
def test_its_picture_shows_something(name: str) -> None:
    with Image.open(file_of(name).with_suffix(".jpg")) as picture:
        assert picture.format == "JPEG"
        assert picture.size == (400, 400)
        shades = picture.convert("L").tobytes()
        assert max(shades) - min(shades) > 150


@every
def test_its_note_tells_all_in_both_languages(name: str) -> None:
    (text,) = (node["widgets_values"][0] for node in template(name)["nodes"] if node["type"] == layout.NOTE)
    card, twin = notes.CARDS[name], shipped(name)
    assert text == notes.note(name, twin)
    assert card["title"] in text
    assert card["zh"] in text
    for _, file in notes.named(twin):
        assert text.count(f"({notes.FILES[file]['url']}) → `models/{file.split('/')[0]}`") == len(notes.LANGUAGES)
    assert ("GB" in text) == (name in notes.MEMORY)
    assert (name in notes.MEMORY) == ("bundled/tiny_ltx" not in text)


@every
def test_app_mode_shows_prompt_size_and_result(name: str) -> None:
    """Widgets that are there and free, and the node that ends with the video."""
    made, twin = template(name), shipped(name)
    assert made["extra"]["linearData"] == app_mode(twin)
    for node, widget in made["extra"]["linearData"]["inputs"]:
        assert not isinstance(twin[node]["inputs"].get(widget), list)
        assert widget in twin[node]["inputs"]
    assert {"seed"} <= {widget for _, widget in made["extra"]["linearData"]["inputs"]} or name == "any_prompts"
    assert made["extra"]["linearData"]["outputs"]
    assert "linearMode" not in made["extra"], "it opens as a graph"


@every
def test_its_groups_are_numbered(name: str) -> None:
    titles = [group["title"] for group in template(name)["groups"]]
    numbered = [title for title in titles if title[0].isdigit()]
    assert [int(title[0]) for title in numbered] == [1, 2, 3, 4][: len(numbered)]
    assert all(" / " in title for title in titles)


@every_twin
def test_every_model_that_it_names_is_known(name: str) -> None:
    """Each file has its publisher's address, a folder of ComfyUI's and a tiny one for the tests."""
    folders = {"checkpoints", "clip_vision", "diffusers", "diffusion_models", "loras", "text_encoders", "vae"}
    named = {file for _, file in notes.named(shipped(name))}
    for node in shipped(name).values():
        for value in node["inputs"].values():
            looks = isinstance(value, str) and value.split("/")[0] in folders
            assert not looks or value in named, f"{value} is not in bench/templates/files.json"
    for file in named:
        files = notes.FILES[file]
        assert files["source"]
        assert files["url"].startswith("https://huggingface.co/")
        assert files["url"].split("/")[-1] == file.split("/")[1]
        assert table()["files"][file]


@every
def test_the_page_can_offer_its_files(name: str) -> None:
    asked = {
        int(node): [file for where, file in dict.fromkeys(notes.named(shipped(name))) if where == node]
        for node in shipped(name)
    }
    for node in template(name)["nodes"]:
        files = [file for file in asked.get(node["id"], ()) if not file.startswith("diffusers/")]
        values = [notes.value_of(shipped(name)[str(node["id"])], file) for file in files]
        assert node["properties"].get("models", []) == [
            {"name": value, "url": notes.FILES[file]["url"], "directory": file.split("/")[0]}
            for file, value in zip(files, values, strict=True)
        ]
        assert {*values} <= {*map(str, node.get("widgets_values", ()))}, (
            "the page looks for a widget with this very value"
        )


def test_files_in_the_table_are_used() -> None:
    used = {file for name in TWINS for _, file in notes.named(shipped(name))}
    assert used == {*notes.FILES}
    assert {*table()["files"]} - used == {"reelwire_clip.mp4"}


@every
def test_it_is_small(name: str) -> None:
    assert len(shipped(name)) <= 10


@every
def test_no_node_has_a_title_of_its_own(name: str) -> None:
    """The page translates a node's own name alone."""
    assert not [node["title"] for node in template(name)["nodes"] if "title" in node]


# ---------------------------------------------------------------- the layout


@every
def test_no_wire_runs_behind_a_node(name: str) -> None:
    assert not [(wire, node.type) for wire, node, _ in layout.of(template(name)).hits()]


@every
def test_nothing_overlaps_after_a_run(name: str) -> None:
    workflow = template(name)
    boxes = {node.id: node.box for node in layout.of(workflow).nodes.values()}
    for node in workflow["nodes"]:
        (x, y), (width, height) = node["pos"], node["size"]
        boxes.setdefault(node["id"], (x, y - layout.TITLE, x + width, y + height))
    assert not [pair for pair in combinations(boxes, 2) if layout.overlap(boxes[pair[0]], boxes[pair[1]])]
    groups = {
        g["title"]: (*g["bounding"][:2], g["bounding"][0] + g["bounding"][2], g["bounding"][1] + g["bounding"][3])
        for g in workflow["groups"]
    }
    assert not [pair for pair in combinations(groups, 2) if layout.overlap(groups[pair[0]], groups[pair[1]])]


@every
def test_groups_hold_the_clip_that_is_shown(name: str) -> None:
    """By Load Video: ours is square."""
    workflow = template(name)
    boxes = [(x, y, x + width, y + height) for x, y, width, height in (g["bounding"] for g in workflow["groups"])]
    for clip in (node for node in layout.of(workflow).nodes.values() if node.type == "LoadVideo"):
        assert clip.grown >= clip.width + 74
        assert any(layout.around((clip.box, group)) == group for group in boxes)


def test_a_wire_behind_a_node_is_seen() -> None:
    """The test above can fail: three nodes in a row, and a wire from the first to the last."""
    row = {i: layout.Node(i, "PreviewImage", 200, 100, x=300.0 * i, column=i) for i in range(3)}
    bad = layout.Layout(row, [layout.Wire(0, 0, 2, 0)])
    assert [(node.id) for _, node, _ in bad.hits()] == [1]
    bad.arrange()
    assert not list(bad.hits())


# ---------------------------------------------------------------- the twins


@pytest.fixture(scope="module")
def known(host: Host) -> Any:
    """All nodes of the host."""
    return host.get("/object_info")


@every_twin
def test_it_needs_no_other_pack(known: Any, name: str) -> None:
    for node in shipped(name).values():
        module = known[node["class_type"]]["python_module"]
        assert module == f"custom_nodes.{PACK}" or module.startswith(STOCK), f"{node['class_type']} is of {module}"


@every
def test_its_presets_are_those_of_its_model(name: str) -> None:
    """The makers' presets bear the names of checkpoints: of another one they are refused."""
    variant = notes.CARDS[name].get("variant", "ltx/0.9.5-2b")
    presets = {node["inputs"]["preset"] for node in shipped(name).values() if "preset" in node["inputs"]}
    defaults = ROOT / "loaders" / "families" / variant.replace("/", "/variants/") / "defaults.json"
    assert presets - {"default"} <= {*json.loads(defaults.read_text(encoding="utf-8"))["presets"]}


@every_twin
def test_it_makes_a_video(host: Host, name: str) -> None:
    twin = workflow(name)
    samplers = [at for at, node in twin.items() if node["class_type"] in ("ReelwireSampler", "ReelwireLongVideo")]
    videos = host.videos(host.post(workflow(name, {f"{at}.steps": 2 for at in samplers})))
    assert len(videos) == (2 if name == "any_prompts" else sum("filename_prefix" in n["inputs"] for n in twin.values()))
    for video in videos:
        with av.open(str(video)) as container:
            assert container.streams.video[0].frames > 1


def test_a_fresh_install_runs_these_without_a_download() -> None:
    bundled = [name for name in notes.CARDS if not list(notes.named(shipped(name)))]
    assert {*bundled} == {
        *("any_t2v", "any_cached", "any_v2v", "any_extend", "any_compare", "any_prompts"),
        *("ltx_i2v", "ltx_keyframes", "ltx_long"),
    }
    for name in bundled:
        assert {n["inputs"]["checkpoint"] for n in shipped(name).values() if "checkpoint" in n["inputs"]} == {
            "bundled/tiny_ltx"
        }


@pytest.mark.parametrize("name", ["wan_t2v", "svd_i2v"])
def test_what_the_note_says_of_cards_is_what_estimate_says(name: str, tmp_path: Path) -> None:
    from reelwire.bench.templates.memory import asked

    card = notes.CARDS[name]
    assert json.loads(json.dumps(asked(card, tmp_path))) == notes.MEMORY[name]
