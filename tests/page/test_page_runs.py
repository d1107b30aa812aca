"""What a node shows belongs to the last run of its own workflow, in the page's language from the first word on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from reelwire.bench.export_workflow import READY
from reelwire.loaders.messages import data, message
from reelwire.tests.page.test_page import DECODE, LOOK, PLAYS, SAMPLER, SENTENCE, TOASTS, film, keyframes
from reelwire.tests.support.host import PACK, ROOT, Host
from reelwire.tests.support.pages import RENDERERS, choose, exported, fit, load, render_with, run

if TYPE_CHECKING:
    from playwright.sync_api import Page

OUTSIDE = json.loads((ROOT / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))["reelwire"]["messages"][
    "outside_output"
]
# a run of what the page had kept earlier, while it shows something else
QUEUE_KEPT = "async () => { await app.api.queuePrompt(0, window.kept); }"
KEEP = "async () => { window.kept = await app.graphToPrompt(); }"
SHOWN = "() => app.rootGraph.id"
OPEN = "name => app.loadGraphData({ ...app.rootGraph.serialize(), id: crypto.randomUUID() }, true, true, name)"
SWITCH = "way => app.extensionManager.command.execute(`Workspace.${way}OpenedWorkflow`)"
END = """() => {
    window.ended = undefined;
    for (const kind of ["execution_success", "execution_error"])
        app.api.addEventListener(kind, ({ detail }) => { window.ended ??= [kind, detail]; });
}"""
ENDED = "() => window.ended && new Promise(done => setTimeout(() => done(true), 300))"


@pytest.fixture(scope="module", params=RENDERERS)
def view(page: Page, request: pytest.FixtureRequest) -> Iterator[tuple[Page, str]]:
    render_with(page, request.param)
    yield page, request.param
    render_with(page, "LiteGraph")


@pytest.fixture
def chinese(page: Page) -> Iterator[Page]:
    choose(page, "Comfy.Locale", "zh")
    yield page
    choose(page, "Comfy.Locale", "en")
    page.evaluate("() => sessionStorage.removeItem('late')")
    page.reload(wait_until="domcontentloaded")
    page.wait_for_function(READY, timeout=60_000)


def opened(page: Page, graph: dict[str, Any], name: str) -> str:
    """Open a graph in a new tab as a template is opened, with an id of its own, which is returned."""
    load(page, graph, f"API of {name}")
    page.evaluate(OPEN, name)
    page.wait_for_function(
        f"() => app.extensionManager.workflow.activeWorkflow.path.includes({json.dumps('/' + name)})"
    )
    return page.evaluate(SHOWN)


def reload(page: Page) -> None:
    page.wait_for_timeout(1500)  # the page saves what is open a little later
    page.reload(wait_until="domcontentloaded")
    page.wait_for_function(READY, timeout=60_000)


# ---------------------------------------------------------------- the first error


def test_the_very_first_error_is_chinese(chinese: Page) -> None:
    reload(chinese)
    load(chinese, keyframes(8, 8), "first error")
    kind, told = run(chinese)
    assert kind == "execution_error"
    assert "关键帧" in told["exception_message"]
    chinese.wait_for_selector(".reelwire-toast")
    assert "关键帧" in chinese.evaluate(TOASTS)[0]
    assert "关键帧" in chinese.evaluate(LOOK, "8")["error"]


def test_an_error_is_told_anew_where_the_texts_come_late(chinese: Page) -> None:
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
    reload(chinese)
    load(chinese, keyframes(8, 8), "late texts")
    kind, _ = run(chinese)
    assert kind == "execution_error"
    chinese.wait_for_selector(".reelwire-toast")
    assert SENTENCE in chinese.evaluate(LOOK, "8")["error"], "the texts were there: nothing is tested"
    chinese.evaluate("() => window.release()")
    chinese.wait_for_function(f"() => ({LOOK})('8').error.includes('关键帧')")
    chinese.wait_for_function(f"() => ({TOASTS})().length === 1 && ({TOASTS})()[0].includes('关键帧')")


def test_what_is_refused_before_the_run_is_chinese(chinese: Page) -> None:
    load(chinese, film("/outside"), "refused")
    chinese.evaluate("() => app.queuePrompt(0, 1)")
    chinese.wait_for_function(f"() => ({TOASTS})().length === 1 && ({TOASTS})()[0].includes({json.dumps(OUTSIDE)})")
    assert OUTSIDE in chinese.evaluate(LOOK, DECODE)["error"]


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
    page.evaluate(END)
    page.evaluate(QUEUE_KEPT)
    page.wait_for_function(ENDED)
    assert page.evaluate("() => window.ended[0]") == "execution_success"
    assert SENTENCE in page.evaluate(LOOK, "8")["error"]
    assert len(page.evaluate(TOASTS)) == 1


def test_a_run_of_another_workflow_shows_nothing_here(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    host.free()
    other = opened(page, film(f"page/other {renderer}"), f"A in {renderer}")
    page.evaluate(KEEP)
    here = opened(page, film(f"page/here {renderer}"), f"B in {renderer}")
    page.evaluate(END)
    page.evaluate(QUEUE_KEPT)
    page.wait_for_function(ENDED)
    kind, told = page.evaluate("() => window.ended")
    assert kind == "execution_success"
    assert other != here
    assert page.evaluate("name => app.nodeOutputs[name] ?? null", DECODE) is None, "the page would show it on a node"
    for ways in ((), ("Previous", "Next")):
        for way in ways:
            page.evaluate(SWITCH, way)
            page.wait_for_timeout(500)
        assert page.evaluate(SHOWN) == here
        for name in ("1", "2", SAMPLER, DECODE):
            look = page.evaluate(LOOK, name)
            assert (look["words"], look["video"], look["steps"]) == ("", None, 0), name
    # not even where a run of this tab was another workflow's
    stored = "([node, prompt]) => sessionStorage.setItem('reelwire.prompts', JSON.stringify({[app.extensionManager.workflow.activeWorkflow.path]: {[node]: prompt}}))"
    page.evaluate(stored, [DECODE, told["prompt_id"]])
    reload(page)
    page.wait_for_timeout(1000)
    assert page.evaluate(SHOWN) == here
    assert page.evaluate(LOOK, DECODE)["video"] is None


def test_the_last_run_is_there_after_a_reload_though_another_tab_was_in_front(view: tuple[Page, str]) -> None:
    page, renderer = view
    name = renderer.replace(" ", "_")
    here = opened(page, film(f"page/earlier_{name}"), f"C in {renderer}")
    assert run(page)[0] == "execution_success"
    rename = (
        "([id, prefix]) => app.rootGraph.getNodeById(id).widgets.find(w => w.name === 'filename_prefix').value = prefix"
    )
    page.evaluate(rename, [DECODE, f"page/last_{name}"])
    page.evaluate(KEEP)
    opened(page, film(f"page/front_{name}"), f"D in {renderer}")
    page.evaluate(END)
    page.evaluate(QUEUE_KEPT)
    page.wait_for_function(ENDED)
    for _ in range(2):  # over the tab in which D was made
        page.evaluate(SWITCH, "Previous")
        page.wait_for_timeout(500)
    assert page.evaluate(SHOWN) == here
    reload(page)
    page.wait_for_function(
        f"name => ({LOOK})('{DECODE}').video?.src.includes(name)", arg=f"last_{name}", timeout=10_000
    )


def test_an_error_of_another_workflow_marks_nothing_here(view: tuple[Page, str]) -> None:
    page, renderer = view
    opened(page, keyframes(8, 8), f"A failed in {renderer}")
    page.evaluate(KEEP)
    opened(page, keyframes(8, -1), f"B fine in {renderer}")
    page.evaluate(END)
    page.evaluate(QUEUE_KEPT)
    page.wait_for_function(ENDED)
    assert page.evaluate("() => window.ended[0]") == "execution_error"
    assert SENTENCE in page.evaluate(TOASTS)[0], "it is told"
    assert [page.evaluate(LOOK, name)["error"] for name in ("7", "8", SAMPLER)] == ["", "", ""]


def test_results_that_come_late_do_not_overwrite_the_next_run(page: Page) -> None:
    load(page, film("page/late"), "late")
    told = {
        "reelwire": [json.dumps(data("of the run before"))],
        "reelwire_chart": [json.dumps({"title": "", "rows": []})],
    }
    page.evaluate(
        f"""async told => {{
            const {{ showOutputs }} = await import("/extensions/{PACK}/results.mjs");
            showOutputs({{ 4: told }});
            app.api.dispatchCustomEvent("executing", "4");
            await new Promise(done => setTimeout(done, 200));
        }}""",
        told,
    )
    assert page.evaluate(LOOK, SAMPLER)["words"] == ""


def test_a_node_that_runs_keeps_its_words_when_outputs_come_back(page: Page) -> None:
    load(page, film("page/running"), "running")
    note = {"node": SAMPLER, "messages": [data("so far")], "passing": False}
    page.evaluate(
        """async note => {
            app.api.dispatchCustomEvent("executing", note.node);
            app.api.dispatchCustomEvent("reelwire.note", note);
            await new Promise(done => setTimeout(done, 200));
            app.nodeOutputs = { ...app.nodeOutputs };
            await new Promise(done => setTimeout(done, 200));
        }""",
        note,
    )
    assert page.evaluate(LOOK, SAMPLER)["lines"] == ["so far"]
    page.evaluate("() => app.api.dispatchCustomEvent('executing', null)")


# ---------------------------------------------------------------- sizes


def test_a_resize_after_a_run_is_saved(view: tuple[Page, str]) -> None:
    page, renderer = view
    load(page, film(f"page/resized {renderer}"), f"resized in {renderer}")
    kind, told = run(page)
    assert kind == "execution_success", told
    page.wait_for_function(PLAYS, arg=DECODE)
    fit(page)
    page.wait_for_timeout(300)
    before = height(page)
    if renderer == "LiteGraph":
        page.evaluate("() => { const n = app.rootGraph.getNodeById('4'); n.setSize([n.size[0], n.size[1] + 200]); }")
    else:
        *_, right, bottom = page.evaluate(LOOK, SAMPLER)["box"]
        page.evaluate("() => { const n = app.rootGraph.getNodeById('4'); app.canvas.bringToFront(n); }")
        scale = page.evaluate("() => app.canvas.ds.scale")
        page.mouse.move(right - 1, bottom - 1)
        page.mouse.down()
        page.mouse.move(right - 1, bottom + 100 * scale, steps=4)
        page.mouse.move(right - 1, bottom + 200 * scale, steps=4)
        page.mouse.up()
        page.wait_for_timeout(300)
    after = height(page)
    assert after["shown"] - before["shown"] == pytest.approx(200, abs=10)
    assert after["saved"] == pytest.approx(after["shown"] - after["panel"], abs=1)


def height(page: Page) -> dict[str, float]:
    """Of the sampler: as it is shown, as it is saved, and of its panel."""
    _, graph = exported(page)
    assert all(isinstance(side, (int, float)) for told in graph["nodes"] for side in told["size"])
    (saved,) = [told["size"][1] for told in graph["nodes"] if str(told["id"]) == SAMPLER]
    shown, panel = page.evaluate(
        """id => {
            const node = app.rootGraph.getNodeById(id);
            const panel = node.widgets.find(widget => widget.name === "reelwire_panel").element;
            return [node.size[1], panel.querySelector(".reelwire-content").offsetHeight + 16];
        }""",
        SAMPLER,
    )
    return {"shown": shown, "saved": saved, "panel": panel}
