"""What is asked for when, what is decoded how often, and what a source says of itself."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import RefusedError
from reelwire.loaders.request import Decoding, Keyframe, Program, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.engine.models import PROMPT, frames, open_model

MAKERS = ("ReelwireSampler", "ReelwireCalibrateCache", "ReelwireLongVideo")
TIMELINE = '{"prompts": [{"at": 0, "text": "a cat"}]}'
LATER = {"conditioning": None, "keyframes": None, "control": None, "mask": None, "source": None, "audio": None}


@pytest.fixture
def model(tiny_models: Path) -> VideoModel:
    return open_model(tiny_models, "tiny-ltx-0.9.5")


def node_of(nodes: list[Any], name: str) -> Any:
    return next(node for node in nodes if node.define_schema().node_id == name)


def usual(node: Any, model: VideoModel) -> dict[str, Any]:
    """All inputs of a node at their defaults."""
    values = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
    return {**values, "model": model}


@pytest.mark.parametrize("name", MAKERS)
def test_all_but_the_model_waits(nodes: list[Any], name: str) -> None:
    fields = {field.id: field for field in node_of(nodes, name).define_schema().inputs}
    linked = {"conditioning", "keyframes", "control", "mask", "source", "extend", "audio"} & fields.keys()
    assert {name for name, field in fields.items() if field.lazy} == linked


@pytest.mark.parametrize("name", MAKERS)
def test_what_is_asked_for_in_which_order(nodes: list[Any], model: VideoModel, name: str) -> None:
    """Pictures and masks first, the source after them, and the prompt last."""
    node = node_of(nodes, name)
    fields = {field.id for field in node.define_schema().inputs}
    inputs: dict[str, Any] = {**usual(node, model), "strength": 0.5}
    later = {name: value for name, value in LATER.items() if name in fields and name != "control"}
    count = inputs["frames"] or model.facts.presets["default"]["frames"]
    brought: dict[str, Any] = {
        "keyframes": (Keyframe(frames(1), 0),),
        "mask": torch.zeros(1, 64, 64),
        "audio": {"waveform": torch.zeros(1, 2, 8000), "sample_rate": 8000},
        "source": frames(count),
        "conditioning": None,
    }
    asked: list[set[str]] = []
    while wanted := node.check_lazy_status(**inputs, **later):
        asked.append({*wanted})
        if wanted == ["conditioning"]:
            break
        inputs |= {name: brought[name] for name in wanted}
        later = {name: value for name, value in later.items() if name not in wanted}
    first = {"keyframes", "mask", "audio"} & fields
    assert asked == [first, {"source"}, *([{"conditioning"}] if "conditioning" in fields else [])]


@pytest.mark.parametrize("awaited", ["source", "extend"])
@pytest.mark.parametrize("seconds", [False, True])
def test_a_timeline_in_seconds_waits_for_the_rate_of_its_source(
    nodes: list[Any], model: VideoModel, seconds: bool, awaited: str
) -> None:
    """Where a prompt lies only a VIDEO's rate tells; what its texts and pictures are is known."""
    node = node_of(nodes, "ReelwireLongVideo")
    at = (0, 4) if seconds else (0, 33)
    text = '{"unit": "%s", "prompts": [{"at": %d, "text": "a cat"}, {"at": %d, "text": "%s"}]}'
    unit = "seconds" if seconds else "frames"
    inputs = {**usual(node, model), "frames": 49, "window": 17, "overlap": 9}
    inputs["strength"] = 0.5 if awaited == "source" else 1.0
    good = {**inputs, "timeline": text % (unit, *at, PROMPT)}
    assert node.check_lazy_status(**good, **{awaited: None}) == [awaited]
    for wrong in (text % (unit, *at, f"{PROMPT} " * 400), text % (unit, 5, 5, PROMPT)):
        with pytest.raises(RefusedError) as refused:
            node.check_lazy_status(**{**inputs, "timeline": wrong, awaited: None})
        assert "timeline" in str(refused.value)


# ---------------------------------------------------------------- a VIDEO


