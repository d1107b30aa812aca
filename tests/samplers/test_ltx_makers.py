"""LTX-Video as its makers run it: our presets against Lightricks' own program (ltx-video), with tiny models.

The published configurations (https://github.com/Lightricks/LTX-Video, configs/*.yaml) go to their pipeline as they are;
ours is told the preset's name alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.common.images import compressed
from reelwire.loaders.families.ltx.checkpoint import SPEC
from reelwire.loaders.families.ltx.upsampler import tone_mapped
from reelwire.loaders.limits import check_frames, check_size
from reelwire.loaders.messages import InputError, message
from reelwire.loaders.request import Conditioning, Decoding, Guidance, Keyframe, Request, SpatioTemporal
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.components import seeded
from reelwire.tests.support.engine.makers import STRATEGIES, Makers, inference, make
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

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
    request = Request(WIDTH, HEIGHT, FRAMES, source=latents, preset=f"{name}, second pass")
    assert message("source_unused") not in plan(makers(name)[0].model, request).notes


DEV, DISTILLED = "ltxv-2b-0.9.6-dev", "ltxv-13b-0.9.8-distilled"
SHORT = {"num_inference_steps": 5}


def pictures(count: int, seed: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> Tensor:
    """Frames [N, H, W, 3] in 0..1, as an 8-bit file has them."""
    with seeded(seed):
        return torch.randint(0, 256, (count, *size, 3)).float() / 255


def as_they_load(frames: Tensor, width: int, height: int) -> Tensor:
    """Frames as their `load_image_to_tensor_with_resize_and_crop` makes tensors of files, one after another."""
    from PIL.Image import fromarray

    files = (fromarray((frame * 255).round().byte().numpy()) for frame in frames)
    load = inference().load_image_to_tensor_with_resize_and_crop
    return torch.cat([load(file, height, width, just_crop=True) for file in files], 2)


@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (90, 100)], ids=["of its size", "larger"])
def test_pictures_and_clips(makers: Any, size: tuple[int, int]) -> None:
    """A whole picture in front, a weaker one, and a clip: compressed, with fresh noise on what is given whole."""
    from ltx_video.pipelines.pipeline_ltx_video import ConditioningItem

    frames = 25
    given = [(pictures(1, 1, size), 0, 1.0), (pictures(1, 2, size), 11, 0.6), (pictures(9, 3, size), 16, 0.8)]
    items = [ConditioningItem(as_they_load(images, WIDTH, HEIGHT), at, strength) for images, at, strength in given]
    values = {**CONFIGS[DEV], **SHORT, "num_frames": frames, "conditioning_items": items}
    expected = theirs(makers, DEV, values, image_cond_noise_scale=0.15)
    keyframes = tuple(Keyframe(*each) for each in given)
    result = ours(makers, DEV, DEV, frames=frames, steps=5, keyframes=keyframes)
    assert distance(result, expected) <= NEAR
    settled = tuple(replace(keyframe, settled=True) for keyframe in keyframes)
    assert distance(ours(makers, DEV, DEV, frames=frames, steps=5, keyframes=settled), expected) > 100 * NEAR


def test_pictures_under_stochastic_steps(makers: Any) -> None:
    """Tokens that are given have noise levels of their own."""
    from ltx_video.pipelines.pipeline_ltx_video import ConditioningItem

    name = "ltxv-2b-0.9.6-distilled"
    images = pictures(1, 4)
    item = ConditioningItem(as_they_load(images, WIDTH, HEIGHT), 0, 0.7)
    expected = theirs(makers, name, CONFIGS[name], conditioning_items=[item], image_cond_noise_scale=0.15)
    assert distance(ours(makers, name, name, keyframes=(Keyframe(images, 0, 0.7),)), expected) <= NEAR


@pytest.mark.parametrize("fps", [24.0, 50.0])
def test_the_frame_rate_reaches_the_network(makers: Any, fps: float) -> None:
    expected = theirs(makers, DEV, {**CONFIGS[DEV], **SHORT}, frame_rate=fps)
    assert distance(ours(makers, DEV, DEV, steps=5, fps=fps), expected) <= NEAR
    assert distance(ours(makers, DEV, DEV, steps=5), expected) > 10 * NEAR


@pytest.mark.parametrize("mode", STRATEGIES)
@pytest.mark.parametrize("star", [False, True])
def test_guidance_of_the_node(makers: Any, mode: str, star: bool) -> None:
    """Every mode, with lists that follow the noise, on a preset that has other guidance."""
    lists = {
        "guidance_scale": [4, 1, 6],
        "stg_scale": [1, 2, 0],
        "rescaling_scale": [0.7, 1, 1],
        "guidance_timesteps": [1.0, 0.98, 0.5],
        "skip_block_list": [[3], [19, 4], []],
    }
    expected = theirs(makers, DEV, {**CONFIGS[DEV], **SHORT, **lists, "stg_mode": mode, "cfg_star_rescale": star})
    stg = SpatioTemporal((4, 1, 6), (1, 2, 0), (0.7, 1, 1), (1.0, 0.98, 0.5), ((3,), (19, 4), ()), mode, star)
    model = replace(makers(DEV)[0].model, guidance=Guidance("stg", stg=stg))
    assert distance(ours(makers, DEV, DEV, steps=5, model=model), expected) <= NEAR
    with model.use("transformer") as network:
        assert all("forward" not in vars(block) for block in network.transformer_blocks)
        assert len({type(block.attn1.processor) for block in network.transformer_blocks}) == 1


def test_a_scale_that_is_set_goes_before_the_presets(makers: Any) -> None:
    expected = theirs(makers, DEV, {**CONFIGS[DEV], **SHORT, "guidance_scale": 6.0})
    assert distance(ours(makers, DEV, DEV, steps=5, guidance=6.0), expected) <= NEAR


# ---------------------------------------------------------------- two scales


def upscaler(folder: Path) -> Any:
    """A tiny upscaler of theirs, and a folder of it for ours."""
    from ltx_video.models.autoencoders.latent_upsampler import LatentUpsampler
    from reelwire.tests.support.engine.makers import CHANNELS
    from safetensors.torch import save_file

    sizes = {"in_channels": CHANNELS, "mid_channels": 32, "num_blocks_per_stage": 1, "dims": 3}
    with seeded(9):
        network = LatentUpsampler(**sizes).eval().requires_grad_(False)
    part = folder / "latent_upsampler"
    part.mkdir()
    config = {"_class_name": "LTXLatentUpsamplerModel", **sizes, "spatial_upsample": True, "temporal_upsample": False}
    (part / "config.json").write_text(json.dumps(config))
    save_file(network.state_dict(), part / "diffusion_pytorch_model.safetensors")
    return network


def test_two_passes(makers: Any, tmp_path: Path) -> None:
    """LTXMultiScalePipeline as a whole: a small video, doubled, its statistics put back, refined."""
    from ltx_video.pipelines.pipeline_ltx_video import LTXMultiScalePipeline

    both, conditioning = makers(DISTILLED)
    config = {key: value for key, value in CONFIGS[DISTILLED].items() if key not in DECODES}
    passes = {
        name: {k: v for k, v in config[name].items() if k not in DECODES} for name in ("first_pass", "second_pass")
    }
    passes["second_pass"]["generator"] = torch.Generator().manual_seed(8)
    pipeline = LTXMultiScalePipeline(both.pipeline, upscaler(tmp_path))
    size = {"height": 160, "width": 256, "num_frames": FRAMES, "frame_rate": FPS}
    reference = Makers(pipeline, both.model)
    expected = reference.reference(conditioning.branches, SEED, **{**config, **passes, **size})
    small = ours(makers, DISTILLED, DISTILLED, width=160, height=96)
    large = both.model.upscale(both.model.upsampler(tmp_path), small, 1.0, 0.0)
    result = ours(makers, DISTILLED, f"{DISTILLED}, second pass", width=0, height=0, frames=0, source=large, seed=8)
    assert distance(result, expected) <= NEAR


def test_how_it_is_decoded(makers: Any) -> None:
    """The tone map of their pipeline, and noise and time that are the caller's; -1 is what was always done."""
    from ltx_video.pipelines.pipeline_ltx_video import LTXVideoPipeline

    with seeded(5):
        latents = 2 * torch.randn(1, 8, 2, 2, 3)
    for share in (0.0, 0.6, 1.0):
        assert torch.equal(tone_mapped(latents, share), LTXVideoPipeline.tone_map_latents(latents, share))
    model = makers(DEV)[0].model
    decoded = lambda *numbers: torch.cat(list(stream_frames(replace(model, decoding=Decoding(*numbers)), latents, 3)))
    usual = torch.cat(list(stream_frames(model, latents, 3)))
    assert torch.equal(decoded(-1, -1, -1), usual)
    assert torch.equal(decoded(0.05, -1, 0), usual)
    others = [decoded(0.3, -1, -1), decoded(-1, 0, -1), decoded(-1, 0.3, -1), decoded(-1, -1, 0.6)]
    assert all((other - usual).abs().max() > 1e-4 for other in others)


