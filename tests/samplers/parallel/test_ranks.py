"""One clip on two ranks is the clip of one process, bit for bit: in all modes, with caches, and after deaths."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.bench.ranks import wire
from reelwire.loaders.notices import heard_by
from reelwire.loaders.request import Guidance, Keyframe, Parallel, Request
from reelwire.loaders.vae.tiles import Tiling
from reelwire.samplers.caches.mechanisms.external import External
from reelwire.samplers.caches.policies import choices
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import RunSoFar
from reelwire.samplers.parallel.clip import spread
from reelwire.samplers.parallel.clip.local import LocalLauncher
from reelwire.samplers.parallel.clip.ranks import Group
from reelwire.samplers.parallel.clip.worker import Frames, SampleTask
from reelwire.samplers.plan import plan
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.models import PROMPT, frames
from reelwire.tests.support.parallel.ranks import Case, Decoded, Tiny

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere


@pytest.fixture(scope="module")
def group(tiny_models: Path) -> Iterator[Group]:
    """Two ranks on the CPU, which build what each case names."""
    pair = Group(LocalLauncher(60), Tiny(tiny_models, "tiny-wan2.1-t2v"), Parallel("", 2, "context"), ["cpu", "cpu"])
    yield pair
    pair.close()


def on_ranks(group: Group, case: Case) -> torch.Tensor:
    """The latents of the first rank."""
    latents: torch.Tensor = group.run(lambda: case)[0][0]
    return latents


LARGE = {"width": 128, "height": 128}  # some dozen tokens for each rank: fewer are multiplied by other kernels
KEYFRAMES = {"keyframes": (Keyframe(frames(1), 0), Keyframe(frames(1, 6), 8, 0.7))}
COMPILED = Speed(compile=True, compiler="eager")
HUNYUAN = {"guidance": Guidance(true_scale=3.0)}
CASES: dict[str, tuple[str, str, dict[str, Any], dict[str, Any]]] = {  # mode, model, its options, the request's changes
    "wan t2v": ("context", "tiny-wan2.1-t2v", {}, {}),
    "wan i2v": ("context", "tiny-wan2.1-i2v", {}, {}),
    "wan vace": ("context", "tiny-wan2.1-vace", {}, {}),
    "wan fun": ("context", "tiny-wan2.1-fun-control", {}, {}),
    "wan 2.2 experts": ("context", "tiny-wan2.2-t2v-a14b", {}, {}),
    "wan 2.2 5b": ("context", "tiny-wan2.2-ti2v-5b", {}, LARGE),
    "ltx masked text": ("context", "tiny-ltx-0.9.0", {}, {}),
    "ltx keyframes": ("context", "tiny-ltx-0.9.5", {}, KEYFRAMES),
    "ltx guider": ("context", "tiny-ltx-0.9.5", {"guidance": Guidance("apg")}, LARGE),
    "hunyuan t2v": ("context", "tiny-hunyuan-t2v", HUNYUAN, {}),
    "hunyuan i2v by channels": ("context", "tiny-hunyuan-i2v-concat", {}, {}),
    "hunyuan i2v by tokens": ("context", "tiny-hunyuan-i2v-replace", {}, {}),
    "hunyuan trimmed": ("context", "tiny-hunyuan-t2v", {"speed": Speed(trim_text=True)}, {}),
    "cogvideox": ("context", "tiny-cogvideox-2b", {}, {}),
    "cogvideox i2v": ("context", "tiny-cogvideox-5b-i2v", {}, {}),
    "cogvideox 1.5 i2v": ("context", "tiny-cogvideox1.5-5b-i2v", {}, {}),
    "cogvideox fun": ("context", "tiny-cogvideox-fun-control", {}, {}),
    "hunyuan compiled": ("context", "tiny-hunyuan-i2v-replace", {"speed": COMPILED}, {"steps": 2}),
    "cogvideox kernel": ("context", "tiny-cogvideox-2b", {"speed": Speed(attention="native flash")}, {}),
    "hunyuan kernel": ("context", "tiny-hunyuan-t2v", {"speed": Speed(attention="native")}, {}),
    "branches wan": ("branches", "tiny-wan2.1-t2v", {}, {}),
    "branches hunyuan": ("branches", "tiny-hunyuan-t2v", HUNYUAN, {}),
    "branches cogvideox": ("branches", "tiny-cogvideox-2b", {}, {}),
    "branches cogvideox i2v": ("branches", "tiny-cogvideox1.5-5b-i2v", {}, {}),
    "branches mochi": ("branches", "tiny-mochi", {}, {}),
    "branches ltx": ("branches", "tiny-ltx-0.9.5", {}, KEYFRAMES),
    "branches ltx skip": ("branches", "tiny-ltx-0.9.5", {"guidance": Guidance("skip-layer", layers=(1,))}, {}),
    "branches ltx part": ("branches", "tiny-ltx-0.9.5", {"guidance": Guidance(end=0.5)}, {}),
    "branches svd": ("branches", "tiny-svd-xt", {}, {"steps": 2}),
    "experts t2v": ("experts", "tiny-wan2.2-t2v-a14b", {}, {}),
    "experts momentum": ("experts", "tiny-wan2.2-t2v-a14b", {"guidance": Guidance("apg", momentum=-0.5)}, {"steps": 6}),
    "branches momentum": ("branches", "tiny-wan2.1-t2v", {"guidance": Guidance("apg", momentum=-0.5)}, {}),
    "experts i2v": ("experts", "tiny-wan2.2-i2v-a14b", {}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_bytes(group: Group, tiny_models: Path, name: str) -> None:
    mode, model, options, changes = CASES[name]
    case = Case(Tiny(tiny_models, model, options), mode, changes)
    latents, alone = on_ranks(group, case), case.alone()
    assert (latents - alone).abs().max() == 0


CACHED = [
    *(
        (mode, name, "tiny-ltx-0.9.5")
        for mode in ("context", "branches")
        for name in choices()
        if name not in ("sencache", "magcache")  # which need a calibration
        and not issubclass(choices()[name].mechanism, External)  # which plan refuses
    ),
    ("context", "first block", "tiny-wan2.1-t2v"),
    ("context", "teacache", "tiny-hunyuan-i2v-replace"),
    ("context", "first block", "tiny-cogvideox-2b"),
    ("branches", "easycache", "tiny-wan2.1-t2v"),
    ("experts", "corrected plan", "tiny-wan2.2-t2v-a14b"),
    ("experts", "first block", "tiny-wan2.2-t2v-a14b"),
]


@pytest.mark.parametrize(("mode", "name", "model"), CACHED)
def test_caches_decide_alike(group: Group, tiny_models: Path, mode: str, name: str, model: str) -> None:
    """On all ranks, and as one process does: what is computed, and the bits."""
    policy = TeaCache() if name == "teacache" else choices()[name]()
    case = Case(Tiny(tiny_models, model, {"cache": policy}), mode, {"steps": 12})
    (latents, seen), (_, other) = group.run(lambda: case)
    alone, expected = case.watched()
    decisions = lambda entries: [(e.part, e.branch, e.step, e.computed) for e in entries]
    mine, others = decisions(seen.entries), decisions(other.entries)
    known = {decision[:2] for decision in mine}
    assert sorted(mine + [d for d in others if d[:2] not in known]) == sorted(decisions(expected))
    assert torch.equal(latents, alone)


DECODED = {
    "tiny-wan2.1-t2v": (3, 12, 12),
    "tiny-ltx-0.9.5": (3, 6, 6),
    "tiny-cogvideox-2b": (3, 12, 12),
}


@pytest.mark.parametrize("name", DECODED)
def test_tiles_on_ranks(group: Group, tiny_models: Path, name: str) -> None:
    """Nine tiles, of which the first rank has five."""
    case, pieces = Decoded(Tiny(tiny_models, name), DECODED[name], Tiling(4)), list[torch.Tensor]()
    group.run(lambda: case, lambda event: pieces.append(event.piece) if isinstance(event, Frames) else None)
    assert torch.equal(torch.cat(pieces), case.alone())


def test_bytes_on_the_wire(group: Group, tiny_models: Path) -> None:
    """They are those that bench/ranks/wire.py counts on paper."""
    changes = {"steps": 2}
    sent = lambda name, mode: group.run(lambda: Case(Tiny(tiny_models, name), mode, changes, counted=True))[0]
    wan, tokens = wire.Network(layers=4, hidden=24, row=64, item=4), 48
    assert sum(sent("tiny-wan2.1-t2v", "context").values()) == 2 * wire.context_step(wan, tokens, 2, 2)
    one = wire.prediction_step(16 * 3 * 8 * 8, 4, 2)
    assert sum(sent("tiny-wan2.1-t2v", "branches").values()) == 2 * (one + wire.FLAG)


AMONG = {"tiny-hunyuan-t2v": (1, 1), "tiny-cogvideox-2b": (1, 2)}  # forward passes of a step, videos in each


@pytest.mark.parametrize("name", AMONG)
def test_bytes_of_a_prompt_among_the_tokens(group: Group, tiny_models: Path, name: str) -> None:
    forwards, batch = AMONG[name]
    model, case = Tiny(tiny_models, name)(), Case(Tiny(tiny_models, name), "context", {"steps": 2}, counted=True)
    config, request = model.parts["transformer"].config, case.task(model).plan.request
    network = wire.Network(
        layers=config["num_layers"] + config.get("num_single_layers", 0),
        hidden=model.facts.hidden_size,
        row=config["patch_size"] ** 2 * config["out_channels"],
        item=4,
        prompt=model.text_positions(request),
    )
    forward = wire.context_forward(network, model.positions(request), 2, batch)
    assert sum(group.run(lambda: case)[0].values()) == 2 * (forwards * forward + wire.FLAG)


def test_a_rank_that_exits(group: Group, tiny_models: Path, tmp_path: Path) -> None:
    """The group starts again and the work is done, by itself; who waits hears of it within ten seconds."""
    tiny, marker = Tiny(tiny_models, "tiny-ltx-0.9.5"), tmp_path / "died"
    case = Case(tiny, "context", {"steps": 60}, dies=0.3, marker=marker)
    heard, before = list[float](), group.restarts
    with heard_by(lambda notice: heard.append(time.time())):
        latents = on_ranks(group, case)
    assert group.restarts == before + 1
    assert heard[0] - (marker.stat().st_mtime + case.dies) < 10
    assert torch.equal(latents, replace(case, dies=0.0).alone())


@pytest.mark.parametrize(
    ("guidance", "goes_on"),
    [(Guidance(), True), (Guidance("apg"), True), (Guidance("apg", momentum=-0.5), False)],
    ids=["cfg", "apg", "momentum"],
)
def test_what_predictions_do_not_tell_is_computed_again(tiny_models: Path, guidance: Guidance, goes_on: bool) -> None:
    """A cache within the network, and momentum."""
    model = replace(Tiny(tiny_models, "tiny-wan2.1-t2v", {})(), guidance=guidance)
    conditioning = model.encode(PROMPT, "a cat")
    for name, tells in {"": True, "corrected plan": True, "first block": False}.items():
        cached = replace(model, cache=choices()[name]() if name else None)
        task = SampleTask(conditioning, plan(cached, Request(seed=3, steps=12)))
        assert task.resumes(cached) == (goes_on and tells), name


def test_a_rank_that_is_killed(tiny_models: Path) -> None:
    """The run goes on from its last prediction: each step is told once, and none is computed twice."""
    model = Tiny(tiny_models, "tiny-wan2.1-t2v", {"cache": choices()["corrected plan"]()})()
    model = replace(model, parallel=Parallel("", 2, "context"))
    prepared = plan(model, Request(seed=3, steps=12))
    conditioning = model.encode(PROMPT, "a cat")
    steps, runs, launcher = list[int](), list[Any](), LocalLauncher(60)
    group = spread.group_of(model, launcher)

    def on_step(done: int, count: int, run: RunSoFar) -> None:
        if done == 7:
            os.kill(launcher.processes[0].pid, signal.SIGKILL)
        steps.append(done)
        runs.append(run)

    try:
        latents = spread.sample(model, conditioning, prepared, on_step)
        restarts = group.restarts
        frames = torch.cat([*spread.stream_frames(model, latents, 1, Tiling(4))])
    finally:
        spread.close()
    alone = Case(Tiny(tiny_models, "tiny-wan2.1-t2v", {"cache": model.cache}), "", {"steps": 12})
    expected, entries = alone.watched()
    assert (restarts, steps) == (1, sorted(set(steps)))
    assert torch.equal(latents, expected)
    assert [(e.step, e.computed) for e in runs[-1].cache.entries] == [(e.step, e.computed) for e in entries]
    assert torch.equal(frames, torch.cat([*stream_frames(alone.tiny(), latents, 1, Tiling(4))]))
