"""What a person sees on the nodes in ComfyUI's page, in both of its renderers: results, words, errors and colours."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from reelwire.tests.support.host import PACK, ROOT, Host, Prompt, node
from reelwire.tests.support.page.node_views import (
    DECODE,
    KEYFRAME,
    LOADER,
    LOOK,
    ONE_PROMPT,
    PROMPT,
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
    becomes,
    choose,
    choose_language,
    exported,
    fit,
    load,
    reload,
    run,
    settles,
    switch,
)
from reelwire.tests.support.page.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page

TYPES = ("VIDEO_MODEL", "VIDEO_CONDITIONING", "KEYFRAMES", "VIDEO_CONTROL")
# the size of each preview that comes, and how many times one was drawn where it can be seen
PREVIEWS = """() => {
    [window.previews, window.drawn] = [[], 0];
    app.api.addEventListener("b_preview_with_metadata", async ({ detail }) => {
        const preview = [detail.displayNodeId, 0, 0];
        window.previews.push(preview);
        const { width, height } = await createImageBitmap(detail.blob);
        preview.splice(1, 2, width, height);
    });
    const pictures = ".reelwire-screen > img, .reelwire-content > img[src^='blob:']";
    const count = () => [...document.querySelectorAll(pictures)].filter(picture => picture.offsetHeight > 0).length;
    const draw = () => { window.drawn += count(); requestAnimationFrame(draw); };
    draw();
}"""
SIZES_OF_PREVIEWS = "() => [...new Set(window.previews.map(([, width, height]) => `${width} x ${height}`))]"


class Ran(NamedTuple):
    """A graph after its first run: its lines by node as the history has them, and what the page exported before."""

    page: Page
    renderer: str
    lines: dict[str, list[str]]
    before: tuple[Prompt, dict[str, Any]]


@pytest.fixture(scope="module")
def ran(view: tuple[Page, str], host: Host, screenshots: Screenshots) -> Ran:
    page, renderer = view
    host.free()  # what is cached says nothing anew
    load(page, film(f"page/{renderer}"), f"film in {renderer}")
    before = exported(page)
    page.evaluate(PREVIEWS)
    kind, data = run(page)
    assert kind == "execution_success", data
    video_of(page, DECODE)
    outputs = host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]["outputs"]
    fit(page)
    screenshots.take(page, f"run en {renderer}")
    return Ran(page, renderer, {name: output["text"] for name, output in outputs.items() if "text" in output}, before)


def test_previews_come_while_it_runs_in_the_size_that_comfyui_asks_for(ran: Ran) -> None:
    becomes(ran.page, SIZES_OF_PREVIEWS, ["512 x 512"])
    assert {name for name, *_ in ran.page.evaluate("() => window.previews")} >= {SAMPLER, DECODE}
    assert ran.page.evaluate("() => window.drawn") > 0


def test_the_video_plays_on_the_node(ran: Ran) -> None:
    video = video_of(ran.page, DECODE)
    assert ".mp4" in video["src"]
    assert (video["muted"], video["loop"]) == (True, True)


def test_the_video_is_shown_once_and_no_preview_beside_it(ran: Ran) -> None:
    becomes(ran.page, parts(("pictures", "others")), [0, 0], DECODE)


@pytest.mark.parametrize("name", [SAMPLER, DECODE])
def test_the_node_encloses_what_it_shows(ran: Ran, name: str) -> None:
    (left, top, right, bottom), (x0, y0, x1, y1) = settles(ran.page, parts(("box", "content")), name)
    assert left - 1 <= x0 < x1 <= right + 1
    assert top - 1 <= y0 < y1 <= bottom + 1
    assert y1 - y0 > 20


def test_the_sampler_has_the_chart_with_its_legend(ran: Ran) -> None:
    legend = ["computed", "reused", "change of what the cache looks at"]
    becomes(ran.page, parts(("steps", "legend")), [20, legend], SAMPLER)


@pytest.mark.parametrize("name", [SAMPLER, "1", "2"])
def test_all_words_of_the_report_are_there(ran: Ran, name: str) -> None:
    becomes(ran.page, parts(("lines", "cut")), [ran.lines[name], False], name)


def test_a_node_that_has_nothing_to_say_has_no_panel(ran: Ran) -> None:
    becomes(ran.page, parts(("content",)), [None], PROMPT)


def test_what_is_saved_is_what_it_was_before_the_run(ran: Ran) -> None:
    settles(ran.page, parts(("box", "content")), SAMPLER)
    prompt, graph = exported(ran.page)
    assert prompt == ran.before[0]
    saved, before = (
        {n["id"]: (n.get("widgets_values"), n["size"]) for n in made["nodes"]} for made in (graph, ran.before[1])
    )
    assert saved == before


# ---------------------------------------------------------------- and again


SHOWN = ("lines", "steps", "legend")


def shown(ran: Ran) -> dict[str, Any]:
    """What the nodes show of a run, but for the preview."""
    video_of(ran.page, DECODE)
    return {name: ran.page.evaluate(parts(SHOWN), name) for name in ("2", SAMPLER, DECODE)}


def shows(ran: Ran, expected: dict[str, Any]) -> None:
    """Wait until the nodes show that."""
    for name, values in expected.items():
        becomes(ran.page, parts(SHOWN), values, name)
    video_of(ran.page, DECODE)


def test_all_of_it_is_there_after_a_cached_rerun(ran: Ran) -> None:
    before = shown(ran)
    kind, _ = run(ran.page)
    assert kind == "execution_success"
    shows(ran, before)


def test_all_of_it_is_there_after_a_tab_switch(ran: Ran) -> None:
    before = shown(ran)
    for direction in ("Previous", "Next"):
        switch(ran.page, direction)
    shows(ran, before)


def test_all_of_it_is_there_after_a_reload(ran: Ran, host: Host) -> None:
    """Though somebody else's prompt holds a number that is none, which the server's history writes as no JSON does."""
    before = shown(ran)
    host.post({"1": node("PrimitiveFloat", value=float("nan")), "2": node("PreviewAny", source=["1", 0])})
    assert "NaN" in host.read("/history?max_items=1").decode()
    reload(ran.page)
    shows(ran, before)


def test_a_long_video_ends_on_its_video_and_its_last_sentence(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    settings = {"frames": 33, "window": 17, "steps": 4, "seed": 7, "filename_prefix": f"page/long {renderer}"}
    graph = {"1": LOADER, "2": node("ReelwireLongVideo", model=["1", 0], timeline=ONE_PROMPT, **settings)}
    load(page, graph, f"long in {renderer}")
    kind, data = run(page)
    assert kind == "execution_success", data
    assert ".mp4" in video_of(page, "2")["src"]
    lines = host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]["outputs"]["2"]["text"]
    becomes(page, parts(("lines", "others")), [lines, 0], "2")


def test_an_estimate_is_there_in_full(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    load(page, {"1": LOADER, "2": node("ReelwireEstimate", model=["1", 0])}, f"estimate in {renderer}")
    kind, data = run(page)
    assert kind == "execution_success", data
    lines = host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]["outputs"]["2"]["text"]
    assert len(lines) > 10
    becomes(page, parts(("lines", "cut")), [lines, False], "2")
    fit(page)
    box, content = settles(page, parts(("box", "content")), "2")
    assert box[3] >= content[3] > content[1]
    font = page.evaluate(FONT, "2")
    assert "monospace" in font


FONT = """id => {
    const panel = app.rootGraph.getNodeById(id).widgets.find(widget => widget.name === "reelwire_panel").element;
    return getComputedStyle(panel.querySelector(".reelwire-words")).fontFamily;
}"""


# ---------------------------------------------------------------- errors

COVERS = """() => [...document.querySelectorAll("[data-testid=error-overlay] button")].flatMap(button => {
    const { x, y, width, height } = button.getBoundingClientRect();
    const found = document.elementFromPoint(x + width / 2, y + height / 2);
    return button.contains(found) ? [] : [`${button.innerText} is under ${found?.outerHTML.slice(0, 300)}`];
})"""
NOTICES = """() => [".reelwire-toast", "[data-testid=error-overlay]"].map(name => {
    const { top, bottom } = document.querySelector(name).getBoundingClientRect();
    return [top, bottom];
})"""


MANY_TOASTS = f"""async () => {{
    const {{ addToast }} = await import("/extensions/{PACK}/toasts.mjs");
    for (let i = 0; i < 30; i++) {{
        const remove = addToast({{ summary: "A node", detail: `Sentence ${{i}}` }}, () => {{}});
        await new Promise(requestAnimationFrame);
        remove();
    }}
}}"""
HAS_PANEL = "id => app.rootGraph.getNodeById(id).widgets.some(({ name }) => name === 'reelwire_panel')"
COUNT_REMOVED = """id => {
    const node = app.rootGraph.getNodeById(id), remove = node.removeWidget;
    window.removed = 0;
    node.removeWidget = function (widget) { window.removed++; return remove.call(this, widget); };
}"""


@pytest.fixture
def failed(view: tuple[Page, str], screenshots: Screenshots) -> Page:
    """The page after a run that failed: Sample Video stopped, and a Keyframe has caused it."""
    page, renderer = view
    load(page, keyframes(8, 8), f"failed in {renderer}")
    kind, _ = run(page)
    assert kind == "execution_error"
    toast(page, SENTENCE)
    screenshots.take(page, f"error en {renderer}")
    return page


def test_an_error_is_told_in_a_toast(failed: Page) -> None:
    assert SENTENCE in toast(failed, SENTENCE)
    assert "reelwire.loaders" not in failed.evaluate("() => document.body.innerText")


def test_the_toast_does_not_hide_the_pages_own_notice_nor_it_the_toast(failed: Page) -> None:
    failed.wait_for_selector("[data-testid=error-overlay]")
    becomes(failed, "() => document.querySelectorAll('.reelwire-toast').length", 1)  # an earlier one fades
    (ours, _), (_, bottom_of_pages) = settles(failed, NOTICES)
    assert ours >= bottom_of_pages
    becomes(failed, COVERS, [])  # all buttons of the page's notice can be clicked


def test_a_toast_of_the_pages_own_does_not_bring_ours_over_its_notice(view: tuple[Page, str]) -> None:
    page, renderer = view
    load(page, keyframes(8, 8), f"failed beside another in {renderer}")
    page.evaluate("() => app.extensionManager.toast.add({severity: 'warn', summary: 'Reconnecting'})")
    page.wait_for_selector(".p-toast-message:not(.reelwire-toast)")
    kind, _ = run(page)
    assert kind == "execution_error"
    toast(page, SENTENCE)
    page.wait_for_selector("[data-testid=error-overlay]")
    becomes(page, COVERS, [])
    page.evaluate("() => app.extensionManager.toast.removeAll()")


def test_a_toast_can_be_closed(failed: Page) -> None:
    failed.locator(".reelwire-toast").get_by_role("button", name="Close").click()
    becomes(failed, TOASTS, [])
    assert SENTENCE in failed.evaluate(LOOK, KEYFRAME)["error"], "the words on the node stay"


def test_toasts_leave_nothing_behind(view: tuple[Page, str]) -> None:
    """Of each of the page's own, 15 elements and 50 kB stay."""
    page, _ = view
    if page.context.browser and page.context.browser.browser_type.name != "chromium":
        pytest.skip("only Chromium says what it holds")
    session = page.context.new_cdp_session(page)
    counts = list[int]()
    for _ in range(2):
        page.evaluate(MANY_TOASTS)
        for _ in range(2):
            session.send("HeapProfiler.collectGarbage")
        counts.append(session.send("Memory.getDOMCounters")["nodes"])
    assert counts[1] - counts[0] < 100  # of 30


