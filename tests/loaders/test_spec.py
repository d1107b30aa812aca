"""spec.json: read whole, refused with its file and key where it is wrong, and true of the family's models."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from reelwire.loaders import spec as specs_module
from reelwire.loaders.families import FAMILIES, family, load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.spec import FEATURES, FOLDER, SpecError, read_spec, spec_of, specs, with_feature
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.encoders import KINDS
from reelwire.tests.support.engine.models import MODELS

Spec = dict[str, Any]


def test_every_family_has_a_spec_and_a_format() -> None:
    assert tuple(spec.name for spec in specs()) == FAMILIES
    for name in FAMILIES:
        spec = spec_of(name)
        form = family(name).checkpoint
        assert form.spec is spec
        assert family(name).name == name
        assert family(name).title == spec.title
        assert {*spec.encoders.values()} <= KINDS.keys()
        assert {*spec.cache_fits} <= {*spec.variants()}
        assert all(
            (spec.folder / "variants" / variant / f"{form.network}.json").exists() for variant in spec.variants()
        )
    assert all(with_feature(feature) for feature in FEATURES)


@pytest.mark.parametrize(
    "name", ["tiny-wan2.1-t2v", "tiny-hunyuan-t2v", "tiny-cogvideox-2b", "tiny-mochi", "tiny-ltx-0.9.0", "tiny-svd"]
)
def test_frame_rules_are_the_models_own(tiny_models: Path, name: str) -> None:
    model = load(Recipe(MODELS[name], "", files_of(tiny_models / name), "float32"), PlainMemory())
    spec, facts = model.checkpoint.spec, model.facts
    if spec.frame_counts:
        assert {*facts.frame_counts} <= {*spec.frame_counts}
    else:
        assert spec.frame_step == (facts.frame_step or facts.temporal_ratio)
    assert ("shift" in facts.presets["default"]) <= ("flow_shift" in spec.features)
    assert ("trimmed_text" in spec.features) == (not model.keeps_padding)


def without(key: str) -> Callable[[Spec], Spec]:
    return lambda spec: {k: v for k, v in spec.items() if k != key}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("title"), "title: it is missing"),
        (lambda spec: {**spec, "pipeline": 3}, "pipeline: 3 is of the wrong type"),
        (lambda spec: {**spec, "colour": "red"}, "nobody reads colour"),
        (lambda spec: {**spec, "features": {"flying": ["5B"]}}, "features: flying is none of"),
        (lambda spec: {**spec, "features": {"control": []}}, "features: control: a title is needed"),
        (lambda spec: {**spec, "frames": {}}, "frames: either step or counts"),
        (lambda spec: {**spec, "frames": {"step": True}}, "frames: step: True is of the wrong type"),
        (
            lambda spec: {**spec, "vae": {"key": "no_such_message"}},
            "vae: there is no message or value 'no_such_message'",
        ),
        (lambda spec: {**spec, "encoders": ["t5"]}, "encoders: an object is needed"),
        (lambda spec: {**spec, "teacache": {**spec["teacache"], "signal": "noise"}}, "signal: 'noise' is none of"),
        (
            lambda spec: {**spec, "teacache": {**spec["teacache"], "same_as": {"2b": "3b"}}},
            "same_as.2b: nothing is published for 3b",
        ),
    ],
)
def test_a_broken_spec_is_refused_by_file_and_key(change: Callable[[Spec], Spec], words: str, tmp_path: Path) -> None:
    whole = json.loads((FOLDER / "cogvideox" / "spec.json").read_text(encoding="utf-8"))
    (tmp_path / "spec.json").write_text(json.dumps(change(whole)), encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        read_spec(tmp_path)
    assert str(tmp_path / "spec.json") in str(refused.value)
    assert words in str(refused.value)


def test_a_file_that_is_no_json_takes_down_its_family_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cogvideox", "mochi"):
        (tmp_path / name).mkdir()
        text = (FOLDER / name / "spec.json").read_text(encoding="utf-8")
        (tmp_path / name / "spec.json").write_text(text if name == "mochi" else text[:50], encoding="utf-8")
    monkeypatch.setattr(specs_module, "FOLDER", tmp_path)
    assert [spec.name for spec in specs_module.specs.__wrapped__()] == ["mochi"]
