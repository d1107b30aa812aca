"""Settings that leave nothing to do: refused where nothing at all would be made, else said."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Control, Guidance, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.long.plan import LongVideoOptions, plan_long
from reelwire.samplers.long.timeline import read_timeline
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.models import PROMPT, every, frames, needed, open_model, usual
from reelwire.tests.support.engine.words import worded
from torch import Tensor

STORY = read_timeline(json.dumps({"prompts": [{"at": 0, "text": PROMPT}]}), 24.0, 10**6)


def said(model: VideoModel, **request: Any) -> set[str]:
    """The keys of what is said of a request, without those of the request as it is."""
    keys = lambda notes: {getattr(note, "key", "") for note in notes}
    return keys(plan(model, Request(**{**needed(model), **request})).notes)


@every
def test_a_strength_that_leaves_no_step(tiny_models: Path, name: str) -> None:
    """Refused, with the least that computes one; that one is taken."""
    model = open_model(tiny_models, name)
    source = frames(usual(model).frames)
    for steps in (1, 3, 7, 49, 1000):
        with pytest.raises(InputError) as refusal:
            plan(model, Request(**needed(model), source=source, steps=steps, strength=0.99 / steps))
        assert (refusal.value.name, worded(refusal.value.rule).key) == ("strength", "strength_no_step")
        least = float(worded(refusal.value.remedy).values["least"])
        assert 1 / steps <= least <= 1 / steps + 2e-4
        plan(model, Request(**needed(model), source=source, steps=steps, strength=least))


def test_a_span_without_a_step(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.1-vace")
    video = frames(usual(model).frames)
    guided = lambda **changes: replace(model, guidance=Guidance(**changes))
    assert "no_step_between" in said(guided(start=0.3, end=0.4), steps=4)
    assert "no_step_between" not in said(guided(start=0.3, end=0.6), steps=4)
    skips = Guidance(method="skip-layer", layers=(0,), layer_start=0.01, layer_end=0.2)
    assert "no_step_between" in said(replace(model, guidance=skips), steps=4, guidance=5.0)
    assert "no_step_between" in said(model, steps=4, control=Control(video, start=0.1, end=0.2))
    assert "control_at_0" in said(model, steps=4, control=Control(video, strength=0.0))
    assert not {"no_step_between", "control_at_0"} & said(model, steps=4, control=Control(video))


def test_a_cache_that_reuses_nothing(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    for options, is_idle in (({}, False), ({"start": 0.95, "end": 1.0}, True), ({"warmup": 20}, True)):
        cached = replace(model, cache=FORA(interval=2, **options))
        assert ("cache_reuses_nothing" in said(cached, steps=20)) == is_idle


def test_an_expert_without_a_step(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.2-t2v-a14b")
    for boundary, is_idle in ((0.9, False), (1.0, True), (0.001, True)):
        guided = replace(model, guidance=Guidance(boundary=boundary))
        assert ("expert_no_step" in said(guided, steps=4)) == is_idle, boundary
    late = {"source": frames(usual(model).frames), "strength": 0.5, "steps": 4}
    assert "expert_no_step" in said(replace(model, guidance=Guidance(switch_step=1)), **late)


def test_windows_that_nothing_joins(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-ltx-0.9.5")
    plain, joined = LongVideoOptions(17), LongVideoOptions(17, adain=0.5, overlap=9)
    for count, options, is_idle in ((17, joined, True), (17, plain, False), (33, joined, False)):
        notes = plan_long(model, STORY, Request(frames=count, steps=2), options).notes
        lines = [note for note in notes if getattr(note, "key", "") == "nothing_to_join"]
        assert bool(lines) == is_idle
        assert all(worded(line).values["names"] == "overlap, adain" for line in lines)


def test_a_mask_without_anything_to_make(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-ltx-0.9.5")
    source = frames(usual(model).frames)
    assert "mask_keeps_all" in said(model, source=source, strength=0.5, mask=torch.zeros(1, 64, 64))
    assert "mask_all_free" in said(model, source=source, strength=0.5, mask=torch.ones(1, 64, 64))


@every
def test_the_strength_of_no_source(tiny_models: Path, name: str) -> None:
    """As with strength 1, where a person takes the source away; it is said."""
    model = open_model(tiny_models, name)
    prepared = plan(model, Request(**needed(model), strength=0.85))
    assert prepared.request.strength == 1
    lines = [note for note in prepared.notes if getattr(note, "key", "") == "idle_unconnected"]
    assert [dict(worded(line).values) for line in lines] == [{"input": "strength", "value": 0.85, "other": "source"}]


def test_the_strength_of_no_source_in_a_long_video(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-ltx-0.9.5")
    whole = plan_long(model, STORY, Request(frames=33, steps=2, strength=0.85), LongVideoOptions(17))
    assert whole.request.strength == 1
    assert "idle_unconnected" in {getattr(note, "key", "") for note in whole.notes}


@pytest.mark.parametrize(
    ("mask", "percent"),
    [
        (torch.full((64, 64), 0.5), 100),
        (torch.linspace(0, 1, 64).expand(64, 64), 98),
        (torch.cat([torch.zeros(64, 32), torch.full((64, 2), 0.5), torch.ones(64, 30)], 1), None),
        (torch.cat([torch.zeros(64, 40), torch.ones(64, 24)], 1), None),
    ],
)
def test_a_mask_that_is_gray_and_not_only_at_its_edges(tiny_models: Path, mask: Tensor, percent: int | None) -> None:
    model = open_model(tiny_models, "tiny-ltx-0.9.5")
    notes = plan(model, Request(source=frames(usual(model).frames), strength=0.5, mask=mask[None])).notes
    gray = [worded(note).values["percent"] for note in notes if getattr(note, "key", "") == "mask_gray"]
    assert gray == ([] if percent is None else [pytest.approx(percent, abs=2)])
