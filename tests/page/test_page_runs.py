"""What a node shows belongs to the last run of its own workflow, in the page's language from the first word on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from reelwire.loaders.messages import data, message
from reelwire.tests.support.host import PACK, ROOT, Host
from reelwire.tests.support.page.node_views import (
    DECODE,
    KEYFRAME,
    LOOK,
    SAMPLER,
    SENTENCE,
    TOASTS,
    film,
    keyframes,
    parts,
    toast,
    video_of,
)
from reelwire.tests.support.page.pages import (
    GRAPH_ID,
    WATCH,
    becomes,
    drop,
    ended,
    exported,
    fit,
    load,
    open_template,
    reload,
    run,
    settles,
    switch,
)

if TYPE_CHECKING:
    from playwright.sync_api import Page

OUTSIDE = json.loads((ROOT / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))["reelwire"]["messages"][
    "outside_output"
]
# by how many of the graph's pixels each node sticks out of the group in which it begins
STICKS_OUT = """() => app.rootGraph.nodes.flatMap(({ type, pos: [x, y], size: [, height] }) => {
    const around = app.rootGraph.groups.find(({ pos, size }) =>
        x > pos[0] && x < pos[0] + size[0] && y > pos[1] && y < pos[1] + size[1]);
    const over = around ? y + height - around.pos[1] - around.size[1] : type === "MarkdownNote" ? 0 : height;
    return over > 0 ? [[type, Math.round(over)]] : [];
})"""
# a run of what the page had kept earlier, while it shows something else
QUEUE_KEPT = "async () => { await app.api.queuePrompt(0, window.kept); }"
KEEP = "async () => { window.kept = await app.graphToPrompt(); }"
REMEMBER = """([node, prompt]) => {
    const path = app.extensionManager.workflow.activeWorkflow.path;
    sessionStorage.setItem("reelwire.prompts", JSON.stringify({ [path]: { [node]: prompt } }));
}"""
RENAME = """([id, prefix]) => {
    app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === "filename_prefix").value = prefix;
}"""
# as some tests leave the page to the next file, whichever that is
EMPTIED = """() => {
    app.rootGraph.nodes.slice().forEach(node => app.rootGraph.remove(node));
    app.api.dispatchCustomEvent("graphChanged", app.rootGraph.serialize());
}"""
KEPT_EMPTY = """() => Object.keys(localStorage).some(key => key.startsWith("Comfy.Workflow.Draft.v2:")
    && JSON.parse(JSON.parse(localStorage.getItem(key)).data).id === app.rootGraph.id
    && !JSON.parse(JSON.parse(localStorage.getItem(key)).data).nodes.length)"""


def run_kept(page: Page) -> tuple[str, dict[str, Any]]:
    """Run what KEEP has kept and wait; the event that ended it, with its data."""
    page.evaluate(WATCH)
    page.evaluate(QUEUE_KEPT)
    return ended(page)


# ---------------------------------------------------------------- the first error


def test_a_page_that_shows_nothing_is_loaded_anew_all_the_same(page: Page) -> None:
    load(page, keyframes(8, 8), "emptied")
    page.evaluate(EMPTIED)
    page.wait_for_function(KEPT_EMPTY)
    reload(page)
    assert page.evaluate("() => app.rootGraph.nodes.length")


def test_the_very_first_error_is_chinese(chinese: Page) -> None:
    load(chinese, film("page/before"), "before the first error")
    reload(chinese)
    load(chinese, keyframes(8, 8), "first error")
    kind, failure = run(chinese)
    assert kind == "execution_error"
    assert "关键帧" in failure["exception_message"]
    toast(chinese, "关键帧")
    assert "关键帧" in chinese.evaluate(LOOK, KEYFRAME)["error"]


@pytest.fixture
def late_texts(chinese: Page) -> Iterator[Page]:
    """The page in Chinese, loaded anew; it has no texts of ours until window.release() is called."""
    chinese.add_init_script(
        """if (sessionStorage.getItem("late")) {
            const own = window.fetch;
            const wait = new Promise(done => window.release = done);
            const ours = () => new Error().stack.includes("messages.mjs");
            window.fetch = (...args) => String(args[0]).endsWith("/i18n") && ours()
                ? wait.then(() => own(...args)) : own(...args);
        }"""
    )
    chinese.evaluate("() => sessionStorage.setItem('late', '1')")
    try:
        reload(chinese)
        yield chinese
    finally:  # else no later page has texts
        chinese.evaluate("() => { sessionStorage.removeItem('late'); window.release?.(); }")


def test_an_error_is_told_anew_where_the_texts_come_late(late_texts: Page) -> None:
    load(late_texts, keyframes(8, 8), "late texts")
    kind, _ = run(late_texts)
    assert kind == "execution_error"
    toast(late_texts, SENTENCE)
    assert SENTENCE in late_texts.evaluate(LOOK, KEYFRAME)["error"]
    late_texts.evaluate("() => window.release()")
    sentence = toast(late_texts, "关键帧")
    becomes(late_texts, parts(("error",)), [sentence], KEYFRAME)


def test_what_is_refused_before_the_run_is_chinese(chinese: Page) -> None:
    load(chinese, film("/outside"), "refused")
    chinese.evaluate("() => app.queuePrompt(0, 1)")
    sentence = toast(chinese, OUTSIDE)
    becomes(chinese, parts(("error",)), [sentence], DECODE)


def test_rows_of_a_chart_are_chinese(chinese: Page) -> None:
    name = message("expert_branch", expert=message("high_noise"), branch="positive")
    rows = [{"name": data(name), "computed": [True, False], "distances": [None, None]}]
    draw = f"async chart => (await (await import('/extensions/{PACK}/chart.mjs')).drawChart(chart)).innerText"
    assert "高噪声" in chinese.evaluate(draw, {"title": "plan", "rows": rows})


# ---------------------------------------------------------------- more than one run


def test_an_error_stays_while_later_prompts_of_a_batch_run(view: tuple[Page, str]) -> None:
    page, renderer = view
    load(page, keyframes(8, -1), f"later in {renderer}")
    page.evaluate(KEEP)  # one that works
    load(page, keyframes(8, 8), f"batch in {renderer}")
    kind, _ = run(page)
    assert kind == "execution_error"
    assert run_kept(page)[0] == "execution_success"
    (error,) = settles(page, parts(("error",)), KEYFRAME)
    assert SENTENCE in error
    assert len(settles(page, TOASTS)) == 1


def test_a_run_of_another_workflow_shows_nothing_here(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    host.free()
    other = open_template(page, film(f"page/other {renderer}"), f"A in {renderer}")
    page.evaluate(KEEP)
    here = open_template(page, film(f"page/here {renderer}"), f"B in {renderer}")
    kind, ending = run_kept(page)
    assert kind == "execution_success"
    assert other != here
    becomes(page, "name => app.nodeOutputs[name] ?? null", None, DECODE)  # the page would show it on a node
    for directions in ((), ("Previous", "Next")):
        for direction in directions:
            switch(page, direction)
        assert page.evaluate(GRAPH_ID) == here
        for name in ("1", "2", SAMPLER, DECODE):
            assert settles(page, parts(("words", "video", "steps")), name) == ["", None, 0], name
    # not even where a run of this tab was another workflow's
    page.evaluate(REMEMBER, [DECODE, ending["prompt_id"]])
    with (
        page.expect_response(lambda answer: f"/history/{ending['prompt_id']}" in answer.url),
        page.expect_response(lambda answer: "/history?max_items=" in answer.url),
    ):
        reload(page)
    assert page.evaluate(GRAPH_ID) == here
    assert settles(page, parts(("video",)), DECODE) == [None]


def test_the_last_run_is_there_after_a_reload_though_another_tab_was_in_front(view: tuple[Page, str]) -> None:
    page, renderer = view
    name = renderer.replace(" ", "_")
    here = open_template(page, film(f"page/earlier_{name}"), f"C in {renderer}")
    assert run(page)[0] == "execution_success"
    page.evaluate(RENAME, [DECODE, f"page/last_{name}"])
    page.evaluate(KEEP)
    open_template(page, film(f"page/front_{name}"), f"D in {renderer}")
    assert run_kept(page)[0] == "execution_success"
    for _ in range(2):  # over the tab in which D was made
        switch(page, "Previous")
    assert page.evaluate(GRAPH_ID) == here
    reload(page)
    page.wait_for_function(f"name => ({LOOK})('{DECODE}').video?.src.includes(name)", arg=f"last_{name}")


def test_an_error_of_another_workflow_marks_nothing_here(view: tuple[Page, str]) -> None:
    page, renderer = view
    open_template(page, keyframes(8, 8), f"A failed in {renderer}")
    page.evaluate(KEEP)
    open_template(page, keyframes(8, -1), f"B fine in {renderer}")
    assert run_kept(page)[0] == "execution_error"
    toast(page, SENTENCE)
    for name in ("7", KEYFRAME, SAMPLER):
        assert settles(page, parts(("error",)), name) == [""], name


def test_results_that_come_late_do_not_overwrite_the_next_run(page: Page) -> None:
    load(page, film("page/late"), "late")
    output = {
        "reelwire": [json.dumps(data("of the run before"))],
        "reelwire_chart": [json.dumps({"title": "", "rows": []})],
    }
    page.evaluate(
        f"""async output => {{
            const {{ showOutputs }} = await import("/extensions/{PACK}/results.mjs");
            showOutputs({{ 4: output }});
            app.api.dispatchCustomEvent("executing", "4");
        }}""",
        output,
    )
    assert settles(page, parts(("words",)), SAMPLER) == [""]


def test_a_node_that_runs_keeps_its_words_when_outputs_come_back(page: Page) -> None:
    load(page, film("page/running"), "running")
    note = {"node": SAMPLER, "messages": [data("so far")], "passing": False}
    page.evaluate(
        """note => {
            app.api.dispatchCustomEvent("executing", note.node);
            app.api.dispatchCustomEvent("reelwire.note", note);
        }""",
        note,
    )
    becomes(page, parts(("lines",)), [["so far"]], SAMPLER)
    page.evaluate("() => { app.nodeOutputs = { ...app.nodeOutputs }; }")
    assert settles(page, parts(("lines",)), SAMPLER) == [["so far"]]
    page.evaluate("() => app.api.dispatchCustomEvent('executing', null)")


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize("name", ["Text to video", "Text to video, faster with a cache"])
def test_nodes_stay_in_their_groups_after_a_run(view: tuple[Page, str], host: Host, name: str) -> None:
    page, _ = view
    host.free()
    template = json.loads((ROOT / "workflows" / f"{name} - any model.json").read_text(encoding="utf-8"))
    drop(page, json.dumps(template), [str(n["id"]) for n in template["nodes"] if n["type"] != "MarkdownNote"])
    kind, ending = run(page)
    assert kind == "execution_success", ending
    video_of(page, next(str(n["id"]) for n in template["nodes"] if n["type"] == "ReelwireDecodeToVideo"))
    fit(page)
    becomes(page, STICKS_OUT, [])
    assert settles(page, STICKS_OUT) == []


def test_a_resize_after_a_run_is_saved(view: tuple[Page, str]) -> None:
    page, renderer = view
    load(page, film(f"page/resized {renderer}", seed=len(renderer)), f"resized in {renderer}")
    kind, ending = run(page)
    assert kind == "execution_success", ending
    video_of(page, DECODE)
    fit(page)
    before = height(page)
    if renderer == "LiteGraph":
        page.evaluate("() => { const n = app.rootGraph.getNodeById('4'); n.setSize([n.size[0], n.size[1] + 200]); }")
    else:
        page.evaluate("() => app.canvas.bringToFront(app.rootGraph.getNodeById('4'))")
        settles(page, parts(("box",)), SAMPLER)
        scale = page.evaluate("() => app.canvas.ds.scale")
        corner = page.locator(f'[data-node-id="{SAMPLER}"] [data-corner="SE"]')
        corner.hover()  # waits until nothing lies over it
        box = corner.bounding_box()
        assert box is not None
        x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
        page.mouse.down()
        for further in (100, 200):
            page.mouse.move(x, y + further * scale, steps=4)
        page.mouse.up()
    after = height(page)
    assert after["shown"] - before["shown"] == pytest.approx(200, abs=10)
    assert after["saved"] == pytest.approx(after["shown"] - after["panel"], abs=1)


def height(page: Page) -> dict[str, float]:
    """Of the sampler: as it is shown, as it is saved, and of its panel; once none of them changes."""
    settles(page, parts(("box", "content")), SAMPLER)
    _, graph = exported(page)
    assert all(isinstance(side, (int, float)) for saved in graph["nodes"] for side in saved["size"])
    (saved,) = [saved["size"][1] for saved in graph["nodes"] if str(saved["id"]) == SAMPLER]
    shown, panel = page.evaluate(
        """id => {
            const node = app.rootGraph.getNodeById(id);
            const panel = node.widgets.find(widget => widget.name === "reelwire_panel").element;
            return [node.size[1], panel.querySelector(".reelwire-content").offsetHeight + 16];
        }""",
        SAMPLER,
    )
    return {"shown": shown, "saved": saved, "panel": panel}
