"""A workflow on a card with ample room, with too little, and where an allocation fails: what a person then gets."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ..host import Host, Prompt, failure, frames, node, workflow
from . import USUAL_SIZE
from .host import CardHost

EQUAL, TILES, WORDS = "equal", "equal but for tiles", "error in words"
FOREIGN = "error of ComfyUI's own node"
AMPLE, PARTLY, SHORT, AGAIN = "ample room", "weights partly unloaded", "75% of the peak", "again"
SHORTAGES = {0.3: "an allocation fails at 30%", 0.6: "at 60%", 0.97: "at 97%"}
CONDITIONS = (AMPLE, PARTLY, SHORT, *SHORTAGES.values(), AGAIN)
ROOM = 0.75  # of the peak
MOST_STEPS, FEW_STEPS = 12, 3  # tiny models; some workflows (caches, calibration) need the more
RESERVE = int(0.8 * (1 << 30)) + 400 * (1 << 20)  # kept free by ComfyUI: model_management.minimum_inference_memory()
LEFT_ON_CARD = 0.3  # of the weights, where a part is unloaded
CHUNKS = 8  # of 255: how far SVD's frames go apart where its decoder works in parts (see the decoder's own tests)
IN_PARTS = "goes on with the whole frame, in parts"
# node of ComfyUI's -> how it ends where the legacy manager loads a part of its model, whose layers are PyTorch's own:
# nobody moves them when they are called
NOT_OURS = {"FrameInterpolate": "at least two devices", "ImageUpscaleWithModel": "at least two devices"}
# what they write is not compared: seconds and bytes; what ComfyUI's own models make of our frames, on a card in float16
NOT_COMPARED = ("ReelwireCompare", "SaveVideo")
LEAST_TILE = 32  # pixels
OUT_OF_MEMORY = re.compile(r"(out of|ran out|enough|short).{0,40}memory|memory.{0,40}(ran|run|runs) out", re.I | re.S)

_on_cpu: dict[tuple[str, str, int, int], list[np.ndarray]] = {}  # (host, workflow, seed, tile) -> frames


class Run(NamedTuple):
    """The outcome of a prompt: its error in words, if any, the frames of its files, and what the host logged."""

    error: str
    videos: list[np.ndarray]
    log: str


@dataclass
class Trial:
    """One workflow on a host with a card, compared with a host without; `rows` fills with condition -> outcome.

    peak: most bytes on the card with ample room; left: after POST /free at the end of each. Both above those before.
    """

    cpu: Host
    host: CardHost
    name: str
    dynamic: bool
    rows: dict[str, str] = field(default_factory=dict)
    left: dict[str, int] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    peak: int = 0

    def run(self) -> None:
        """All conditions, one after another; each begins with an empty card, but the second, which finds all loaded."""
        card, base = self.host.card, self.host.freed()
        before = card.state(set_cap=USUAL_SIZE, fail_after=-1, reset_peak=True)
        self._try(AMPLE, 0)
        state = card.state(collect=True)
        self.peak = state["peak"] - base
        count = state["allocations"] - before["allocations"]
        weights = sum(size for *_, size in state["loaded"])
        cap = base + RESERVE + int(weights * LEFT_ON_CARD)
        card.state(**({"unload": 1 - LEFT_ON_CARD} if self.dynamic else {"set_cap": cap}))
        self._try(PARTLY, 1)
        self._free(PARTLY, base)
        card.set_cap(base + int(self.peak * ROOM))
        self._try(SHORT, 0)
        self._free(SHORT, base)
        for share, condition in SHORTAGES.items():
            card.fail_after(int(count * share))
            self._try(condition, 0)
            self._free(condition, base)
        self._try(AGAIN, 0)
        self._free(AGAIN, base)

    def _free(self, condition: str, base: int) -> None:
        """An empty card of the usual size."""
        self.host.card.state(set_cap=USUAL_SIZE, fail_after=-1)
        self.left[condition] = self.host.freed(base) - base

    def _try(self, condition: str, seed: int) -> None:
        self.host.card.state(rooms=[])
        result = run(self.host, prompt_of(self.name, seed))
        self.rows[condition] = self._judge(result, seed)
        if result.error:
            self.errors[condition] = result.error

    def _judge(self, result: Run, seed: int) -> str:
        if result.error:
            return _kind_of(result.error)
        expected = self._on_cpu(seed)
        if [v.shape for v in result.videos] != [v.shape for v in expected]:
            return f"FAILED: frames {[v.shape for v in result.videos]} instead of {[v.shape for v in expected]}"
        if _same(result.videos, expected):
            return EQUAL
        apart = max(_apart(ours, theirs) for ours, theirs in zip(result.videos, expected, strict=True))
        if self._replayed(result, seed) or self._tiled(result, seed) or (IN_PARTS in result.log and apart <= CHUNKS):
            return TILES
        return f"FAILED: pixels up to {apart} of 255 apart"

    def _replayed(self, result: Run, seed: int) -> bool:
        """Whether a card with ample room makes the same where it hears of the same rooms, and so takes the same tiles.

        (That tiles on the card are the CPU's tiles, the tests of the engine say.)
        """
        rooms = self.host.card.state(set_cap=USUAL_SIZE, fail_after=-1)["rooms"]
        self.host.freed()
        self.host.card.state(rooms=rooms)
        again = run(self.host, prompt_of(self.name, seed))
        self.host.card.state(rooms=[])
        return not again.error and _same(again.videos, result.videos)

    def _tiled(self, result: Run, seed: int) -> bool:
        """Whether each frame is that of the CPU, whole or in tiles of one size."""
        whole = self._on_cpu(seed)
        size = max(whole[0].shape[1:3])
        for tile in (size // 2, size // 4, size // 8):
            tiles = self._on_cpu(seed, tile) if tile >= LEAST_TILE else []
            if tiles and all(_each_is_one_of(m, a, b) for m, a, b in zip(result.videos, whole, tiles, strict=True)):
                return True
        return False

    def _on_cpu(self, seed: int, tile: int = 0) -> list[np.ndarray]:
        """Frames; none where such tiles are refused."""
        key = self.cpu.url, self.name, seed, tile
        if key not in _on_cpu:
            result = run(self.cpu, prompt_of(self.name, seed, tile))
            assert tile or not result.error, f"{self.name} on the CPU: {result.error}"
            _on_cpu[key] = result.videos
        return _on_cpu[key]


def _kind_of(error: str) -> str:
    """What became of a run that failed."""
    if OUT_OF_MEMORY.search(error):
        return WORDS
    foreign = any(error.startswith(f"{name}: ") and words in error for name, words in NOT_OURS.items())
    return FOREIGN if foreign else f"FAILED: {error}"


def _same(ours: list[np.ndarray], theirs: list[np.ndarray]) -> bool:
    return all(np.array_equal(one, other) for one, other in zip(ours, theirs, strict=True))


def _apart(ours: np.ndarray, theirs: np.ndarray) -> int:
    return int(np.abs(ours.astype(int) - theirs.astype(int)).max())


def _each_is_one_of(ours: np.ndarray, whole: np.ndarray, tiles: np.ndarray) -> bool:
    return all(np.array_equal(f, a) or np.array_equal(f, b) for f, a, b in zip(ours, whole, tiles, strict=True))


def prompt_of(name: str, seed: int = 0, tile: int = 0) -> Prompt:
    """A shipped workflow with few steps, in bfloat16 and into a file without loss; seed is added to its own."""
    prompt = workflow(name)
    changes = {
        "steps": lambda steps: min(steps or FEW_STEPS, MOST_STEPS),
        "precision": lambda _: "bfloat16",
        "seed": lambda own: own + seed,
        "tile": lambda _: tile,
        "crf": lambda _: 0,
    }
    for part in prompt.values():
        own = {key: value for key, value in part["inputs"].items() if not isinstance(value, list)}  # without wires
        part["inputs"] |= {key: change(own[key]) for key, change in changes.items() if key in own}
        if part["class_type"] == "PrimitiveInt":  # one of a list of seeds
            part["inputs"]["value"] += seed
    decoded = [name for name, part in prompt.items() if part["class_type"] == "ReelwireDecode"]
    pictures = {f"{name} kept": node("SaveImage", images=[name, 0], filename_prefix="card") for name in decoded}
    return prompt | pictures


def run(host: Host, prompt: Prompt) -> Run:
    """A prompt to its end; raises AssertionError where the host does not outlive it."""
    begin = len(host.log)
    entry = host.run(prompt)
    compared = {name for name, part in prompt.items() if part["class_type"] not in NOT_COMPARED}
    made = {**entry, "outputs": {name: output for name, output in entry["outputs"].items() if name in compared}}
    videos = [frames(file) for file in host.videos(made)] + _pictures(host, made)
    return Run(failure(entry), videos, host.log[begin:].decode(errors="replace"))


def _pictures(host: Host, entry: Mapping[str, Any]) -> list[np.ndarray]:
    """The frames of each node that wrote them as single files."""
    folder, made = host.base / "output", []
    for output in entry["outputs"].values():
        shown = [f for f in output.get("images", []) if f["type"] == "output" and f["filename"].endswith(".png")]
        made.append([folder / f["subfolder"] / f["filename"] for f in shown])
    return [np.stack([np.asarray(Image.open(file)) for file in files]) for files in made if files]


def resident(host: Host) -> int:
    """Bytes of RAM that a host's process holds (Linux)."""
    import resource
    from pathlib import Path

    return int(Path(f"/proc/{host.pid}/statm").read_text().split()[1]) * resource.getpagesize()
