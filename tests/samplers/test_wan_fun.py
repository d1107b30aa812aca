"""Wan's Fun-Control and Fun-InP: what ComfyUI's own nodes and network compute from the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.families.wan.denoiser import encode_image
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Control, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.native_fun import FORMS, TEXT, Host, opened
from reelwire.tests.support.engine.sampling import sample, started
from reelwire.training.tiny_models import seeded
from torch import Tensor

STEPS, FRAMES = 4, 9


def pictures(count: int, seed: int, size: int) -> Tensor:
    with seeded(seed):
        return torch.rand(count, size, size, 3)


def begun(model: VideoModel, **asked: Any) -> Denoiser:
    """The denoiser of a request before its first step."""
    return started(model, model.encode("a red circle", "a cat"), Request(32, 32, FRAMES, STEPS, seed=3, **asked))


# the host's node, which pictures and videos it is given, under the names of its inputs
CASES = [
    ("fun-control-1.0", "WanFunControlToVideo", ("start_image", "control_video")),
    ("fun-control-1.0", "WanFunControlToVideo", ("start_image",)),
    ("fun-control-1.1", "WanFunControlToVideo", ("start_image", "control_video", "ref_image")),
    ("fun-control-a14b", "Wan22FunControlToVideo", ("start_image", "control_video", "ref_image")),
    ("fun-control-a14b", "Wan22FunControlToVideo", ("control_video",)),
    ("fun-control-5b", "Wan22FunControlToVideo", ("control_video", "ref_image")),
    ("fun-inp", "WanFunInpaintToVideo", ("start_image", "end_image")),
    ("fun-inp", "WanFunInpaintToVideo", ("end_image",)),
    ("fun-inp-a14b", "WanFunInpaintToVideo", ("start_image",)),
    ("fun-inp-a14b", "WanFunInpaintToVideo", ()),
    ("fun-inp-5b", "WanFunInpaintToVideo", ("start_image", "end_image")),
]


@pytest.mark.parametrize(("name", "node", "inputs"), CASES)
def test_a_prediction_is_the_hosts(tmp_path: Path, name: str, node: str, inputs: tuple[str, ...]) -> None:
    form = FORMS[name]
    model, host = opened(form, tmp_path, name, low="a14b" in name), Host(form)
    media = {n: pictures(FRAMES if n == "control_video" else 1, seed, 32) for seed, n in enumerate(inputs)}
    ends = {"start_image": 0, "end_image": -1}
    keyframes = tuple(Keyframe(media[n], at) for n, at in ends.items() if n in media)
    control = Control(media.get("control_video"), references=media.get("ref_image"))
    asked = {"control": control} if {"control_video", "ref_image"} & {*inputs} else {}
    denoiser = begun(model, keyframes=keyframes, **asked)
    with seeded(7):
        latents, text = torch.randn_like(denoiser.latents), torch.randn(1, 512, TEXT)
    denoiser.text = {"cond": text}  # type: ignore[attr-defined]
    part = denoiser.part(1)
    with torch.no_grad(), model.use(part) as network:
        ours = denoiser.predict(network, latents, 1, "cond")
    direct = {"ref_image"} if node == "WanFunControlToVideo" else set[str]()
    theirs = host.prediction(latents, denoiser.schedule.times[1], text, _given(model, host, node, media, direct))
    assert theirs.abs().max() > 0.1
    assert (ours - theirs).abs().max() < 2e-5 * max(1.0, theirs.abs().max().item())


def _given(model: VideoModel, host: Host, node: str, media: dict[str, Tensor], direct: set[str]) -> dict[str, Any]:
    """What the host is given; direct: what its node does not take, but its network does."""
    given = host.given(node, **{name: value for name, value in media.items() if name not in direct})
    if "image_encoder" in model.parts:
        seen = next(media[n] for n in ("ref_image", "start_image", "end_image") if n in media)
        hidden = encode_image(model, [seen])  # type: ignore[arg-type]
        given["clip_vision_output"] = type("Output", (), {"penultimate_hidden_states": hidden})
    if "reference_channels" in model.parts["transformer"].config and "reference_latents" not in given:
        zeros = host.model.process_latent_out(torch.zeros(1, model.facts.channels, 1, *_side(model)))
        given["reference_latents"] = [host.vae.encode(media["ref_image"]) if "ref_image" in media else zeros]
    return given


def _side(model: VideoModel) -> tuple[int, int]:
    return model.facts.latent_shape(32, 32, 1)[3:]


# ---------------------------------------------------------------- whole runs


@pytest.mark.parametrize(("name", "low"), [("fun-control-1.1", False), ("fun-control-a14b", True)])
def test_a_control_counts_in_its_range_alone(tmp_path: Path, name: str, low: bool) -> None:
    model = opened(FORMS[name], tmp_path, name, low)
    control = Control(pictures(FRAMES, 1, 32), start=0.25, end=0.75)
    ranged, whole, none = (
        begun(model, control=control and Control(control.frames, start=start, end=end, strength=strength))
        for start, end, strength in ((0.25, 0.75, 1.0), (0.0, 1.0, 1.0), (0.0, 1.0, 0.0))
    )
    for step in range(STEPS):
        inputs = [d.hidden_states(d.latents, step) for d in (ranged, whole, none)]  # type: ignore[attr-defined]
        assert torch.equal(inputs[0], inputs[1 if step in (1, 2) else 2])
        assert not torch.equal(inputs[1], inputs[2])


@pytest.mark.parametrize("name", FORMS)
def test_every_form_makes_a_video_of_what_it_is_given(tmp_path: Path, name: str) -> None:
    model = opened(FORMS[name], tmp_path, name, low="a14b" in name)
    conditioning = model.encode("a red circle", "a cat")
    run = lambda **asked: sample(model, conditioning, Request(32, 32, FRAMES, 2, seed=3, **asked))
    first = (Keyframe(pictures(1, 1, 32), 0),)
    videos = [run(), run(keyframes=first), run(keyframes=(Keyframe(pictures(1, 2, 32), 0),))]
    if model.controlled():
        videos.append(run(control=Control(pictures(FRAMES, 3, 32))))
    if model.facts.reference:  # type: ignore[attr-defined]
        videos.append(run(control=Control(references=pictures(1, 4, 32))))
    assert all(torch.isfinite(video).all() for video in videos)
    assert all(video.shape == model.facts.latent_shape(32, 32, FRAMES) for video in videos)
    assert all(not torch.equal(a, b) for i, a in enumerate(videos) for b in videos[:i])
    assert torch.equal(run(), videos[0])


def test_what_a_form_has_no_place_for_is_refused(tmp_path: Path) -> None:
    old, new = (opened(FORMS[f"fun-control-{n}"], tmp_path, n) for n in ("1.0", "1.1"))
    inp = opened(FORMS["fun-inp"], tmp_path, "fun-inp")
    frames, one = pictures(FRAMES, 1, 32), pictures(1, 1, 32)
    ask = lambda model, **asked: plan(model, Request(32, 32, FRAMES, STEPS, **asked))
    for model, control in (
        (old, Control(frames, references=one)),
        (new, Control(frames, references=frames[:2])),
        (new, Control(frames, mask=torch.ones(1, 32, 32))),
        (inp, Control(frames)),
    ):
        with pytest.raises(InputError) as refusal:
            ask(model, control=control)
        assert refusal.value.name == "control"
    with pytest.raises(InputError) as refusal:
        ask(new, keyframes=(Keyframe(one, -1),))
    assert refusal.value.name == "keyframes"
    assert ask(inp, keyframes=(Keyframe(one, -1),)).request.keyframes[0].frame == FRAMES - 1
