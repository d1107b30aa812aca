"""The shipped configs at their real sizes, on the meta device: complete, and of the shapes of the host's classes."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.facts import Facts
from reelwire.loaders.families import FAMILIES
from reelwire.loaders.spec import FOLDER
from reelwire.tests.support.files.configs import (
    NATIVE,
    PUBLISHED,
    VARIANTS,
    build,
    network,
    read,
    rename,
)
from reelwire.tests.support.files.native import host_classes

every = pytest.mark.parametrize("variant", VARIANTS)
# tensors of the network, and parameters in billions, as published or counted in the host's own classes
SIZES = {
    "hunyuan_video/t2v-13b": (1264, 12.82),
    "hunyuan_video/i2v-13b-concat": (1260, 12.81),
    "hunyuan_video/i2v-13b-replace": (1264, 12.82),
    "wan/2.1-t2v-1.3b": (825, 1.42),
    "wan/2.1-t2v-14b": (1095, 14.29),
    "wan/2.1-i2v-14b-480p": (1303, 16.40),
    "wan/2.1-i2v-14b-720p": (1303, 16.40),
    "wan/2.1-flf2v-14b-720p": (1304, 16.40),
    "wan/2.1-vace-1.3b": (1264, 2.15),
    "wan/2.1-vace-14b": (1331, 17.34),
    "wan/2.2-t2v-a14b": (1095, 14.29),
    "wan/2.2-i2v-a14b": (1095, 14.29),
    "wan/2.2-ti2v-5b": (825, 5.00),
    "wan/2.1-fun-control-1.3b": (985, 1.57),
    "wan/2.1-fun-control-14b": (1305, 16.40),
    "wan/2.1-fun-inp-1.3b": (983, 1.57),
    "wan/2.1-fun-inp-14b": (1303, 16.40),
    "wan/2.2-fun-control-a14b": (1097, 14.29),
    "wan/2.2-fun-inp-a14b": (1095, 14.29),
    "wan/2.2-fun-control-5b": (827, 5.00),
    "wan/2.2-fun-inp-5b": (825, 5.00),
    "mochi/1-preview": (1071, 10.03),
    "cogvideox/2b": (None, 1.69),
    "cogvideox/5b": (None, 5.57),
    "cogvideox/5b-i2v": (None, 5.57),
    "cogvideox/1.5-5b": (None, 5.57),
    "cogvideox/1.5-5b-i2v": (None, 5.57),
    "cogvideox/fun-1.1-5b-control": (None, 5.57),
    "svd/svd": (None, 1.52),
    "svd/svd-xt": (None, 1.52),
    "ltx/0.9.0-2b": (715, 1.92),
    "ltx/0.9.1-2b": (715, 1.92),
    "ltx/0.9.5-2b": (715, 1.92),
    "ltx/0.9.6-2b-dev": (715, 1.92),
    "ltx/0.9.6-2b-distilled": (715, 1.92),
    "ltx/0.9.8-2b-distilled": (715, 1.92),
    "ltx/0.9.7-13b-dev": (1215, 13.04),
    "ltx/0.9.7-13b-distilled": (1215, 13.04),
    "ltx/0.9.8-13b-dev": (1215, 13.04),
    "ltx/0.9.8-13b-distilled": (1215, 13.04),
}
# where a reference goes through a convolution of its own, that of the video has another name than diffusers'
REFERENCE = {
    r"^patch_embedding\.": "patch_embedding.video.",
    r"^ref_conv\.": "patch_embedding.reference.",
}
FRAME_STEPS = {"hunyuan_video": 4, "wan": 4, "cogvideox": 8, "mochi": 6, "ltx": 8, "svd": 1}


def shapes(state: Any) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in state.items()}


def test_every_family_and_variant_is_listed() -> None:
    assert {*SIZES} == {*VARIANTS}
    assert {variant.split("/")[0] for variant in VARIANTS} == {*FAMILIES}


@every
def test_names_and_shapes_are_complete(variant: str) -> None:
    module, (tensors, billions) = build(variant, network(variant)), SIZES[variant]
    assert tensors in (None, len(module.state_dict()))
    assert sum(p.numel() for p in module.parameters()) / 1e9 == pytest.approx(billions, abs=0.006)
    vae = build(variant, "vae")
    if variant.startswith("wan/2.1"):
        assert len(vae.state_dict()) == 194
    channels = vae.config.get("z_dim") or vae.config["latent_channels"]
    assert len(vae.config.get("latents_mean") or [0] * channels) == channels


@every
def test_scheduler_and_presets(variant: str) -> None:
    import diffusers

    config, defaults, family = read(variant, "scheduler"), read(variant, "defaults"), variant.split("/")[0]
    kind = getattr(diffusers, config.pop("_class_name"))
    assert {*config} <= {*inspect.signature(kind.__init__).parameters}
    fields = set(Facts.__dataclass_fields__) | {
        "boundary",
        "per_token_time",
        "inpaint",
        "conditioned",
        "distilled_timesteps",
    }
    assert {*defaults} <= fields
    for preset in defaults["presets"].values():
        asked = {**defaults["presets"]["default"], **preset}
        multiple = 64 if family == "svd" else 32 if family == "ltx" or ("-5b" in variant and "2.2" in variant) else 16
        assert asked["width"] % multiple == asked["height"] % multiple == 0
        assert (asked["frames"] - 1) % FRAME_STEPS[family] == 0
        assert asked["frames"] in defaults.get("frame_counts", [asked["frames"]])
        assert asked["steps"] > 0
        assert asked["guidance"] >= 1


@every
def test_its_sources_are_named(variant: str) -> None:
    family, name = variant.split("/")
    sources = (FOLDER / "SOURCES.md").read_text(encoding="utf-8")
    section = sources.split(f"## {family}\n")[1].split("\n## ")[0]
    assert f"`{name}`" in section


# ---------------------------------------------------------------- the host's own classes through diffusers' converters


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.split("/")[0] in NATIVE])
def test_the_hosts_own_class_has_the_same_shapes(comfyui: Path, variant: str) -> None:
    """Each written by others than the config: a wrong width, depth or channel count cannot pass."""
    from diffusers.loaders import single_file_utils

    describe, converter = NATIVE[variant.split("/")[0]]
    with host_classes():
        import comfy.ops

        make = describe(read(variant, "transformer"))
        native = make(device="meta", dtype=torch.bfloat16, operations=comfy.ops.disable_weight_init).state_dict()
    published = {rename(name, PUBLISHED.get(variant.split("/")[0], {})): value for name, value in native.items()}
    converted = getattr(single_file_utils, converter)(published)
    if "ref_conv.weight" in converted:
        converted = {rename(name, REFERENCE): value for name, value in converted.items()}
    assert shapes(converted) == shapes(build(variant, "transformer").state_dict())