def test_a_node_that_runs_anew_keeps_its_panel(view: tuple[Page, str]) -> None:
    """Of each widget that comes and goes the page keeps a row."""
    page, renderer = view
    load(page, keyframes(0, 8), f"anew in {renderer}")
    assert run(page)[0] == "execution_success"
    becomes(page, HAS_PANEL, True, SAMPLER)
    page.evaluate(COUNT_REMOVED, SAMPLER)
    page.evaluate("id => app.rootGraph.getNodeById(id).widgets.find(({ name }) => name === 'seed').value = 8", SAMPLER)
    assert run(page)[0] == "execution_success"
    becomes(page, HAS_PANEL, True, SAMPLER)
    assert page.evaluate("() => window.removed") == 0


def test_the_cause_is_marked_and_not_the_node_that_stopped(failed: Page) -> None:
    becomes(failed, parts(("marked",)), [True], KEYFRAME)
    becomes(failed, parts(("marked", "error")), [False, ""], SAMPLER)
    assert SENTENCE in failed.evaluate(LOOK, KEYFRAME)["error"]


def test_the_mark_and_the_toast_go_with_the_next_run(failed: Page) -> None:
    widget = f"app.rootGraph.getNodeById('{KEYFRAME}').widgets.find(w => w.name === 'frame')"
    failed.evaluate(f"() => {widget}.value = -1")
    kind, data = run(failed)
    assert kind == "execution_success", data
    becomes(failed, parts(("error", "marked", "content")), ["", False, None], KEYFRAME)
    becomes(failed, TOASTS, [])


