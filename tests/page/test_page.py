"""What a person sees on the nodes in ComfyUI's page, in both of its renderers: results, words, errors and colours."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from reelwire.bench.export_workflow import READY
from reelwire.tests.support.host import Host, Prompt, node
from reelwire.tests.support.pages import RENDERERS, choose, exported, fit, load, render_with, run
from reelwire.tests.support.screenshots import Screenshots

if TYPE_CHECKING:
    from playwright.sync_api import Page

SAMPLER, DECODE, PROMPT = "4", "5", "3"
TYPES = ("VIDEO_MODEL", "VIDEO_CONDITIONING", "KEYFRAMES", "VIDEO_CONTROL")
LOADER = node("ReelwireLoadLTX", checkpoint="bundled/tiny_ltx", text_encoder="auto", vae="auto", precision="auto")
ONE_PROMPT = json.dumps({"unit": "frames", "prompts": [{"at": 0, "text": "a red circle"}]})
# everything on the node of an id: its box, its panel and what is in it, and what the page itself shows there
LOOK = """id => {
    const node = app.rootGraph.getNodeById(id);
    const element = node.widgets?.find(widget => widget.name === "reelwire_panel")?.element;
    const corners = ({ left, top, right, bottom }) => [left, top, right, bottom];
    const box = element => corners(element.getBoundingClientRect());
    const [scale, { left, top }] = [app.canvas.ds.scale, app.canvas.canvas.getBoundingClientRect()];
    const [x, y] = node.pos.map((at, i) => (at + app.canvas.ds.offset[i]) * scale + [left, top][i]);
    const inVue = document.querySelector(`[data-node-id="${id}"]`);
    const video = element?.querySelector("video");
    return {
        box: LiteGraph.vueNodesMode ? box(inVue) : [x, y, x + node.size[0] * scale, y + node.size[1] * scale],
        content: element && box(element.firstElementChild),
        words: element?.innerText ?? "",
        lines: [...(element?.querySelectorAll(".reelwire-words > div") ?? [])].map(line => line.textContent),
        cut: [...(element?.querySelectorAll("*") ?? [])].some(
            part => part.scrollWidth > part.clientWidth + 1 && part.clientWidth),
        steps: element?.querySelectorAll("rect").length ?? 0,
        legend: [...(element?.querySelectorAll("figcaption > *") ?? [])].map(entry => entry.textContent),
        error: element?.querySelector(".reelwire-error")?.textContent ?? "",
        video: video && { src: video.src, ready: video.readyState, paused: video.paused, muted: video.muted,
            loop: video.loop },
        pictures: (inVue ?? element)?.querySelectorAll("img").length ?? 0,
        others: (node.imgs?.length ?? 0) + (inVue?.querySelectorAll("video").length ?? 0) - (inVue && video ? 1 : 0),
        marked: LiteGraph.vueNodesMode
            ? getComputedStyle(inVue.querySelector("[data-testid=node-inner-wrapper]")).boxShadow.includes("4px")
            : Boolean(node.has_errors || node.strokeStyles.executionError.call(node)),
    };
}"""
PLAYS = f"id => {{ const {{ video }} = ({LOOK})(id); return video && video.ready >= 2 && !video.paused; }}"
PREVIEWS = """() => {
    window.previews = [];
    app.api.addEventListener("b_preview_with_metadata", async ({ detail }) => {
        const { width, height } = await createImageBitmap(detail.blob);
        await new Promise(drawn => requestAnimationFrame(() => requestAnimationFrame(drawn)));
        const images = [...document.querySelectorAll("img[src^='blob:']")];
        const shown = images.some(image => image.naturalWidth && image.offsetHeight);
        window.previews.push([detail.displayNodeId, width, height, shown]);
    });
}"""


def film(filename_prefix: str) -> Prompt:
    """A graph whose sampler has a cache that tells all that there is to tell."""
    return {
        "1": LOADER,
        "2": node("ReelwireTeaCache", model=["1", 0], threshold=0.2, coefficients="auto"),
        PROMPT: node("ReelwireEncodePrompt", model=["1", 0], positive="a red circle", negative=""),
        SAMPLER: node("ReelwireSampler", model=["2", 0], conditioning=[PROMPT, 0], steps=20, seed=7),
        DECODE: node("ReelwireDecodeToVideo", model=["1", 0], latent=[SAMPLER, 0], filename_prefix=filename_prefix),
    }


def keyframes(first: int, second: int) -> Prompt:
    """A graph with two keyframes, numbers 7 and 8, the second after the first."""
    return film("page/keyframes") | {
        "9": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "7": node("ReelwireKeyframe", image=["9", 0], frame=first),
        "8": node("ReelwireKeyframe", image=["9", 0], frame=second, keyframes=["7", 0]),
        SAMPLER: node("ReelwireSampler", model=["1", 0], conditioning=[PROMPT, 0], steps=4, seed=7, keyframes=["8", 0]),
    }


class Ran(NamedTuple):
    """A graph after its first run. told: node -> its lines in the history; before: what the page exported earlier."""

    page: Page
    renderer: str
    told: dict[str, list[str]]
    before: tuple[Prompt, dict[str, Any]]
    previews: list[tuple[str, int, int, bool]]

    def look(self, name: str) -> dict[str, Any]:
        return self.page.evaluate(LOOK, name)


@pytest.fixture(scope="module")
def screenshots(request: pytest.FixtureRequest) -> Screenshots:
    return Screenshots.of(request.config)


@pytest.fixture(scope="module", params=RENDERERS)
def view(page: Page, request: pytest.FixtureRequest) -> Iterator[tuple[Page, str]]:
    """(the page, its renderer); no error of a pack's script may come while it is looked at."""
    said: list[str] = []
    listen = lambda error: said.extend([error.stack] if "/extensions/" in (error.stack or "") else [])
    page.on("pageerror", listen)
    render_with(page, request.param)
    yield page, request.param
    render_with(page, "LiteGraph")
    page.remove_listener("pageerror", listen)
    assert not said


