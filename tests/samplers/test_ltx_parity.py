"""Our sampler and decoder against diffusers' own pipelines: the same latents, difference 0.0."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from reelwire.loaders.request import Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.decode import stream_frames
from reelwire.tests.support.engine.components import BUNDLED, ltx_folder, ltx_vae, seeded
from reelwire.tests.support.engine.models import open_ltx
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

PROMPT, NEGATIVE, STEPS, SEED = "a red circle moving right on a black background", "a ring", 5, 11
SIZES = {"bundled": (64, 96, 17), "0.9.0": (64, 96, 17), "0.9.5": (64, 96, 17)}  # height, width, frames


@pytest.fixture(scope="module", params=SIZES)
def case(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, device: str
) -> tuple[str, Path, VideoModel]:
    name = request.param
    folder = BUNDLED if name == "bundled" else ltx_folder(tmp_path_factory.mktemp("ltx") / name, name)
    return name, folder, open_ltx(folder, device)


def conditioned(model: VideoModel) -> bool:
    """Whether the checkpoint takes conditions, as LTXConditionPipeline's does."""
    facts: Any = model.facts
    return bool(facts.conditioned)


def reference(kind: str, folder: Path) -> Any:
    """diffusers' pipeline on the same weights; conditions need a scheduler without dynamic shifting."""
    import diffusers

    pipe = diffusers.LTXPipeline.from_pretrained(folder, dtype=torch.float32)
    parts = dict(pipe.components)
    if kind == "LTXConditionPipeline":
        config = {**parts["scheduler"].config, "use_dynamic_shifting": False, "shift_terminal": None}
        parts["scheduler"] = diffusers.FlowMatchEulerDiscreteScheduler.from_config(config)
    pipe = getattr(diffusers, kind)(**parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def run_reference(kind: str, case: tuple[str, Path, VideoModel], guidance: float = 3.0, **inputs: Any) -> Tensor:
    name, folder, model = case
    height, width, frames = SIZES[name]
    device = model.memory.device("transformer")
    pipe = reference(kind, folder).to(device)
    branches = {
        name: {key: tensor.to(device) for key, tensor in read.items()}
        for name, read in model.encode(PROMPT, NEGATIVE).branches.items()
    }
    if (kind == "LTXConditionPipeline") == conditioned(model):
        inputs |= {"prompt": PROMPT, "negative_prompt": NEGATIVE}
    else:  # this checkpoint reads its prompts as another pipeline does
        inputs |= {
            "prompt_embeds": branches["cond"]["text"],
            "prompt_attention_mask": branches["cond"]["mask"],
            "negative_prompt_embeds": branches["uncond"]["text"],
            "negative_prompt_attention_mask": branches["uncond"]["mask"],
        }
    if kind == "LTXConditionPipeline":
        inputs["max_sequence_length"] = model.facts.prompt_tokens
    latents = pipe(
        height=height,
        width=width,
        num_frames=frames,
        num_inference_steps=STEPS,
        guidance_scale=guidance,
        generator=torch.Generator().manual_seed(SEED),
        output_type="latent",
        **inputs,
    ).frames.cpu()
    if latents.ndim == 5:
        return latents
    _, _, f, h, w = model.facts.latent_shape(width, height, frames)
    return pipe._unpack_latents(latents, f, h, w)


def run_ours(case: tuple[str, Path, VideoModel], guidance: float = 3.0, **inputs: Any) -> Tensor:
    name, _, model = case
    height, width, frames = SIZES[name]
    conditioning = model.encode(PROMPT, NEGATIVE)
    return sample(
        model,
        conditioning,
        Request(width, height, frames, STEPS, guidance, seed=SEED, **{"sampler": "euler", **inputs}),
    ).cpu()


def picture(case: tuple[str, Path, VideoModel], seed: int = 0, frames: int = 1) -> tuple[list[Image.Image], Tensor]:
    """The same random frames for both sides: as PIL images, and as a tensor [N, H, W, 3]."""
    height, width, _ = SIZES[case[0]]
    with seeded(seed):
        pixels = torch.randint(0, 256, (frames, height, width, 3), dtype=torch.uint8)
    return [Image.fromarray(p.numpy()) for p in pixels], pixels.float() / 255


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_text_to_video(case: tuple[str, Path, VideoModel], rounding: float, guidance: float) -> None:
    kind = "LTXConditionPipeline" if conditioned(case[2]) else "LTXPipeline"
    expected = run_reference(kind, case, guidance)
    assert expected.abs().max() > 0.1
    assert (run_ours(case, guidance) - expected).abs().max() <= rounding


def test_image_to_video(case: tuple[str, Path, VideoModel], rounding: float) -> None:
    """One first frame: LTXImageToVideoPipeline for the releases before 0.9.5, LTXConditionPipeline from then on."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    images, frames = picture(case)
    if conditioned(case[2]):
        expected = run_reference(
            "LTXConditionPipeline", case, conditions=[LTXVideoCondition(image=images[0], frame_index=0)]
        )
    else:
        expected = run_reference("LTXImageToVideoPipeline", case, image=images[0])
    assert (run_ours(case, keyframes=(Keyframe(frames, 0),)) - expected).abs().max() <= rounding


def test_keyframes_and_clips(case: tuple[str, Path, VideoModel], rounding: float) -> None:
    """A picture in front, a clip in the middle that reaches into the video, a weak picture at the end."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import LTXVideoCondition

    ratio, last = case[2].facts.temporal_ratio, SIZES[case[0]][2] - 1
    first, first_frames = picture(case, 1)
    clip, clip_frames = picture(case, 2, ratio + 1) if ratio == 8 else picture(case, 2, 2 * ratio + 1)
    end, end_frames = picture(case, 3)
    at = ratio if ratio == 4 else 0
    conditions = [
        LTXVideoCondition(video=clip, frame_index=at),
        LTXVideoCondition(image=end[0], frame_index=last, strength=0.6),
    ]
    keyframes = [Keyframe(clip_frames, at), Keyframe(end_frames, -1, 0.6)]
    if at:
        conditions.insert(0, LTXVideoCondition(image=first[0], frame_index=0, strength=0.8))
        keyframes.append(Keyframe(first_frames, 0, 0.8))
    expected = run_reference("LTXConditionPipeline", case, conditions=conditions)
    assert (run_ours(case, keyframes=tuple(keyframes)) - expected).abs().max() <= rounding


def test_video_to_video(case: tuple[str, Path, VideoModel], device: str, rounding: float) -> None:
    height, width, frames = SIZES[case[0]]
    with seeded(4):
        source = torch.randn(case[2].facts.latent_shape(width, height, frames))
    expected = run_reference("LTXConditionPipeline", case, latents=source.to(device), denoise_strength=0.6)
    assert (run_ours(case, source=source, strength=0.6) - expected).abs().max() <= rounding


def test_source_frames_are_encoded(case: tuple[str, Path, VideoModel]) -> None:
    """Frames as a source give what their encoded latents give."""
    name, _, model = case
    frames = picture(case, 5, SIZES[name][2])[1]
    with model.use("vae") as vae:
        latents = model.encode_video(vae, frames)
    assert torch.equal(run_ours(case, source=frames, strength=0.5), run_ours(case, source=latents, strength=0.5))


@pytest.mark.parametrize("sampler", ["unipc", "dpm++ 2m"])
@pytest.mark.parametrize("keyed", [False, True])
def test_other_samplers_agree_with_euler_in_the_limit(sampler: str, keyed: bool) -> None:
    """Different solvers of one differential equation: many steps bring them together, few do not."""
    model = open_ltx(BUNDLED)
    conditioning = model.encode(PROMPT, "")
    frame = torch.full((1, 64, 64, 3), 0.5)
    keyframes = (Keyframe(frame, -1),) if keyed else ()

    def distance(steps: int) -> float:
        runs = [
            sample(model, conditioning, Request(64, 64, 9, steps, 1.0, name, seed=1, keyframes=keyframes))
            for name in ("euler", sampler)
        ]
        return (runs[0] - runs[1]).abs().mean().item()

    few, many = distance(6), distance(30)
    assert 0 < many < 0.6 * few


@pytest.mark.parametrize("release", ["0.9.0", "0.9.1", "0.9.5"])
@pytest.mark.parametrize(("frames", "size"), [(1, (2, 3)), (2, (1, 1)), (7, (3, 2))])
def test_streamed_decode_is_the_plain_decode(release: str, frames: int, size: tuple[int, int]) -> None:
    from reelwire.loaders.families.ltx.vae import Noise, decode_pieces
    from reelwire.loaders.vae.tiles import Tile

    vae = ltx_vae(release)
    with seeded(6):
        z = torch.randn(1, 8, frames, *size)
    time = torch.full((1,), 0.05) if vae.config.timestep_conditioning else None
    with seeded(7):
        plain = vae.decode(z, time, return_dict=False)[0]
    noise = Noise(torch.Generator().manual_seed(7), Tile(0, 0, *size, size))
    pieces = list(decode_pieces(vae, iter(z.split(1, 2)), time, noise))
    streamed = torch.cat(pieces, 2)
    assert streamed.shape == plain.shape == (1, 3, 8 * (frames - 1) + 1, size[0] * 32, size[1] * 32)
    assert (streamed - plain).abs().max() < 1e-4
    assert max(p.shape[2] for p in pieces) <= 8, "a piece is never longer than one latent frame"


def test_streamed_decode_of_the_bundled_model() -> None:
    model = open_ltx(BUNDLED)
    pipe = reference("LTXPipeline", BUNDLED)
    with seeded(8):
        z = torch.randn(1, 16, 9, 8, 12)
    plain = pipe.vae.decode(
        pipe._denormalize_latents(z, pipe.vae.latents_mean, pipe.vae.latents_std, 1.0), return_dict=False
    )[0]
    frames = torch.cat(list(stream_frames(model, z)))
    assert frames.shape == (33, 64, 96, 3)
    assert (frames - (plain[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)).abs().max() < 1e-4


def test_a_run_leaves_nothing_behind() -> None:
    """The same bytes after another size, another step count, an interrupt and a failure."""
    model = open_ltx(BUNDLED)
    conditioning = model.encode(PROMPT, "")
    request = Request(seed=3, steps=4)
    expected = sample(model, conditioning, request)

    class StopError(Exception):
        pass

    def stop(done: int, total: int, run: Any) -> None:
        raise StopError

    with pytest.raises(StopError):
        sample(model, conditioning, request, stop)
    sample(model, conditioning, Request(96, 64, 9, 3, seed=5))
    assert torch.equal(sample(model, conditioning, request), expected)


def test_preview_points_at_the_result() -> None:
    """The preview after the last step is the result, and half-way it is closer to it than the noisy latents are."""
    model = open_ltx(BUNDLED)
    seen: list[tuple[Tensor, Tensor]] = []
    result = sample(
        model,
        model.encode(PROMPT, ""),
        Request(seed=3, steps=6),
        lambda done, total, run: seen.append((run.preview(), run.finish())),
    )
    assert torch.equal(seen[-1][0], result)
    preview, noisy = seen[2]
    assert (preview - result).abs().mean() < (noisy - result).abs().mean()
