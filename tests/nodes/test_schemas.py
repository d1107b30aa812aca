"""What nodes set on a model, and their texts: each input is a field of an option, each text comes from a schema."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from reelwire.loaders import families
from reelwire.loaders.families.ltx import LTX
from reelwire.loaders.parts import Recipe
from reelwire.loaders.request import Guidance
from reelwire.loaders.weights.lora import LoRA
from reelwire.samplers.caches.policies import choices
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.speed import Speed
from reelwire.tests.support.card import seen_by_comfyui
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.host import ROOT


@pytest.fixture(scope="module")
def nodes(comfyui: Path) -> Iterator[Any]:
    """The modules of nodes/ with ComfyUI's in this process."""
    sys.path.insert(0, str(comfyui))
    import comfy.cli_args

    comfy.cli_args.args.cpu = True
    with seen_by_comfyui():
        from reelwire.nodes import caching, host, lora, modifiers

    yield SimpleNamespace(caching=caching, lora=lora, modifiers=modifiers, memory=host.memory)
    sys.path.remove(str(comfyui))


@dataclass(frozen=True)
class Sharper(LTX):
    """LTX-Video with one option more."""

    sharpness: float = 0.0


def recipe() -> Recipe:
    files = {"checkpoint": BUNDLED, "text_encoder": BUNDLED / "text_encoder", "tokenizer": BUNDLED / "tokenizer"}
    return Recipe("ltx", "", files, "float32")


def test_every_option_travels_through_the_memory_node(nodes: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A new option too, without anybody naming it."""
    for module in (families, nodes.memory):
        monkeypatch.setattr(module, "family", lambda name: Sharper)
    model = nodes.memory.load_model(recipe())
    optional = {each.name for each in fields(model) if (each.default, each.default_factory) != (MISSING, MISSING)}
    assert "sharpness" in optional
    values = {name: object() for name in optional - {"node"}}
    presets = {"default": {**model.facts.presets["default"], "steps": 3}}
    changed = replace(model, **values, facts=replace(model.facts, presets=presets))

    (result,) = nodes.modifiers.SetMemory.execute(changed, "int8", 1.5).args
    assert {name: getattr(result, name) for name in values} == values
    assert result.facts.presets == presets
    assert result.recipe.storage == "int8"
    assert result.memory.most_on_card == int(1.5 * 2**30)


# node -> (its option, inputs that have another name as fields, fields that are no inputs)
LORA_INNER = {"deltas", "low_deltas", "factors", "settings"}
OPTIONS: dict[str, tuple[type[Any], dict[str, str], set[str]]] = {
    "SetGuidance": (
        Guidance,
        {
            "low_noise_guidance": "low_noise",
            "true_guidance": "true_scale",
            **dict.fromkeys(("scales", "stg_scales", "rescales", "timesteps", "stg_mode", "cfg_star"), "stg"),
        },
        set(),
    ),
    "SetSpeed": (Speed, {}, {"compiler", "whole"}),
    "AddLoRA": (LoRA, {"lora": "file", "low_noise_strength": "low_noise"}, LORA_INNER),
    "TeaCacheNode": (TeaCache, {"coefficients": "source"}, {"polynomial", "exact", "warmup"}),
    "FORANode": (FORA, {}, {"warmup", "longest"}),
}
NOT_OPTIONS = {"model", "distilled"}  # inputs


def inputs_of(node: Any) -> set[str]:
    return {each.id for each in node.define_schema().inputs} - NOT_OPTIONS


@pytest.mark.parametrize("name", OPTIONS)
def test_inputs_are_fields_and_fields_are_inputs(nodes: Any, name: str) -> None:
    option, renamed, inner = OPTIONS[name]
    node = next(getattr(room, name) for room in (nodes.modifiers, nodes.lora, nodes.caching) if hasattr(room, name))
    assert is_dataclass(option)
    names = {each.name for each in fields(option)} - {"node"}
    assert {renamed.get(field, field) for field in inputs_of(node)} == names - inner
    assert inner <= names


def test_the_cache_node_has_the_options_of_its_policies(nodes: Any) -> None:
    inner = {"node", "warmup", "ratios", "grams", "first_blocks", "sensitivities", "early", "last"}
    inner |= {"window", "degree", "ridge", "share"}  # of Spectrum
    read = {each.name for policy in choices().values() for each in fields(policy)} - inner
    assert inputs_of(nodes.caching.CacheNode) - {"policy"} == read == {*nodes.caching.OPTIONS}
    for policy in choices().values():
        assert {*policy.unused} <= {each.name for each in fields(policy)}, policy.title


# ---------------------------------------------------------------- texts

LOCALES = ROOT / "locales"
OTHERS = sorted(path.parent.name for path in LOCALES.glob("*/nodeDefs.json") if path.parent.name != "en")


def texts(language: str) -> dict[str, str]:
    """Place -> text, as "ReelwireLoRA.inputs.lora.tooltip"."""

    def walk(value: Any, place: str) -> Iterator[tuple[str, str]]:
        if isinstance(value, str):
            yield place, value
            return
        for name, inner in value.items():
            yield from walk(inner, f"{place}.{name}" if place else name)

    return dict(walk(json.loads((LOCALES / language / "nodeDefs.json").read_text(encoding="utf-8")), ""))


def test_english_is_made_from_the_schemas(comfyui: Path) -> None:
    command = [sys.executable, "-m", "tools.node_texts", "--check"]
    environment = {**os.environ, "COMFYUI_DIR": str(comfyui)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (
        f"{done.stdout}{done.stderr}\nRun python -m tools.node_texts, and translate what changed."
    )


@pytest.mark.parametrize("language", OTHERS)
def test_a_translation_has_every_text(language: str) -> None:
    english, translated = texts("en"), texts(language)
    optional = {"ReelwireSpeed.inputs.attention.tooltip"}  # names what this machine has, in English
    assert sorted(english.keys() - translated.keys()) == [], "not translated yet"
    assert sorted(translated.keys() - english.keys() - optional) == [], "translations of texts that are gone"
    assert sorted(place for place, text in translated.items() if not text.strip()) == []
