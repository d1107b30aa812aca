"""What a node shows on ComfyUI's page, and the graphs whose nodes show something."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from ..host import Prompt, node

if TYPE_CHECKING:
    from playwright.sync_api import Page

SAMPLER, DECODE, PROMPT, KEYFRAME = "4", "5", "3", "8"  # ids of nodes in the graphs below
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
        video: video && { src: video.src, muted: video.muted, loop: video.loop },
        pictures: (inVue ?? element)?.querySelectorAll("img").length ?? 0,
        others: (node.imgs?.length ?? 0) + (inVue?.querySelectorAll("video").length ?? 0) - (inVue && video ? 1 : 0),
        marked: LiteGraph.vueNodesMode
            ? getComputedStyle(inVue.querySelector("[data-testid=node-inner-wrapper]")).boxShadow.includes("4px")
            : Boolean(node.has_errors || node.strokeStyles.executionError.call(node)),
    };
}"""
# two pictures of the video have come, one after the other
PLAYS = """id => {
    const node = app.rootGraph.getNodeById(id);
    const video = node?.widgets?.find(widget => widget.name === "reelwire_panel")?.element.querySelector("video");
    if (!video || video.readyState < 2 || video.paused) return false;
    window.playing ??= new WeakMap();
    if (!window.playing.has(video)) window.playing.set(video, video.currentTime);
    return video.currentTime !== window.playing.get(video);
}"""
TOASTS = "() => [...document.querySelectorAll('.reelwire-toast .p-toast-detail')].map(toast => toast.textContent)"
SENTENCE = "Two keyframes cannot share frames."


def film(filename_prefix: str, seed: int = 7) -> Prompt:
    """A graph whose sampler has a cache that says all that there is to say; what it has said of a seed already it says
    again in the same workflow alone."""
    return {
        "1": LOADER,
        "2": node("ReelwireTeaCache", model=["1", 0], threshold=0.2, coefficients="auto"),
        PROMPT: node("ReelwireEncodePrompt", model=["1", 0], positive="a red circle", negative=""),
        SAMPLER: node("ReelwireSampler", model=["2", 0], conditioning=[PROMPT, 0], steps=20, seed=seed),
        DECODE: node("ReelwireDecodeToVideo", model=["1", 0], latent=[SAMPLER, 0], filename_prefix=filename_prefix),
    }


def keyframes(first: int, second: int) -> Prompt:
    """A graph with two keyframes, nodes 7 and KEYFRAME, the second after the first."""
    return film("page/keyframes") | {
        "9": node("EmptyImage", width=64, height=64, batch_size=1, color=255),
        "7": node("ReelwireKeyframe", image=["9", 0], frame=first),
        KEYFRAME: node("ReelwireKeyframe", image=["9", 0], frame=second, keyframes=["7", 0]),
        SAMPLER: node(
            "ReelwireSampler", model=["1", 0], conditioning=[PROMPT, 0], steps=4, seed=7, keyframes=[KEYFRAME, 0]
        ),
    }


def parts(names: tuple[str, ...], of: str = LOOK) -> str:
    """A script that returns the named parts of what a node shows, in their order."""
    return f"id => {{ const shown = ({of})(id); return {json.dumps(names)}.map(name => shown[name]); }}"


def toast(page: Page, words: str) -> str:
    """The sentence of the one toast of ours, which holds these words; that of an earlier error takes a while to go."""
    page.wait_for_function(f"words => ({TOASTS})().length === 1 && ({TOASTS})()[0].includes(words)", arg=words)
    return page.evaluate(TOASTS)[0]


def video_of(page: Page, name: str) -> dict[str, Any]:
    """What the video on a node is, once it plays."""
    page.wait_for_function(PLAYS, arg=name)
    return page.evaluate(LOOK, name)["video"]
