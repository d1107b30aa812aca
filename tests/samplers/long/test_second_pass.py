"""Presets that refine a source, in windows: each window begins with its own stretch of the source."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.common.flow import encoded_source
from reelwire.loaders.families.ltx import LTX
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import ContinuationLatents, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.long.fingerprint import render_fingerprint
from reelwire.samplers.long.job import Job
from reelwire.samplers.long.plan import LongPlan, LongVideoOptions, plan_long
from reelwire.samplers.long.render import Callbacks, render
from reelwire.samplers.long.timeline import read_timeline
from reelwire.tests.support.engine.models import PROMPT, frames, open_model
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.engine.words import worded

STORY = read_timeline(json.dumps({"prompts": [{"at": 0, "text": PROMPT}]}), 24.0, 10**6)
PUBLISHED = [
    (file.parent.name, name, values)
    for file in sorted(Path(inspect.getfile(LTX)).parent.glob("variants/*/defaults.json"))
    for name, values in json.loads(file.read_text(encoding="utf-8"))["presets"].items()
    if name.endswith("second pass")
]
WINDOWS = LongVideoOptions(17, 9, adain=0.0)
COUNT = 33


def with_preset(model: VideoModel, name: str, values: dict[str, Any]) -> VideoModel:
    """The model with a preset of another variant beside its own, and as many blocks as that names."""
    return replace(model, facts=replace(model.facts, layers=48, presets={**model.facts.presets, name: values}))


def planned(model: VideoModel, **request: Any) -> LongPlan:
    usual = {"frames": COUNT, "width": 64, "height": 64, "seed": 3}
    return plan_long(model, STORY, Request(**{**usual, **request}), WINDOWS)


@pytest.fixture
def model(tiny_models: Path) -> VideoModel:
    return open_model(tiny_models, "tiny-ltx-0.9.5")


def test_every_published_one_is_planned(model: VideoModel) -> None:
    """With frames or latents as the source; without one it says what it needs."""
    assert len(PUBLISHED) > 3
    for _, name, values in PUBLISHED:
        known = with_preset(model, name, values)
        for source in (frames(COUNT), torch.randn(model.facts.latent_shape(64, 64, COUNT))):
            whole = planned(known, preset=name, source=source)
            assert len(whole.windows) > 1
            assert not [note for note in whole.notes if getattr(note, "key", "") == "source_unused"]
        with pytest.raises(InputError) as refusal:
            planned(known, preset=name)
        assert (refusal.value.name, worded(refusal.value.rule).key) == ("source", "preset_needs_source")


@pytest.mark.parametrize("program", [{"timesteps": [0.85, 0.7, 0.4]}, {"skip_first": 3}])
@pytest.mark.parametrize("of_latents", [False, True])
def test_windows_are_those_run_alone(
    model: VideoModel, tmp_path: Path, program: dict[str, Any], of_latents: bool
) -> None:
    """Each is a run of the same preset on its stretch of the source, with the overlap of the window before."""
    model = with_preset(model, "second", {"steps": 3, "guidance": 1.0, "sampler": "euler", "program": program})
    source = torch.randn(model.facts.latent_shape(64, 64, COUNT)) if of_latents else frames(COUNT, 9)
    whole, job = planned(model, preset="second", source=source), Job(tmp_path / "job")
    job.begin(render_fingerprint(model, STORY, whole, WINDOWS))
    result = torch.cat(list(render(model, STORY, whole, WINDOWS, job, None, Callbacks())))
    assert len(result) == COUNT
    with torch.no_grad():
        latents = encoded_source(model, whole.request)
    conditioning, tail = model.encode(PROMPT, ""), torch.empty(0)
    for number, window in enumerate(whole.windows):
        part = latents[:, :, window.start // 8 : window.end // 8 + 1]
        past = ContinuationLatents(tail[:, :, -2:]) if number else None
        request = Request(64, 64, window.frames, preset="second", source=part, past=past, seed=3 + window.start)
        alone = sample(model, conditioning, request)
        rendered = job.read(number)
        assert rendered is not None
        assert torch.equal(rendered, alone)
        other = sample(model, conditioning, replace(request, source=torch.zeros_like(part)))
        assert not torch.equal(other, alone)
        tail = rendered
