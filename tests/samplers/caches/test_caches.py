"""Caches: nothing is changed where nothing is skipped, and a run leaves nothing behind, for every family and policy."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory
from reelwire.loaders.request import Control, Guidance, Keyframe, Request, SpatioTemporal
from reelwire.loaders.spec import SIGNALS as SIGNALS_OF_SPECS
from reelwire.samplers.caches.policies.cache_dit import CacheDiT
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.caches.policies.external import DiffusersSeaCache
from reelwire.samplers.caches.policies.first_block import FirstBlock
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.magcache import MagCache
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policies.sencache import SenCache
from reelwire.samplers.caches.policies.teacache import Fit, TeaCache
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.caches.signals import SIGNALS
from reelwire.samplers.plan import plan
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.cached_runs import NOTHING, OURS, SOME, STEPS, Sampled, StopError
from reelwire.tests.support.engine.models import frames, needed
from reelwire.tests.support.engine.models import open_model as _open
from reelwire.tests.support.engine.words import refuses
from reelwire.training.tiny_models import MODELS

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
TRANSFORMERS = [name for name in MODELS if "upsampler" not in name and "svd" not in name]
# one of each family, and those whose forward is another: two experts, hints, tokens with times of their own, padding
SOME_MODELS = [
    "tiny-hunyuan-t2v",
    "tiny-hunyuan-i2v-replace",
    "tiny-wan2.1-vace",
    "tiny-wan2.2-t2v-a14b",
    "tiny-wan2.2-ti2v-5b",
    "tiny-cogvideox1.5-5b-i2v",
    "tiny-mochi",
    "tiny-ltx-0.9.5",
]


@pytest.fixture(scope="module")
def opened(tiny_models: Path) -> Any:
    return cache(lambda name: _open(tiny_models, name))


@pytest.fixture(scope="module")
def plain(opened: Any) -> Any:
    """Latents of the uncached run of a model."""
    return cache(lambda name: Sampled(opened(name)).latents)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_where_nothing_is_skipped_every_bit_is_the_same(opened: Any, plain: Any, name: str) -> None:
    for title, policy in NOTHING.items():
        run = Sampled(replace(opened(name), cache=policy))
        assert torch.equal(run.latents, plain(name)), title
        assert run.computed == len(run.entries) > 0, title
    assert torch.equal(Sampled(opened(name)).latents, plain(name))


@pytest.mark.parametrize("policy", SOME)
@pytest.mark.parametrize("name", SOME_MODELS)
def test_skipping_changes_a_little_and_a_rerun_nothing(opened: Any, plain: Any, name: str, policy: str) -> None:
    cached = replace(opened(name), cache=SOME[policy])
    run = Sampled(cached)
    assert 0 < run.computed < len(run.entries)
    assert 0 < (run.latents - plain(name)).abs().max() < 6 * plain(name).std()
    assert torch.equal(Sampled(cached).latents, run.latents)
    assert torch.equal(Sampled(opened(name)).latents, plain(name))
    assert not run.run.cache._states


WAYS = {
    "apg": Guidance("apg", momentum=-0.5),
    "skip-layer": Guidance("skip-layer", layers=(1,), layer_end=0.6),
    "half": Guidance(start=0.2, end=0.5),
    "cfg-zero*": Guidance("cfg-zero*"),
    "tcfg": Guidance("tcfg"),
    "stg": Guidance("stg", stg=SpatioTemporal(blocks=((1,),))),
}
GUIDED = [
    (name, way)
    for name in ("tiny-wan2.1-t2v", "tiny-ltx-0.9.0", "tiny-hunyuan-t2v")
    for way in WAYS
    if way != "stg" or "ltx" in name
]


@pytest.mark.parametrize(("name", "way"), GUIDED)
def test_every_form_of_guidance(opened: Any, name: str, way: str) -> None:
    embedded = getattr(opened(name).facts, "embedded", False)
    model = replace(opened(name), guidance=replace(WAYS[way], true_scale=4.0 if embedded else 0.0))
    expected = Sampled(model).latents
    for title, policy in NOTHING.items():
        assert torch.equal(Sampled(replace(model, cache=policy)).latents, expected), title
    for title in OURS:
        cached = replace(model, cache=SOME[title])
        run = Sampled(cached)
        assert run.computed < len(run.entries), title
        assert torch.equal(Sampled(cached).latents, run.latents), title


@pytest.mark.parametrize("policy", SOME)
@pytest.mark.parametrize("name", ["tiny-wan2.2-t2v-a14b", "tiny-ltx-0.9.0"])
def test_a_run_leaves_nothing_behind(opened: Any, name: str, policy: str) -> None:
    """The same after an interrupt, another size or number of steps, with two samplers and two caches on one model."""
    model = replace(opened(name), cache=SOME[policy])
    expected = Sampled(model).latents
    for stop in (1, 4, 9):
        with pytest.raises(StopError):
            Sampled(model, stop=stop)
        assert torch.equal(Sampled(model).latents, expected), f"after an interrupt at step {stop}"
    Sampled(model, width=96, frames=17)
    assert torch.equal(Sampled(model).latents, expected), "after another size"
    Sampled(model, steps=13)
    assert torch.equal(Sampled(model).latents, expected), "after another number of steps"
    other = replace(model, cache=FORA(interval=3))
    alone = Sampled(other).latents
    Sampled(model)
    assert torch.equal(Sampled(other).latents, alone), "after another cache on the same network"
    assert torch.equal(Sampled(model).latents, expected)


def test_experts_share_nothing(opened: Any) -> None:
    for policy in (SOME["TeaCache"], SOME["plan"], SOME["FORA"]):
        run = Sampled(replace(opened("tiny-wan2.2-t2v-a14b"), cache=policy), steps=16)
        for branch in {e.branch for e in run.entries}:
            for part in ("transformer", "transformer_2"):
                steps = [e for e in run.entries if (e.part, e.branch) == (part, branch)]
                assert steps[0].computed, f"{part} began with what the other expert left"


@pytest.mark.parametrize(("interval", "sampler"), [(2, "heun"), (3, "heun"), (2, "euler")])
def test_an_interval_counts_predictions(opened: Any, interval: int, sampler: str) -> None:
    """Of which Heun asks for two a step: every N-th and the last one are computed, and it is said where an interval
    meets the same one of the two in each step."""
    model = replace(opened("tiny-ltx-0.9.0"), cache=FORA(interval=interval))
    run, steps = Sampled(model, sampler=sampler, steps=12), 23 if sampler == "heun" else 12
    computed = [entry.step for entry in run.entries if entry.computed]
    assert len(run.entries) == steps * len({entry.branch for entry in run.entries})
    assert {*computed} == {*range(0, steps, interval), steps - 1}
    request = Request(**{**needed(model), "steps": 12, "sampler": sampler})
    said = plan(model, request).notes
    assert any("odd interval" in note for note in said) == ((interval, sampler) == (2, "heun"))


def test_few_steps_pass_through(opened: Any) -> None:
    model = opened("tiny-ltx-0.9.0")
    few = Sampled(replace(model, cache=SOME["FORA"]), steps=9)
    assert few.run.cache is None
    assert torch.equal(few.latents, Sampled(model, steps=9).latents)


# ---------------------------------------------------------------- a UNet


def test_svd(opened: Any, plain: Any) -> None:
    """Its deep blocks at an interval, or its clean video by a plan; policies for transformers alone are refused."""
    model, expected = opened("tiny-svd"), plain("tiny-svd")
    for nothing in (FORA(interval=1), Plan(speed=1.0), NOTHING["Spectrum"]):
        assert torch.equal(Sampled(replace(model, cache=nothing)).latents, expected)
    for some in (FORA(interval=2), FORA(interval=2, order=1, warmup=2), Plan(speed=2.0), SOME["Spectrum"]):
        run = Sampled(replace(model, cache=some))
        assert 0 < run.computed < len(run.entries)
        assert 0 < (run.latents - expected).abs().max() < 3 * expected.std()
        assert torch.equal(Sampled(replace(model, cache=some)).latents, run.latents)
    assert torch.equal(Sampled(model).latents, expected)
    refused = (TeaCache(), EasyCache(), FirstBlock(), MagCache(), SenCache(), DiffusersSeaCache())
    for policy in (*refused, FORA(granularity="module")):
        with pytest.raises(InputError, match=r"UNet.*Use"):
            Sampled(replace(model, cache=policy))


# ---------------------------------------------------------------- with everything else


@pytest.mark.parametrize("policy", OURS)
@pytest.mark.parametrize("name", ["tiny-wan2.1-t2v", "tiny-hunyuan-t2v"])
def test_with_fp8_weights(tiny_models: Path, name: str, policy: str) -> None:
    from reelwire.loaders.families import load

    small = load(replace(_open(tiny_models, name).recipe, storage="fp8"), PlainMemory())
    assert torch.equal(
        Sampled(replace(small, cache=NOTHING.get(policy, FORA(interval=1)))).latents, Sampled(small).latents
    )
    run = Sampled(replace(small, cache=SOME[policy]))
    assert run.computed < len(run.entries)


@pytest.mark.parametrize("policy", SOME)
def test_with_a_lora(tiny_models: Path, tmp_path: Path, policy: str) -> None:
    """It counts in what is computed and what is kept, and is gone without it."""
    from reelwire.loaders.weights.lora import LoRA, read_lora
    from reelwire.tests.support.files.loras import LAYERS, matrices, write

    model, file = _open(tiny_models, "tiny-wan2.1-t2v"), tmp_path / "lora.safetensors"
    write(file, "diffusers", matrices(model, LAYERS["wan"][1]), LAYERS["wan"][1])
    lora = (LoRA(file, 0.7, 0.7, read_lora(file, model.checkpoint, model.parts["transformer"]).deltas),)
    cached = replace(model, cache=SOME[policy])
    without = Sampled(cached).latents
    with_it = Sampled(replace(cached, loras=lora)).latents
    assert (with_it - without).abs().max() > 1e-3
    assert torch.equal(Sampled(replace(cached, loras=lora)).latents, with_it)
    assert torch.equal(Sampled(cached).latents, without)
    nothing = NOTHING.get(policy)
    if nothing is not None:
        assert torch.equal(
            Sampled(replace(cached, loras=lora, cache=nothing)).latents, Sampled(replace(model, loras=lora)).latents
        )


@pytest.mark.parametrize("policy", OURS)
@pytest.mark.parametrize(
    "name", ["tiny-wan2.1-t2v", "tiny-ltx-0.9.0", "tiny-hunyuan-t2v", "tiny-mochi", "tiny-cogvideox-2b"]
)
def test_with_compiled_blocks(opened: Any, name: str, policy: str) -> None:
    """Each block is one graph; a cache changes nothing in it."""
    cached = replace(opened(name), cache=SOME[policy])
    fast = replace(cached, speed=Speed(compile=True, compiler="eager", whole=True))
    if policy == "FORA, modules":
        with pytest.raises(InputError, match=r"module granularity.*stack"):
            Sampled(fast)
        return
    expected = Sampled(cached)
    run = Sampled(fast)
    assert torch.allclose(run.latents, expected.latents, atol=1e-4)
    assert [e.computed for e in run.entries] == [e.computed for e in expected.entries]
    assert torch.equal(Sampled(cached).latents, expected.latents), "the compiled blocks stayed"


@pytest.mark.parametrize("name", ["tiny-ltx-0.9.0", "tiny-ltx-0.9.5", "tiny-wan2.2-ti2v-5b"])
def test_with_keyframes(opened: Any, name: str) -> None:
    """Tokens have times of their own; what is given stays."""
    from reelwire.loaders.request import Keyframe

    picture = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(1))
    keyframes = (Keyframe(picture, 0), *([Keyframe(picture.flip(1), 8, 0.8)] if "ltx" in name else []))
    model = opened(name)
    expected = Sampled(model, keyframes=keyframes).latents
    for title, policy in NOTHING.items():
        assert torch.equal(Sampled(replace(model, cache=policy), keyframes=keyframes).latents, expected), title
    for title, policy in SOME.items():
        run = Sampled(replace(model, cache=policy), keyframes=keyframes)
        assert run.computed < len(run.entries), title
        assert (run.latents - expected).abs().max() < 6 * expected.std(), title
        assert torch.equal(Sampled(replace(model, cache=policy), keyframes=keyframes).latents, run.latents), title


def test_names_of_the_weights_stay(opened: Any) -> None:
    model = opened("tiny-ltx-0.9.0")
    with model.use("transformer") as network:
        names = list(network.state_dict())
        during: list[list[str]] = []
        handle = network.transformer_blocks[0].register_forward_hook(
            lambda *_: during.append(list(network.state_dict()))
        )
        Sampled(replace(model, cache=SOME["TeaCache"]))
        handle.remove()
        assert list(network.state_dict()) == names
    assert during


# ---------------------------------------------------------------- memory


@pytest.mark.parametrize("policy", OURS)
@pytest.mark.parametrize(
    "name", ["tiny-hunyuan-t2v", "tiny-wan2.1-t2v", "tiny-cogvideox1.5-5b", "tiny-mochi", "tiny-ltx-0.9.0"]
)
def test_memory_is_what_was_said(opened: Any, name: str, policy: str) -> None:
    from reelwire.samplers.plan import plan

    model = replace(opened(name), cache=SOME[policy])
    # Mochi's text is narrower than its video, which counts for something at small sizes alone
    size: dict[str, Any] = (
        dict(width=320, height=320, frames=19) if name == "tiny-mochi" else dict(width=128, height=128, frames=17)
    )
    run = Sampled(model, **size)
    prepared = plan(model, Request(**size, steps=STEPS))
    assert prepared.policy is not None
    assert prepared.policy.estimate(model, prepared.request) == pytest.approx(run.run.cache.peak, rel=0.1)


@pytest.mark.parametrize("policy", ["plan", "corrected plan", "TeaCache", "SenCache", "EasyCache"])
@pytest.mark.parametrize(
    "name",
    ["tiny-ltx-0.9.5", "tiny-wan2.1-vace", "tiny-wan2.1-fun-control", "tiny-wan2.1-i2v", "tiny-cogvideox1.5-5b-i2v"],
)
def test_memory_counts_what_lies_beside_the_video(opened: Any, name: str, policy: str) -> None:
    """Keyframes in the middle, references in front, and pictures in channels of their own."""
    from reelwire.samplers.plan import plan

    model = replace(opened(name), cache=SOME[policy])
    size: dict[str, Any] = dict(width=128, height=128, frames=17)
    if "ltx" in name:
        size["keyframes"] = tuple(Keyframe(frames(1, i), place) for i, place in enumerate((0, 8, -1)))
    elif "i2v" not in name:
        size["control"] = Control(frames(17), references=frames(2) if "vace" in name else None)
    run = Sampled(model, **size)
    prepared = plan(model, Request(**{**needed(model), **size, "steps": STEPS}))
    assert prepared.policy is not None
    assert prepared.policy.estimate(model, prepared.request) == pytest.approx(run.run.cache.peak, rel=0.1)


# ---------------------------------------------------------------- bad input


@dataclass(frozen=True, kw_only=True)
class Watching(FORA):
    """A policy that goes by a signal which somebody chose."""

    watched: str = ""

    @property
    def signal(self) -> str:  # type: ignore[override]
        return self.watched


REFUSED: dict[str, tuple[Policy, str]] = {
    "start after end": (FORA(start=0.6, end=0.5), r"start, end = 0.6, 0.5.*0 <= start < end <= 1"),
    "interval 0": (FORA(interval=0), r"interval = 0: The run has 10 predictions. Use 1"),
    "interval above the steps": (FORA(interval=11), r"interval = 11: The run has 10 predictions"),
    "speed below 1": (Plan(speed=0.5), r"speed = 0.5"),
    "order": (FORA(order=7), r"order = 7"),
    "MagCache without a calibration": (MagCache(), r"has no calibration for 10 steps.*Calibrate Cache"),
    "SenCache without sensitivities": (SenCache(), r"has no calibration for 10 steps.*sensitivity on"),
    "coefficients that are not there": (
        TeaCache(source="calibrated"),
        r"coefficients = calibrated.*no calibration for 10 steps",
    ),
    "an unknown signal": (
        Watching(watched="colour"),
        r"signal colour.*modulated, time, embedder, embedded, block, latents",
    ),
    "a cache that is not installed": (CacheDiT(), r"cache-dit is not installed.*pip install -U cache-dit"),
}


def test_specs_and_caches_know_the_same_signals() -> None:
    assert tuple(SIGNALS) == SIGNALS_OF_SPECS


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_is_told(opened: Any, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    import importlib.util

    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, find=importlib.util.find_spec: None if name == "cache_dit" else find(name),
    )
    policy, message = REFUSED[case]
    with pytest.raises(InputError, match=message):
        Sampled(replace(opened("tiny-wan2.1-t2v"), cache=policy))


def test_cache_dit_counts_forwards(opened: Any) -> None:
    model = replace(opened("tiny-wan2.1-t2v"), cache=SOME["cache-dit"], guidance=Guidance(end=0.5))
    with pytest.raises(InputError, match=r"cache-dit counts forwards.*plain guidance"):
        Sampled(model)


@pytest.mark.parametrize(
    ("name", "guidance", "apart"),
    [
        ("tiny-wan2.1-t2v", 5.0, True),
        ("tiny-wan2.1-t2v", 1.0, False),
        ("tiny-ltx-0.9.0", 3.0, False),
        ("tiny-hunyuan-t2v", 6.0, False),
    ],
)
def test_cache_dit_tells_branches_apart_where_there_are_two(
    opened: Any, monkeypatch: pytest.MonkeyPatch, name: str, guidance: float, apart: bool
) -> None:
    """By every second forward pass; both in one pass are one, and so is a pass without guidance."""
    import cache_dit

    asked = list[bool]()
    enable = cache_dit.enable_cache

    def enabled(adapter: Any, cache_config: Any, **options: Any) -> Any:
        asked.append(cache_config.enable_separate_cfg)
        return enable(adapter, cache_config=cache_config, **options)

    monkeypatch.setattr(cache_dit, "enable_cache", enabled)
    Sampled(replace(opened(name), cache=SOME["cache-dit"]), guidance=guidance)
    assert asked == [apart]
    asked.clear()
    if "hunyuan" in name:
        true = replace(opened(name), cache=SOME["cache-dit"], guidance=Guidance(true_scale=4.0))
        Sampled(true, guidance=guidance)
        assert asked == [True]


@pytest.mark.parametrize("policy", [name for name in SOME if name.startswith("diffusers")])
def test_diffusers_caches_know_one_pass_of_a_branch(opened: Any, policy: str) -> None:
    model = replace(opened("tiny-wan2.1-t2v"), cache=SOME[policy], guidance=WAYS["skip-layer"])
    with refuses(InputError, "one_pass_a_branch"):
        Sampled(model)
    rests = replace(opened("tiny-ltx-0.9.0"), cache=SOME[policy], guidance=WAYS["half"])
    with refuses(InputError, "branch_rests"):
        Sampled(rests)


class _Broken(FORA):
    """Keeps what no network gave."""

    def on_computed(self, state: Any, context: Any, values: Any, observed: Any) -> None:
        values[0].mul_(torch.nan)


def test_what_is_not_finite_stops_with_words(opened: Any) -> None:
    with refuses(ValueError, "prediction_not_finite", cache="FORA", index=2, count=10):
        Sampled(replace(opened("tiny-ltx-0.9.0"), cache=_Broken(interval=2)))


class _Flat(Plan):
    """Computes the first step alone, and points to a gray video."""

    def on_computed(self, state: Any, context: Any, values: Any, observed: Any) -> None:
        values[0].mul_(0.0)

    def plan_steps(self, run: Any, part: str, steps: range) -> dict[int, float]:
        return dict.fromkeys(steps[1:], 0.0)

    def may_skip(self, state: Any, context: Any) -> bool:
        return context.step > 0


def test_a_collapsed_video_stops_with_words(opened: Any) -> None:
    with refuses(ValueError, "collapsed", cache="plan"):
        Sampled(replace(opened("tiny-ltx-0.9.0"), cache=_Flat(speed=5.0, order=0)))


# ---------------------------------------------------------------- Speed


def test_a_unet_is_not_compiled(opened: Any) -> None:
    with pytest.raises(InputError, match=r"compile = on.*UNet"):
        Sampled(replace(opened("tiny-svd"), speed=Speed(compile=True)))


@pytest.mark.parametrize(
    "poly", [Fit("modulated", (-1.0, 0.0), 0.1, ""), Fit("modulated", (1.0, 0.0), 0.1, "", low=1e-9, high=1e-8)]
)
def test_distances_outside_of_a_polynomials_range_are_told(opened: Any, poly: Fit) -> None:
    from reelwire.samplers.caches.report import report

    run = Sampled(replace(opened("tiny-ltx-0.9.0"), cache=TeaCache(polynomial=poly, threshold=0.1)))
    (note,) = report(run.run.cache).notes
    assert "distances lie outside the range of its coefficients" in note
