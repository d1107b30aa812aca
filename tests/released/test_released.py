"""Workflows that people have saved with a released version open in the page and make the same frames with today's pack.

<version>/ holds the workflows of that version as it shipped them, <version>/api/ their API twins on tiny files, and
<version>/frames/ what they made then, as pictures: at most nine of the frames, each as 16 x 16 pixels. Whole frames
were compared once. Of version 0.1 (commit 2bd972a) 23 of 28 are equal to the bit, and five differ by rounding:

- ltx_gguf, ltx_long, ltx_multiscale: the same latents; on a CPU the decoder takes several latent frames at a time
  (in 1 of 30 000 numbers a difference of 1 to 3 of 255);
- hunyuan_low_vram, wan22_two_experts_fp8: what weights in eight bits are scaled with is multiplied onto the output of a
  layer and no longer onto its weight (latents of up to 12 differ by less than 1e-5).

cogvideox_control follows its square as it is, then and now, and not its edges: two pixels at each side change alike,
and which of them kornia calls the edge is decided by the last bit of a convolution, and so by the processor (one such
bit of noise in the square moves 40 of 124 pixels of its edges).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from reelwire.tests.support.host import Host, Prompt, frames
from reelwire.tests.support.page.pages import drop, exported

if TYPE_CHECKING:
    from playwright.sync_api import Page

HERE = Path(__file__).parent
SAVED = sorted(file.relative_to(HERE) for file in HERE.glob("*/api/*.json"))
SIDE, MOST_FRAMES = 16, 9  # of a frame in a picture, and of those frames
ROUNDING = 2  # of 255, in the mean over a few pixels
STEPS, STEPS_OF_CACHES = 2, 12
CACHED = ("any_cached", "cache_calibrate")
every = pytest.mark.parametrize("file", SAVED, ids=lambda file: f"{file.parts[0]} {file.stem}")


def short(prompt: Prompt, name: str) -> Prompt:
    """The same in few steps, of what is the same on every processor, written without loss."""
    for node in prompt.values():
        if node["class_type"] in ("ReelwireSampler", "ReelwireLongVideo"):
            node["inputs"]["steps"] = STEPS_OF_CACHES if name in CACHED else STEPS
        if node["inputs"].get("prepare") == "edges":
            node["inputs"]["prepare"] = "as it is"
        if "crf" in node["inputs"]:
            node["inputs"]["crf"] = 0
    return prompt


def picture(video: np.ndarray) -> np.ndarray:
    """Frames [T, H, W, 3] beside each other, SIDE pixels high: the first, the last and some between."""
    chosen = np.linspace(0, len(video) - 1, min(len(video), MOST_FRAMES)).round().astype(int)
    count, height, width = len(chosen), *video.shape[1:3]
    blocks = video[chosen].reshape(count, SIDE, height // SIDE, SIDE, width // SIDE, 3).mean((2, 4))
    return np.hstack([*blocks]).round().astype(np.uint8)


def as_then(video: np.ndarray) -> np.ndarray:
    """Frames as a file of then gives them back, which was 4:2:0 in BT.601 and had no tags."""
    import av

    stored = (av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv420p") for frame in video)
    return np.stack([frame.to_ndarray(format="rgb24") for frame in stored])


@every
def test_it_makes_the_frames_of_then(host: Host, file: Path) -> None:
    prompt = json.loads((HERE / file).read_text(encoding="utf-8"))
    (video,) = host.videos(host.post(short(prompt, file.stem)))
    with Image.open(HERE / file.parts[0] / "frames" / f"{file.stem}.png") as then:
        expected = np.asarray(then.convert("RGB")).astype(int)
    pictures = picture(as_then(frames(video))).astype(int)
    assert pictures.shape == expected.shape
    assert expected.std() > 5
    assert np.abs(pictures - expected).max() <= ROUNDING


@every
def test_it_opens_in_the_page_with_all_its_values(page: Page, file: Path) -> None:
    """Inputs that came later have a value too; which is the default is told by the frames above."""
    twin: dict[str, Any] = json.loads((HERE / file).read_text(encoding="utf-8"))
    drop(page, (HERE / file.parts[0] / file.name).read_text(encoding="utf-8"), [*twin])
    prompt, _ = exported(page)
    assert {name: node["class_type"] for name, node in prompt.items()} == {
        name: node["class_type"] for name, node in twin.items()
    }
    for name, node in twin.items():
        now = prompt[name]["inputs"]
        assert {key: now.get(key) for key in node["inputs"]} == node["inputs"], name