def counting_video(nodes: list[Any], count: int) -> Any:
    """A VIDEO of another pack, which counts how often it is decoded."""
    from fractions import Fraction

    from comfy_api.latest import Input, InputImpl, Types

    components = Types.VideoComponents(images=frames(count), audio=None, frame_rate=Fraction(24))

    class Counting(InputImpl.VideoFromComponents):
        decoded = 0

        def get_components(self) -> Any:
            self.decoded += 1
            return super().get_components()

    video = Counting(components)
    assert isinstance(video, Input.Video)
    return video


@pytest.mark.parametrize("name", MAKERS)
def test_a_video_is_decoded_once(nodes: list[Any], model: VideoModel, name: str) -> None:
    """In all checks and the run; nothing of it is kept when it is gone, or when its frames were taken."""
    from reelwire.nodes import host
    from reelwire.nodes.sampling.request import request_of

    node = node_of(nodes, name)
    inputs = {**usual(node, model), "strength": 0.5}
    inputs |= {"frames": 17, **({"timeline": TIMELINE} if "timeline" in inputs else {})}
    video = counting_video(nodes, 17)
    later = {"conditioning": None} if name != "ReelwireLongVideo" else {"audio": None}
    for _ in range(3):
        node.check_lazy_status(**inputs, source=video, **later)
    assert request_of(model, source=video, frames=17).source is not None
    assert host.source_sound(video) is None
    assert video.decoded == 1
    host.forget_video()
    assert len(host.video_frames(video)) == 17
    assert video.decoded == 2
    taken = weakref.ref(host.video_frames(video))
    del video
    gc.collect()
    assert taken() is None


@pytest.mark.parametrize("name", ["ReelwireSampler", "ReelwireLongVideo"])
def test_a_clip_is_decoded_once_and_brings_its_rate(nodes: list[Any], model: VideoModel, name: str) -> None:
    from reelwire.nodes import host
    from reelwire.nodes.sampling.request import request_of

    node = node_of(nodes, name)
    inputs = {**usual(node, model), "frames": 49}
    inputs |= {"timeline": TIMELINE} if "timeline" in inputs else {}
    later = {"conditioning": None} if name != "ReelwireLongVideo" else {"audio": None}
    video = counting_video(nodes, 17)
    for _ in range(3):
        node.check_lazy_status(**inputs, extend=video, **later)
    request = request_of(model, extend=video, frames=49)
    assert request.clip is not None
    assert (request.fps, len(request.clip), video.decoded) == (24.0, 17, 1)
    host.forget_video()


# ---------------------------------------------------------------- a LATENT


def test_what_latents_say_counts_in_both_nodes(nodes: list[Any], model: VideoModel) -> None:
    """Frames of a clip that they go on from, where the length is the same, and how they are decoded."""
    from reelwire.nodes.sampling.long import prepared
    from reelwire.nodes.sampling.sampler import latent_note
    from reelwire.samplers.plan import plan

    samples = model.to_host(torch.zeros(model.facts.latent_shape(64, 64, 33)))
    decoding = {"timestep": 0.1, "noise": 0.2, "tone_map": 0.3}
    note = {"frames": 33, "clip_frames": 9, "decoding": decoding, "family": model.name}
    for frames_of_note, shared in ((33, 9), (41, 0)):
        latent = {"samples": samples, "reelwire": {**note, "frames": frames_of_note}}
        long = prepared(model, TIMELINE, 33, "x", 17, 9, source=latent, strength=0.5)
        assert long.plan.shared == shared
        assert long.model.decoding == Decoding(**decoding)
        made = plan(model, Request(source=model.from_host(samples), strength=0.5))
        note = latent_note(model, made, latent)
        assert (note.get("clip_frames", 0), note["decoding"]) == (shared, decoding)
        with_preset = replace(made, request=replace(made.request, program=Program(decoding=Decoding(0.5))))
        assert latent_note(model, with_preset, latent)["decoding"] == {"timestep": 0.5, "noise": -1.0, "tone_map": -1.0}
    for strange in (None, 3, {"clip_frames": "x", "frames": 33, "decoding": {"other": 1}}):
        plain = prepared(model, TIMELINE, 33, "x", 17, 9, source={"samples": samples, "reelwire": strange or {}})
        assert (plain.plan.shared, plain.model.decoding) == (0, Decoding())
