"""The timeline on the page, in both renderers: by mouse, by keyboard and as text, and all that a graph goes through."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from reelwire.tests.support.host import Host, Prompt, node
from reelwire.tests.support.page.pages import becomes, exported, open_template, run, settles
from reelwire.tests.support.page.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page

LONG, FRAMES, FPS, STEP = "2", 65, 25, 4  # of the tiny model: windows of 17 frames, on a grid of 4
STORY: dict[str, Any] = {
    "unit": "seconds",
    "prompts": [
        {"at": 0, "text": "A red circle moving right"},
        {"at": 0.84, "text": "A blue triangle moving left"},
        {"at": 1.64, "text": "A green ring grows"},
    ],
    "negative": "",
    "keyframes": [{"at": 0, "image": "reelwire_left.png"}, {"at": 1.28, "image": "reelwire_right.png"}],
}
CONTROL = "[...document.querySelectorAll('.reelwire-timeline')].find(element => element.checkVisibility())"
SHOWN = f"""() => {{
    const control = {CONTROL};
    if (!control) return {{ shows: "nothing", prompts: [], pictures: [], windows: 0 }}; // it is being drawn anew
    const entries = lane => [...control.querySelectorAll(`.reelwire-tl-${{lane}} > [data-index] > input`)];
    return {{
        shows: control.dataset.shows,
        prompts: entries("prompts").map(input => Number(input.dataset.position)),
        pictures: entries("pictures").map(input => Number(input.dataset.position)),
        windows: control.querySelectorAll(".reelwire-tl-window").length,
    }};
}}"""
VALUE = f"() => app.rootGraph.getNodeById({LONG}).widgets.find(widget => widget.name === 'timeline').value"
FRAMES_OF = f"() => app.rootGraph.getNodeById({LONG}).widgets.find(widget => widget.name === 'frames').value"
ZOOM = """([id, scale]) => {
    const { pos } = app.rootGraph.getNodeById(id), { ds } = app.canvas;
    ds.scale = scale;
    [ds.offset[0], ds.offset[1]] = [120 / scale - pos[0], 120 / scale - pos[1]];
    app.canvas.setDirty(true, true);
}"""


def graph(story: Any = None, **inputs: Any) -> Prompt:
    settings = {"frames": FRAMES, "steps": 2, "filename_prefix": "page/timeline", **inputs}
    text = story if isinstance(story, str) else json.dumps(story or STORY)
    return {
        "1": node("ReelwireLoadLTX", checkpoint="bundled/tiny_ltx"),
        LONG: node("ReelwireLongVideo", model=["1", 0], timeline=text, **settings),
    }


def zoom(page: Page, scale: float, name: str = LONG) -> None:
    page.evaluate(ZOOM, [int(name), scale])
    settles(page, f"() => {CONTROL}?.getBoundingClientRect().toJSON()")


def opened(page: Page, story: Any = None, scale: float = 1, **inputs: Any) -> None:
    """A graph with that timeline, once its windows are known."""
    open_template(page, graph(story, **inputs), "timeline")
    page.evaluate("() => document.querySelectorAll('.p-blockui-mask').forEach((mask) => mask.remove())")  # left behind
    zoom(page, scale)
    becomes(page, f"() => {CONTROL} !== undefined && ({SHOWN})().windows > 0", True)


def story_of(page: Page) -> dict[str, Any]:
    return json.loads(page.evaluate(VALUE))


def drag(page: Page, selector: str, by_frames: float, at: float = 0.5) -> None:
    """Drag an element of the control along the axis by so many frames."""
    track = page.locator(".reelwire-tl-track").bounding_box()
    box = page.locator(selector).bounding_box()
    assert track is not None
    assert box is not None
    x, y = box["x"] + at * box["width"], box["y"] + 0.5 * box["height"]
    to = x + by_frames * track["width"] / (FRAMES - 1)
    page.mouse.move(x, y)
    page.mouse.down()
    for share in (0.2, 0.6, 1):
        page.mouse.move(x + (to - x) * share, y)
    page.mouse.up()


@pytest.fixture(scope="module")
def timeline(view: tuple[Page, str]) -> Iterator[tuple[Page, str]]:
    page, renderer = view
    opened(page)
    yield page, renderer
    page.evaluate("() => window.app.rootGraph.clear()")


PROMPT, PICTURE = ".reelwire-tl-prompt[data-index='{}']", ".reelwire-tl-picture[data-index='{}'] .reelwire-tl-frame"


def shows(page: Page, **expected: Any) -> None:
    """Wait until the control shows that."""
    becomes(
        page,
        f"names => {{ const shown = ({SHOWN})(); return names.map(name => shown[name]); }}",
        [*expected.values()],
        [*expected],
    )


def handle(page: Page, kind: str, index: int) -> None:
    """Give an entry of the control the focus."""
    page.evaluate(
        f"selector => {CONTROL}.querySelector(selector).focus()", f".reelwire-tl-{kind}[data-index='{index}'] > input"
    )


def press(page: Page, *keys: str) -> None:
    for key in keys:
        page.keyboard.press(key)


# ---------------------------------------------------------------- by mouse


@pytest.mark.parametrize("scale", [1, 0.5])
def test_a_prompt_is_dragged_onto_the_grid(timeline: tuple[Page, str], scale: float, screenshots: Screenshots) -> None:
    page, renderer = timeline
    opened(page, scale=scale)
    screenshots.take(page, f"docs timeline {renderer} {scale}", ".reelwire-timeline")
    assert page.evaluate(SHOWN) == {"shows": "axis", "prompts": [0, 21, 41], "pictures": [0, 32], "windows": 7}
    drag(page, f"{PROMPT.format(2)} .reelwire-tl-edge", 7)
    shows(page, prompts=[0, 21, 49])
    assert story_of(page) == {**STORY, "prompts": [*STORY["prompts"][:2], {**STORY["prompts"][2], "at": 1.96}]}


def test_blocks_pictures_and_the_end_are_dragged_and_go_back(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page)
    drag(page, PROMPT.format(1), -9)  # as a whole: the next one begins earlier too
    shows(page, prompts=[0, 13, 33])
    drag(page, PICTURE.format(1), 21)
    shows(page, pictures=[0, 52])
    drag(page, ".reelwire-tl-end", -4)
    becomes(page, FRAMES_OF, 61)
    shows(page, windows=7)
    press(page, *["Control+z"] * 2)
    becomes(page, FRAMES_OF, FRAMES)
    shows(page, prompts=[0, 13, 33], pictures=[0, 32])
    press(page, "Control+z", "Control+Shift+z", "Control+z")
    shows(page, prompts=[0, 21, 41])
    assert story_of(page) == STORY


TITLES = "() => app.rootGraph.nodes.map(({ title }) => title)"
NAME_NODE = """() => {
    app.rootGraph.nodes[0].title = "named";
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    (changeTracker.captureCanvasState ?? changeTracker.checkState).call(changeTracker);
}"""


@pytest.mark.parametrize("focus", [".reelwire-tl-prompt[data-index='2'] > input", ".reelwire-tl-bar button"])
def test_undo_inside_is_the_timelines_and_outside_the_graphs(timeline: tuple[Page, str], focus: str) -> None:
    page, _ = timeline
    opened(page)
    page.evaluate(NAME_NODE)
    drag(page, f"{PROMPT.format(2)} .reelwire-tl-edge", 7)
    shows(page, prompts=[0, 21, 49])
    page.evaluate(f"selector => {CONTROL}.querySelector(selector).focus()", focus)
    press(page, "Control+z")
    shows(page, prompts=[0, 21, 41])
    press(page, "Control+z")  # no step of its own is left
    assert settles(page, TITLES) == ["named", "Long Video"]
    press(page, "Control+Shift+z")
    shows(page, prompts=[0, 21, 49])
    assert settles(page, TITLES) == ["named", "Long Video"]
    page.evaluate("() => { document.activeElement.blur(); app.canvas.canvas.focus(); }")
    for _ in range(6):  # back over each step of the timeline to the title
        if page.evaluate(TITLES)[0] != "named":
            break
        page.keyboard.press("Control+z")
        settles(page, TITLES)
    assert page.evaluate(TITLES) == ["LTXV Video Loader", "Long Video"]
    shows(page, prompts=[0, 21, 41])


def test_escape_gives_a_drag_up(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page)
    box = page.locator(PROMPT.format(2)).bounding_box()
    assert box is not None
    x, y = box["x"] + 30, box["y"] + 10
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 30, y)
    page.mouse.move(x - 60, y)
    becomes(page, f"() => ({SHOWN})().prompts[2] < 41", True)
    press(page, "Escape")
    page.mouse.up()
    shows(page, prompts=[0, 21, 41])
    assert story_of(page) == STORY


def test_a_double_click_writes(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page)
    page.locator(PROMPT.format(1)).dblclick()
    press(page, "Control+a")
    page.keyboard.type("A red ring shrinks")
    assert story_of(page)["prompts"][1] == {"at": 0.84, "text": "A red ring shrinks"}
    press(page, "Escape", "Control+z")
    assert story_of(page) == STORY


# ---------------------------------------------------------------- by keyboard


def test_every_action_has_keys(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page)
    handle(page, "prompt", 1)
    press(page, "ArrowRight", "ArrowRight", "ArrowLeft")
    shows(page, prompts=[0, 25, 41])
    press(page, "Alt+ArrowRight")
    shows(page, prompts=[0, 25, 45])
    press(page, "Shift+ArrowLeft")
    shows(page, prompts=[0, 5, 45])
    press(page, "Enter", "Control+a")
    page.keyboard.type("Blue")
    press(page, "Escape", "Insert")  # a new one in the middle, ready to be written
    page.keyboard.type("Gray")
    shows(page, prompts=[0, 5, 25, 45])
    press(page, "Escape", "Control+c", "Control+v")
    texts = [STORY["prompts"][0]["text"], "Blue", "Gray", "Gray", STORY["prompts"][2]["text"]]
    assert [prompt["text"] for prompt in story_of(page)["prompts"]] == texts
    press(page, "Delete", "Control+z", "Control+y")
    shows(page, prompts=[0, 5, 25, 45])
    handle(page, "picture", 1)
    press(page, "ArrowDown", "ArrowDown", "End", "ArrowLeft")
    assert story_of(page)["keyframes"][1] == {"at": 2.4, "image": "reelwire_right.png", "strength": 0.9}
    press(page, "Control+x", "Control+v")
    assert len(story_of(page)["keyframes"]) == 2
    page.evaluate("() => document.querySelector('.reelwire-tl-end > input').focus()")
    press(page, "ArrowRight")
    becomes(page, FRAMES_OF, FRAMES + STEP)
    assert page.evaluate("() => app.rootGraph.nodes.length") == 2  # no key has reached the page's own


NAMES = """() => [...document.querySelectorAll(".reelwire-timeline :is(button, input, textarea)")]
    .filter(element => element.offsetParent && element.type !== "file")
    .filter(element => !(element.ariaLabel || element.labels?.[0]?.textContent.trim() || element.textContent.trim()))
    .map(element => element.className)"""


def test_every_control_has_a_name_and_says_where_it_lies(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page)
    assert page.evaluate(NAMES) == []
    handle(page, "prompt", 1)
    said = "() => [document.activeElement.ariaLabel, document.activeElement.ariaValueText]"
    assert page.evaluate(said) == ["Prompt 2: A blue triangle moving left", "0.84 s, frame 21"]
    press(page, "Shift+Tab", "Tab")
    ring = "() => getComputedStyle(document.activeElement.parentElement).outlineStyle"
    assert page.evaluate(ring) == "solid"


# ---------------------------------------------------------------- pictures


DROP = """async ([name, x]) => {
    const canvas = new OffscreenCanvas(64, 64);
    canvas.getContext("2d").fillRect(0, 0, 8, 8);
    const data = new DataTransfer();
    data.items.add(new File([await canvas.convertToBlob()], name, { type: "image/png" }));
    const control = document.querySelector(".reelwire-timeline");
    const { left, width, top } = control.querySelector(".reelwire-tl-track").getBoundingClientRect();
    const at = { dataTransfer: data, bubbles: true, cancelable: true, clientX: left + x * width, clientY: top + 60 };
    for (const kind of ["dragover", "drop"])
        control.querySelector(".reelwire-tl-pictures").dispatchEvent(new DragEvent(kind, at));
}"""


def test_pictures_come_from_the_disk_and_from_the_input_folder(timeline: tuple[Page, str], host: Host) -> None:
    page, renderer = timeline
    opened(page)
    name = f"dropped {renderer}.png"
    page.evaluate(DROP, [name, 0.75])
    shows(page, pictures=[0, 32, 48])
    assert (host.base / "input" / name).is_file()
    assert story_of(page)["keyframes"][2] == {"at": 1.92, "image": name}
    page.get_by_role("button", name="Choose another picture than").click()
    page.get_by_role("searchbox").fill("left")
    page.get_by_role("button", name="reelwire_left.png", exact=True).click()
    assert story_of(page)["keyframes"][2]["image"] == "reelwire_left.png"
    page.get_by_role("slider", name="Strength").fill("0.5")
    assert story_of(page)["keyframes"][2]["strength"] == 0.5
    assert page.evaluate("() => app.rootGraph.nodes.length") == 2


# ---------------------------------------------------------------- as text


def test_what_is_no_timeline_stays_and_says_why(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page)
    page.get_by_role("button", name="Text", exact=True).click()
    field = page.get_by_role("textbox", name="The timeline as JSON")
    for text, words in ((f"{json.dumps(STORY)[:-1]},", "not JSON"), ('{"prompt": []}', "did you mean")):
        field.fill(text)
        becomes(page, VALUE, text)
        page.locator(".reelwire-tl-wrong", has_text=words).wait_for()
        assert page.evaluate(SHOWN)["shows"] == "text"
        assert page.get_by_role("button", name="Text", exact=True).is_disabled()
    field.fill(json.dumps(STORY))
    page.get_by_role("button", name="Text", exact=True, disabled=False).click()
    shows(page, shows="axis", prompts=[0, 21, 41])


def test_a_prompt_that_the_model_cannot_read_is_said_beside_its_windows(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page, {"prompts": [{"at": 0, "text": "qqq"}]})
    page.locator(".reelwire-tl-wrong", has_text="knows none of this").wait_for()


# ---------------------------------------------------------------- what a graph goes through


COPY = """() => {
    app.canvas.selectItems([app.rootGraph.getNodeById(2)]);
    app.canvas.copyToClipboard();
    app.canvas.pasteFromClipboard({ position: [900, 100] });
    const values = app.rootGraph.nodes.filter(node => node.comfyClass === "ReelwireLongVideo").map(
        node => node.widgets.find(widget => widget.name === "timeline").value);
    return [values.length, values[0] === values[1]];
}"""


def test_it_is_saved_loaded_copied_and_run(timeline: tuple[Page, str], host: Host) -> None:
    page, renderer = timeline
    short = {"prompts": [{"at": 0, "text": "A red circle moving right"}, {"at": 0.52, "text": "A blue ring"}]}
    opened(page, short, frames=33, filename_prefix=f"page/timeline {renderer}")
    handle(page, "prompt", 1)
    press(page, "ArrowRight")
    shows(page, prompts=[0, 17])
    prompt, saved = exported(page)
    (entry,) = [each for each in saved["nodes"] if each["type"] == "ReelwireLongVideo"]
    assert entry["widgets_values"][0] == prompt[LONG]["inputs"]["timeline"] == page.evaluate(VALUE)
    assert json.loads(entry["widgets_values"][0])["prompts"][1]["at"] == 0.68
    page.evaluate("saved => app.loadGraphData(saved)", saved)
    shows(page, prompts=[0, 17])
    assert exported(page)[0] == prompt
    assert page.evaluate(COPY) == [2, True]
    page.evaluate("() => app.rootGraph.remove(app.rootGraph.nodes.at(-1))")
    assert run(page)[0] == "execution_success"


SUBGRAPH = """() => {
    const { subgraph, node } = app.rootGraph.convertToSubgraph(new Set([app.rootGraph.getNodeById(2)]));
    const long = subgraph.nodes.find(each => each.comfyClass === "ReelwireLongVideo");
    const input = long.inputs.find(each => each.name === "timeline");
    const slot = subgraph.addInput("timeline", "STRING");
    slot.connect(input, long);
    return String(node.id);
}"""


def test_a_subgraph_shows_it_outside(timeline: tuple[Page, str]) -> None:
    page, _ = timeline
    opened(page)
    outer = page.evaluate(SUBGRAPH)
    zoom(page, 1, outer)
    shows(page, prompts=[0, 21, 41], windows=7)
    handle(page, "prompt", 1)
    press(page, "ArrowRight")
    shows(page, prompts=[0, 25, 41])
    (sent,) = [each["inputs"]["timeline"] for each in exported(page)[0].values() if "timeline" in each["inputs"]]
    assert json.loads(sent)["prompts"][1]["at"] == 1.0
    page.evaluate("() => app.loadGraphData(app.rootGraph.serialize())")
    shows(page, prompts=[0, 25, 41], windows=6)


def test_the_node_of_its_own_shows_the_windows_of_the_long_video_behind_it(
    timeline: tuple[Page, str], screenshots: Screenshots
) -> None:
    page, renderer = timeline
    wired = graph() | {"3": node("ReelwireTimeline", timeline=json.dumps(STORY))}
    wired[LONG]["inputs"]["timeline"] = ["3", 0]
    open_template(page, wired, "wired")
    own = "document.querySelector('.reelwire-timeline[data-shows=axis]')"
    becomes(page, f"() => {own}?.querySelectorAll('.reelwire-tl-window').length", 7)
    heights = "() => app.rootGraph.nodes.map(node => [node.type, node.size[1] - node.computeSize()[1]])"
    becomes(page, f"() => Object.fromEntries(({heights})()).ReelwireLongVideo < 2", True)  # no room left over
    becomes(page, "() => document.querySelector('.reelwire-timeline[data-shows=wired]').offsetHeight < 60", True)
    screenshots.take(page, f"timeline en {renderer}")
    page.evaluate("() => app.rootGraph.remove(app.rootGraph.getNodeById(2))")
    becomes(page, f"() => {own}?.querySelectorAll('.reelwire-tl-window').length", 0)
    page.locator(".reelwire-tl-words", has_text="Not connected to Long Video").wait_for()
