"""Sources, masks and clips as ComfyUI's own nodes hand them over."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from reelwire.tests.support.host import Host, Prompt, frames, node, workflow

TIMELINE = json.dumps({"prompts": [{"at": 0, "text": "a red circle moves right on black"}]})
BATCH = {
    "picture": node("EmptyImage", width=64, height=64, batch_size=1, color=0x3060A0),
    "batch": node("RepeatImageBatch", image=["picture", 0], amount=60),
    "black": node("SolidMask", value=0.0, width=64, height=64),
    "gray": node("SolidMask", value=0.5, width=64, height=64),
    "white": node("SolidMask", value=1.0, width=64, height=64),
}


def run(name: str, changes: dict[str, Any]) -> Prompt:
    """The bundled model's video, lossless, with the batch and masks beside it."""
    inputs = {"3.steps": 2, "3.frames": 17, "4.crf": 0, "4.filename_prefix": f"sources/{name}"}
    return workflow("ltx_t2v", {**inputs, **BATCH, **changes})


def keys(entry: dict[str, Any], name: str) -> list[str]:
    """The messages that stay on a node."""
    return [json.loads(line)["key"] for line in entry["outputs"].get(name, {}).get("reelwire", [])]


def sampled_again(source: list[Any], seed: int, strength: float) -> dict[str, Any]:
    """Two steps that begin with a source's latents."""
    links = {"model": ["1", 0], "conditioning": ["2", 0], "source": source}
    size = dict.fromkeys(("width", "height", "frames"), 0)
    names = {"sampler": "default", "preset": "default"}
    return node("ReelwireSampler", **links, **size, **names, steps=2, guidance=0.0, seed=seed, strength=strength)


def test_a_noise_mask_counts(host: Host) -> None:
    """Latents of Set Latent Noise Mask: under black the video is what it was, and under white it is another one."""
    second = {
        "masked": node("SetLatentNoiseMask", samples=["3", 0], mask=["black", 0]),
        "5": sampled_again(["masked", 0], seed=99, strength=0.9),
        "6": node("ReelwireDecodeToVideo", latent=["5", 0], fps=0.0, filename_prefix="sources/second", crf=0),
    }
    black = host.post(run("first", second))
    first, kept = (frames(path) for path in host.videos(black))
    assert np.array_equal(first, kept)
    assert "mask_keeps_all" in keys(black, "5")
    white = host.post(run("first", {**second, "masked.mask": ["white", 0]}))
    assert not np.array_equal(frames(host.videos(white)[-1]), first)
    third = {  # made of latents that keep their mask
        "7": sampled_again(["5", 0], seed=5, strength=0.5),
        "6.latent": ["7", 0],
    }
    again = host.post(run("first", {**second, **third, "masked.mask": ["black", 0]}))
    assert "mask_keeps_all" in keys(again, "7")


def test_a_mask_and_what_is_not_used_of_a_source(host: Host) -> None:
    source = {"3.source": ["batch", 0], "3.strength": 0.6}
    entry = host.post(run("masked", {**source, "3.mask": ["gray", 0]}))
    assert "frames_left_out" in keys(entry, "3")
    entry = host.post(run("as_long", {**source, "3.frames": 0, "3.frames_from": "source"}))
    (line,) = [json.loads(line) for line in entry["outputs"]["3"]["reelwire"] if "frames_left_out" in line]
    count = len(frames(host.videos(entry)[0]))
    assert line["values"]["used"] == count == 60 - line["values"]["left"]
    assert 60 - count < 8
    entry = host.post(run("whole", {"3.source": ["batch", 0]}))
    assert "source_unused" in keys(entry, "3")


def test_images_with_alpha(host: Host) -> None:
    alpha = node("JoinImageWithAlpha", image=["batch", 0], alpha=["gray", 0])
    entry = host.post(run("alpha", {"rgba": alpha, "3.source": ["rgba", 0], "3.strength": 0.5}))
    assert "alpha_left_out" in keys(entry, "3")
    with_key = {
        "rgba": node("JoinImageWithAlpha", image=["picture", 0], alpha=["gray", 0]),
        "key": node("ReelwireKeyframe", image=["rgba", 0], frame=0, strength=1.0),
        "3.keyframes": ["key", 0],
    }
    assert "alpha_left_out" in keys(host.post(run("alpha_key", with_key)), "key")


def test_a_clip_is_extended(host: Host) -> None:
    """The decoder hands out new frames; a long video joins them to the clip, or not."""
    clip = {"clip": node("RepeatImageBatch", image=["picture", 0], amount=20), "3.extend": ["clip", 0]}
    entry = host.post(run("extended", clip))
    (line,) = [json.loads(line) for line in entry["outputs"]["3"]["reelwire"] if "goes_on" in line]
    new, shared = line["values"]["new"], line["values"]["shared"]
    assert new + shared == 17
    assert len(frames(host.videos(entry)[0])) == new
    assert "clip_left_out" in keys(entry, "4")
    film: dict[str, Any] = {
        "timeline": TIMELINE,
        "frames": 25,
        "width": 0,
        "height": 0,
        "window": 17,
        "overlap": 9,
        "steps": 2,
        "guidance": 1.0,
        "sampler": "default",
        "seed": 1,
        "preset": "default",
        "crf": 0,
        "extend": ["clip", 0],
    }
    prompt = {key: value for key, value in run("x", clip).items() if key in ("1", "picture", "clip")}
    counts = {}
    for joined in (True, False):
        long = node("ReelwireLongVideo", model=["1", 0], filename_prefix=f"sources/{joined}", joined=joined, **film)
        pictures = frames(host.videos(host.post({**prompt, "7": long}))[0])
        counts[joined] = len(pictures)
        if joined:
            assert (np.abs(pictures[:20].astype(int) - (0x30, 0x60, 0xA0)) <= 6).all()
    assert counts == {True: 20 + 25 - 9, False: 25 - 9}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"3.mask": ["white", 0]}, "mask = connected: A mask says what of a source is made anew"),
        ({"3.frames_from": "source"}, "frames_from = source: Neither a source nor a control video"),
        ({"3.source": ["batch", 0], "3.extend": ["batch", 0]}, "extend = connected: A video goes on from a clip, or"),
        ({"3.frames_from": "nobody"}, "frames_from"),
        (  # as wide as a picture has colours
            {"5": node("EmptyLatentImage", width=24, height=24, batch_size=1), "3.source": ["5", 0]},
            "source = latents [1, 4, 3, 3]",
        ),
        (
            {
                "5": node("SetLatentNoiseMask", samples=["6", 0], mask=["white", 0]),
                "6": node("EmptyLTXVLatentVideo", width=64, height=64, length=17, batch_size=1),
                "3.source": ["5", 0],
                "3.mask": ["white", 0],
            },
            "mask = connected: The latents of the source bring a mask of their own.",
        ),
    ],
)
def test_what_cannot_be_is_told(host: Host, changes: dict[str, Any], words: str) -> None:
    text, done = host.refuse(run("wrong", changes))
    assert words in text
    assert "Traceback" not in text
    assert "ReelwireEncodePrompt" not in done
    assert host.get("/system_stats")["system"]
