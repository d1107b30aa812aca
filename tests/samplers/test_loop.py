"""Loops: the last frame meets the first, by a picture at both ends or by latents that are turned in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from reelwire.bench.templates.inputs import EDGE, circle
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Keyframe, Request
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.loop import Circle, Seam
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import MODELS, frames, open_ltx, open_model, run
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
PROMPT = "a red circle moves right on black"
# tiny model -> how it loops: by a picture that it takes at the last frame, by turned latents, both, or neither
WAYS = {
    "tiny-hunyuan-t2v": {"turned"},
    "tiny-hunyuan-i2v-concat": set(),
    "tiny-wan2.1-t2v": {"turned"},
    "tiny-wan2.1-i2v": set(),
    "tiny-wan2.1-flf2v": {"picture"},
    "tiny-wan2.2-t2v-a14b": {"turned"},
    "tiny-wan2.2-i2v-a14b": {"picture"},
    "tiny-wan2.2-ti2v-5b": {"turned"},
    "tiny-cogvideox-5b": {"turned"},
    "tiny-cogvideox-5b-i2v": set(),
    "tiny-cogvideox1.5-5b": set(),  # its network sees latent frames in pairs
    "tiny-mochi": {"turned"},
    "tiny-ltx-0.9.5": {"picture", "turned"},
    "tiny-svd": set(),
}


def seam(pieces: list[Tensor]) -> float:
    watching = Seam()
    for piece in pieces:
        watching.watch(piece)
    return watching.ratio


@pytest.mark.parametrize("size", [1, 2, 7])
def test_the_seam_is_measured_in_steps_of_neighbours(size: int) -> None:
    """Over pieces of any size: there and back ends a step from where it began, straight ahead eleven."""
    times = torch.arange(12.0)
    there_and_back = (6 - (times - 6).abs()).view(12, 1, 1, 1)
    assert seam([*there_and_back.split(size)]) == pytest.approx(1)
    assert seam([*times.view(12, 1, 1, 1).split(size)]) == pytest.approx(11)
    assert seam([torch.zeros(3, 2, 2, 3, dtype=torch.uint8)]) == 0


@pytest.mark.parametrize("name", WAYS)
def test_each_model_loops_or_says_why_not(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    sets = model.capabilities().sets
    request = Request(loop=True)
    for way, keyframes in (("turned", ()), ("picture", (Keyframe(frames(1), 0),))):
        if way not in WAYS[name]:
            with pytest.raises(InputError) as refused:
                plan(model, replace(request, keyframes=keyframes))
            assert refused.value.name == "loop" or sets == ((),)  # takes no picture at all
            continue
        planned = plan(model, replace(request, keyframes=keyframes))
        assert len(planned.request.keyframes) == (2 if way == "picture" else 0)
        for first, last in zip(planned.request.keyframes[:1], planned.request.keyframes[1:], strict=True):
            assert (first.frame, last.frame) == (0, planned.request.frames - 1)
            assert torch.equal(first.images, last.images)


@pytest.mark.parametrize("name", sorted(name for name, ways in WAYS.items() if "turned" in ways))
def test_turned_latents_make_a_video_of_every_family(tiny_models: Path, name: str) -> None:
    """Another one than without, finite, and the same each time."""
    model = open_model(tiny_models, name)
    plain, loop, again = (run(model, loop=on) for on in (False, True, True))
    assert torch.equal(loop, again)
    assert loop.shape == plain.shape
    assert torch.isfinite(loop).all()
    assert not torch.equal(loop, plain)


def test_every_model_is_in_the_table() -> None:
    assert {MODELS[name] for name in WAYS} == {*MODELS.values()}


def ltx_seam(request: Request) -> float:
    model = open_ltx(BUNDLED)
    latents = sample(model, model.encode(PROMPT, ""), request)
    return seam([*stream_frames(model, latents)])


def test_the_trained_model_closes_its_loop() -> None:
    request = Request(width=64, height=64, frames=33, steps=8, seed=0)
    plain = ltx_seam(request)
    assert plain > 4
    assert ltx_seam(replace(request, loop=True)) < plain / 2
    picture = torch.from_numpy(np.asarray(circle(EDGE, 64)) / np.float32(255))[None]
    keyframe = replace(request, keyframes=(Keyframe(picture, 0),))
    assert ltx_seam(replace(keyframe, loop=True)) < ltx_seam(keyframe) * 0.85


def keys(*places: int) -> dict[str, Any]:
    return {"keyframes": tuple(Keyframe(frames(1, place % 7), place) for place in places)}


@pytest.mark.parametrize("request_", [keys(-1), keys(0, -1), keys(8), keys(0, 8, 16)], ids=str)
def test_pictures_that_contradict_a_loop_are_refused(request_: dict[str, Any]) -> None:
    with pytest.raises(InputError) as refused:
        plan(open_ltx(BUNDLED), Request(frames=17, loop=True, **request_))
    assert refused.value.name == "loop"


def test_a_clip_that_goes_on_meets_itself_nowhere() -> None:
    with pytest.raises(InputError) as refused:
        plan(open_ltx(BUNDLED), Request(frames=33, loop=True, clip=frames(9)))
    assert refused.value.name == "loop"


def test_a_cache_and_a_turned_loop_are_refused() -> None:
    model = replace(open_ltx(BUNDLED), cache=TeaCache())
    with pytest.raises(InputError) as refused:
        plan(model, Request(loop=True))
    assert refused.value.name == "loop"
    plan(model, Request(loop=True, keyframes=(Keyframe(frames(1), 0),)))


@pytest.mark.parametrize(
    ("steps", "count", "key"), [(2, 33, "loop_unturned"), (8, 1, "loop_unturned"), (3, 33, "loop_circles")]
)
def test_one_that_turns_nothing_is_said(steps: int, count: int, key: str) -> None:
    notes: list[Any] = [*plan(open_ltx(BUNDLED), Request(64, 64, count, steps, loop=True)).notes]
    assert key in [note.key for note in notes]


def test_the_cut_lies_nowhere_twice_and_at_the_end_where_it_is_decoded(tiny_models: Path) -> None:
    """Each step of ten turns the video by another part of eleven latent frames, the last by none."""
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    turns = list[list[int]]()

    class Watched(Circle):
        def __init__(self, *arguments: object) -> None:
            super().__init__(*arguments)  # type: ignore[arg-type]
            turns.append(self.turns)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("reelwire.samplers.loop.Circle", Watched)
        run(model, loop=True, frames=41, steps=10)
    assert turns[0][-1] == 0
    assert len({*turns[0][:-1]}) >= 8
    assert max(turns[0]) < 11