@pytest.fixture(scope="module")
def ran(view: tuple[Page, str], host: Host, screenshots: Screenshots) -> Ran:
    page, renderer = view
    host.free()  # what is cached says nothing anew
    load(page, film(f"page/{renderer}"), f"film in {renderer}")
    before = exported(page)
    page.evaluate(PREVIEWS)
    kind, data = run(page)
    assert kind == "execution_success", data
    page.wait_for_function(PLAYS, arg=DECODE)
    outputs = host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]["outputs"]
    told = {name: output["text"] for name, output in outputs.items() if "text" in output}
    fit(page)
    screenshots.take(page, f"run en {renderer}")
    return Ran(page, renderer, told, before, page.evaluate("() => window.previews"))


def test_the_video_plays_on_the_node(ran: Ran) -> None:
    video = ran.look(DECODE)["video"]
    assert ".mp4" in video["src"]
    assert video["ready"] >= 2
    assert not video["paused"]
    assert video["muted"]
    assert video["loop"]


def test_the_video_is_shown_once_and_no_preview_beside_it(ran: Ran) -> None:
    ran.page.wait_for_function(f"id => ({LOOK})(id).pictures === 0", arg=DECODE, timeout=5000)
    assert ran.look(DECODE)["others"] == 0


@pytest.mark.parametrize("name", [SAMPLER, DECODE])
def test_the_node_encloses_what_it_shows(ran: Ran, name: str) -> None:
    look = ran.look(name)
    (left, top, right, bottom), (x0, y0, x1, y1) = look["box"], look["content"]
    assert left - 1 <= x0 < x1 <= right + 1
    assert top - 1 <= y0 < y1 <= bottom + 1
    assert y1 - y0 > 20


def test_the_sampler_has_the_chart_with_its_legend(ran: Ran) -> None:
    look = ran.look(SAMPLER)
    assert look["steps"] == 20
    assert look["legend"] == ["step computed", "step reused", "change since the step before"]


@pytest.mark.parametrize("name", [SAMPLER, "1", "2"])
def test_all_words_of_the_report_are_there(ran: Ran, name: str) -> None:
    look = ran.look(name)
    assert look["lines"] == ran.told[name]
    assert not look["cut"]


def test_previews_come_while_it_runs_in_the_size_that_comfyui_asks_for(ran: Ran) -> None:
    assert {name for name, *_ in ran.previews} >= {SAMPLER, DECODE}
    assert {size for _, *size, _ in ran.previews for size in [tuple(size)]} == {(512, 512)}
    assert all(shown for *_, shown in ran.previews)


def test_a_node_that_has_nothing_to_say_has_no_panel(ran: Ran) -> None:
    assert ran.look(PROMPT)["content"] is None


