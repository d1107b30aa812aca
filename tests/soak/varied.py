"""Prompts of many kinds, none of which is like another: other texts, seeds, sizes, numbers and names of files."""

from __future__ import annotations

import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from reelwire.samplers.caches.policies import choices

from ..support.host import Host, Prompt, node, workflow

FOLDER = "kept"  # of the output folder
# width, height, frames that all families take; as many as share no factor with how many of a kind a round has, so that
# each of its prompts has another one in the next round
SIZES = ((64, 64, 9), (96, 64, 9), (64, 96, 9), (96, 96, 9), (64, 64, 17), (128, 64, 9), (64, 128, 9))
CALIBRATED = ("magcache", "sencache", "corrected plan")  # policies that need what was measured, and one that uses it
UNCALIBRATED = [policy for policy in choices() if policy not in ("magcache", "sencache")]
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


@dataclass(frozen=True)
class Turn:
    """One prompt to make. number: of all prompts, so that no two have the same names; turn: of those of its kind, so
    that what is chosen from a list goes through the whole of it."""

    names: Names
    number: int
    turn: int

    def drawn(self, name: str, changes: Mapping[str, Any] | None = None) -> Prompt:
        """A shipped workflow of small videos with texts, seeds, sizes and names of its own."""
        number, (width, height, frames) = self.number, SIZES[self.turn % len(SIZES)]
        own = {"seed": number, "positive": f"a circle, number {number}", "filename_prefix": f"{FOLDER}/{number}"}
        size = {"steps": 2, "width": width, "height": height, "frames": frames}
        prompt = workflow(name)
        for each in prompt.values():
            inputs = each["inputs"]
            inputs |= {k: v for k, v in {**own, **size}.items() if k in inputs and not isinstance(inputs[k], list)}
        for place, value in (changes or {}).items():
            at, _, entry = place.partition(".")
            prompt[at]["inputs"][entry] = value
        return prompt


def _long(turn: Turn) -> Prompt:
    """Three windows with a picture of its own."""
    prompt = turn.drawn("ltx_long", {"11.unfinished": "start over", "11.frames": 25})
    timeline = json.loads(prompt["11"]["inputs"]["timeline"])
    timeline["prompts"] = [{"at": 0, "text": f"a circle, number {turn.number}"}]
    picture = turn.names.picture("reelwire_left.png", turn.number)
    timeline["keyframes"] = [{**timeline["keyframes"][0], "image": picture}]
    prompt["11"]["inputs"]["timeline"] = json.dumps(timeline)
    return prompt


def _latent(turn: Turn) -> Prompt:
    """Latents that ComfyUI keeps."""
    saved = node("SaveLatent", samples=["3", 0], filename_prefix=f"{FOLDER}/{turn.number}")
    return {**turn.drawn("ltx_t2v"), "4": saved}


def _review(turn: Turn) -> Prompt:
    reviewed = node("ReelwirePromptReview", prompt=f"a bear, number {turn.number}", words="bear", action="block")
    return {"1": reviewed, "2": node("PreviewAny", source=["1", 0])}


def _estimate(turn: Turn) -> Prompt:
    width, height, frames = SIZES[turn.turn % len(SIZES)]
    size = dict(width=width, height=height, frames=frames + 8 * turn.turn, steps=turn.turn + 1, guidance=1.0)
    how = dict(preset="default", calibrate=False, price=1.0 + turn.number)
    estimate = node("ReelwireEstimate", model=["1", 0], **size, **how)
    return {"1": workflow("ltx_t2v")["1"], "2": estimate, "3": node("PreviewAny", source=["2", 0])}


def _with_policy(turn: Turn, name: str, at: str, policies: Sequence[str], changes: Mapping[str, Any]) -> Prompt:
    """A workflow whose Cache, node `at`, has the next of these policies: once each, then with a step less."""
    again, which = divmod(turn.turn, len(policies))
    cache = {f"{at}.policy": policies[which], f"{at}.speed": 1.5 + turn.number / 1000}
    prompt = turn.drawn(name, {**changes, **cache})
    for each in prompt.values():
        if "steps" in each["inputs"]:
            each["inputs"]["steps"] = max(12 - again, 6)
    return prompt


