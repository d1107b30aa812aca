"""The corrector where a run is not plain: guidance and control in a part of the steps, context windows, masks. And what
the report says of how near a video is."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.messages import Message
from reelwire.loaders.request import Control, Guidance, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.course import FRAMES, LOST, Course, Known, course
from reelwire.samplers.caches.policies.corrected import Corrected
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.caches.report import nearness
from reelwire.samplers.caches.runner import Runner
from reelwire.samplers.caches.state import Slopes
from reelwire.samplers.long.context import sample_in_context
from reelwire.tests.support.engine.models import frames, open_plain
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

STEPS = 12


class Every(Course):
    """Every other step is computed; one that is skipped has the x0 of the one before, also when it is taken again."""

    def skips(self, step: int) -> bool:
        return bool((step - self.start) % 2)

    def slope(self, step: int) -> float:
        return 0.0

    def weights(self, step: int, basis: Any) -> tuple[float, ...]:
        before = max(each for each in basis if each < step)
        return tuple(float(each == before) for each in basis)


@dataclass(frozen=True, kw_only=True)
class Held(Plan):
    """The same without a corrector."""

    title: ClassVar[str] = "held"
    position: ClassVar[int | None] = None

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> Slopes:
        return {i: 0.0 for i in steps if (i - steps.start) % 2}


@dataclass(frozen=True, kw_only=True)
class HeldAgain(Corrected):
    title: ClassVar[str] = "held again"
    position: ClassVar[int | None] = None

    def course(self, denoiser: Denoiser, part: str, steps: range) -> Course:
        known = super().course(denoiser, part, steps)
        return Every(known.map, known.left, steps.start)


@dataclass
class Ran:
    """A run's latents, and its cache."""

    latents: Tensor
    cache: Runner | None


# a name, how a model is changed for it, and what its request says beside
PART = Guidance(start=0.2, end=0.6)
CONTROL = Control(frames(9), start=0.25, end=0.75)
PLACES: dict[str, tuple[str, Guidance, dict[str, Any], int]] = {
    "guidance in some steps": ("tiny-wan2.1-t2v", PART, {}, 0),
    "guidance in some steps, in one batch": ("tiny-cogvideox-5b", PART, {}, 0),
    "guidance in some steps, two experts": ("tiny-wan2.2-t2v-a14b", PART, {}, 0),
    "control in some steps": ("tiny-wan2.1-vace", Guidance(), {"control": CONTROL}, 0),
    "control in some steps, beside the latents": (
        "tiny-cogvideox-fun-control",
        PART,
        {"control": CONTROL},
        0,
    ),
    "context windows": ("tiny-wan2.1-t2v", Guidance(), {"frames": 17}, 9),
    "context windows in a circle": ("tiny-wan2.1-t2v", Guidance(), {"frames": 17, "loop": True}, 9),
}


@pytest.fixture(scope="module")
def ran(tiny_models: Path) -> Callable[[str, Policy | None], Ran]:
    opened = cache(partial(open_plain, tiny_models))

    def run(place: str, policy: Policy | None) -> Ran:
        name, guidance, inputs, window = PLACES[place]
        model: VideoModel = replace(opened(name), guidance=guidance, cache=policy)
        request, seen = Request(**{"seed": 3, "steps": STEPS, **inputs}), list[Any]()
        conditioning, see = model.encode("a red circle", "a blue square"), lambda *state: seen.append(state[2])
        if window:
            latents = sample_in_context(model, conditioning, model.complete(request), window, 5, see)
        else:
            latents = sample(model, conditioning, request, see)
        return Ran(latents, seen[-1].cache)

    return run


@pytest.mark.parametrize("place", PLACES)
def test_what_is_taken_again_is_what_was_there(ran: Callable[[str, Policy | None], Ran], place: str) -> None:
    """With the same x0 the same comes out; with interpolated ones another video, twice the same; with all steps
    computed the uncached one."""
    plain, once, again = (ran(place, policy).latents for policy in (None, Held(), HeldAgain()))
    assert (once - again).norm() < 1e-4 * once.norm()
    assert not torch.equal(plain, once)
    assert torch.equal(ran(place, Corrected(speed=1.0)).latents, plain)
    corrected = ran(place, Corrected(speed=2.0))
    assert corrected.cache is not None
    assert 0 < sum(entry.computed for entry in corrected.cache.entries) < len(corrected.cache.entries)
    assert torch.isfinite(corrected.latents).all()
    assert not torch.equal(corrected.latents, plain)
    assert torch.equal(ran(place, Corrected(speed=2.0)).latents, corrected.latents)


