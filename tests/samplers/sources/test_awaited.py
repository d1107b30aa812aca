"""What is refused of a request while some of its inputs are still to come: all that does not rest on them, and nothing
that does."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Control, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.long.plan import LongVideoOptions, plan_long
from reelwire.samplers.long.timeline import read_timeline
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.models import PROMPT, each_family, every, frames, needed, open_model, used_by, usual

INPUTS = {"keyframes": "keyframes", "control": "control", "mask": "mask", "clip": "extend", "source": "source"}
STORY = read_timeline(json.dumps({"prompts": [{"at": 0, "text": PROMPT}, {"at": 1, "text": PROMPT}]}), 24.0, 10**6)
MASK = torch.zeros(1, 64, 64)
MASK[:, :32] = 1


def subsets(inputs: dict[str, Any]) -> Iterator[tuple[dict[str, Any], set[str]]]:
    """(the inputs without those that are awaited, these by the names of a node) for each choice of some of them."""
    present = [name for name in INPUTS if inputs.get(name) not in (None, ())] if inputs else []
    for count in range(1, len(present) + 1):
        for awaited in combinations(present, count):
            yield {k: v for k, v in inputs.items() if k not in awaited}, {INPUTS[name] for name in awaited}


def sound_requests(model: VideoModel) -> list[dict[str, Any]]:
    """Requests of many kinds, of which some do not work on every model."""
    count, own = usual(model).frames, needed(model)
    shape = model.facts.latent_shape(64, 64, count)
    longer = max((c for c in model.facts.frame_counts), default=2 * count - 1)
    return [
        own,
        {**own, "source": frames(count), "strength": 0.6, "mask": MASK},
        {**own, "source": torch.randn(shape), "strength": 0.6, "mask": torch.ones(shape[2], 8, 8)},
        {**own, "source": frames(longer), "strength": 0.5, "as_long": True},
        {**own, "source": torch.randn(model.facts.latent_shape(64, 64, longer)), "strength": 0.5},
        {**own, "clip": frames(20), "keyframes": own["keyframes"][1:]},
        {**own, "keyframes": (Keyframe(frames(1), 0),), "loop": True},
        {**own, "keyframes": (Keyframe(frames(1), longer - 1),), "source": frames(longer), "as_long": True},
        {**own, "control": Control(frames(longer)), "frames": longer, "source": frames(longer), "strength": 0.9},
        {**own, "control": Control(frames(longer)), "as_long": True},
    ]


@every
def test_nothing_is_refused_that_will_work(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    works = 0
    for inputs in sound_requests(model):
        inputs = {"steps": 4, **inputs}
        try:
            plan(model, Request(**inputs))
        except InputError:
            continue
        works += 1
        for ready, awaited in subsets(inputs):
            plan(model, Request(**ready), awaited=awaited)
    assert works > 3
    assert used_by(model) == []


BAD: list[tuple[dict[str, Any], str]] = [
    ({"width": 100}, "width"),
    ({"frames": 18}, "frames"),
    ({"steps": -1}, "steps"),
    ({"sampler": "none"}, "sampler"),
    ({"preset": "none"}, "preset"),
    ({"guidance": -1.0}, "guidance"),
    ({"fps": 0.5}, "fps"),
    ({"strength": 0.0}, "strength"),
    ({"strength": 0.2, "steps": 4}, "strength"),
    ({"keyframes": (Keyframe(torch.zeros(1, 64, 64, 3), 10**6),), "frames": 17}, "frame"),
    ({"keyframes": (Keyframe(torch.zeros(1, 64, 64, 3), 0, 2.0),)}, "strength"),
    ({"keyframes": (Keyframe(torch.zeros(1, 64, 64, 2), 0),)}, "image"),
    ({"mask": torch.zeros(5, 64, 64), "frames": 17}, "mask"),
    ({"mask": torch.full((1, 8, 8), float("nan"))}, "mask"),
    ({"control": Control(torch.zeros(17, 64, 64, 3))}, "control"),
    ({"loop": True, "keyframes": (Keyframe(torch.zeros(1, 64, 64, 3), 8),)}, "loop"),
]


@pytest.mark.parametrize(("inputs", "named"), BAD, ids=[" ".join(b) for b, _ in BAD])
def test_all_else_is_refused_while_a_source_is_awaited(tiny_models: Path, inputs: dict[str, Any], named: str) -> None:
    """In the same words as when it is there."""
    model = open_model(tiny_models, "tiny-ltx-0.9.5")
    inputs = {"strength": 0.6, **inputs}
    refusals = []
    for awaited, source in (({"source"}, None), ((), frames(97))):
        with pytest.raises(InputError) as refusal:
            plan(model, Request(**inputs, source=source), awaited=awaited)
        refusals.append(refusal.value)
    assert refusals[0].name == named
    assert str(refusals[0]) == str(refusals[1])


@each_family
def test_what_a_model_has_no_use_for_is_refused_before_it_comes(tiny_models: Path, name: str) -> None:
    """What is connected is known before what it brings."""
    model = open_model(tiny_models, name)
    tried = {"keyframes": model.capabilities().sets == ((),), "control": not model.controlled()}
    tried["extend"] = model.extension().mode == "context_windows"
    own = needed(model)
    for input_name, is_refused in tried.items():
        ready = {k: v for k, v in own.items() if k != input_name}
        if is_refused:
            with pytest.raises(InputError) as refusal:
                plan(model, Request(**ready), awaited={input_name})
            assert refusal.value.name == input_name
        else:
            ready["keyframes"] = own["keyframes"][1:] if input_name == "extend" else ready.get("keyframes", ())
            plan(model, Request(**ready), awaited={input_name})
    for pair, named in (({"source", "extend"}, "extend"), ({"mask"}, "mask")):
        with pytest.raises(InputError) as refusal:
            plan(model, Request(**own), awaited=pair)
        assert refusal.value.name == named


@every
def test_long_videos_are_planned_ahead(tiny_models: Path, name: str) -> None:
    """Whatever is still to come; and refused where something else is wrong, or nothing may come."""
    model = open_model(tiny_models, name)
    own = model.facts.presets["default"]["frames"]
    count = 2 * (own - 1) + 1
    places = range(0, count, own - 1) if len(needed(model)["keyframes"]) > 1 else (0,)
    keyframes = tuple(Keyframe(frames(1, at), at) for at in places) if needed(model)["keyframes"] else ()
    one_prompt = model.extension().mode == "context_windows" or len(needed(model)["keyframes"]) > 1
    story = replace(STORY, prompts=STORY.prompts[:1]) if one_prompt else STORY
    works = 0
    for more in (
        {"keyframes": keyframes},
        {"keyframes": keyframes, "source": frames(count), "strength": 0.5, "mask": MASK},
        {"keyframes": keyframes, "source": frames(count), "strength": 0.5, "as_long": True},
        {"keyframes": tuple(k for k in keyframes if k.frame), "clip": frames(30)},
    ):
        inputs = {"steps": 4, "frames": count, **more}
        try:
            plan_long(model, story, Request(**inputs), LongVideoOptions())
        except InputError:
            continue
        works += 1
        for ready, awaited in subsets(inputs):
            plan_long(model, story, Request(**ready), LongVideoOptions(), awaited)
            for options, named in ((LongVideoOptions(adain=2.0), "adain"), (LongVideoOptions(window=2), "window")):
                with pytest.raises(InputError) as refusal:
                    plan_long(model, story, Request(**ready), options, awaited)
                assert refusal.value.name == named
    assert works or model.controlled()
    assert used_by(model) == []
