"""Pictures a second that ComfyUI's page draws with a graph of 100 nodes while a video is sampled: ours beside stock.

python bench/live/page.py [--seconds 5] [--rounds 3] [--out page.json]

COMFYUI_DIR names the host, REELWIRE_CHROMIUM the browser, which draws without a graphics card. In both graphs the same
four nodes of ours make the video, of the bundled model; 96 more lie around them that nothing asks for: four kinds of
ours, or four of ComfyUI's that do the same. Pictures are counted by requestAnimationFrame: with all nodes in view, and
near, with the sampler at its full size; while the page is only looked at, and while the canvas is moved a little with
each picture, as a person does who drags it. The longest gap between two is told beside. The sides take turns, and of
the rounds the middle one counts: figures are of one machine, and what else it does is to be the same for both.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

import_pack()
from reelwire.bench.export_workflow import open_page
from reelwire.tests.support.host import Host, Prompt, boot, node
from reelwire.tests.support.page import pages

if TYPE_CHECKING:
    from playwright.sync_api import Page

OUT = Path(__file__).with_suffix(".json")
GROUPS = 24  # of four nodes
LOADER = dict(checkpoint="bundled/tiny_ltx", text_encoder="auto", vae="auto", precision="auto")
GRID = """() => app.rootGraph.nodes.forEach((node, i) => {
    node.pos = [(i % 10) * 420, Math.floor(i / 10) * 560];
})"""
COUNT = """async ([seconds, moved]) => {
    const ds = app.canvas.ds;
    const [start, times] = [performance.now(), []];
    while (performance.now() - start < 1000 * seconds) {
        if (moved) {
            ds.offset[0] += times.length % 120 < 60 ? 4 : -4;
            app.canvas.setDirty(true, true);
        }
        times.push(await new Promise(requestAnimationFrame));
    }
    const gaps = times.slice(1).map((time, i) => time - times[i]);
    return [(1000 * gaps.length) / (times.at(-1) - times[0]), Math.max(...gaps)];
}"""
NEAR = """() => {
    app.canvas.ds.scale = 1;
    app.canvas.centerOnNode(app.rootGraph.getNodeById("3"));
    app.canvas.setDirty(true, true);
}"""
SAMPLES = """() => app.rootGraph.nodes.some(node => node.type === "ReelwireSampler"
    && node.widgets.find(widget => widget.name === "reelwire_panel")?.element.querySelector(".reelwire-live img"))"""


def made(prefix: str) -> Prompt:
    """The four nodes that make a video, of more steps than the measurement takes."""
    return {
        "1": node("ReelwireLoadLTX", **LOADER),
        "2": node("ReelwireEncodePrompt", model=["1", 0], positive="a red circle", negative=""),
        "3": node("ReelwireSampler", model=["1", 0], conditioning=["2", 0], frames=49, steps=1000, seed=7),
        "4": node("ReelwireDecodeToVideo", model=["1", 0], latent=["3", 0], filename_prefix=prefix),
    }


def ours(n: int) -> Prompt:
    """Four more nodes of ours, with ids from n on."""
    a, b, c, d = (str(n + i) for i in range(4))
    return {
        a: node("ReelwireLoadLTX", **LOADER),
        b: node("ReelwireTeaCache", model=[a, 0], threshold=0.2, coefficients="auto"),
        c: node("ReelwireEncodePrompt", model=[a, 0], positive="a red circle", negative=""),
        d: node("ReelwireSampler", model=[b, 0], conditioning=[c, 0], steps=4, seed=7),
    }


def stock(n: int) -> Prompt:
    """Four of ComfyUI's."""
    a, b, c, d = (str(n + i) for i in range(4))
    return {
        a: node("CheckpointLoaderSimple", ckpt_name=""),
        b: node("FreeU_V2", model=[a, 0]),
        c: node("CLIPTextEncode", clip=[a, 1], text="a red circle"),
        d: node("KSampler", model=[b, 0], positive=[c, 0], negative=[c, 0], steps=4, seed=7),
    }


def measure(page: Page, graph: Prompt, name: str, seconds: float) -> dict[str, float]:
    """Pictures a second while the first nodes of a graph make a video."""
    pages.load(page, graph, name)
    page.evaluate(GRID)
    pages.fit(page)
    page.evaluate(pages.WATCH)
    page.evaluate("() => app.queuePrompt(0, 1)")
    page.wait_for_function(SAMPLES)
    row = dict[str, float]()
    for kind, moved in (("all nodes", False), ("all nodes, moved", True), ("near", False), ("near, moved", True)):
        if kind == "near":
            page.evaluate(NEAR)
            pages.settles(page, "() => [app.canvas.ds.scale, ...app.canvas.ds.offset]")
        rate, gap = page.evaluate(COUNT, [seconds, moved])
        row |= {kind: round(rate, 1), f"{kind}: longest gap in ms": round(gap)}
    assert page.evaluate("() => window.ended === undefined"), "the sampling ended before it was measured"
    page.evaluate("() => app.api.interrupt()")
    pages.ended(page)
    return row


def compare(page: Page, seconds: float, rounds: int) -> dict[str, dict[str, Any]]:
    """Both graphs in both renderers."""
    rows = dict[str, dict[str, Any]]()
    for renderer in pages.RENDERERS:
        pages.render_with(page, renderer)
        found: dict[str, list[dict[str, float]]] = {"ours": [], "stock": []}
        for number in range(rounds):
            for name, kind in (("ours", ours), ("stock", stock)):
                graph = made(f"bench/{name}")
                for group in range(GROUPS):
                    graph |= kind(10 + 4 * group)
                found[name].append(measure(page, graph, f"{name} in {renderer} {number}", seconds))
                print(renderer, name, found[name][-1], flush=True)
        rows[renderer] = {
            name: {key: median(row[key] for row in each) for key in each[0]} for name, each in found.items()
        }
    return rows


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seconds", type=float, default=5, help="that each count takes")
    options.add_argument("--out", type=Path, default=OUT)
    options.add_argument("--rounds", type=int, default=3, help="of both sides; the middle one counts")
    chosen = options.parse_args()
    with (
        tempfile.TemporaryDirectory() as base,
        boot(Path(os.environ["COMFYUI_DIR"]), Path(base), kind=Host) as host,
        open_page(host.url) as page,
    ):
        pages.prepare(page, 1)
        rows = compare(page, chosen.seconds, chosen.rounds)
    chosen.out.write_text(json.dumps({"nodes": 4 + 4 * GROUPS, **rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
