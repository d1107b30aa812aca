"""Control videos: in which steps and how strongly they count, and what frames are made into."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from reelwire.loaders.common.controls import BLUR, EDGES, GRAY, WAYS, prepared
from reelwire.loaders.denoiser import Denoiser
from reelwire.loaders.families import load
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Control, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.caches.runner import CachedNetwork
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.sampling import sample, started
from reelwire.tests.support.host import Host, Prompt, node, workflow
from reelwire.training.tiny_models import seeded
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
VACE, FUN, STEPS = "tiny-wan2.1-vace", "tiny-cogvideox-fun-control", 8
CONTROLLED = {VACE: "wan", FUN: "cogvideox"}
WITHOUT = {"tiny-hunyuan-t2v": "hunyuan_video", "tiny-mochi": "mochi", "tiny-ltx-0.9.5": "ltx", "tiny-svd": "svd"}
RANGE = dict(start=0.25, end=0.75)  # steps 2 to 5 of 8

both = pytest.mark.parametrize("name", CONTROLLED)


def open_model(tiny_models: Path, name: str) -> VideoModel:
    return load(Recipe({**CONTROLLED, **WITHOUT}[name], "", files_of(tiny_models / name), "float32"), PlainMemory())


def frames(count: int = 9, size: int = 64) -> Tensor:
    with seeded(2):
        return torch.rand(count, size, size, 3)


def request(**control: Any) -> Request:
    return Request(64, 64, 9, STEPS, seed=3, control=Control(frames(), **control))


def run(model: VideoModel, **control: Any) -> Tensor:
    conditioning = model.encode("a red circle moving left", "a cat")
    return sample(model, conditioning, request(**control))


def begun(model: VideoModel, **control: Any) -> Denoiser:
    """The denoiser of a request before its first step."""
    return started(model, model.encode("a red circle moving left", "a cat"), request(**control))


def refuse(model: VideoModel, **control: Any) -> str:
    with pytest.raises(InputError) as refusal:
        plan(model, request(**control))
    return str(refusal.value)


# ---------------------------------------------------------------- in which steps, and how strongly


@both
def test_inside_the_range_all_of_it_counts_and_outside_nothing(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    ranged, full, none = (begun(model, **asked) for asked in (RANGE, {}, {"strength": 0.0}))
    assert torch.equal(ranged.latents, full.latents)
    with torch.no_grad(), model.use("transformer") as network:
        for step in range(STEPS):
            here, whole, without = (r.predict(network, r.latents, step, "cond_uncond") for r in (ranged, full, none))
            assert not torch.equal(whole, without)
            assert torch.equal(here, whole if 2 <= step < 6 else without), step


@both
def test_a_range_makes_its_own_video(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    ranges: tuple[dict[str, Any], ...] = ({}, RANGE, {"end": 0.5}, {"start": 0.5}, {"strength": 0.5})
    videos = [run(model, **asked) for asked in ranges]
    assert all(torch.isfinite(latents).all() for latents in videos)
    assert all(not torch.equal(a, b) for i, a in enumerate(videos) for b in videos[:i])
    assert torch.equal(run(model), videos[0])


@both
def test_a_range_shorter_than_a_step_holds_none(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    assert torch.equal(run(model, start=0.3, end=0.35), run(model, strength=0.0))


@both
@pytest.mark.parametrize(("start", "end"), [(0.5, 0.5), (0.7, 0.2), (-0.1, 1.0), (0.0, 1.5), (float("nan"), 1.0)])
def test_ranges_that_cannot_be(tiny_models: Path, name: str, start: float, end: float) -> None:
    message = refuse(open_model(tiny_models, name), start=start, end=end)
    assert message.startswith(f"start, end = {start}, {end}: ")
    assert "Use 0 <= start < end <= 1." in message


@both
@pytest.mark.parametrize("strength", [-1.0, float("nan"), float("inf")])
def test_strengths_that_cannot_be(tiny_models: Path, name: str, strength: float) -> None:
    assert f"strength = {strength}: " in refuse(open_model(tiny_models, name), strength=strength)


@pytest.mark.parametrize("more", [{"mask": torch.ones(1, 64, 64)}, {"references": torch.zeros(1, 64, 64, 3)}])
def test_fun_control_takes_frames_alone(tiny_models: Path, more: dict[str, Tensor]) -> None:
    assert "takes the control video alone" in refuse(open_model(tiny_models, FUN), **more)


@pytest.mark.parametrize("name", WITHOUT)
def test_models_without_control_tell_which_have_it(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    with pytest.raises(InputError, match=r"Load CogVideoX-Fun-Control or Wan2\.1-VACE or Wan-Fun-Control instead"):
        plan(model, Request(control=Control(frames())))


# ---------------------------------------------------------------- VACE's layers outside the range


def test_without_control_vace_is_wan(tiny_models: Path) -> None:
    """The network without its control layers is plain Wan with the same weights."""
    from diffusers import WanTransformer3DModel

    model = open_model(tiny_models, VACE)
    denoiser: Any = begun(model, start=0.5)
    with torch.no_grad(), model.use("transformer") as network:
        options = {k: v for k, v in network.config.items() if not k.startswith(("vace", "_"))}
        plain = WanTransformer3DModel(**options).eval()
        plain.load_state_dict({k: v for k, v in network.state_dict().items() if not k.startswith("vace")})
        inputs = dict(
            hidden_states=denoiser.hidden_states(denoiser.latents, 1),
            timestep=denoiser.timestep(1),
            encoder_hidden_states=denoiser.text["cond"],
        )
        prediction = denoiser.predict(network, denoiser.latents, 1, "cond")
        assert torch.equal(prediction, plain(**inputs, return_dict=False)[0])


def test_layers_rest_exactly_and_come_back(tiny_models: Path) -> None:
    """Under a cache they run and count 0 times: the same numbers."""
    model = open_model(tiny_models, VACE)
    denoiser = begun(model, start=0.5)
    runner: Any = SimpleNamespace(call=lambda network, step, branch, inputs: network(**inputs, return_dict=False)[0])
    with torch.no_grad(), model.use("transformer") as network:
        layers, calls = network.vace_blocks, list[int]()
        handle = layers[0].register_forward_hook(lambda *_: calls.append(1))
        rested = denoiser.predict(network, denoiser.latents, 0, "cond")
        cached: Any = CachedNetwork(network, runner)
        assert torch.equal(rested, denoiser.predict(cached, denoiser.latents, 0, "cond"))
        assert len(calls) == 1, "the layers of the run without a cache did not rest"
        denoiser.predict(network, denoiser.latents, STEPS - 1, "cond")
        assert len(calls) == 2
        handle.remove()
        assert network.vace_blocks is layers


def test_layers_come_back_after_a_failure(tiny_models: Path) -> None:
    model = open_model(tiny_models, VACE)
    denoiser = begun(model, start=0.5)

    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with torch.no_grad(), model.use("transformer") as network:
        layers, handle = network.vace_blocks, network.proj_out.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            denoiser.predict(network, denoiser.latents, 0, "cond")
        handle.remove()
        assert network.vace_blocks is layers


# ---------------------------------------------------------------- what frames are made into


def quiet(done: int, total: int) -> None:
    pass


def square(size: int = 64) -> Tensor:
    """A white square on black [1, H, W, 3]. Its outermost pixels are gray: of two that are as steep, kornia before 0.9
    keeps either, both or none, as it rounds."""
    picture = torch.zeros(1, size, size, 3)
    picture[:, 16:48, 16:48] = 0.4
    picture[:, 17:47, 17:47] = 1.0
    return picture


def check_outline(picture: Tensor) -> None:
    """White lines [H, W, 3] along the sides of the square, nothing inside it and nothing around it."""
    assert picture.unique().tolist() == [0.0, 1.0]
    assert torch.equal(picture[..., :1].expand_as(picture), picture)
    lines = picture[..., 0]
    assert lines[19:45, 19:45].sum() == 0
    lines = lines.clone()
    lines[14:50, 14:50] = 0
    assert lines.sum() == 0
    for across in (picture[32, :, 0], picture[:, 32, 0]):
        assert across.nonzero().flatten().tolist() == pytest.approx([15.5, 47.5], abs=1)


def test_edges_of_a_square_are_its_outline() -> None:
    check_outline(prepared(square(), EDGES, 0.4, 0.8, quiet)[0])


def test_thresholds_choose_the_edges() -> None:
    faint = square() * 0.2
    assert prepared(faint, EDGES, 0.4, 0.8, quiet).sum() == 0
    assert prepared(faint, EDGES, 0.1, 0.3, quiet).sum() > 0


def test_gray_is_what_the_eye_sees() -> None:
    gray = prepared(torch.eye(3).view(3, 1, 1, 3).expand(3, 4, 4, 3), GRAY, 0.4, 0.8, quiet)
    assert gray[:, 0, 0].tolist() == [pytest.approx([grey] * 3) for grey in (0.299, 0.587, 0.114)]


def test_blur_keeps_the_mean_and_loses_the_details() -> None:
    blurred, source = prepared(frames(2), BLUR, 0.4, 0.8, quiet), frames(2)
    assert blurred.mean().item() == pytest.approx(source.mean().item(), abs=0.01)
    assert blurred.std() < 0.5 * source.std()
    tiny = torch.rand(1, 1, 2, 3)
    assert prepared(tiny, BLUR, 0.4, 0.8, quiet).shape == tiny.shape


@pytest.mark.parametrize("way", WAYS)
def test_each_frame_is_made_by_itself(way: str) -> None:
    """In order and size as given, and the given ones stay as they are."""
    source, progress = frames(3, 40), list[tuple[int, int]]()
    original = source.clone()
    control = prepared(source, way, 0.4, 0.8, lambda *at: progress.append(at))
    assert control.shape == source.shape
    assert torch.equal(source, original)
    for i in range(3):
        assert torch.equal(prepared(source[i : i + 1], way, 0.4, 0.8, quiet)[0], control[i])
    assert progress == ([] if control is source else [(0, 3), (1, 3), (2, 3), (3, 3)])


def test_it_can_be_stopped() -> None:
    class StopError(Exception):
        pass

    def stop(done: int, total: int) -> None:
        if done == 2:
            raise StopError

    with pytest.raises(StopError):
        prepared(frames(), EDGES, 0.4, 0.8, stop)


@pytest.mark.parametrize(
    ("source", "low", "high", "message"),
    [
        (torch.zeros(1, 8, 8, 3), 0.8, 0.4, "low, high = 0.8, 0.4: "),
        (torch.zeros(1, 8, 8, 3), 0.0, 0.4, "low, high = 0.0, 0.4: "),
        (torch.zeros(1, 2, 8, 3), 0.4, 0.8, "frames = 8x2: "),
        (torch.full((1, 8, 8, 3), float("nan")), 0.4, 0.8, "frames = frame 0 is not finite: "),
    ],
)
def test_frames_that_have_no_edges(source: Tensor, low: float, high: float, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        prepared(source, EDGES, low, high, quiet)
    assert str(refusal.value).startswith(message)


# ---------------------------------------------------------------- the node in a real ComfyUI


def prompt(host: Host, **inputs: Any) -> Prompt:
    """A square, Control Video with the inputs, and a look at its images."""
    pixels = (square()[0].numpy() * 255).astype(np.uint8)
    Image.fromarray(pixels).save(host.base / "input" / "square.png")
    control = node("ReelwireControl", **{"strength": 1.0, **inputs})
    return {"1": node("LoadImage", image="square.png"), "2": control, "3": node("PreviewImage", images=["2", 1])}


def shown(host: Host, graph: Prompt) -> Tensor:
    """The one picture that Preview Image shows."""
    (file,) = host.post(graph)["outputs"]["3"]["images"]
    with Image.open(host.base / file["type"] / file["subfolder"] / file["filename"]) as picture:
        return torch.from_numpy(np.asarray(picture.convert("RGB")).copy()).float() / 255


def test_the_node_shows_what_it_made(host: Host) -> None:
    check_outline(shown(host, prompt(host, frames=["1", 0], prepare=EDGES)))
    assert torch.equal(shown(host, prompt(host, frames=["1", 0])), square()[0])
    assert torch.equal(shown(host, prompt(host, references=["1", 0])), square()[0])


def test_the_node_tells_how_far_it_is(host: Host) -> None:
    graph = prompt(host, frames=["4", 0], prepare=GRAY)
    graph["4"] = node("RepeatImageBatch", image=["1", 0], amount=5)
    progress = [data["value"] for data in host.watch(graph).all("progress") if data["node"] == "2" and data["max"] == 5]
    assert (progress[0], progress[-1]) == (0, 5)  # the host leaves out what comes faster than one can see
    assert progress == sorted(progress)


def test_without_pictures_there_is_nothing_to_show(host: Host) -> None:
    (error,) = host.watch(prompt(host)).all("execution_error")
    assert "neither frames nor references" in error["exception_message"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"prepare": EDGES}, "prepare = edges: There are no frames to prepare."),
        ({"frames": ["1", 0], "prepare": EDGES, "low": 0.9, "high": 0.2}, "low, high = 0.9, 0.2: "),
        ({"frames": ["1", 0], "prepare": "no such"}, "prepare"),
    ],
)
def test_the_node_refuses_in_words(host: Host, inputs: dict[str, Any], message: str) -> None:
    assert message in host.refuse(prompt(host, **inputs)).message


def test_a_range_goes_from_the_node_to_the_sampler(host: Host) -> None:
    changes = {"3.prepare": EDGES, "3.strength": 0.8, "3.start": 0.0, "3.end": 0.5, "7.steps": 2}
    assert host.videos(host.post(workflow("wan_vace", changes)))
    refusal = host.refuse(workflow("wan_vace", {**changes, "3.start": 0.7}))
    assert "start, end = 0.7, 0.5: " in refusal.message
    assert "ReelwireEncodePrompt" not in refusal.done
