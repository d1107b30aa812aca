"""A preset may change size, frames and steps, but never flow shift or guidance, which belong to the model.

Those that do what the makers' own program does are held to its configurations instead (test_ltx_makers.py)."""

from __future__ import annotations

from typing import Any

import pytest
from reelwire.loaders.request import Program
from reelwire.loaders.spec import shipped_config, shipped_variants, specs

VARIANTS = [(folder.parents[1].name, folder.name) for folder in shipped_variants()]
OWN = ("shift", "guidance", "guidance_2")
# (family, variants by the start of their names, setting) -> values that are published for them beside the default's
_AT_480P = (3.0,)  # diffusers, docs/source/en/api/pipelines/wan.md: flow shift 5 at 720p, 3 at 480p
_OF_STEPS = (
    3.5,
    3.2,
    2.8,
)  # Lightricks' table of settings for 40, 25 and 10 steps, for checkpoints without distillation
BESIDE = {
    ("wan", "2.1-t2v-14b", "shift"): _AT_480P,
    ("wan", "2.1-i2v-14b-720p", "shift"): _AT_480P,
    ("wan", "2.1-vace-14b", "shift"): _AT_480P,
    ("ltx", "0.9.0-2b", "guidance"): _OF_STEPS,
    ("ltx", "0.9.1-2b", "guidance"): _OF_STEPS,
    ("ltx", "0.9.5-2b", "guidance"): _OF_STEPS,
    ("ltx", "0.9.6-2b-dev", "guidance"): _OF_STEPS,
    ("ltx", "0.9.7-13b-dev", "guidance"): _OF_STEPS,
    ("ltx", "0.9.8-13b-dev", "guidance"): _OF_STEPS,
}


def own_presets(family: str, variant: str) -> dict[str, Any]:
    """The presets of a variant but for those of its makers' program."""
    presets = shipped_config(family, variant, "defaults")["presets"]
    return {name: preset for name, preset in presets.items() if "program" not in preset}


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_presets_keep_what_is_published_for_the_model(family: str, variant: str) -> None:
    presets = own_presets(family, variant)
    for name, preset in presets.items():
        for setting in OWN:
            if setting in preset:
                published = (presets["default"].get(setting), *BESIDE.get((family, variant, setting), ()))
                assert preset[setting] in published, f"{name} sets {setting}"


def test_every_exception_is_one() -> None:
    """No row of the table stands for nothing."""
    for (family, variant, setting), values in BESIDE.items():
        presets = shipped_config(family, variant, "defaults")["presets"]
        assert {preset.get(setting) for preset in presets.values()} >= {*values}


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_presets_change_size_frames_and_steps(family: str, variant: str) -> None:
    for name, preset in own_presets(family, variant).items():
        if name not in ("default", "distilled"):
            assert preset.keys() <= {"width", "height", "frames", "steps", *OWN}


def test_every_program_is_of_one_variant_and_known_by_its_name() -> None:
    """spec.json names them, so that a node can offer them without reading every variant."""
    named = [name for spec in specs() for name in spec.programs]
    shipped = [
        (name, preset)
        for family, variant in VARIANTS
        for name, preset in shipped_config(family, variant, "defaults")["presets"].items()
        if "program" in preset
    ]
    assert sorted(named) == sorted(name for name, _ in shipped)
    assert len({*named}) == len(named)
    for _, preset in shipped:
        program = Program.read(preset["program"])
        assert preset["steps"] == len(program.timesteps or [0] * preset["steps"])
        assert ("width" in preset) != program.begins_with_source
