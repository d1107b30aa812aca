"""Long videos that are made of a source under a mask, or go on from a clip; and clips that are extended at once."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.common.flow import encoded_source
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers import denoise
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.long.fingerprint import render_fingerprint
from reelwire.samplers.long.job import Job
from reelwire.samplers.long.plan import LongPlan, LongVideoOptions, plan_long
from reelwire.samplers.long.render import Callbacks, render
from reelwire.samplers.long.timeline import Timeline, read_timeline
from reelwire.samplers.long.windows import Window
from reelwire.samplers.plan import plan
from reelwire.samplers.sources.inpaint import latent_mask
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import PROMPT, every, frames, needed, open_ltx, open_model, run, used_by
from reelwire.tests.support.engine.words import worded
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
STORY: Timeline = read_timeline(json.dumps({"prompts": [{"at": 0, "text": PROMPT}]}), 24.0, 10**6)
OPTIONS = LongVideoOptions()


def planned(model: VideoModel, options: LongVideoOptions = OPTIONS, **request: Any) -> LongPlan:
    return plan_long(model, STORY, Request(**{"steps": 2, "seed": 3, "guidance": 1.0, **request}), options)


def film(model: VideoModel, folder: Path, whole: LongPlan, options: LongVideoOptions = OPTIONS) -> tuple[Tensor, Job]:
    """(frames, job with the latents of the windows) of a whole render."""
    job = Job(folder)
    with closing(job):
        job.begin(render_fingerprint(model, STORY, whole, options))
        return torch.cat(list(render(model, STORY, whole, options, job, None, Callbacks()))), job


def two_windows(model: VideoModel) -> int:
    facts = model.facts
    own = facts.presets["default"]["frames"]
    return 2 * (own - 1) + 1


@every
def test_the_outside_of_a_long_video_is_its_source(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """In all windows, also where they hand over latents, are pulled together, or are seen by one sampling."""
    model = open_model(tiny_models, name)
    if needed(model)["control"] is not None:
        return  # no long videos
    count = two_windows(model)
    source, mask = frames(count, 9), torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1
    places = range(0, count, count // 2) if len(needed(model)["keyframes"]) > 1 else (0,)
    keyframes = tuple(Keyframe(frames(1, at), at) for at in places) if needed(model)["keyframes"] else ()
    whole = planned(model, source=source, mask=mask, frames=count, keyframes=keyframes, strength=0.8)
    result, job = film(model, tmp_path / "job", whole)
    assert len(result) == count
    assert len(whole.windows) > 1 or whole.mode == "context_windows"
    for number, window in enumerate(whole.windows):
        latents = job.read(number)
        assert latents is not None
        part = replace(whole.request, frames=window.frames, source=source[window.start : window.end + 1])
        kept = latent_mask(model.facts, part) == 0
        if whole.mode == "last_frames":
            with torch.no_grad():
                clean = encoded_source(model, part)
        else:
            with torch.no_grad():
                start = window.start // model.facts.temporal_ratio
                clean = encoded_source(model, whole.request)[:, :, start : start + latents.shape[2]]
        outside = kept.expand_as(latents)
        assert torch.equal(latents[outside], clean[outside])
        assert (latents - clean)[~outside].abs().mean() > 5e-4  # (SVD has little noise left)
    _check_pictures(model, whole, result, mask)


def _check_pictures(model: VideoModel, whole: LongPlan, result: Tensor, mask: Tensor) -> None:
    """Outside of the mask they are what the untouched latents decode to, of the whole or of each window's part."""
    request, seed, done = whole.request, whole.request.seed, 0
    kept = latent_mask(model.facts, request)[0, 0, 0] == 0
    ratio = model.facts.spatial_ratio
    outside = kept.repeat_interleave(ratio, 0).repeat_interleave(ratio, 1)
    assert 0 < outside.float().mean() < 1
    windows = whole.windows if whole.mode == "last_frames" else [Window(0, request.frames - 1, 0, 0)]
    for window in windows:
        assert request.source is not None
        part = replace(request, frames=window.frames, source=request.source[window.start : window.end + 1])
        with torch.no_grad():
            own = torch.cat(list(stream_frames(model, encoded_source(model, part), seed)))[window.shared :]
        made, done = result[done : done + len(own)], done + len(own)
        assert torch.equal(made[:, outside], own[:, outside])
        assert not torch.equal(made, own)
    assert done == len(result)


