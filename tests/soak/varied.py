"""Prompts of many kinds, none of which is like another: other texts, seeds, sizes, numbers and names of files."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

from ..support.host import Host, Prompt, node, workflow

FOLDER = "kept"  # of the output folder
POLICIES = ("plan", "easycache", "magcache", "first block", "corrected plan", "spectrum")
WAN, LORA = "diffusers/tiny-wan2.1-t2v", "loras/tiny-wan2.1-lora.safetensors"
GGUF, VAE = "diffusion_models/tiny-ltx-0.9.0-Q8_0.gguf", "vae/tiny-ltx-0.9.0-vae.safetensors"


class Names:
    """New names for files of a host."""

    def __init__(self, base: Path) -> None:
        self._base, self._made = base, list[Path]()

    def model(self, file: str, number: int) -> str:
        """Of a file or folder of models ("loras/x.safetensors")."""
        folder, _, name = file.rpartition("/")
        return f"{folder}/{self._linked(self._base / 'models' / folder, name, number)}"

    def picture(self, name: str, number: int) -> str:
        """Of a picture of the input folder."""
        return self._linked(self._base / "input", name, number)

    def _linked(self, folder: Path, name: str, number: int) -> str:
        old, new = folder / name, folder / f"kept-{number}-{name}"
        if old.is_dir():  # of links to one folder the pack offers one
            shutil.copytree(old, new, copy_function=os.symlink)
        else:
            new.symlink_to(old)
        self._made.append(new)
        return new.name

    def remove(self) -> None:
        """Take them away, and what was written beside them."""
        for path in self._made:
            for each in path.parent.glob(f"{path.name}*"):
                shutil.rmtree(each) if each.is_dir() else each.unlink()
        shutil.rmtree(self._base / "output" / FOLDER, ignore_errors=True)


def _drawn(name: str, number: int, changes: Mapping[str, Any] | None = None) -> Prompt:
    """A shipped workflow of small videos with texts, seeds and names of its own."""
    own = {"seed": number, "positive": f"a circle, number {number}", "filename_prefix": f"{FOLDER}/{number}"}
    size = {"steps": 2, "width": 64, "height": 64 + 32 * (number % 2), "frames": 9}
    prompt = workflow(name)
    for each in prompt.values():
        inputs = each["inputs"]
        inputs |= {k: v for k, v in {**own, **size}.items() if k in inputs and not isinstance(inputs[k], list)}
    for place, value in (changes or {}).items():
        at, _, entry = place.partition(".")
        prompt[at]["inputs"][entry] = value
    return prompt


def _long(names: Names, number: int) -> Prompt:
    """Three windows with a picture of its own."""
    prompt = _drawn("ltx_long", number, {"11.unfinished": "start over", "11.frames": 25})
    timeline = json.loads(prompt["11"]["inputs"]["timeline"])
    timeline["prompts"] = [{"at": 0, "text": f"a circle, number {number}"}]
    timeline["keyframes"] = [{**timeline["keyframes"][0], "image": names.picture("reelwire_left.png", number)}]
    prompt["11"]["inputs"]["timeline"] = json.dumps(timeline)
    return prompt


def _latent(names: Names, number: int) -> Prompt:
    """Latents that ComfyUI keeps."""
    saved = node("SaveLatent", samples=["3", 0], filename_prefix=f"{FOLDER}/{number}")
    return {**_drawn("ltx_t2v", number), "4": saved}


def _review(names: Names, number: int) -> Prompt:
    reviewed = node("ReelwirePromptReview", prompt=f"a bear, number {number}", words="bear", action="block")
    return {"1": reviewed, "2": node("PreviewAny", source=["1", 0])}


def _estimate(names: Names, number: int) -> Prompt:
    size = dict(width=64, height=64, frames=9 + 8 * number, steps=number + 1, guidance=1.0, preset="default")
    estimate = node("ReelwireEstimate", model=["1", 0], calibrate=False, price=1.0 + number, **size)
    return {"1": workflow("ltx_t2v")["1"], "2": estimate, "3": node("PreviewAny", source=["2", 0])}


def _cached(names: Names, number: int) -> Prompt:
    policy = POLICIES[number % len(POLICIES)]
    return _drawn("any_cached", number, {"2.policy": policy, "2.speed": 1.5 + number / 100, "4.steps": 10})


def _calibrated(names: Names, number: int) -> Prompt:
    return _drawn("cache_calibrate", number, {"1.checkpoint": names.model(WAN, number), "3.steps": 10, "6.steps": 10})


def _lora(names: Names, number: int) -> Prompt:
    return _drawn("wan_lora_distilled", number, {"5.lora": names.model(LORA, number), "5.strength": 1 + number / 100})


def _gguf(names: Names, number: int) -> Prompt:
    return _drawn("ltx_gguf", number, {"1.checkpoint": names.model(GGUF, number), "1.vae": names.model(VAE, number)})


def _keyframes(names: Names, number: int) -> Prompt:
    return _drawn("ltx_keyframes", number, {"5.image": names.picture("reelwire_left.png", number)})


# kind -> (how many of it in a round, what makes one): those that take no time have most
KINDS: Mapping[str, tuple[int, Callable[[Names, int], Prompt]]] = {
    "text": (1, lambda names, n: _drawn("ltx_t2v", n)),
    "lora": (1, _lora),
    "gguf": (1, _gguf),
    "cached": (1, _cached),
    "calibrated": (1, _calibrated),
    "long": (1, _long),
    "keyframes": (1, _keyframes),
    "compare": (1, lambda names, n: _drawn("any_compare", n, {"10.labels": f"A: {n}\n{chr(0x4E00 + n)}"})),
    "list": (1, lambda names, n: _drawn("any_prompts", n, {"2.value": f"a circle {n}", "5.value": n})),
    "latent": (2, _latent),
    "estimate": (4, _estimate),
    "review": (5, _review),
    "refused": (5, lambda names, n: _drawn("ltx_t2v", n, {"3.width": 16_385 + n})),
    "missing": (5, lambda names, n: _drawn("ltx_t2v", n, {"1.checkpoint": f"diffusers/none-{n}"})),
}
REFUSED = {"review", "refused", "missing"}


@contextmanager
def varied(host: Host) -> Iterator[Callable[[], Counter[tuple[str, bool]]]]:
    """Runs one more round of prompts when it is called; (kind, whether it ran) -> how often."""
    names, numbers = Names(host.base), count()

    def round_of_prompts() -> Counter[tuple[str, bool]]:
        ends = Counter[tuple[str, bool]]()
        for kind, (times, make) in KINDS.items():
            for number in (next(numbers) for _ in range(times)):
                status, answer = host.queue(make(names, number))
                ran = status == 200 and host.wait(answer["prompt_id"])["status"]["status_str"] == "success"
                ends[kind, ran] += 1
                host.send("/reelwire/timeline", {"timeline": f'{{"prompts": [{number}]}}', "loader": None})
                host.send("/reelwire/refusal", {"text": f"{kind} {number}"})
        return ends

    try:
        yield round_of_prompts
    finally:
        names.remove()
