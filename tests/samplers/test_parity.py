"""Our sampler against diffusers' own pipelines: the same latents, difference 0.0, on a tiny model of every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from reelwire.loaders.common.tokenizers import load_tokenizer
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Control, Guidance, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.decode import stream_frames
from reelwire.tests.support.engine.sampling import sample
from reelwire.training.tiny_models import seeded
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
PROMPT, NEGATIVE, SEED = "a red circle moving left", "a cat", 11


@dataclass(frozen=True)
class Case:
    """One task: the tiny model, diffusers' pipeline, and what each side is asked for.

    images: how many random pictures the pipeline gets as `image` and `last_image`, we as keyframes. video: random
    frames for it as `video` (or `control_video`), for us as source or control. skip: latent frames that the pipeline
    leaves in front of what it decodes.
    """

    model: str
    family: str
    pipeline: str
    request: Mapping[str, Any] = field(default_factory=dict)
    asked: Mapping[str, Any] = field(default_factory=dict)
    guidance: Mapping[str, Any] = field(default_factory=dict)
    images: int = 0
    video: str = ""
    skip: int = 0
    frames: int = 9
    parts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def id(self) -> str:
        changes = {**self.request, **self.asked, **self.guidance}
        return " ".join(
            [
                self.model.removeprefix("tiny-"),
                self.video,
                *(f"{k}={v}" for k, v in changes.items() if isinstance(v, (int, float, str))),
            ]
        )


WAN, I2V, COG, COG_I2V = "WanPipeline", "WanImageToVideoPipeline", "CogVideoXPipeline", "CogVideoXImageToVideoPipeline"
HUNYUAN, HUNYUAN_I2V = "HunyuanVideoPipeline", "HunyuanVideoImageToVideoPipeline"
SHIFTED = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 5.0}
FLOW = {
    "euler": ("FlowMatchEulerDiscreteScheduler", {"shift": 5.0}),
    "unipc": ("UniPCMultistepScheduler", SHIFTED),
    "dpm++ 2m": ("DPMSolverMultistepScheduler", SHIFTED),
}
CASES = [
    Case("tiny-wan2.1-t2v", "wan", WAN),
    Case("tiny-wan2.1-t2v", "wan", WAN, {"guidance": 1.0}),
    *[Case("tiny-wan2.1-t2v", "wan", WAN, {"sampler": s, "shift": 5.0}, parts={"scheduler": FLOW[s]}) for s in FLOW],
    Case("tiny-wan2.1-t2v", "wan", "WanVideoToVideoPipeline", {"strength": 0.7}, {"strength": 0.7}, video="source"),
    Case(
        "tiny-wan2.1-t2v",
        "wan",
        "WanVideoToVideoPipeline",
        {"strength": 0.5, "sampler": "euler", "shift": 5.0},
        {"strength": 0.5},
        video="source",
        parts={"scheduler": FLOW["euler"]},
    ),
    Case("tiny-wan2.1-i2v", "wan", I2V, images=1),
    Case("tiny-wan2.1-flf2v", "wan", I2V, images=2),
    Case("tiny-wan2.1-vace", "wan", "WanVACEPipeline", video="control"),
    Case("tiny-wan2.1-vace", "wan", "WanVACEPipeline", {}, {"conditioning_scale": 0.6}, video="masked", frames=5),
    Case("tiny-wan2.1-vace", "wan", "WanVACEPipeline", video="references", skip=2),
    Case("tiny-wan2.2-t2v-a14b", "wan", WAN, {"guidance_2": 3.0}, {"guidance_scale_2": 3.0}),
    Case("tiny-wan2.2-t2v-a14b", "wan", WAN, {}, {"guidance_scale_2": 2.0}, {"low_noise": 2.0}),
    Case("tiny-wan2.2-i2v-a14b", "wan", I2V, {"guidance_2": 3.0}, {"guidance_scale_2": 3.0}, images=1),
    Case("tiny-wan2.2-i2v-a14b", "wan", I2V, {"guidance_2": 3.0}, {"guidance_scale_2": 3.0}, images=2),
    Case("tiny-wan2.2-ti2v-5b", "wan", WAN),
    Case("tiny-wan2.2-ti2v-5b", "wan", I2V, images=1, parts={"image_encoder": None, "image_processor": None}),
    Case("tiny-hunyuan-t2v", "hunyuan_video", HUNYUAN),
    *[
        Case("tiny-hunyuan-t2v", "hunyuan_video", HUNYUAN, {"sampler": s, "shift": 5.0}, parts={"scheduler": FLOW[s]})
        for s in ("euler", "unipc")
    ],
    Case("tiny-hunyuan-t2v", "hunyuan_video", HUNYUAN, {}, {"true_cfg_scale": 3.0}, {"true_scale": 3.0}),
    Case("tiny-hunyuan-i2v-concat", "hunyuan_video", HUNYUAN_I2V, {"guidance": 1.0}, {"num_frames": 13}, images=1),
    Case(
        "tiny-hunyuan-i2v-concat",
        "hunyuan_video",
        HUNYUAN_I2V,
        {"guidance": 4.0},
        {"num_frames": 13, "true_cfg_scale": 4.0},
        images=1,
    ),
    Case("tiny-hunyuan-i2v-replace", "hunyuan_video", HUNYUAN_I2V, images=1),
    Case(
        "tiny-hunyuan-i2v-replace",
        "hunyuan_video",
        HUNYUAN_I2V,
        {},
        {"true_cfg_scale": 3.0},
        {"true_scale": 3.0},
        images=1,
    ),
    Case("tiny-cogvideox-2b", "cogvideox", COG),
    Case("tiny-cogvideox-2b", "cogvideox", COG, {"sampler": "dpm"}, parts={"scheduler": ("CogVideoXDPMScheduler", {})}),
    Case("tiny-cogvideox-5b", "cogvideox", COG, {}, {"use_dynamic_cfg": True}, {"dynamic": True}),
    Case(
        "tiny-cogvideox-5b", "cogvideox", COG, {"sampler": "ddim"}, parts={"scheduler": ("CogVideoXDDIMScheduler", {})}
    ),
    Case("tiny-cogvideox-5b-i2v", "cogvideox", COG_I2V, images=1),
    Case("tiny-cogvideox1.5-5b", "cogvideox", COG, skip=1),
    Case("tiny-cogvideox1.5-5b", "cogvideox", COG, {"guidance": 1.0}, skip=1),
    Case("tiny-cogvideox1.5-5b-i2v", "cogvideox", COG_I2V, images=1, skip=1),
    Case(
        "tiny-cogvideox-2b",
        "cogvideox",
        "CogVideoXVideoToVideoPipeline",
        {"strength": 0.8},
        {"strength": 0.8},
        video="source",
    ),
    Case(
        "tiny-cogvideox-5b",
        "cogvideox",
        "CogVideoXVideoToVideoPipeline",
        {"strength": 0.6},
        {"strength": 0.6},
        video="source",
    ),
    Case("tiny-cogvideox-fun-control", "cogvideox", "CogVideoXFunControlPipeline", video="control_video"),
    Case("tiny-mochi", "mochi", "MochiPipeline", frames=7),
    Case("tiny-mochi", "mochi", "MochiPipeline", {"guidance": 1.0}, frames=7),
    *[
        Case(
            "tiny-svd",
            "svd",
            "StableVideoDiffusionPipeline",
            {"sampler": s},
            images=1,
            frames=14,
            parts={"scheduler": (kind, {})},
        )
        for s, kind in {"euler": "EulerDiscreteScheduler", "edm dpm": "EDMDPMSolverMultistepScheduler"}.items()
    ],
    Case(
        "tiny-svd-xt",
        "svd",
        "StableVideoDiffusionPipeline",
        {},
        {"motion_bucket_id": 40, "fps": 12, "noise_aug_strength": 0.1},
        images=1,
        frames=25,
    ),
]
MOTION = {"motion_bucket_id": "motion_bucket", "fps": "fps", "noise_aug_strength": "noise_augmentation"}


def open_model(folder: Path, family: str, device: str) -> VideoModel:
    return load(Recipe(family, "", files_of(folder), "float32"), PlainMemory(device))


def pictures(count: int, seed: int) -> tuple[list[Image.Image], Tensor]:
    """The same random frames for both sides: PIL images, and a tensor [N, 64, 64, 3]."""
    with seeded(seed):
        pixels = torch.randint(0, 256, (count, 64, 64, 3), dtype=torch.uint8)
    return [Image.fromarray(p.numpy()) for p in pixels], pixels.float() / 255


def media(case: Case) -> tuple[dict[str, Any], dict[str, Any]]:
    """(the pipeline's pictures and videos, ours)."""
    theirs, ours = dict[str, Any](), dict[str, Any]()
    if case.images:
        images = [pictures(1, seed) for seed in range(case.images)]
        theirs = dict(zip(("image", "last_image"), (m[0][0] for m in images), strict=False))
        ours["keyframes"] = tuple(Keyframe(m[1], at) for m, at in zip(images, (0, -1), strict=False))
    frames, tensor = pictures(case.frames, 7)
    if case.video == "source":
        theirs["video"], ours["source"] = frames, tensor
    if case.video == "control_video":
        theirs["control_video"], ours["control"] = frames, Control(tensor)
    if case.video in ("control", "masked", "references"):
        theirs["video"], ours["control"] = frames, Control(tensor)
    if case.video == "masked":
        mask = (torch.arange(64) < 24).float().expand(case.frames, 64, 64)
        theirs["mask"] = [Image.fromarray((m * 255).to(torch.uint8).numpy()) for m in mask]
        ours["control"] = Control(tensor, mask, strength=0.6)
    if case.video == "references":
        shown, references = pictures(2, 9)
        theirs["reference_images"], ours["control"] = shown, Control(tensor, references=references)
    return theirs, ours


def make_pipeline(case: Case, folder: Path) -> Any:
    """diffusers' pipeline on the same weights, with other parts where the case says so."""
    import diffusers

    stored = diffusers.DiffusionPipeline.from_pretrained(folder, local_files_only=True)
    parts = {name: part for name, part in stored.components.items() if part is not None}
    for name in parts.keys() & {
        "tokenizer"
    }:  # diffusers would read a Llama 3 tokenizer by a class that reads it wrongly
        parts[name] = load_tokenizer(folder / name)
    for name, other in case.parts.items():
        parts[name] = other and getattr(diffusers, other[0]).from_config({**stored.scheduler.config, **other[1]})
    options = {n: stored.config[n] for n in ("boundary_ratio", "expand_timesteps") if n in stored.config}
    pipeline = getattr(diffusers, case.pipeline)(**parts, **({} if "VideoToVideo" in case.pipeline else options))
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def run_pipeline(case: Case, folder: Path, model: VideoModel, output: str = "latent") -> Tensor:
    request = model.complete(Request(**{"steps": 5, **case.request}))
    asked: dict[str, Any] = dict(
        num_inference_steps=5,
        generator=torch.Generator().manual_seed(SEED),
        output_type=output,
        height=64,
        width=64,
        num_frames=case.frames,
    )
    if case.video in ("source", "control_video"):
        del asked["num_frames"]
    if case.family == "svd":
        asked["max_guidance_scale"] = request.guidance
    else:
        asked |= dict(prompt=PROMPT, negative_prompt=NEGATIVE, guidance_scale=request.guidance)
    if case.family == "hunyuan_video":
        asked |= dict(prompt_template=template(case, folder))
        asked |= {"image_embed_interleave": 4} if "replace" in case.model else {}
    pipeline = make_pipeline(case, folder).to(model.memory.device("transformer"))
    latents = pipeline(**{**asked, **media(case)[0], **case.asked}).frames.cpu()
    if output != "latent":
        return latents
    if case.family in ("cogvideox", "svd"):
        latents = latents.transpose(1, 2)
    return latents[:, :, case.skip :]


def template(case: Case, folder: Path) -> dict[str, Any]:
    """The pipeline's template with the places that its parts have under the tiny tokenizer."""
    import importlib

    name = {HUNYUAN: "hunyuan_video", HUNYUAN_I2V: "hunyuan_video_image2video"}[case.pipeline]
    module = importlib.import_module(f"diffusers.pipelines.hunyuan_video.pipeline_{name}")
    template, tokenizer = dict(module.DEFAULT_PROMPT_TEMPLATE), load_tokenizer(folder / "tokenizer")
    ids = tokenizer(template["template"].split("{}")[0]).input_ids
    template["crop_start"] = len(ids)
    if "image_emb_len" in template:
        start = ids.index(tokenizer.convert_tokens_to_ids("<image>"))
        template |= dict(image_emb_len=49, image_emb_start=start, image_emb_end=start + 49)
    return template


def run_ours(case: Case, model: VideoModel, **changes: Any) -> Tensor:
    theirs = {MOTION[k]: v for k, v in case.asked.items() if k in MOTION}
    model = replace(model, guidance=Guidance(**case.guidance), options=theirs)
    inputs = media(case)[1]
    conditioning = model.encode(PROMPT, NEGATIVE, inputs.get("keyframes", ()))
    request = Request(64, 64, case.frames, 5, **{"seed": SEED, **case.request, **inputs, **changes})
    return sample(model, conditioning, request).cpu()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_equals_the_reference_pipeline(tiny_models: Path, device: str, rounding: float, case: Case) -> None:
    folder = tiny_models / case.model
    model = open_model(folder, case.family, device)
    expected = run_pipeline(case, folder, model)
    latents = run_ours(case, model)
    assert expected.abs().max() > 0.1
    latents = latents[:, :, 1:] if "concat" in case.model else latents
    assert latents.shape == expected.shape
    assert (latents - expected.float()).abs().max() <= rounding


FRAMES = {case.model: case for case in CASES if not case.video and not case.parts}


@pytest.mark.parametrize("name", FRAMES)
def test_frames_equal_the_reference_pipeline(tiny_models: Path, device: str, rounding: float, name: str) -> None:
    """Denormalised, decoded piece by piece, and as many as were asked for."""
    case, folder = FRAMES[name], tiny_models / name
    model = open_model(folder, case.family, device)
    expected = run_pipeline(case, folder, model, "pt")[0].movedim(1, -1)
    video = torch.cat(list(stream_frames(model, run_ours(case, model))))
    assert video.shape == expected.shape == (case.frames, 64, 64, 3)
    assert (video - expected).abs().max() < 1e-5 + rounding


@pytest.mark.parametrize("name", [n for n in FRAMES if "svd" not in n])
def test_one_forward_or_two(
    tiny_models: Path, device: str, rounding: float, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Both branches of guidance as one batch, or one after the other."""
    case = FRAMES[name]
    model = open_model(tiny_models / name, case.family, device)
    ours = run_ours(case, model, guidance=4.0)
    monkeypatch.setattr(type(model), "batched_guidance", not model.batched_guidance)
    assert (ours - run_ours(case, model, guidance=4.0)).abs().max() < 5e-5 + rounding
