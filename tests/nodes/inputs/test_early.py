"""What cannot work is told before a part of the model is read, and before anything is sampled, linked values too."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import RefusedError
from reelwire.loaders.parts import Part, PlainMemory
from reelwire.loaders.request import Control, Keyframe
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.calls import execute
from reelwire.tests.support.engine.models import FIRST, each_family, frames, needed, open_plain

NAN = float("nan")
LONG = "a red circle " * 400


class Untouched(PlainMemory):
    """Reads no part."""

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[Any]:
        raise AssertionError(f"{part.name} was read")
        yield


@pytest.fixture(scope="module")
def models(tiny_models: Path) -> dict[str, VideoModel]:
    """A model of each family, of which no part can be read."""
    return {name: replace(open_plain(tiny_models, name), memory=Untouched()) for name in FIRST.values()}


@dataclass(frozen=True)
class Case:
    """A value that cannot work. more: other inputs; at: where the refusal names another input."""

    node: str
    name: str
    value: Any
    more: dict[str, Any] = field(default_factory=dict)
    at: str = ""


IMAGE = torch.zeros(1, 64, 64, 3)
TOO_LATE = (Keyframe(IMAGE, 10**6),)
CASES = [
    Case("ReelwireEncodePrompt", "positive", LONG),
    Case("ReelwireEncodePrompt", "negative", LONG),
    Case("ReelwireEncodePrompt", "positive", "(a:nan)"),
    *[
        Case("ReelwireSampler", name, value, at=at)
        for name, value, at in (
            ("width", -32, ""),
            ("width", 63, ""),
            ("height", 99999, ""),
            ("frames", -1, ""),
            ("frames", 10**6, ""),
            ("guidance", NAN, ""),
            ("shift", NAN, ""),
            ("steps", -1, ""),
            ("sampler", "none of these", ""),
            ("preset", "none of these", ""),
            ("strength", 0.0, ""),
            ("strength", 1.5, ""),
            ("strength", NAN, ""),
            ("keyframes", TOO_LATE, "frame"),
            ("control", Control(IMAGE[:0]), ""),
        )
    ],
    Case("ReelwireCalibrateCache", "width", 63),
    Case("ReelwireCalibrateCache", "sampler", "none of these"),
    *[Case(node, "tile", tile) for node in ("ReelwireDecode", "ReelwireDecodeToVideo") for tile in (1, 63, -8, NAN)],
    *[Case("ReelwireDecodeToVideo", "fps", fps) for fps in (0.5, -1.0, 1000.0, NAN)],
    *[Case("ReelwireDecodeToVideo", "filename_prefix", name) for name in ("../../x", "/tmp/x", "a/")],
    *[Case("ReelwireLongVideo", "fps", fps) for fps in (0.5, -1.0, 1000.0, NAN)],
    *[Case("ReelwireLongVideo", "timeline", text) for text in ("", "{", "[]", '{"prompts": [{"at": 3, "text": ""}]}')],
    Case("ReelwireLongVideo", "timeline", f'{{"prompts": [{{"at": 0, "text": "{LONG}"}}]}}'),
    Case("ReelwireLongVideo", "frames", 0),
    Case("ReelwireLongVideo", "width", 63),
    Case("ReelwireLongVideo", "adain", NAN),
    Case("ReelwireLongVideo", "hold", 2.0),
    Case("ReelwireLongVideo", "filename_prefix", "../../x"),
    Case("ReelwireGuidance", "layers", "seven"),
    Case("ReelwireGuidance", "start", 2.0, at="start"),
    Case("ReelwireGuidance", "threshold", NAN),
    Case("ReelwireSpeed", "attention", "none of these"),
    Case("ReelwireTeaCache", "start", 0.9, {"end": 0.1}),
    Case("ReelwireTeaCache", "threshold", NAN),
    Case("ReelwireFORA", "interval", 0),
    Case("ReelwireCache", "speed", NAN),
    Case("ReelwireKeyframe", "strength", 0.0, {"image": IMAGE}),
    Case("ReelwireKeyframe", "strength", NAN, {"image": IMAGE}),
    Case("ReelwireControl", "start", 0.9, {"frames": IMAGE, "end": 0.1}),
    Case("ReelwireControl", "strength", NAN, {"frames": IMAGE}),
    Case("ReelwireEstimate", "width", 63),
    Case("ReelwireEstimate", "frames", -1),
    Case("ReelwireMotion", "noise_augmentation", NAN),
]


def node_of(nodes: list[Any], name: str) -> Any:
    return next(node for node in nodes if node.define_schema().node_id == name)


def inputs_of(node: Any, model: VideoModel, case: Case) -> dict[str, Any]:
    """All inputs of a node at their defaults but for those of a case."""
    usual = {i.id: i.default for i in node.define_schema().inputs if getattr(i, "default", None) is not None}
    texts = {"positive": "a cat", "negative": ""} if case.node == "ReelwireEncodePrompt" else {}
    linked = {"model": model} if any(i.id == "model" for i in node.define_schema().inputs) else {}
    media = needed(model) if case.node in ("ReelwireSampler", "ReelwireCalibrateCache") else {}
    media = {name: value for name, value in media.items() if value is not None}
    if case.node == "ReelwireEncodePrompt" and model.facts.reads_pictures:
        media = {"keyframes": needed(model)["keyframes"]}
    return {**usual, **texts, **linked, **media, **case.more, case.name: case.value}


def answer(node: Any, inputs: dict[str, Any], literal: bool) -> str:
    """What is said of inputs before the conditioning and the latents are made; literal: whether none came by a link."""
    if literal:
        names = inspect.getfullargspec(node.validate_inputs).args
        known = {name: value if isinstance(value, (str, int, float)) else None for name, value in inputs.items()}
        said = node.validate_inputs(**{name: value for name, value in known.items() if name in names})
        if said is not True:
            return str(said)
    later = {i.id: None for i in node.define_schema().inputs if i.lazy and i.id not in inputs and not i.optional}
    try:
        if later:
            node.check_lazy_status(**inputs, **later)
        else:
            execute(node, **inputs)
    except RefusedError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("literal", [True, False], ids=["literal", "linked"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.node}.{case.name}={case.value!r}"[:60])
def test_before_a_part_is_read(nodes: list[Any], models: dict[str, VideoModel], case: Case, literal: bool) -> None:
    node = node_of(nodes, case.node)
    model = models[FIRST["ltx"]]
    said = answer(node, inputs_of(node, model, case), literal)
    assert (case.at or case.name) in said


@each_family
def test_a_prompt_of_any_family(nodes: list[Any], models: dict[str, VideoModel], name: str) -> None:
    """SVD reads none, so that nothing can be wrong with it."""
    node, model = node_of(nodes, "ReelwireEncodePrompt"), models[name]
    for case in CASES:
        if case.node == "ReelwireEncodePrompt" and model.facts.prompt_tokens:
            assert case.name in answer(node, inputs_of(node, model, case), True)


@each_family
def test_a_sampler_of_any_family(nodes: list[Any], models: dict[str, VideoModel], name: str) -> None:
    node, model = node_of(nodes, "ReelwireSampler"), models[name]
    for case in CASES:
        if case.node == "ReelwireSampler" and case.name not in ("keyframes", "control"):
            said = answer(node, inputs_of(node, model, case), False)
            assert case.name in said, f"{case.name} = {case.value}: {said}"


def test_a_second_pass_is_refused_before_the_first_is_sampled(nodes: list[Any], models: dict[str, VideoModel]) -> None:
    """What the latents have is not known yet: of that nothing is refused."""
    node, model = node_of(nodes, "ReelwireSampler"), models[FIRST["ltx"]]
    usual = inputs_of(node, model, Case("ReelwireSampler", "strength", 0.5))
    assert node.check_lazy_status(**usual, source=None, conditioning=None) == ["source"]
    for name, value in (("sampler", "none of these"), ("frames", 18), ("preset", "none"), ("guidance", -1.0)):
        with pytest.raises(RefusedError) as refused:
            node.check_lazy_status(**{**usual, name: value}, source=None, conditioning=None)
        assert name in str(refused.value)
    there = {**usual, "source": frames(usual["frames"] or 97)}
    assert node.check_lazy_status(**there, conditioning=None) == ["conditioning"]


@pytest.mark.parametrize("name", ["ReelwireDecode", "ReelwireDecodeToVideo"])
def test_latents_wait_until_all_else_is_sound(nodes: list[Any], models: dict[str, VideoModel], name: str) -> None:
    node, model = node_of(nodes, name), models[FIRST["ltx"]]
    usual = inputs_of(node, model, Case(name, "tile", 0))
    assert node.check_lazy_status(**usual, latent=None) == ["latent"]
    assert node.check_lazy_status(**usual, latent={"samples": torch.zeros(1)}) == []
    del usual["model"]
    assert node.check_lazy_status(**usual, latent=None) == ["latent"]
