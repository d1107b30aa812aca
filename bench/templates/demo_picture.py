"""Draws README's pictures with a running ComfyUI that has this pack: docs/demo.webp, which moves, six prompts through
workflows/api/ltx_t2v.json; and docs/first_graph.png, the template for any model in the page after its run.

python bench/templates/demo_picture.py --font NotoSansCJK-Regular.ttc [--url http://127.0.0.1:8188]
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import av
from PIL import Image, ImageDraw, ImageFont

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

import_pack()
from reelwire.bench.export_workflow import WORKFLOWS, file_of, open_page, run

PROMPTS = (
    "a red circle moving right\non a black background",
    "a yellow ring rising\nagainst a gray backdrop",
    "a blue triangle that grows\non a white background",
    "on white, a purple ball\nfalling down slowly",
    "一个青色的圆环\n在黑色背景上向左移动",
    "灰色背景上,\n绿色三角形逐渐变小",
)
TILE, LABEL, GAP, COLUMNS, SIZE = 192, 44, 16, 3, 14  # in pixels, but for COLUMNS; SIZE: of the letters
DOCS = WORKFLOWS.parent / "docs"
CANVAS: Any = dict(x=60, y=40, width=1530, height=850)  # of the page, without its bars
SETTLED = 12_000  # milliseconds until the page's own notices are gone
MILLISECONDS, LAST = 90, 900  # each picture is shown for so long, the last one for so long


def frames_of(video: bytes) -> list[Image.Image]:
    with av.open(io.BytesIO(video), "r") as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    return [frame.resize((TILE, TILE), Image.Resampling.LANCZOS) for frame in frames]


def render(url: str, prompt: str, seed: int) -> list[Image.Image]:
    """The frames that a prompt gives."""
    api = json.loads((WORKFLOWS / "api" / "ltx_t2v.json").read_text(encoding="utf-8"))
    api["2"]["inputs"]["positive"], api["3"]["inputs"]["seed"] = prompt.replace("\n", " "), seed
    return frames_of(run(url, api))


def place(index: int) -> tuple[int, int]:
    """The upper left corner of a clip."""
    row, column = divmod(index, COLUMNS)
    return GAP + column * (TILE + GAP), GAP + row * (TILE + LABEL + GAP)


def draw_graph(url: str) -> None:
    """The first template after its run: its groups, the video on the last node."""
    graph = json.loads(file_of("any_t2v").read_text(encoding="utf-8"))
    with open_page(url) as page:
        page.evaluate("async graph => { await app.loadGraphData(graph); await app.queuePrompt(0, 1); }", graph)
        page.wait_for_function("() => [...document.querySelectorAll('video')].some(video => video.readyState > 2)")
        page.mouse.move(1250, 700)
        page.wait_for_timeout(SETTLED)
        page.screenshot(path=str(DOCS / "first_graph.png"), clip=CANVAS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--font", required=True, help="a font file with Chinese characters")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    font = ImageFont.truetype(options.font, SIZE)
    clips = [render(options.url, prompt, options.seed) for prompt in PROMPTS]
    right, bottom = place(len(PROMPTS) - 1)
    empty = Image.new("RGB", (right + TILE + GAP, bottom + TILE + LABEL + GAP), "white")
    draw = ImageDraw.Draw(empty)
    for index, prompt in enumerate(PROMPTS):
        x, y = place(index)
        draw.multiline_text((x, y + TILE + 4), prompt, "black", font, spacing=2)
    pictures = []
    for frames in zip(*clips, strict=True):
        pictures.append(empty.copy())
        for index, frame in enumerate(frames):
            pictures[-1].paste(frame, place(index))
    target = DOCS / "demo.webp"
    times = [MILLISECONDS] * (len(pictures) - 1) + [LAST]
    pictures[0].save(target, save_all=True, append_images=pictures[1:], duration=times, loop=0, quality=80, method=6)
    draw_graph(options.url)
    print(f"Drew {target} and first_graph.png beside it.")


if __name__ == "__main__":
    main()