def test_what_is_refused_before_the_run_is_told_too(view: tuple[Page, str]) -> None:
    page, renderer = view
    load(page, film("/outside"), f"refused in {renderer}")
    page.evaluate("() => app.queuePrompt(0, 1)")
    sentence = toast(page, "It leads outside ComfyUI's output folder.")
    becomes(page, parts(("error", "marked")), [sentence, True], DECODE)


# ---------------------------------------------------------------- colours and languages

COLOURS = """types => Object.fromEntries(types.map(type => [type, [
    app.canvas.default_connection_color_byType[type],
    LGraphCanvas.link_type_colors[type],
    getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`),
]]))"""


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_our_types_have_colours_of_their_own(view: tuple[Page, str], theme: str) -> None:
    page, _ = view
    choose(page, "Comfy.ColorPalette", theme)
    page.wait_for_function("() => app.canvas.default_connection_color_byType.KEYFRAMES")
    colours = settles(page, COLOURS, [*TYPES, "MODEL", "CONDITIONING", "IMAGE", "LATENT"])
    choose(page, "Comfy.ColorPalette", "dark")
    for type_ in TYPES:
        assert len(set(colours[type_])) == 1, "a slot, a wire and Nodes 2.0 differ"
    assert len({found[0].lower() for found in colours.values()}) == len(colours)