@pytest.mark.parametrize("crf", [1, 29, 51])
def test_a_compressed_picture_is_theirs(crf: int) -> None:
    from ltx_video.pipelines.crf_compressor import compress
    from torchvision.transforms.functional import gaussian_blur

    frames = pictures(2, 6, (33, 50))
    soft = gaussian_blur(frames.movedim(-1, 1), [3, 3], [1.0, 1.0]).movedim(1, -1)
    expected = torch.stack([compress(frame, crf) for frame in soft])
    assert (compressed(frames, crf) - expected).abs().max() <= 1 / 255
    assert compressed(frames, crf).shape == (2, 32, 50, 3)


# ---------------------------------------------------------------- what cannot be


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "another checkpoint's": ({"preset": "ltxv-13b-0.9.8-dev"}, "preset"),
    "steps beside a list": ({"preset": DISTILLED, "steps": 9}, "steps"),
    "a second pass of nothing": ({"preset": f"{DISTILLED}, second pass"}, "source"),
    "a rate below one": ({"preset": DISTILLED, "fps": 0.5}, "fps"),
    "no number": ({"preset": DISTILLED, "fps": float("nan")}, "fps"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_is_refused_in_words(makers: Any, case: str) -> None:
    inputs, name = BAD[case]
    with pytest.raises(InputError) as error:
        plan(makers(DISTILLED)[0].model, Request(width=WIDTH, height=HEIGHT, frames=FRAMES, **inputs))
    assert error.value.name == name


BAD_GUIDANCE: dict[str, tuple[dict[str, Any], str]] = {
    "lists of other lengths": (dict(scales=(1, 2), timesteps=(1.0, 0.9, 0.5), blocks=((1,),)), "scales"),
    "a list without timesteps": (dict(stg_scales=(1, 2), blocks=((1,),)), "stg_scales"),
    "rising timesteps": (dict(timesteps=(0.5, 0.9), blocks=((1,),)), "timesteps"),
    "a timestep above one": (dict(timesteps=(1000.0,), blocks=((1,),)), "timesteps"),
    "too much rescaling": (dict(rescales=(2.0,), blocks=((1,),)), "rescales"),
    "no number": (dict(scales=(float("nan"),), blocks=((1,),)), "scales"),
    "no blocks": (dict(), "layers"),
    "a block that is not there": (dict(blocks=((99,),)), "layers"),
    "a mode that is none": (dict(blocks=((1,),), mode="residual"), "stg_mode"),
}


@pytest.mark.parametrize("case", BAD_GUIDANCE)
def test_guidance_that_cannot_be_is_refused_in_words(makers: Any, case: str) -> None:
    values, name = BAD_GUIDANCE[case]
    model = replace(makers(DEV)[0].model, guidance=Guidance("stg", stg=SpatioTemporal(**values)))
    with pytest.raises(InputError) as error:
        plan(model, Request(width=WIDTH, height=HEIGHT, frames=FRAMES))
    assert error.value.name == name


def test_every_number_of_a_configuration_is_in_its_preset() -> None:
    """Those too that decide about no latent: decoding."""
    for name, config in CONFIGS.items():
        variant = next(v for v in SPEC.variants() if name in SPEC.config(v, "defaults")["presets"])
        presets = SPEC.config(variant, "defaults")["presets"]
        for preset in (name, *([f"{name}, second pass"] if name in SCALES else [])):
            values = {**config, **config.get("second_pass" if preset != name else "first_pass", {})}
            decoding = presets[preset]["program"]["decoding"]
            assert decoding["timestep"] == values["decode_timestep"]
            assert decoding["noise"] == values["decode_noise_scale"]
            assert decoding["tone_map"] == values.get("tone_map_compression_ratio", 0.0)


# ---------------------------------------------------------------- sizes


class Asked(Exception):  # noqa: N818
    """What their program calls its pipeline with."""


@pytest.mark.parametrize(("width", "height", "frames"), [(700, 500, 100), (1216, 704, 121), (33, 31, 2), (96, 65, 9)])
def test_what_their_program_pads_to_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, width: int, height: int, frames: int
) -> None:
    """It makes the next larger size and length, and cuts; ours takes that size, and a refusal of another names it."""
    program, config = inference(), tmp_path / "config.yaml"
    names = (
        "text_encoder_model_name_or_path",
        *(f"prompt_enhancer_{kind}_model_name_or_path" for kind in ("image_caption", "llm")),
    )
    known = {
        "checkpoint_path": str(config),
        "prompt_enhancement_words_threshold": 0,
        "precision": "bfloat16",
        "stg_mode": "attention_values",
    }
    config.write_text(json.dumps({**known, **dict.fromkeys(names, "none")}))

    def asked(**values: Any) -> None:
        raise Asked(values["width"], values["height"], values["num_frames"])

    monkeypatch.setattr(program, "create_ltx_video_pipeline", lambda **_: asked)
    size = {"width": width, "height": height, "num_frames": frames}
    settings = program.InferenceConfig(prompt="a ring", output_path=str(tmp_path), pipeline_config=str(config), **size)
    with pytest.raises(Asked) as padded:
        program.infer(settings)
    for side, wanted in zip((width, height), padded.value.args, strict=False):
        assert wanted in named(check_size, "width", side, 32, "It")
    assert padded.value.args[2] in named(check_frames, frames, 8, "It")


def named(check: Callable[..., object], *values: Any) -> set[int]:
    """The numbers that a refusal names, or that of the value itself where it works."""
    try:
        check(*values)
    except InputError as error:
        return {int(number) for number in re.findall(r"\d+", str(error.remedy))}
    return {value for value in values[:2] if isinstance(value, int)}
