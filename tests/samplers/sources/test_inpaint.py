"""Video-to-video under a mask, on every family: outside the source's bits, inside another video."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.common.flow import encoded_source
from reelwire.loaders.families import family
from reelwire.loaders.messages import InputError, Message
from reelwire.loaders.request import Guidance, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import SamplingPlan, plan
from reelwire.samplers.solvers import TABLES
from reelwire.samplers.sources.inpaint import latent_mask
from reelwire.tests.support.engine.cached_runs import SOME
from reelwire.tests.support.engine.models import (
    MODELS,
    PROMPT,
    each_family,
    every,
    frames,
    needed,
    open_model,
    run,
    used_by,
    usual,
)
from reelwire.tests.support.engine.words import worded
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere


def source(model: VideoModel) -> Tensor:
    return frames(usual(model).frames, seed=9)


def half(model: VideoModel) -> Tensor:
    """White on the left, and on all of the last frame."""
    size = usual(model)
    mask = torch.zeros(size.frames, size.height, size.width)
    mask[:, :, : size.width // 2] = 1
    mask[-1] = 1
    return mask


def keys_of(notes: Iterable[object]) -> list[str]:
    return [note.key for note in notes if isinstance(note, Message)]


def plan_of(model: VideoModel, **request: Any) -> SamplingPlan:
    return plan(model, Request(**needed(model), **request))


def known(model: VideoModel, **request: Any) -> tuple[Tensor, Tensor]:
    """The source's latents, and the mask at their size."""
    complete = model.complete(Request(**request))
    with torch.no_grad():
        return encoded_source(model, complete), latent_mask(model.facts, complete)