def test_in_a_chinese_page_the_words_are_chinese(
    view: tuple[Page, str], chinese: Page, screenshots: Screenshots
) -> None:
    _, renderer = view
    load(chinese, film(f"page/zh {renderer}"), f"zh in {renderer}")
    kind, data = run(chinese)
    assert kind == "execution_success", data
    video_of(chinese, DECODE)
    fit(chinese)
    screenshots.take(chinese, f"run zh {renderer}")
    becomes(chinese, parts(("legend",)), [["已计算", "已复用", "缓存所观察的变化"]], SAMPLER)
    load(chinese, keyframes(8, 8), f"zh failed in {renderer}")
    kind, _ = run(chinese)
    assert kind == "execution_error"
    toast(chinese, "关键帧")
    screenshots.take(chinese, f"error zh {renderer}")


GALLERY = "[data-testid=template-workflows-content]"
CARDS_WITH_PICTURES = """() => [...document.querySelectorAll("[data-testid^='template-workflow-']")].filter(card => {
    const pictures = [...card.querySelectorAll("img")];
    return card.offsetHeight && pictures.length && pictures.every(picture => picture.complete && picture.naturalWidth);
}).length"""


CARDS = """count => [...document.querySelectorAll("[data-testid^='template-workflow-']")]
    .map(card => card.dataset.testid.replace("template-workflow-", "")).slice(0, count)"""
ON_BUNDLED = {file.stem: file.read_text(encoding="utf-8") for file in (ROOT / "workflows").glob("*.json")}
AT_ONCE = {name for name, text in ON_BUNDLED.items() if '"bundled/' in text and '"models": [' not in text}


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_gallery_shows_our_templates(page: Page, language: str, screenshots: Screenshots) -> None:
    """As its own category, each with its picture, those first that run at once."""
    choose_language(page, language)
    try:
        page.evaluate("() => app.extensionManager.command.execute('Comfy.BrowseTemplates')")
        gallery = page.locator(GALLERY)
        gallery.wait_for()
        page.get_by_role("dialog").get_by_text("reelwire", exact=True).first.click()
        page.wait_for_function(f"() => ({CARDS_WITH_PICTURES})() >= 4")
        first = page.evaluate(CARDS, len(AT_ONCE))
        assert first[0] == "Text to video - any model"
        assert {*first} == AT_ONCE
        screenshots.take(page, f"gallery {language}")
        page.keyboard.press("Escape")
        gallery.wait_for(state="detached")
    finally:
        choose_language(page, "en")
