"""What every family must do alike. A new family is a line in MODELS, and is tested without new code."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import FAMILIES, load
from reelwire.loaders.messages import CheckpointError, InputError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Conditioning, Control, Guidance, Keyframe, Request, SpatioTemporal
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers import denoise
from reelwire.samplers.guidance import METHODS, reads_negative
from reelwire.samplers.plan import plan
from reelwire.samplers.solvers import TABLES
from reelwire.tests.support.engine.models import (
    FIRST,
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
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.engine.words import refuses
from reelwire.training.tiny_models import MODELS as TINY

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere


def test_all_families_and_tiny_models_are_here() -> None:
    assert {*MODELS.values()} == {*FAMILIES}
    assert {*MODELS} == {name for name in TINY if "upsampler" not in name}


# ---------------------------------------------------------------- a run


@every
def test_a_run_leaves_nothing_behind(tiny_models: Path, name: str) -> None:
    """The same bytes on a fresh model, after an interrupt, after another request, and after all was dropped."""
    model = open_model(tiny_models, name)
    expected = run(model)

    class StopError(Exception):
        pass

    def stop(done: int, total: int, state: Any) -> None:
        assert torch.isfinite(state.preview()).all()
        raise StopError

    inputs = needed(model)
    conditioning = model.encode(PROMPT, "", inputs["keyframes"])
    with pytest.raises(StopError):
        sample(model, conditioning, Request(seed=4, **inputs), stop)
    run(model, seed=5, steps=3)
    assert torch.equal(run(model), expected)
    assert torch.equal(run(open_model(tiny_models, name)), expected)


@every
def test_encoders_are_gone_while_the_network_works(tiny_models: Path, name: str) -> None:
    """And of two experts one alone is there."""
    model = open_model(tiny_models, name)
    run(model)
    working = [(used, there) for used, there in used_by(model) if used.startswith(("transformer", "unet"))]
    assert working
    for used, there in working:
        assert {part for part in there if "encoder" in part} == set()
        assert {part for part in there if part.startswith("transformer")} <= {used}


@pytest.mark.parametrize(("name", "boundary"), [("tiny-wan2.2-t2v-a14b", 0.875), ("tiny-wan2.2-i2v-a14b", 0.9)])
def test_experts_change_at_the_boundary(tiny_models: Path, name: str, boundary: float) -> None:
    model, order, times = open_model(tiny_models, name), [], []
    conditioning = model.encode(PROMPT, "")

    def on_step(done: int, total: int, state: Any) -> None:
        order.append(state.denoiser.part(done - 1))
        times.append(state.denoiser.schedule.times[done - 1])

    sample(model, conditioning, Request(steps=12, **needed(model)), on_step)
    assert order == ["transformer" if time >= boundary * 1000 else "transformer_2" for time in times]
    assert 0 < order.index("transformer_2") < 11
    used = [part for part, _ in used_by(model) if part.startswith("transformer")]
    assert used == ["transformer", "transformer_2"], "each expert is brought in once"


@each_family
@pytest.mark.parametrize("as_latents", [False, True])
def test_video_to_video(tiny_models: Path, name: str, as_latents: bool) -> None:
    """Little strength stays close to the source, more goes further; strength 1 pays no attention to it."""
    model = open_model(tiny_models, name)
    source = frames(usual(model).frames)
    with model.use("vae") as vae, torch.no_grad():
        latents = model.encode_video(vae, source)
    start = latents if as_latents else source
    near, far = (run(model, steps=8, source=start, strength=s) for s in (0.25, 0.75))
    assert (near - latents).abs().mean() < (far - latents).abs().mean()
    assert torch.equal(run(model, source=start, strength=1.0), run(model))


@each_family
def test_each_sampler_runs(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    results = [run(model, sampler=s, steps=6) for s in TABLES[model.solvers] if s != "distilled"]
    assert all(torch.isfinite(latents).all() for latents in results)
    assert all(not torch.equal(a, b) for i, a in enumerate(results) for b in results[:i])
    again = [run(model, sampler=s, steps=6) for s in TABLES[model.solvers] if s != "distilled"]
    assert all(torch.equal(a, b) for a, b in zip(results, again, strict=True))


@pytest.mark.parametrize("name", [n for n in FIRST.values() if not n.startswith(("tiny-svd", "tiny-cog"))])
def test_flow_solvers_agree_in_the_limit(tiny_models: Path, name: str) -> None:
    """They solve one differential equation: many steps bring them together, few do not."""
    model = open_model(tiny_models, name)

    def distance(solver: str, steps: int) -> float:
        shift = {"shift": 1.0} if "shift" in model.facts.presets["default"] else {}
        a, b = (run(model, sampler=s, steps=steps, guidance=1.0, **shift) for s in ("euler", solver))
        return (a - b).abs().mean().item()

    for solver in ("unipc", "dpm++ 2m"):
        assert 0 < distance(solver, 64) < 0.6 * distance(solver, 8)


# ---------------------------------------------------------------- guidance


@each_family
def test_ways_of_guidance(tiny_models: Path, name: str) -> None:
    """Each method that the family offers makes its own video; a threshold of 0 and eta 1 make APG plain guidance."""
    model = open_model(tiny_models, name)
    embedded: dict[str, Any] = {"true_scale": 3.0} if getattr(model.facts, "embedded", False) else {}
    more: dict[str, Any] = dict(layers=(1,), layer_start=0.0, layer_end=1.0, eta=0.2)
    plain = run(replace(model, guidance=Guidance(**embedded)), guidance=3.0)
    for method in set(model.methods) - {"cfg"}:
        own: dict[str, Any] = {"stg": SpatioTemporal(blocks=((1,),))} if method == "stg" else {}
        latents = run(replace(model, guidance=Guidance(method, **embedded, **more, **own)), guidance=3.0)
        assert torch.isfinite(latents).all()
        assert (latents - plain).abs().max() > 1e-6, method
    same = run(replace(model, guidance=Guidance("apg", threshold=0.0, **embedded)), guidance=3.0)
    if "svd" not in name:  # there the guider has one scale where plain guidance has one for each frame
        assert (same - plain).abs().max() < 2e-3 * plain.abs().max()


@each_family
def test_whether_the_negative_prompt_is_read(tiny_models: Path, name: str) -> None:
    """Said as it is: another one makes another video, or the same bits."""
    model = open_model(tiny_models, name)
    if not model.facts.text_width:
        return
    embedded = bool(getattr(model.facts, "embedded", False))
    ways: list[tuple[Guidance, float]] = [(Guidance(), 1.0), (Guidance(), 3.0), (Guidance(start=0.5, end=0.5001), 3.0)]
    ways += [(Guidance(true_scale=3.0), 3.0)] if embedded else []
    for guidance, scale in ways:
        chosen = replace(model, guidance=guidance)
        request = plan(chosen, Request(steps=2, seed=3, guidance=scale, **needed(model))).request
        pictures = needed(model)["keyframes"]
        one, other = (
            denoise.sample(chosen, chosen.encode(PROMPT, negative, pictures), plan(chosen, request))
            for negative in ("a cat", "a green square far away")
        )
        assert torch.equal(one, other) != reads_negative(chosen, request), (guidance, scale)


@each_family
def test_guidance_in_an_interval(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    embedded: dict[str, Any] = {"true_scale": 3.0} if getattr(model.facts, "embedded", False) else {}
    within = lambda start, end: run(replace(model, guidance=Guidance(start=start, end=end, **embedded)), guidance=3.0)
    whole, half = within(0.0, 1.0), within(0.5, 1.0)
    assert not torch.equal(whole, half)
    assert torch.equal(whole, run(replace(model, guidance=Guidance(**embedded)), guidance=3.0))


@each_family
def test_momentum_begins_with_guidance(tiny_models: Path, name: str) -> None:
    """At the first step or later."""
    model = open_model(tiny_models, name)
    if "apg" not in model.methods:
        return
    scale = 3.0 if getattr(model.facts, "embedded", False) else 0.0
    for start in (0.0, 0.5):
        plain, moved = (
            run(replace(model, guidance=Guidance("apg", start=start, momentum=m, true_scale=scale)), guidance=3.0)
            for m in (0.0, -0.5)
        )
        assert not torch.equal(plain, moved), start


@pytest.mark.parametrize(
    ("name", "guidance", "request_guidance", "message"),
    [
        ("tiny-svd", Guidance("skip-layer", layers=(0,)), 3.0, "Stable Video Diffusion works with cfg, apg"),
        (
            "tiny-wan2.1-t2v",
            Guidance("skip-layer", layers=(4,)),
            5.0,
            "layers = 4: tiny-wan2.1-t2v has the blocks 0 to 3",
        ),
        ("tiny-wan2.1-t2v", Guidance("skip-layer"), 5.0, "layers = none"),
        (
            "tiny-wan2.1-t2v",
            Guidance("skip-layer", layers=(0,), layer_start=0.5, layer_end=0.1),
            5.0,
            "layer_start, layer_end = 0.5, 0.1: Layers are left out from start to end",
        ),
        ("tiny-wan2.1-t2v", Guidance("apg"), 1.0, "guidance = 1.0: apg needs two branches"),
        ("tiny-hunyuan-t2v", Guidance("apg"), 6.0, "Set true_guidance above 1"),
        ("tiny-wan2.1-t2v", Guidance(true_scale=2.0), 5.0, "does not embed its guidance scale"),
        ("tiny-wan2.1-t2v", Guidance(low_noise=2.0), 5.0, "has one expert"),
        ("tiny-mochi", Guidance(dynamic=True), 4.0, "Only CogVideoX"),
        ("tiny-mochi", Guidance(start=0.5, end=0.5), 4.0, "0 <= start < end <= 1"),
    ],
)
def test_guidance_that_cannot_be(
    tiny_models: Path, name: str, guidance: Guidance, request_guidance: float, message: str
) -> None:
    model = replace(open_model(tiny_models, name), guidance=guidance)
    with pytest.raises(InputError) as refusal:
        plan(model, Request(guidance=request_guidance, **needed(model)))
    assert message in str(refusal.value)


def test_methods_are_known() -> None:
    for name in FIRST:
        from reelwire.loaders.families import family

        assert {*family(name).methods} <= {*METHODS}


# ---------------------------------------------------------------- what cannot work


def refuse(model: VideoModel, **changes: Any) -> str:
    """What is told about a request; no weights may have been read by then."""
    with pytest.raises(InputError) as refusal:
        plan(model, Request(**{**needed(model), **changes}))
    assert used_by(model) == []
    return str(refusal.value)


@every
def test_sizes(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    wrong = model.facts.size_multiple + 1
    message = refuse(model, width=wrong)
    if name == "tiny-cogvideox-5b-i2v":  # which knows one size alone
        assert f"width, height = {wrong}x" in message
        return
    assert f"width = {wrong}" in message
    assert f"multiple of {model.facts.size_multiple}" in message


@pytest.mark.parametrize(("name", "size", "message"), [
    ("tiny-cogvideox-5b-i2v", 128, "has learned its positions and makes 64x64 alone"),
    ("tiny-cogvideox1.5-5b", 512, "width = 512: CogVideoX (tiny-cogvideox1.5-5b) knows positions up to 256 pixels"),
])  # fmt: skip
def test_sizes_beyond_the_positions(tiny_models: Path, name: str, size: int, message: str) -> None:
    assert message in refuse(open_model(tiny_models, name), width=size)


@every
def test_frames(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    wrong, facts = usual(model).frames + 1, model.facts
    message = refuse(model, frames=wrong, control=None)
    step = facts.frame_step or facts.temporal_ratio
    rule = " or ".join(map(str, facts.frame_counts)) if facts.frame_counts else f"{step}n+1"
    assert f"frames = {wrong}" in message
    assert rule in message
    assert f"Use {usual(model).frames}" in message or facts.frame_counts == (14, 25)


@every
def test_pictures(tiny_models: Path, name: str) -> None:
    """Too few, too many and misplaced ones are refused with what to load or connect instead."""
    model = open_model(tiny_models, name)
    allowed, count = model.facts.pictures, 17 if MODELS[name] == "wan" else usual(model).frames
    last = count - 1  # (of Wan's 17 frames the middle one is near neither end)
    if allowed is None:
        assert f"frame = {count} of keyframe 1" in refuse(
            model, keyframes=(Keyframe(frames(1), count),), frames=count, control=None
        )
        return
    tries = {(): (), ("first",): (0,), ("last",): (last,), ("first", "last"): (0, last), ("middle",): (last // 2,)}
    for kind, places in tries.items():
        changes = {"frames": count, "keyframes": tuple(Keyframe(frames(1), at) for at in places)}
        if kind in allowed:
            planned = plan(model, Request(**{**needed(model), **changes}))
            assert ([k.frame for k in planned.request.keyframes], planned.notes) == ([*places], ())
            continue
        message = refuse(model, **changes)
        assert message.startswith(f"keyframes = {_wrong(kind, places, allowed)}: {model.title} ({name}) ")
        assert "Load " in message or "Connect " in message or "or load " in message
    if allowed != ((),):
        weak = tuple(replace(k, strength=0.5) for k in needed(model)["keyframes"] or (Keyframe(frames(1), 0),))
        assert "keeps its pictures as they are" in refuse(model, keyframes=weak)


def _wrong(kind: tuple[str, ...], places: tuple[int, ...], allowed: tuple[tuple[str, ...], ...]) -> str:
    """What an error names: the keyframe that has no place, or where all have one, which there are."""
    known = {place for group in allowed for place in group}
    number = next((i for i, place in enumerate(kind) if place not in known), None)
    if number is not None:
        return f"keyframe {number + 1} at frame {places[number]}"
    return " and ".join(f"{place} frame" for place in kind) or "none"


@each_family
def test_latents_of_another_model(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    channels = model.facts.channels
    time = model.facts.latent_shape(64, 64, usual(model).frames)[2]
    message = refuse(model, source=torch.zeros(1, channels + 1, time, 8, 8), strength=0.5, width=64, height=64)
    assert f"has latents of {channels} channels" in message
    assert "Decode them with their own model" in message


@every
def test_controls(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    if not model.controlled():
        assert "follows no control video" in refuse(model, control=Control(frames(9)))
    else:
        short = refuse(model, control=Control(frames(3)))
        assert "control = 3 frames" in short


@each_family
def test_shift_and_samplers(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    message = refuse(model, sampler="no such")
    assert all(sampler in message for sampler in TABLES[model.solvers])
    if model.name != "ltx":
        assert "has no such sampler" in refuse(model, sampler="distilled")
    if "shift" not in model.facts.presets["default"]:
        assert "no flow shift" in refuse(model, shift=3.0)


@pytest.mark.parametrize("name", [n for n in FIRST.values() if "svd" not in n])
def test_prompts_beyond_the_limit(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    for name_of, prompts in {"positive": ("ab " * 600, ""), "negative": ("", "ab " * 600)}.items():
        with pytest.raises(InputError) as refusal:
            model.encode(*prompts)
        assert str(refusal.value).startswith(name_of)
        assert f"the model reads {model.facts.prompt_tokens}" in str(refusal.value)


@every
def test_chinese_is_read_or_it_is_said(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    notes = model.encode("a circle 一只猫在跑", "", needed(model)["keyframes"]).notes
    reads = MODELS[name] in ("wan", "hunyuan_video")
    assert reads == (notes == ())
    assert reads or "English" in notes[0] or "no text" in notes[0]


def test_a_long_prompt_for_clip_is_said(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-hunyuan-t2v")
    (note,) = model.encode("ab " * 50, "").notes
    assert "CLIP-L reads the first 77" in note


def test_the_text_encoder_must_have_seen_the_picture(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-hunyuan-i2v-replace")
    with pytest.raises(InputError, match="Connect the Keyframe at frame 0 to this node too"):
        model.encode(PROMPT, "")
    blind = Conditioning("hunyuan_video", model.facts.text_width, {"cond": {}, "uncond": {}})
    with refuses(InputError, "connect_same_keyframes"):
        sample(model, blind, Request(**needed(model)))
    other = replace(blind, picture=frames(1, 6))
    with pytest.raises(InputError, match="with another picture: "):
        sample(model, other, Request(**needed(model)))


@pytest.mark.parametrize("family", FAMILIES)
def test_folders_of_other_families(tiny_models: Path, family: str) -> None:
    for name, other in MODELS.items():
        if other != family:
            with pytest.raises(CheckpointError, match=r"is a \w+ folder, not .* Use the loader of its family"):
                load(Recipe(family, "", files_of(tiny_models / name), "float32"), PlainMemory())


@pytest.mark.parametrize(
    ("high", "low", "message"),
    [
        (
            "tiny-wan2.1-t2v",
            "wan2.2_t2v_high_noise",
            "low_noise_checkpoint = wan2.2_t2v_high_noise: this is a high-noise expert. Choose it under checkpoint.",
        ),
        (
            "wan2.2_t2v_low_noise",
            "tiny-wan2.1-t2v",
            "checkpoint = wan2.2_t2v_low_noise: this is a low-noise expert. Choose it under low_noise_checkpoint.",
        ),
    ],
)
def test_experts_in_each_others_place(tiny_models: Path, tmp_path: Path, high: str, low: str, message: str) -> None:
    folders = {}
    for slot, name in (("high", high), ("low", low)):
        source = tiny_models / ("tiny-wan2.1-t2v" if "noise" in name else name)
        folders[slot] = tmp_path / name
        folders[slot].symlink_to(source, target_is_directory=True)
    with pytest.raises(CheckpointError) as refusal:
        load(Recipe("wan", "", {**files_of(folders["high"]), "low_noise": folders["low"]}, "float32"), PlainMemory())
    assert str(refusal.value) == message