def test_a_source_without_a_mask_is_the_samplers_in_one_window(tmp_path: Path) -> None:
    model, source = open_ltx(BUNDLED), frames(17, 9)
    whole = planned(model, source=source, frames=17, strength=0.6)
    _, job = film(model, tmp_path / "job", whole)
    latents = job.read(0)
    with torch.no_grad():
        expected = run(model, source=source, frames=17, strength=0.6, steps=2, guidance=1.0, keyframes=())
    assert latents is not None
    assert torch.equal(latents, expected)


def test_a_render_goes_on_with_its_own_source_alone(tiny_models: Path) -> None:
    """What it is made of is in its inputs, and nothing where it is made of nothing, so that older ones go on."""
    model, source, mask = open_ltx(BUNDLED), frames(33, 9), torch.ones(1, 64, 64)
    mask[:, :32] = 0
    seen = []
    for request in (
        {},
        {"source": source, "strength": 0.5},
        {"source": source, "strength": 0.6},
        {"source": source, "strength": 0.6, "mask": mask},
        {"source": source.flip(0), "strength": 0.6, "mask": mask},
        {"clip": source},
    ):
        whole = planned(model, frames=33, **request)
        seen.append(json.dumps(render_fingerprint(model, STORY, whole, OPTIONS)))
    assert len({*seen}) == len(seen)
    assert not {"source", "mask", "clip", "strength"} & {*json.loads(seen[0])}


# ---------------------------------------------------------------- clips that go on


@every
def test_every_family_goes_on_from_a_clip_or_says_why_not(tiny_models: Path, name: str) -> None:
    model, clip = open_model(tiny_models, name), frames(40, 2)
    request = Request(steps=2, clip=clip, keyframes=needed(model)["keyframes"][1:], control=needed(model)["control"])
    if model.extension().mode == "context_windows":
        with pytest.raises(InputError) as refusal:
            plan(model, request)
        assert (refusal.value.name, worded(refusal.value.rule).key) == ("extend", "no_way_on")
        return
    result = plan(model, request)
    shared = result.shared
    assert 1 <= shared < result.request.frames
    assert [worded(note).values["shared"] for note in result.notes if getattr(note, "key", "") == "goes_on"] == [shared]
    if model.extension().mode == "last_frames":
        assert torch.equal(result.request.keyframes[0].images, clip[-shared:])
        if not model.facts.reads_pictures:
            same = (Keyframe(clip[-shared:], 0), *request.keyframes)
            latents = run(model, clip=clip, keyframes=request.keyframes, steps=2)
            assert torch.equal(latents, run(model, keyframes=same, steps=2))
        return
    latents = run(model, clip=clip, steps=2, keyframes=(), frames=33)
    shared = plan(model, replace(request, frames=33)).shared
    with torch.no_grad(), model.use("vae") as vae:
        known = model.encode_video(vae, clip[-shared:], None, (64, 64))
    assert known.shape[2] > 1
    assert torch.equal(latents[:, :, : known.shape[2]], known)


def test_a_long_video_goes_on_from_a_clip(tiny_models: Path, tmp_path: Path) -> None:
    """New frames alone come out; the first window begins with the clip's latents, or with its last frame."""
    for name in ("tiny-ltx-0.9.5", "tiny-wan2.1-i2v", "tiny-wan2.1-vace"):
        model, clip = open_model(tiny_models, name), frames(40, 2)
        whole = planned(model, clip=clip, frames=two_windows(model))
        result, job = film(model, tmp_path / name, whole)
        assert len(result) == whole.request.frames - whole.shared
        assert whole.clip is not None
        assert torch.equal(whole.clip, clip)
        latents = job.read(0)
        assert latents is not None
        if whole.mode == "latents":
            with torch.no_grad(), model.use("vae") as vae:
                known = model.encode_video(vae, clip[-whole.shared :], None, (64, 64))
            assert torch.equal(latents[:, :, : known.shape[2]], known)
        else:
            first = whole.windows[0].keyframes[0]
            assert first.frame == 0
            assert torch.equal(first.images, clip[-whole.shared :])


