"""No step reads anything back from the card, so that the host can run ahead of it: every model, sampler and cache.

Counted on the pretend card by what torch dispatches. A read is a number, or a tensor, that goes from the card to the
CPU, or an operator whose result's size depends on what the card holds. Numbers that go the other way wait just as long.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import Part, PlainMemory, Recipe
from reelwire.loaders.request import Guidance, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.caches.policies.record import Record
from reelwire.samplers.long.context import sample_in_context
from reelwire.samplers.solvers import TABLES
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.cached_runs import NOTHING, OURS, SOME
from reelwire.tests.support.engine.models import MODELS, frames, needed, usual
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

pytestmark = [pytest.mark.on_card, pytest.mark.filterwarnings("ignore:In CPU autocast")]
STEPS = 10  # as many as caches need
FEW = 4  # as many as the longest history of a sampler needs
BY_VALUE = (
    "_local_scalar_dense",
    "_linalg_check_errors",
    "nonzero",
    "masked_select",
    "equal",
    "_unique2",
    "unique_dim",
)
# samplers that draw noise in each step -> how often: on the CPU, where a seed means the same everywhere
DRAWN = {"dpm": 2, "euler ancestral": 1, "dpm++ 2m sde": 1, "stochastic": 1}


class Traffic(TorchDispatchMode):
    """Counts while `on`: "read", and "sent" for numbers and "drawn" for tensors that go from the CPU to the card."""

    def __init__(self) -> None:
        super().__init__()
        self.on, self.seen = False, Counter[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.on and (kind := _kind(func.overloadpacket.__name__, args, kwargs or {}, result)):
            self.seen[kind] += 1
        return result


def _kind(name: str, args: Any, kwargs: Any, result: Any) -> str:
    on_card = lambda values: [v.device.type != "cpu" for v in tree_leaves(values) if isinstance(v, Tensor)]
    if name in BY_VALUE or (name in ("index", "index_put_") and _masked(args[1])):
        return "read" if any(on_card((args, kwargs))) else ""
    if name not in ("_to_copy", "copy_"):
        return ""
    source, target = (args[1], args[0]) if name == "copy_" else (args[0], result)
    if on_card(source) == on_card(target):
        return ""
    if any(on_card(source)):
        return "read"
    return "drawn" if source.ndim else "sent"


def _masked(indices: Any) -> bool:
    return any(isinstance(i, Tensor) and i.dtype == torch.bool for i in tree_leaves(indices))


class Roomy(PlainMemory):
    """Keeps all parts on the card, both experts too, so that no weights travel while steps are counted."""

    def use(self, part: Part, activations: int = 0) -> Any:
        return super().use(replace(part, instead_of=()), activations)


@pytest.fixture(scope="module")
def opened(tiny_models: Path) -> Any:
    """Models whose weights are all on the card after their first run."""
    return cache(lambda name: load(Recipe(MODELS[name], "", files_of(tiny_models / name), "float32"), Roomy("npu")))


def steps(model: VideoModel, warm: bool = True, **changes: Any) -> Counter[str]:
    """What a whole run lets pass from its first step to its last, when all weights are there."""
    inputs = {**needed(model), "seed": 3, "steps": STEPS, **changes}
    conditioning = model.encode("a red circle", "a blue square", inputs["keyframes"])
    traffic = Traffic()
    if warm:
        sample(model, conditioning, Request(**inputs))
    with traffic:
        sample(model, conditioning, Request(**inputs), *_between(traffic))
    return traffic.seen


def _between(traffic: Traffic) -> tuple[Any, Any]:
    """`on_step` and `wrap` of a run, which say where its steps begin and end."""

    def on_step(done: int, total: int, run: Any) -> None:
        traffic.on = done < total

    def wrap(denoiser: Any) -> Any:
        traffic.on = True
        return denoiser

    return on_step, wrap


def test_the_counter_sees_each_kind() -> None:
    x, traffic = torch.ones(4, device="npu"), Traffic()
    with traffic:
        traffic.on = True
        for read in (
            lambda: x.sum().item(),
            lambda: bool(x[0] > 0),
            x.cpu,
            x.nonzero,
            lambda: x[x > 0],
            lambda: torch.equal(x, x),
        ):
            before = traffic.seen["read"]
            read()
            assert traffic.seen["read"] > before
        x.to(torch.bfloat16), x + 1, torch.ones(2) + 1
        assert set(traffic.seen) == {"read"}
        torch.tensor(2.0).to("npu"), torch.ones(3).to("npu")
    assert (traffic.seen["sent"], traffic.seen["drawn"]) == (1, 1)


@pytest.mark.parametrize("name", MODELS)
def test_a_step_reads_nothing_back(opened: Any, name: str) -> None:
    """With every sampler of its family."""
    model = opened(name)
    for number, sampler in enumerate(s for s in TABLES[model.solvers] if s != "distilled"):
        counts = steps(model, warm=not number, sampler=sampler, steps=FEW)
        drawn = counts.pop("drawn", 0)
        assert not counts, sampler
        assert drawn <= DRAWN.get(sampler, 0) * FEW, sampler


WAYS = {
    "skip-layer": Guidance("skip-layer", layers=(1,), layer_end=0.6),
    "half": Guidance(start=0.2, end=0.5),
    "cfg-zero*": Guidance("cfg-zero*"),
    "tcfg": Guidance("tcfg"),
}  # not apg: on a device of this one's name diffusers computes it on the CPU


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["tiny-wan2.2-t2v-a14b", "tiny-ltx-0.9.0", "tiny-hunyuan-t2v"])
def test_every_form_of_guidance(opened: Any, name: str, way: str) -> None:
    scale = 4.0 if getattr(opened(name).facts, "embedded", False) else 0.0
    assert not steps(replace(opened(name), guidance=replace(WAYS[way], true_scale=scale)), guidance=4.0)


@pytest.mark.parametrize("way", ["cfg-zero*", "tcfg"])
def test_guidance_by_frames_is_one_number_a_run(opened: Any, way: str) -> None:
    assert not steps(replace(opened("tiny-svd"), guidance=Guidance(way)))


def test_a_scale_that_grows(opened: Any) -> None:
    assert not steps(replace(opened("tiny-cogvideox-5b"), guidance=Guidance(dynamic=True)), sampler="ddim")


def test_pictures_anywhere_draw_noise_and_read_nothing(opened: Any) -> None:
    model = opened("tiny-ltx-0.9.5")
    counts = steps(model, keyframes=(Keyframe(frames(1), 0), Keyframe(frames(1), -1, 0.5)))
    assert counts.pop("drawn") == STEPS - 1, "that of the first step is drawn before it"
    assert not counts


@pytest.mark.parametrize("name", ["tiny-hunyuan-t2v", "tiny-ltx-0.9.0"])
def test_trimmed_text(opened: Any, name: str) -> None:
    assert not steps(replace(opened(name), speed=Speed(trim_text=True)))


def test_context_windows(opened: Any) -> None:
    model, traffic = opened("tiny-wan2.1-t2v"), Traffic()
    request = replace(usual(model), frames=17, steps=4)
    conditioning = model.encode("a red circle", "")
    on_step, _ = _between(traffic)
    with traffic:  # its steps begin where the first has ended
        sample_in_context(model, conditioning, request, 9, 5, on_step)
    assert not traffic.seen


@pytest.mark.parametrize("policy", [*OURS, *(f"nothing, {name}" for name in NOTHING), "calibration"])
@pytest.mark.parametrize("name", ["tiny-ltx-0.9.0", "tiny-wan2.1-t2v"])
def test_a_cache_reads_once_a_step_or_forward(opened: Any, name: str, policy: str) -> None:
    """Once for each forward that is decided by itself: LTX-Video has one in a step, Wan two."""
    ready = {**SOME, **{f"nothing, {n}": p for n, p in NOTHING.items()}, "calibration": Record()}[policy]
    counts = steps(replace(opened(name), cache=ready), warm=True, guidance=4.0)
    decided = 2 if "wan" in name and ready.signal and not ready.decides_once and policy != "calibration" else 1
    assert STEPS <= counts.pop("read") <= STEPS * decided
    assert counts.pop("drawn", 0) <= (policy == "calibration"), "which numbers stand for all is drawn once"
    assert not counts


@pytest.mark.parametrize("policy", [name for name in SOME if name not in (*OURS, "cache-dit")])
def test_the_caches_of_diffusers_decide_by_reading(opened: Any, policy: str) -> None:
    """Beside our one reading in a step, whether it was finite; SeaCache votes and compares."""
    counts = steps(replace(opened("tiny-ltx-0.9.0"), cache=SOME[policy]), warm=True)
    assert STEPS <= counts.pop("read") <= STEPS * (4 if policy == "diffusers seacache" else 2)
    assert not counts
