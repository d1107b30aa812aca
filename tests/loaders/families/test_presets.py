"""A preset may change size, frames and steps, but never flow shift or guidance, which belong to the model."""

from __future__ import annotations

import pytest
from reelwire.loaders.spec import shipped_config, shipped_variants

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


@pytest.mark.parametrize(("family", "variant"), VARIANTS)
def test_presets_keep_what_is_published_for_the_model(family: str, variant: str) -> None:
    presets = shipped_config(family, variant, "defaults")["presets"]
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
    presets = shipped_config(family, variant, "defaults")["presets"]
    for name, preset in presets.items():
        if name not in ("default", "distilled"):
            assert preset.keys() <= {"width", "height", "frames", "steps", *OWN}