def test_what_a_clip_cannot_be(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-ltx-0.9.5")
    clip = frames(30, 2)
    wrong: list[tuple[dict[str, Any], str, str]] = [
        ({"clip": clip, "source": clip, "strength": 0.5}, "extend", "clip_beside_source"),
        ({"clip": clip, "keyframes": (Keyframe(frames(1), 0),)}, "keyframes", "clip_is_there"),
        ({"clip": clip, "frames": 1}, "frames", "clip_fills"),
        ({"clip": clip * float("nan")}, "extend", "holds_nan"),
        ({"clip": clip[..., :2]}, "extend", "not_a_picture"),
    ]
    for request, name, key in wrong:
        for refuse in (lambda r: plan(model, Request(**r)), lambda r: planned(model, **{"frames": 33, **r})):
            with pytest.raises(InputError) as refusal:
                refuse(request)
            assert (refusal.value.name, worded(refusal.value.rule).key) == (name, key)
    assert used_by(model) == []


def test_a_clip_gives_the_size(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-ltx-0.9.5")
    multiple = model.facts.size_multiple
    clip = torch.rand(9, multiple * 2 + 3, multiple * 3, 3)
    request = plan(model, Request(clip=clip)).request
    assert (request.width, request.height) == (multiple * 3, multiple * 2)
    asked = plan(model, Request(64, 64, clip=clip)).request
    assert (asked.width, asked.height) == (64, 64)


# ---------------------------------------------------------------- lengths that a source says


@every
def test_a_video_is_as_long_as_its_source(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    facts = model.facts
    step = facts.frame_step or facts.temporal_ratio
    for count in (26, 33, 60):
        expected = max((c for c in facts.frame_counts if c <= count), default=(count - 1) // step * step + 1)
        inputs = {**needed(model), "source": frames(count), "strength": 0.5, "as_long": True}
        if inputs["control"] is not None:
            inputs["control"] = replace(inputs["control"], frames=frames(count))
        result = plan(model, Request(**inputs))
        assert result.request.frames == expected
        left = [worded(note).values["left"] for note in result.notes if getattr(note, "key", "") == "frames_left_out"]
        assert left == [count - expected] * (1 + (inputs["control"] is not None)) or count == expected


def test_lengths_that_nothing_says(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-svd")
    cases: tuple[tuple[dict[str, Any], str], ...] = (
        ({}, "nothing_has_length"),
        ({"source": frames(3), "strength": 0.5}, "frames_counts"),
    )
    for inputs, key in cases:
        with pytest.raises(InputError) as refusal:
            plan(model, Request(**needed(model), as_long=True, **inputs))
        assert worded(refusal.value.rule).key == key


def test_a_clip_whose_last_frame_the_text_encoder_reads(tiny_models: Path) -> None:
    """The prompt is read along with it, or it is said where the clip belongs too."""
    model, clip = open_model(tiny_models, "tiny-hunyuan-i2v-concat"), frames(6, 2)
    prepared = plan(model, Request(steps=1, seed=3, clip=clip))
    conditioning = model.encode(PROMPT, "", (Keyframe(clip[-1:], 0),))
    assert torch.isfinite(denoise.sample(model, conditioning, prepared)).all()
    with pytest.raises(InputError) as refusal:
        denoise.sample(model, model.encode(PROMPT, "", (Keyframe(clip[:1], 0),)), prepared)
    assert (refusal.value.name, worded(refusal.value.remedy).key) == ("conditioning", "connect_same_clip")