@every
def test_the_outside_is_the_source_and_the_inside_is_new(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    inputs = {"source": source(model), "mask": half(model)}
    latents = run(model, steps=2, **inputs)
    expected, mask = known(model, **inputs)
    inside = (mask == 1).expand_as(latents)
    outside = (mask == 0).expand_as(latents)
    assert (inside | outside).all()
    assert 0.2 < inside.float().mean() < 0.9
    assert torch.equal(latents[outside], expected[outside])
    assert (latents - expected)[inside].abs().mean() > 0.05


FAMILY_SOLVERS = [
    (name, solver)
    for name in ("tiny-wan2.1-t2v", "tiny-cogvideox-2b", "tiny-svd", "tiny-mochi", "tiny-ltx-0.9.5")
    for solver in TABLES[family(MODELS[name]).solvers]
    if solver != "distilled"
]


@pytest.mark.parametrize(("name", "solver"), FAMILY_SOLVERS)
def test_every_solver_keeps_the_outside(tiny_models: Path, name: str, solver: str) -> None:
    """Also those that ask twice a step, look back, or add noise; and from the middle of the noise."""
    model = open_model(tiny_models, name)
    inputs = {"source": source(model), "mask": half(model), "strength": 0.7}
    latents = run(model, sampler=solver, **inputs)
    expected, mask = known(model, **inputs)
    outside = (mask == 0).expand_as(latents)
    assert torch.equal(latents[outside], expected[outside])
    assert (latents - expected)[~outside].abs().mean() > 0.01


@pytest.mark.parametrize("name", ["tiny-ltx-0.9.0", "tiny-ltx-0.9.5", "tiny-wan2.2-ti2v-5b", "tiny-wan2.1-vace"])
@pytest.mark.parametrize("frame", [0, -1])
def test_keyframes_beside_a_mask(tiny_models: Path, name: str, frame: int) -> None:
    """They hold where all is free; where the source stays it stays, and the node says so."""
    model = open_model(tiny_models, name)
    if frame and model.facts.pictures is not None:
        return  # a first picture alone
    inputs: dict[str, Any] = {"source": source(model), "keyframes": (Keyframe(frames(1, 1), frame),)}
    mask = torch.ones(usual(model).frames, 64, 64)
    mask[0 if frame == 0 else slice(1, None)] = 0
    latents = run(model, mask=mask, **inputs)
    clean, free = known(model, source=inputs["source"], mask=mask)
    outside = (free == 0).expand_as(latents)
    assert torch.equal(latents[outside], clean[outside])
    assert torch.isfinite(latents).all()
    assert latents.abs().max() < 50
    keys = keys_of(plan(model, Request(mask=mask, **inputs)).notes)
    assert "keyframe_masked" in keys


def test_it_is_what_comfyui_does(tiny_models: Path) -> None:
    """Euler over x0 predictions whose inputs and outputs are blended with the source, gray masks included."""
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    gray = torch.linspace(0, 1, 64).expand(1, 64, 64)
    inputs: dict[str, Any] = {"source": source(model), "mask": gray, "steps": 3, "guidance": 1.0, "sampler": "euler"}
    clean, mask = known(model, **inputs)
    plain = plan(model, Request(seed=3, **{k: v for k, v in inputs.items() if k not in ("source", "mask")}))
    seen: list[Any] = []
    with torch.no_grad():
        sample(model, model.encode(PROMPT, "a cat"), plain, lambda *args: seen.append(args[2]))
        denoiser = seen[0].denoiser
        noise, sigmas = denoiser.latents, denoiser.schedule.sigmas
        x = noise
        with model.use("transformer") as network:
            for step in range(3):
                blended = x * mask + (noise * sigmas[step] + clean * (1 - sigmas[step])) * (1 - mask)
                x0 = denoiser.x0(denoiser.predict(network, blended, step, "cond"), blended, step)
                x0 = x0 * mask + clean * (1 - mask)
                x = x + (x - x0) / sigmas[step] * (sigmas[step + 1] - sigmas[step])
    assert torch.allclose(run(model, **inputs), x, atol=2e-5)


@each_family
def test_a_white_mask_is_none_and_a_black_one_is_the_source(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    inputs = {"source": source(model), "strength": 0.5}
    shape = 1, 64, 64
    white, black = plan_of(model, mask=torch.ones(shape), **inputs), plan_of(model, mask=torch.zeros(shape), **inputs)
    assert [key for key in keys_of(white.notes) if key.startswith("mask")] == ["mask_all_free"]
    assert [key for key in keys_of(black.notes) if key.startswith("mask")] == ["mask_keeps_all"]
    assert torch.equal(run(model, mask=torch.ones(shape), **inputs), run(model, **inputs))
    steps: list[int] = []
    conditioning = model.encode(PROMPT, "", needed(model)["keyframes"])
    latents = sample(model, conditioning, black, lambda done, *_: steps.append(done))
    assert torch.equal(latents, known(model, mask=torch.zeros(shape), **inputs)[0])
    assert steps == []


@each_family
def test_latents_bring_their_noise_mask(tiny_models: Path, name: str) -> None:
    """As large as the latents, with a row for each latent frame, as LTXV's nodes make them, or one for all."""
    model = open_model(tiny_models, name)
    clean, mask = known(model, source=source(model), mask=half(model))
    latents = run(model, source=clean, mask=mask)
    outside = (mask == 0).expand_as(latents)
    assert torch.equal(latents[outside], clean[outside])
    assert torch.equal(latents, run(model, source=source(model), mask=half(model)))


def test_a_latent_frame_is_free_where_any_of_its_frames_is(tiny_models: Path) -> None:
    expected = {"tiny-wan2.1-t2v": [6], "tiny-ltx-0.9.5": [3], "tiny-hunyuan-i2v-concat": [7], "tiny-svd": [21]}
    for name, free in expected.items():
        facts = open_model(tiny_models, name).facts
        count = 25
        mask = torch.zeros(count, 64, 64)
        mask[21] = 1
        found = latent_mask(facts, Request(64, 64, count, source=torch.zeros(count, 64, 64, 3), mask=mask))
        assert found.shape[2:] == facts.latent_shape(64, 64, count)[2:]
        assert found[0, 0].amax((1, 2)).nonzero().flatten().tolist() == free, name


def test_masks_are_cut_as_their_source_is(tiny_models: Path) -> None:
    """A wide source loses its sides; a mask of the same shape does too, and one of latents is stretched instead."""
    facts = open_model(tiny_models, "tiny-wan2.1-t2v").facts
    wide = torch.zeros(1, 64, 128)
    wide[:, :, 32:64] = 1
    request = Request(64, 64, 17, mask=wide)
    cut = latent_mask(facts, replace(request, source=torch.zeros(17, 64, 128, 3)))
    stretched = latent_mask(facts, replace(request, source=torch.zeros(facts.latent_shape(64, 64, 17))))
    assert cut[0, 0, 0, 0].tolist() == [1, 1, 1, 1, 0, 0, 0, 0]
    assert stretched[0, 0, 0, 0].tolist() == [0, 0, 1, 1, 0, 0, 0, 0]


def test_what_a_mask_cannot_be(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    video = source(model)
    count = len(video)
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"mask": torch.ones(1, 64, 64)}, "mask_without_source"),
        ({"mask": torch.ones(count - 1, 64, 64), "source": video}, "are_asked_for"),
        ({"mask": torch.ones(count, 2, 64, 64), "source": video}, "not_a_mask"),
        ({"mask": torch.full((1, 64, 64), float("nan")), "source": video}, "holds_nan"),
    ]
    for request, key in wrong:
        with pytest.raises(InputError) as refusal:
            plan(model, Request(**request))
        assert (refusal.value.name, worded(refusal.value.rule).key) == ("mask", key)
    assert used_by(model) == []


def test_guidance_and_caches_work_under_a_mask(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.1-t2v")
    inputs = {"source": source(model), "mask": half(model), "steps": 8}
    clean, mask = known(model, **inputs)
    outside = (mask == 0).expand_as(clean)
    kinds: tuple[dict[str, Any], ...] = (
        {"guidance": Guidance("apg")},
        {"guidance": Guidance("cfg-zero*")},
        {"guidance": Guidance("skip-layer", layers=(1,))},
        *({"cache": SOME[cache]} for cache in ("TeaCache", "FORA, modules", "first block")),
    )
    for kind in kinds:
        latents = run(replace(model, **kind), **inputs)
        assert torch.equal(latents[outside], clean[outside])
