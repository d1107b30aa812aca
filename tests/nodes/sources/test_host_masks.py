"""Video to video under a mask in a real ComfyUI, with the loader of every family: decoded at once, and long."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from reelwire.tests.support.clips import write_shades
from reelwire.tests.support.engine.loaders import LOADERS
from reelwire.tests.support.host import Host, Prompt, frames, node

CASES = {**LOADERS, "ReelwireLoadSVD": ("diffusers/tiny-svd", 14)}
STORY = json.dumps({"prompts": [{"at": 0, "text": "a red circle"}]})
DEFAULTS = {"width": 64, "height": 64, "steps": 2, "guidance": 1.0, "sampler": "default", "preset": "default"}
HALF = 32  # of the coarsest latents one pixel


def graph(loader: str, count: int, name: str) -> Prompt:
    """The same source under a mask that is half black, and under one that is black everywhere."""
    prompt: Prompt = {
        "1": node(loader, checkpoint=CASES[loader][0], precision="float32"),
        "2": node("LoadVideo", file="masked.mp4"),
        "3": node("GetVideoComponents", video=["2", 0]),
        "4": node("ReelwireEncodePrompt", model=["1", 0], positive="a red circle", negative=""),
        "black": node("SolidMask", value=0.0, width=64, height=64),
        "white": node("SolidMask", value=1.0, width=HALF, height=64),
        "half": node("MaskComposite", destination=["black", 0], source=["white", 0], x=0, y=0, operation="add"),
        "one": node("ImageFromBatch", image=["3", 0], batch_index=0, length=1),
        "key": node("ReelwireKeyframe", image=["one", 0], frame=0, strength=1.0),
    }
    pictured: dict[str, Any] = {"keyframes": ["key", 0]} if "SVD" in loader else {}
    for mask in ("half", "black"):
        about = {"model": ["1", 0], "source": ["3", 0], "mask": [mask, 0], "seed": 3, "strength": 0.9, **DEFAULTS}
        sampler = {"conditioning": ["4", 0], "frames": count, **pictured}
        prompt[f"sampled {mask}"] = node("ReelwireSampler", **about, **sampler)
        prompt[f"decoded {mask}"] = node(
            "ReelwireDecodeToVideo",
            latent=[f"sampled {mask}", 0],
            fps=0.0,
            crf=0,
            filename_prefix=f"masks/{name}_{mask}",
        )
        length = {"timeline": STORY, "frames": 2 * count - 1, "window": count, "overlap": 0, **pictured}
        prompt[f"long {mask}"] = node(
            "ReelwireLongVideo", crf=0, filename_prefix=f"masks/{name}_{mask}_long", **about, **length
        )
    return prompt


def keys(entry: dict[str, Any], name: str) -> list[str]:
    return [json.loads(line)["key"] for line in entry["outputs"].get(name, {}).get("reelwire", [])]


@pytest.mark.parametrize("loader", CASES)
def test_outside_are_the_sources_own_pictures(host: Host, loader: str) -> None:
    """To the last bit of the file, also where a VAE looks at the whole frame; inside another video."""
    write_shades(host.base / "input" / "masked.mp4", 40, 8, (64, 64))
    count, name = CASES[loader][1], loader.removeprefix("ReelwireLoad")
    entry = host.post(graph(loader, count, name))
    videos = {path.name.rsplit("_", 2)[0]: frames(path) for path in host.videos(entry)}
    for kind, long in (("decoded", ""), ("long", "_long")):
        new, own = videos[f"{name}_half{long}"], videos[f"{name}_black{long}"]
        assert new.shape == own.shape == ((2 * count - 1 if long else count), 64, 64, 3)
        assert np.array_equal(new[:, :, HALF:], own[:, :, HALF:])
        assert np.abs(new[:, :, :HALF].astype(int) - own[:, :, :HALF]).mean() > 0.5
        assert "mask_decoded" in keys(entry, f"{kind} half")
    assert "mask_keeps_all" in keys(entry, "sampled black")
    assert "mask_decoded" not in keys(entry, "decoded black")


def test_masked_latents_that_others_changed_or_cut(host: Host) -> None:
    """They decode as they are: what the mask kept is no longer there."""
    write_shades(host.base / "input" / "masked.mp4", 40, 8, (64, 64))
    loader = "ReelwireLoadWan"
    prompt = {name: n for name, n in graph(loader, 9, "changed").items() if not name.startswith("long")}
    prompt["flipped"] = node("LatentFlip", samples=["sampled half", 0], flip_method="y-axis: horizontally")
    prompt["decoded half"]["inputs"]["latent"] = ["flipped", 0]
    entry = host.post(prompt)
    assert "mask_decoded" not in keys(entry, "decoded half")