def test_what_is_saved_is_what_it_was_before_the_run(ran: Ran) -> None:
    prompt, graph = exported(ran.page)
    assert prompt == ran.before[0]
    saved, before = ({n["id"]: n for n in made["nodes"]} for made in (graph, ran.before[1]))
    assert {k: n.get("widgets_values") for k, n in saved.items()} == {
        k: n.get("widgets_values") for k, n in before.items()
    }
    assert {k: n["size"] for k, n in saved.items()} == {k: n["size"] for k, n in before.items()}


def shown(ran: Ran) -> dict[str, Any]:
    """What the nodes show of a run, but for the preview."""
    ran.page.wait_for_function(PLAYS, arg=DECODE, timeout=20_000)
    return {name: {k: ran.look(name)[k] for k in ("lines", "steps", "legend")} for name in ("2", SAMPLER, DECODE)}


def test_all_of_it_is_there_after_a_cached_rerun(ran: Ran) -> None:
    before = shown(ran)
    kind, _ = run(ran.page)
    assert kind == "execution_success"
    assert shown(ran) == before


def test_all_of_it_is_there_after_a_tab_switch(ran: Ran) -> None:
    before = shown(ran)
    for way in ("Previous", "Next"):
        ran.page.evaluate(f"() => app.extensionManager.command.execute('Workspace.{way}OpenedWorkflow')")
        ran.page.wait_for_timeout(500)
    assert shown(ran) == before


def test_all_of_it_is_there_after_a_reload(ran: Ran) -> None:
    before = shown(ran)
    ran.page.wait_for_timeout(1500)  # the page saves what is open a little later
    ran.page.reload(wait_until="domcontentloaded")
    ran.page.wait_for_function(READY, timeout=60_000)
    assert shown(ran) == before


def test_a_long_video_ends_on_its_video_and_its_last_sentence(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    settings = {"frames": 33, "window": 17, "steps": 4, "seed": 7, "filename_prefix": f"page/long {renderer}"}
    graph = {"1": LOADER, "2": node("ReelwireLongVideo", model=["1", 0], timeline=ONE_PROMPT, **settings)}
    load(page, graph, f"long in {renderer}")
    kind, data = run(page)
    assert kind == "execution_success", data
    page.wait_for_function(PLAYS, arg="2")
    look = page.evaluate(LOOK, "2")
    told = host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]["outputs"]["2"]["text"]
    assert look["lines"] == told
    assert ".mp4" in look["video"]["src"]
    assert look["others"] == 0


def test_an_estimate_is_there_in_full(view: tuple[Page, str], host: Host) -> None:
    page, renderer = view
    load(page, {"1": LOADER, "2": node("ReelwireEstimate", model=["1", 0])}, f"estimate in {renderer}")
    kind, data = run(page)
    assert kind == "execution_success", data
    page.wait_for_function(f"() => ({LOOK})('2').lines.length > 10")
    fit(page)
    look = page.evaluate(LOOK, "2")
    assert look["lines"] == host.get(f"/history/{data['prompt_id']}")[data["prompt_id"]]["outputs"]["2"]["text"]
    assert look["box"][3] >= look["content"][3] > look["content"][1]
    assert not look["cut"]
    font = page.evaluate("() => getComputedStyle(document.querySelector('.reelwire-words')).fontFamily")
    assert "monospace" in font


# ---------------------------------------------------------------- errors

TOASTS = "() => [...document.querySelectorAll('.reelwire-toast .p-toast-detail')].map(toast => toast.textContent)"
SENTENCE = "Two keyframes cannot share frames."


def toast(page: Page) -> str:
    """The sentence of the one toast of ours."""
    page.wait_for_function(f"() => ({TOASTS})().length === 1")  # that of an earlier error takes a while to go
    return page.evaluate(TOASTS)[0]


@pytest.fixture
def failed(view: tuple[Page, str], screenshots: Screenshots) -> Page:
    """The page after a run that failed: Sample Video stopped, and Keyframe 8 has caused it."""
    page, renderer = view
    load(page, keyframes(8, 8), f"failed in {renderer}")
    kind, _ = run(page)
    assert kind == "execution_error"
    page.wait_for_selector(".reelwire-toast")
    screenshots.take(page, f"error en {renderer}")
    return page


def test_an_error_is_told_in_a_toast(failed: Page) -> None:
    assert SENTENCE in toast(failed)
    assert "reelwire.loaders" not in failed.evaluate("() => document.body.innerText")


