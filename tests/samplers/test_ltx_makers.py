"""LTX-Video as its makers run it: our presets against Lightricks' own program (ltx-video), with tiny models.

The published configurations (https://github.com/Lightricks/LTX-Video, configs/*.yaml) go to their pipeline as they are;
ours is told the preset's name alone.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.request import Conditioning, Request
from reelwire.tests.support.engine.components import seeded
from reelwire.tests.support.engine.makers import Makers, make
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

pytest.importorskip("ltx_video", reason="run.py test installs it: pip install --no-deps ltx-video==0.1.2")
CONFIGS: dict[str, dict[str, Any]] = json.loads(
    (Path(__file__).parents[1] / "support" / "files" / "ltx_programs.json").read_text()
)
BASE = [name for name, config in CONFIGS.items() if "first_pass" not in config]
SCALES = [name for name in CONFIGS if name not in BASE]
NEAR, SEED, FRAMES, FPS = 1e-5, 7, 9, 30.0
WIDTH, HEIGHT = 96, 64
FEWER = {"ltxv-2b": 9, "ltxv-13b-0.9.7": 12}  # steps of their 40 and 30, as 13b-0.9.8 takes all
pytestmark = pytest.mark.filterwarnings("ignore:torch.meshgrid")
DECODES = ("decode_timestep", "decode_noise_scale", "tone_map_compression_ratio")


@pytest.fixture(scope="module")
def makers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """name of a configuration -> both sides."""
    folder = tmp_path_factory.mktemp("makers")

    @cache
    def of(name: str) -> tuple[Makers, Conditioning]:
        release = {"ltxv-2b-0.9": "0.9.0", "ltxv-2b-0.9.1": "0.9.1"}.get(name, "0.9.5")
        both = make(folder, {"ltxv-2b-0.9": "ltxv-2b-0.9.0"}.get(name, name), release)
        return both, both.model.encode("a red circle moving right", "a ring")

    return of


def theirs(makers: Any, name: str, values: dict[str, Any], **inputs: Any) -> Tensor:
    both, conditioning = makers(name)
    size = {"height": HEIGHT, "width": WIDTH, "num_frames": FRAMES, "frame_rate": FPS}
    kept = {key: value for key, value in values.items() if key not in DECODES}
    return both.reference(conditioning.branches, SEED, **{**size, **kept, **inputs})


def ours(makers: Any, name: str, preset: str, **inputs: Any) -> Tensor:
    both, conditioning = makers(name)
    model = inputs.pop("model", both.model)
    return sample(
        model,
        conditioning,
        Request(**{**dict(width=WIDTH, height=HEIGHT, frames=FRAMES, preset=preset, seed=SEED), **inputs}),
    )


def distance(one: Tensor, other: Tensor) -> float:
    assert one.shape == other.shape
    assert other.std() > 0.1
    return (one - other).abs().max().item()


def pass_of(name: str, which: str) -> dict[str, Any]:
    """What their pipeline is called with in one pass of a configuration of two scales."""
    config = {key: value for key, value in CONFIGS[name].items() if not key.endswith("_pass")}
    return {**config, **CONFIGS[name][which]}


def with_fewer_steps(name: str, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a configuration, with steps that show the same sooner."""
    fewer = [count for start, count in FEWER.items() if name.startswith(start) and "distilled" not in name]
    return {**values, "num_inference_steps": fewer[0]} if fewer else values


def steps_of(values: dict[str, Any]) -> int:
    """How many predictions are made; 0 where the noise levels are listed."""
    skipped = values.get("skip_initial_inference_steps", 0) + values.get("skip_final_inference_steps", 0)
    return values.get("num_inference_steps", skipped) - skipped


@pytest.mark.parametrize("name", BASE)
def test_one_pass(makers: Any, name: str) -> None:
    values = with_fewer_steps(name, CONFIGS[name])
    assert distance(ours(makers, name, name, steps=steps_of(values)), theirs(makers, name, values)) <= NEAR


@pytest.mark.parametrize("name", SCALES)
def test_first_pass(makers: Any, name: str) -> None:
    """Its guidance follows the noise by lists."""
    values = with_fewer_steps(name, pass_of(name, "first_pass"))
    assert distance(ours(makers, name, name, steps=steps_of(values)), theirs(makers, name, values)) <= NEAR


@pytest.mark.parametrize("name", SCALES)
def test_second_pass(makers: Any, name: str) -> None:
    """It refines the latents that it is given."""
    with seeded(3):
        latents = torch.randn(makers(name)[0].model.facts.latent_shape(WIDTH, HEIGHT, FRAMES))
    expected = theirs(makers, name, pass_of(name, "second_pass"), latents=latents)
    assert distance(ours(makers, name, f"{name}, second pass", source=latents), expected) <= NEAR