def _cached(turn: Turn) -> Prompt:
    return _with_policy(turn, "any_cached", "2", UNCALIBRATED, {})


def _calibrated(turn: Turn) -> Prompt:
    changes = {"1.checkpoint": turn.names.model(WAN, turn.number), "3.sensitivity": True}
    return _with_policy(turn, "cache_calibrate", "4", CALIBRATED, changes)


def _lora(turn: Turn) -> Prompt:
    lora = turn.names.model(LORA, turn.number)
    return turn.drawn("wan_lora_distilled", {"5.lora": lora, "5.strength": 1 + turn.number / 1000})


def _gguf(turn: Turn) -> Prompt:
    checkpoint, vae = turn.names.model(GGUF, turn.number), turn.names.model(VAE, turn.number)
    return turn.drawn("ltx_gguf", {"1.checkpoint": checkpoint, "1.vae": vae})


def _keyframes(turn: Turn) -> Prompt:
    return turn.drawn("ltx_keyframes", {"5.image": turn.names.picture("reelwire_left.png", turn.number)})


def _compared(turn: Turn) -> Prompt:
    return turn.drawn("any_compare", {"10.labels": f"A: {turn.number}\n{chr(0x4E00 + turn.number)}"})


def _listed(turn: Turn) -> Prompt:
    return turn.drawn("any_prompts", {"2.value": f"a circle {turn.number}", "5.value": turn.number})


# kind -> (how many of it in a round, what makes one): those that take no time have most
KINDS: Mapping[str, tuple[int, Callable[[Turn], Prompt]]] = {
    "text": (1, lambda turn: turn.drawn("ltx_t2v")),
    "lora": (1, _lora),
    "gguf": (1, _gguf),
    "cached": (len(UNCALIBRATED), _cached),
    "calibrated": (len(CALIBRATED), _calibrated),
    "long": (1, _long),
    "keyframes": (1, _keyframes),
    "compare": (1, _compared),
    "list": (1, _listed),
    "latent": (2, _latent),
    "estimate": (4, _estimate),
    "review": (5, _review),
    "refused": (5, lambda turn: turn.drawn("ltx_t2v", {"3.width": 16_385 + turn.number})),
    "missing": (5, lambda turn: turn.drawn("ltx_t2v", {"1.checkpoint": f"diffusers/none-{turn.number}"})),
}
REFUSED = {"review", "refused", "missing"}


def rounds(names: Names) -> Iterator[list[tuple[str, Prompt]]]:
    """(kind, prompt) of one round after another, without end."""
    numbers, turns = count(), {kind: count() for kind in KINDS}
    while True:
        yield [
            (kind, make(Turn(names, next(numbers), next(turns[kind]))))
            for kind, (times, make) in KINDS.items()
            for _ in range(times)
        ]


@contextmanager
def varied(host: Host) -> Iterator[Callable[[], Counter[tuple[str, bool]]]]:
    """Runs one more round of prompts when it is called; (kind, whether it ran) -> how often."""
    names, numbers = Names(host.base), count()
    all_rounds = rounds(names)

    def round_of_prompts() -> Counter[tuple[str, bool]]:
        ends = Counter[tuple[str, bool]]()
        for kind, prompt in next(all_rounds):
            status, answer = host.queue(prompt)
            ran = status == 200 and host.wait(answer["prompt_id"])["status"]["status_str"] == "success"
            ends[kind, ran] += 1
            number = next(numbers)
            host.send("/reelwire/timeline", {"timeline": f'{{"prompts": [{number}]}}', "loader": None})
            host.send("/reelwire/refusal", {"text": f"{kind} {number}"})
        return ends

    try:
        yield round_of_prompts
    finally:
        names.remove()