def test_the_toast_does_not_hide_the_pages_own_notice_nor_it_the_toast(failed: Page) -> None:
    failed.wait_for_function("() => document.querySelectorAll('.reelwire-toast').length === 1")  # an earlier one fades
    boxes = [failed.locator(name).bounding_box() for name in (".reelwire-toast", "[data-testid=error-overlay]")]
    ours, pages = boxes
    assert ours is not None
    assert pages is not None
    assert ours["y"] >= pages["y"] + pages["height"]
    covered = """() => [...document.querySelectorAll("[data-testid=error-overlay] button")].filter(button => {
        const { x, y, width, height } = button.getBoundingClientRect();
        return !button.contains(document.elementFromPoint(x + width / 2, y + height / 2));
    }).length"""
    assert failed.evaluate(covered) == 0, "a button of the page's notice cannot be clicked"


def test_the_cause_is_marked_and_not_the_node_that_stopped(failed: Page) -> None:
    failed.wait_for_function(f"() => ({LOOK})('8').marked")
    cause, stopped = failed.evaluate(LOOK, "8"), failed.evaluate(LOOK, SAMPLER)
    assert SENTENCE in cause["error"]
    assert (cause["marked"], stopped["marked"]) == (True, False)
    assert stopped["error"] == ""


def test_the_mark_and_the_toast_go_with_the_next_run(failed: Page) -> None:
    failed.evaluate("() => app.rootGraph.getNodeById('8').widgets.find(w => w.name === 'frame').value = -1")
    kind, data = run(failed)
    assert kind == "execution_success", data
    look = failed.evaluate(LOOK, "8")
    assert (look["error"], look["marked"], look["content"]) == ("", False, None)
    failed.wait_for_function(f"() => ({TOASTS})().length === 0")


def test_what_is_refused_before_the_run_is_told_too(view: tuple[Page, str]) -> None:
    page, renderer = view
    load(page, film("/outside"), f"refused in {renderer}")
    page.evaluate("() => app.queuePrompt(0, 1)")
    page.wait_for_function(f"() => ({TOASTS})().length === 1 && ({TOASTS})()[0].includes('leads outside')")
    look = page.evaluate(LOOK, DECODE)
    assert "It leads outside ComfyUI's output folder." in look["error"]
    assert look["error"] == toast(page)
    assert look["marked"]


# ---------------------------------------------------------------- colours and languages


@pytest.mark.parametrize("theme", ["dark", "light"])
def test_our_types_have_colours_of_their_own(view: tuple[Page, str], theme: str) -> None:
    page, _ = view
    choose(page, "Comfy.ColorPalette", theme)
    page.wait_for_function("() => app.canvas.default_connection_color_byType.KEYFRAMES")
    colours: dict[str, list[str]] = page.evaluate(
        """types => Object.fromEntries(types.map(type => [type, [
            app.canvas.default_connection_color_byType[type],
            LGraphCanvas.link_type_colors[type],
            getComputedStyle(document.documentElement).getPropertyValue(`--color-datatype-${type}`),
        ]]))""",
        [*TYPES, "MODEL", "CONDITIONING", "IMAGE", "LATENT"],
    )
    choose(page, "Comfy.ColorPalette", "dark")
    for type_ in TYPES:
        assert len(set(colours[type_])) == 1, "a slot, a wire and Nodes 2.0 differ"
    assert len({found[0].lower() for found in colours.values()}) == len(colours)


def test_in_a_chinese_page_the_words_are_chinese(view: tuple[Page, str], screenshots: Screenshots) -> None:
    page, renderer = view
    choose(page, "Comfy.Locale", "zh")
    try:
        page.reload(wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=60_000)
        load(page, film(f"page/zh {renderer}"), f"zh in {renderer}")
        kind, data = run(page)
        assert kind == "execution_success", data
        page.wait_for_function(PLAYS, arg=DECODE)
        fit(page)
        screenshots.take(page, f"run zh {renderer}")
        assert page.evaluate(LOOK, SAMPLER)["legend"] == ["计算的步", "复用的步", "与上一步的差异"]
        load(page, keyframes(8, 8), f"zh failed in {renderer}")
        run(page)
        assert "关键帧" in toast(page)
        screenshots.take(page, f"error zh {renderer}")
    finally:
        choose(page, "Comfy.Locale", "en")
        page.reload(wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=60_000)
