"""Runs of all families and nodes on tiny models, drawn from a seed, and what disturbs them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from ..support.card.host import CardHost
from ..support.host import Host, Prompt, digest, node, workflow

# shipped workflow -> its sampler; all are run on tiny files
GRAPHS: Mapping[str, str] = {
    "ltx_t2v": "3",
    "ltx_keyframes": "11",
    "ltx_v2v": "",
    "ltx_gguf": "3",
    "ltx_long": "11",
    "wan_t2v": "3",
    "wan_i2v": "",
    "wan_vace": "7",
    "wan_fun_control": "",
    "wan_lora_distilled": "3",
    "wan22_t2v": "4",
    "hunyuan_t2v": "3",
    "hunyuan_i2v": "",
    "hunyuan_low_vram": "3",
    "cogvideox_t2v": "3",
    "cogvideox_i2v": "",
    "mochi_t2v": "3",
    "svd_i2v": "",
    "any_cached": "4",
}
CACHES = (
    ("ReelwireTeaCache", {"threshold": 0.1}),
    ("ReelwireFORA", {"interval": 2}),
    ("ReelwireCache", {"policy": "diffusers taylorseer", "speed": 2.0}),
    ("ReelwireCache", {"policy": "easycache", "speed": 2.0, "threshold": 0.05}),
)
REFERENCE: Mapping[str, Any] = {"3.steps": 4, "3.seed": 77, "4.crf": 0, "4.filename_prefix": "soak/reference"}
LATEST = 1.5  # seconds after which an interrupt comes at the latest
MOST_ALLOCATIONS = 400  # after which memory is short at the latest


@dataclass(frozen=True)
class Run:
    """One prompt. disturb: what happens meanwhile, a key of DISTURBANCES; ends: how it may end."""

    graph: str
    prompt: Prompt
    disturb: str
    value: float


def draw(seed: int, number: int) -> Run:
    """One run of a seed."""
    random = Random(f"{seed} {number}")
    name = random.choice(list(GRAPHS))
    prompt, sampler = workflow(name), GRAPHS[name]
    for each in prompt.values():
        inputs = each["inputs"]
        if "filename_prefix" in inputs:
            inputs["filename_prefix"] = f"soak/{name}"
        if "timeline" in inputs:
            inputs["unfinished"] = "start over"
        if "seed" in inputs:
            inputs["seed"] = random.randrange(2**32)
        if "steps" in inputs:
            inputs["steps"] = random.choice((2, 3)) if name != "any_cached" else 8
    if sampler and random.random() < 0.3 and name not in ("any_cached", "ltx_long"):
        kind, options = random.choice(CACHES)
        prompt["cache"] = node(kind, model=prompt[sampler]["inputs"]["model"], **options)
        prompt[sampler]["inputs"] |= {"model": ["cache", 0], "steps": 4}
    disturb = random.choices(list(DISTURBANCES), (6, 2, 1, 2))[0]
    if disturb == "error":
        _spoil(random, prompt)
    return Run(name, prompt, disturb, random.random())


def _spoil(random: Random, prompt: Prompt) -> None:
    """Let a prompt fail, early or late."""
    samplers = [each["inputs"] for each in prompt.values() if "steps" in each["inputs"]]
    inputs = random.choice(samplers)
    inputs.update(random.choice(({"width": 100}, {"preset": "none"}, {"frames": 10**6}, {"steps": 10**6, "frames": 7})))


# ---------------------------------------------------------------- while it runs


def _nothing(host: CardHost, value: float) -> None:
    """Let it run."""


def _interrupt(host: CardHost, value: float) -> None:
    """Interrupt it after a while."""
    time.sleep(value * LATEST)
    host.send("/interrupt", {})


def _shortage(host: CardHost, value: float) -> None:
    """Let one of its next allocations on the card fail."""
    host.card.fail_after(int(value * MOST_ALLOCATIONS))


DISTURBANCES: Mapping[str, Callable[[CardHost, float], None]] = {
    "nothing": _nothing,
    "interrupt": _interrupt,
    "error": _nothing,
    "memory": _shortage,
}


def perform(host: CardHost, run: Run) -> str:
    """Run it; how it ended: "success", "error", "interrupted" or "refused"."""
    if run.disturb == "memory":
        _shortage(host, run.value)
    try:
        status, answer = host.queue(run.prompt)
        return "refused" if status != 200 else _ending(host, run, answer["prompt_id"])
    finally:
        host.card.fail_after(-1)


def _ending(host: CardHost, run: Run, prompt_id: str) -> str:
    thread = threading.Thread(target=_interrupt, args=(host, run.value))
    if run.disturb == "interrupt":
        thread.start()
    entry = host.wait(prompt_id)
    if run.disturb == "interrupt":
        thread.join()
    kinds = [kind for kind, _ in entry["status"]["messages"]]
    return kinds[-1].removeprefix("execution_")


def reference(host: Host) -> str:
    """The digest of one fixed run, with nothing taken from earlier ones."""
    host.free()
    return digest(host.videos(host.post(workflow("ltx_t2v", REFERENCE)))[0])
