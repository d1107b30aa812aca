"""Draws docs/contact_sheet.jpg: six prompts through workflows/api/ltx_t2v.json on a running ComfyUI with this pack.

python bench/contact_sheet.py --font NotoSansCJK-Regular.ttc [--url http://127.0.0.1:8188]
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path

import av
from export_workflow import WORKFLOWS, run
from PIL import Image, ImageDraw, ImageFont

PROMPTS = (
    "a red circle moving right on a black background",
    "a yellow ring rising against a gray backdrop",
    "show me a blue triangle that grows on a white background",
    "on white, a purple ball falling down slowly",
    "一个青色的圆环在黑色背景上向左移动",
    "灰色背景上,绿色三角形逐渐变小",
)
FRAMES, TILE, LABEL, COLUMNS = 5, 96, 26, 2


def strip(video: bytes) -> Image.Image:
    """Five frames from the first to the last, side by side."""
    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    sheet = Image.new("RGB", (FRAMES * TILE, TILE))
    for i in range(FRAMES):
        frame = frames[round(i * (len(frames) - 1) / (FRAMES - 1))]
        sheet.paste(frame.resize((TILE, TILE), Image.Resampling.LANCZOS), (i * TILE, 0))
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", default="http://127.0.0.1:8188")
    parser.add_argument("--font", required=True, help="a font file with Chinese characters")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    font = ImageFont.truetype(options.font, 16)
    width, height = FRAMES * TILE + 12, TILE + LABEL + 10
    rows = -(-len(PROMPTS) // COLUMNS)
    sheet = Image.new("RGB", (COLUMNS * width + 12, rows * height + 8), "white")
    draw = ImageDraw.Draw(sheet)
    for i, prompt in enumerate(PROMPTS):
        api = json.loads((WORKFLOWS / "api" / "ltx_t2v.json").read_text(encoding="utf-8"))
        api["2"]["inputs"]["positive"], api["3"]["inputs"]["seed"] = prompt, options.seed
        x, y = 12 + i % COLUMNS * width, 8 + i // COLUMNS * height
        sheet.paste(strip(run(options.url, api)), (x, y + LABEL))
        draw.text((x, y), prompt, "black", font)
    target = Path(__file__).parent.parent / "docs" / "contact_sheet.jpg"
    target.parent.mkdir(exist_ok=True)
    sheet.save(target, quality=88)
    print(target)


if __name__ == "__main__":
    main()