def still(count: int) -> tuple[tuple[tuple[float, ...], ...], ...]:
    """Two runs whose x0 hardly moves: every forecast misses by far more."""
    rows = np.array([[1.0, 1e-4 * (1 - i / count) ** 3] for i in range(count)])
    return (tuple(map(tuple, (rows @ rows.T).tolist())),) * 2


def test_going_back_under_a_mask(tiny_models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Outside of it the source stays, bit for bit; inside it is the uncached video where all steps were computed."""
    monkeypatch.setattr("reelwire.samplers.caches.course.SEEN", 1e3)  # however little a gap moves the video
    model, runs = open_plain(tiny_models, "tiny-wan2.1-t2v"), list[Any]()
    conditioning = model.encode("a red circle", "a blue square")
    source = sample(model, conditioning, Request(seed=9, steps=4))
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    request = Request(seed=3, steps=STEPS, source=source, mask=mask)
    policy = Corrected(speed=2.0, grams=(("transformer", still(STEPS)),))
    plain = sample(model, conditioning, request)
    cached = sample(replace(model, cache=policy), conditioning, request, lambda *state: runs.append(state[2]))
    again = sample(replace(model, cache=policy), conditioning, request)
    outside = source.shape[-1] // 2 + 1
    assert 0 < runs[-1].cache.courses[0].rejected <= LOST
    assert torch.equal(cached[..., outside:], source[..., outside:])
    assert torch.equal(cached, again)
    assert all(entry.computed for entry in runs[-1].cache.entries)
    assert torch.equal(cached, plain)


# ---------------------------------------------------------------- what the report says


def way(error: float, measured: bool = True, rejected: int = 0) -> Course:
    """A run of 8 steps of which 3 were taken again, with this signal to error, as a share."""
    line = np.array([[1.0, t / 8] for t in range(8)])
    gram = tuple(map(tuple, (line @ line.T).tolist()))
    levels = tuple((0.1, 1 - s / 9, s / 9) for s in range(8, 0, -1))
    made = course(Known((gram, gram), levels, (1.0,) * 8, 1, 4, measured), 5, range(8))
    made.computed, made.prices, made.surprises = [0, 1, 3, 5, 7], [error], [1.0]
    made.rejected = rejected
    return made


def said(*ways: Course) -> list[tuple[str, object]]:
    return [(note.key, note.values.get("distance")) for note in nearness(ways) if isinstance(note, Message)]


@pytest.mark.parametrize(
    ("distance", "key"),
    [
        (120.0, "near_unseen"),
        (55.2, "near_unseen"),
        (54.8, "near_hardly"),
        (45.2, "near_hardly"),
        (44.8, "near_details"),
        (35.2, "near_details"),
        (34.8, "near_astray"),
        (3.0, "near_astray"),
    ],
)
def test_decibels_become_words(distance: float, key: str) -> None:
    error = 10 ** ((FRAMES - distance) / 10)
    assert said(way(error)) == [("corrected_again", None), (key, round(min(distance, 90)))]


def test_errors_of_two_experts_add_up() -> None:
    error = 10 ** ((FRAMES - 50.0) / 10)
    assert said(way(error), way(error))[-1] == ("near_hardly", round(50 - 10 * math.log10(2)))


def test_without_a_calibration_no_distance_is_said() -> None:
    assert said(way(1e-4, measured=False)) == [("corrected_again", None)]


def test_a_run_that_was_lost_is_said() -> None:
    lost = ("corrected_lost", None)
    assert said(way(1e-4, rejected=LOST)) == [("corrected_back", None), lost, ("near_unseen", round(FRAMES + 40))]
    assert lost not in said(way(1e-4, rejected=LOST - 1))


@pytest.mark.parametrize(("rejected", "words"), [(0, []), (LOST, [("corrected_whole", None)])])
def test_where_nothing_was_taken_again_no_distance_is_said(rejected: int, words: list[tuple[str, object]]) -> None:
    """All was computed, after going back or from the start: the video is the uncached one."""
    whole = way(1e-4, rejected=rejected)
    whole.computed = [*range(8)]
    assert said(whole) == words
