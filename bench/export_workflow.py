"""Makes what workflows/ ships from its API twins, with a running ComfyUI that has this pack.

python bench/export_workflow.py                 workflows/<name>.json, as ComfyUI's own page exports them
python bench/export_workflow.py --thumbnails    workflows/<name>.jpg, a strip of the frames that each one makes
"""

from __future__ import annotations

import argparse
import io
import json
import os
import time
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from PIL import Image
    from playwright.sync_api import Page

WORKFLOWS = Path(__file__).parent.parent / "workflows"
FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync")  # fmt: skip
# the default graph loads after the extensions: what comes earlier is overwritten by it
READY = """() => window.app?.extensionManager?.workflow?.activeWorkflow && window.app.rootGraph?.nodes?.length > 0
    && !document.querySelector('.p-blockui-mask') && document.querySelector('#graph-canvas')"""
EXPORT = """async ([api, name]) => {
    const app = window.app;
    await app.loadApiJson(api, name);
    for (const node of app.rootGraph.nodes)
        for (const widget of node.widgets ?? [])
            if (widget.name === "control_after_generate") widget.value = "fixed";
    app.rootGraph.arrange();
    return JSON.stringify((await app.graphToPrompt()).workflow);
}"""
WIDTH, COLUMNS, ROWS = 400, 4, 2  # of a thumbnail, in pixels and in pictures
RUN_SECONDS = 600


@contextmanager
def open_page(url: str) -> Iterator[Page]:
    """ComfyUI's page in headless Chromium, when it is ready to take a workflow."""
    from playwright.sync_api import sync_playwright

    chromium = os.environ.get("REELWIRE_CHROMIUM", "/usr/bin/chromium")
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=list(FLAGS)) as browser,
    ):
        page = browser.new_page(viewport={"width": 1600, "height": 900})
        # else a dialog of templates covers the canvas
        page.request.post(f"{url}/api/settings", data={"Comfy.TutorialCompleted": True})
        page.goto(url, wait_until="domcontentloaded")
        page.wait_for_function(READY, timeout=240_000)
        yield page


def ui_form(page: Page, api: dict[str, Any], name: str) -> dict[str, Any]:
    """The UI form of an API workflow: laid out, seeds fixed, and the same each time."""
    made = json.loads(page.evaluate(EXPORT, [api, name]))
    made["id"] = str(uuid.uuid5(uuid.NAMESPACE_URL, f"https://github.com/reelwire/reelwire/workflows/{name}"))
    for node in made["nodes"]:  # text widths differ by a fraction between machines
        node.update({k: [round(v) for v in node[k]] for k in ("pos", "size")})
    del made["extra"]["ds"]  # where the window was looking; without it the page shows the whole graph
    return made


def to_text(made: dict[str, Any]) -> str:
    """JSON with one line for each node and link, so that differences can be read."""
    one_a_line = lambda items: "[\n" + ",\n".join(f"    {json.dumps(i, ensure_ascii=False)}" for i in items) + "\n  ]"
    values = {
        k: one_a_line(v) if isinstance(v, list) and v else json.dumps(v, ensure_ascii=False) for k, v in made.items()
    }
    return "{\n" + ",\n".join(f"  {json.dumps(k)}: {v}" for k, v in values.items()) + "\n}\n"


def run(url: str, api: dict[str, Any]) -> bytes:
    """The first video that an API workflow makes."""
    body = json.dumps({"prompt": api}).encode()
    request = urllib.request.Request(f"{url}/prompt", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request) as answer:
        prompt_id = json.load(answer)["prompt_id"]
    end = time.monotonic() + RUN_SECONDS
    while time.monotonic() < end:
        with urllib.request.urlopen(f"{url}/history/{prompt_id}") as answer:
            entry = json.load(answer).get(prompt_id)
        if entry:
            break
        time.sleep(0.2)
    else:
        raise TimeoutError(f"ComfyUI did not end the run in {RUN_SECONDS} s.")
    if entry["status"]["status_str"] != "success":
        raise RuntimeError(f"The run failed: {entry['status']['messages'][-1]}")
    file = next(
        f for output in entry["outputs"].values() for f in output.get("images", []) if f["filename"].endswith(".mp4")
    )
    with urllib.request.urlopen(f"{url}/view?{urllib.parse.urlencode(file)}") as answer:
        return answer.read()


def strip(video: bytes) -> Image.Image:
    """Frames from the first to the last, evenly spaced, in rows."""
    import av
    from PIL import Image

    with av.open(io.BytesIO(video)) as container:
        frames = [frame.to_image() for frame in container.decode(video=0)]
    width = WIDTH // COLUMNS
    height = round(width * frames[0].height / frames[0].width)
    sheet = Image.new("RGB", (WIDTH, height * ROWS))
    for i in range(COLUMNS * ROWS):
        frame = frames[round(i * (len(frames) - 1) / (COLUMNS * ROWS - 1))]
        sheet.paste(
            frame.resize((width, height), Image.Resampling.LANCZOS), (i % COLUMNS * width, i // COLUMNS * height)
        )
    return sheet


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="workflows to make; all of them if none is named")
    parser.add_argument("--url", default="http://127.0.0.1:8188", help="of the running ComfyUI")
    parser.add_argument("--thumbnails", action="store_true", help="run the workflows and make their pictures")
    options = parser.parse_args()
    names = options.names or sorted(p.stem for p in (WORKFLOWS / "api").glob("*.json"))
    twins = {name: json.loads((WORKFLOWS / "api" / f"{name}.json").read_text(encoding="utf-8")) for name in names}
    if options.thumbnails:
        for name, api in twins.items():
            strip(run(options.url, api)).save(WORKFLOWS / f"{name}.jpg", quality=85)
    else:
        with open_page(options.url) as page:
            for name, api in twins.items():
                (WORKFLOWS / f"{name}.json").write_text(to_text(ui_form(page, api, name)), encoding="utf-8")
    print(f"Made {', '.join(names)} in {WORKFLOWS}.")


if __name__ == "__main__":
    main()
