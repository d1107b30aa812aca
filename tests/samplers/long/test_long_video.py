"""Long videos of every family: the right frames in the right order, and the same ones after any interruption."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.devices import OutOfMemory
from reelwire.loaders.families import load
from reelwire.loaders.messages import InputError
from reelwire.loaders.parts import PlainMemory
from reelwire.loaders.request import ContinuationLatents, Keyframe, Request
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.lora import LoRA
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.long.fingerprint import render_fingerprint, upgraded
from reelwire.samplers.long.job import Job
from reelwire.samplers.long.plan import LongPlan, LongVideoOptions, plan_long
from reelwire.samplers.long.render import Callbacks, _Renderer, adain, render
from reelwire.samplers.long.room import latent_bytes, window_bytes
from reelwire.samplers.long.timeline import Prompt, Timeline, read_timeline
from reelwire.tests.support.engine.cached_runs import SOME
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.jobs import kept
from reelwire.tests.support.engine.models import (
    MODELS,
    PROMPT,
    each_family,
    every,
    frames,
    needed,
    open_ltx,
    open_model,
    usual,
)
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.engine.vaes import Short
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere


PLAIN = LongVideoOptions()


def timeline(*at: int) -> Timeline:
    texts = [PROMPT, "a blue ring on white", "一个绿色的三角形"]
    prompts = [{"at": frame, "text": text} for frame, text in zip(at or (0,), texts, strict=False)]
    return read_timeline(json.dumps({"unit": "frames", "prompts": prompts}), 24.0, 10**6)


class Film:
    """A long render of a tiny model into a folder."""

    def __init__(
        self, model: VideoModel, folder: Path, story: Timeline, style: LongVideoOptions = PLAIN, **request: Any
    ) -> None:
        self.model, self.story, self.style, self.job = model, story, style, Job(folder / "job")
        self.made: LongPlan = plan_long(model, story, Request(**{"steps": 2, "seed": 3, **request}), style)
        self.notes: list[str] = []
        self.sampled: list[int] = []
        self.caches: list[Any] = []  # of each step's run

    def frames(self, stop_at: int = 10**9) -> Tensor:
        """All frames; stop_at: raises KeyboardInterrupt at this step of the whole video."""

        def step(done: int, total: int, run: Any) -> None:
            self.sampled.append(done)
            self.caches.append(run.cache)
            if done == stop_at:
                raise KeyboardInterrupt

        inputs = render_fingerprint(self.model, self.story, self.made, self.style)
        with closing(self.job):
            self.job.begin(inputs, upgrade=lambda begun: upgraded(begun, self.model, self.made))
            watch = Callbacks(step, self.notes.append)
            return torch.cat(list(render(self.model, self.story, self.made, self.style, self.job, None, watch)))


def length(model: VideoModel) -> int:
    """About three windows of this model."""
    facts = model.facts
    own = facts.presets["default"]["frames"]
    step = own - 1 if facts.frame_counts else facts.frame_step or facts.temporal_ratio
    return 2 * (own - 1) + (own - 1 if facts.frame_counts else step) + 1


def pictures(model: VideoModel, count: int) -> tuple[Keyframe, ...]:
    """The keyframes that a long video of this model begins with; some for all joints where a window needs both ends."""
    keyframes = needed(model)["keyframes"]
    if len(keyframes) < 2:
        return keyframes
    own = model.facts.presets["default"]["frames"] - 1
    return tuple(Keyframe(frames(1, at), at) for at in range(0, count, own // 2 or 1))


def kept_bytes(film: Film) -> int:
    """Bytes of the latents that a render has kept, without the headers of their files."""
    files = [path.read_bytes() for path in film.job.folder.glob("window_*")]
    assert sum(map(len, files)) == film.job.bytes_written
    return sum(len(content) - 8 - int.from_bytes(content[:8], "little") for content in files)


@each_family
def test_latents_are_as_large_as_is_known_before(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """In whatever precision the network computes."""
    model = load(replace(open_model(tiny_models, name).recipe, dtype="bfloat16"), PlainMemory())
    count = length(model)
    film = Film(model, tmp_path, timeline(), frames=count, keyframes=pictures(model, count))
    film.frames()
    assert kept_bytes(film) == window_bytes(model, film.made) >= latent_bytes(model, film.made, count)


@every
def test_every_family_goes_beyond_its_length(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """Exactly as many frames as asked for, finite and not all alike, and the same bytes after a stop in the middle."""
    model = open_model(tiny_models, name)
    if needed(model)["control"] is not None:
        with pytest.raises(InputError, match="follows a control video"):
            Film(model, tmp_path, timeline(), frames=length(model))
        return
    count = length(model)
    film = Film(model, tmp_path / "a", timeline(), frames=count, keyframes=pictures(model, count))
    whole = film.frames()
    assert whole.shape[0] == count
    assert whole.std() > 0
    assert len(film.made.windows) > 1 or film.made.mode == "context_windows"
    assert kept_bytes(film) == window_bytes(model, film.made)
    again = Film(model, tmp_path / "b", timeline(), frames=count, keyframes=pictures(model, count))
    total = again.made.request.steps * len(again.made.windows)
    with pytest.raises(KeyboardInterrupt):
        again.frames(stop_at=total - 1)
    before = len(again.sampled)
    assert torch.equal(again.frames(), whole)
    assert len(again.sampled) - before <= total - (len(again.made.windows) - 1) * again.made.request.steps


def test_a_video_of_one_window_is_the_samplers(tmp_path: Path) -> None:
    model = open_ltx(BUNDLED)
    film = Film(model, tmp_path, timeline(), frames=17, keyframes=(Keyframe(frames(1), -1, 0.8),))
    conditioning = model.encode(PROMPT, "")
    latents = sample(
        model, conditioning, Request(frames=17, steps=2, seed=3, keyframes=(Keyframe(frames(1), -1, 0.8),))
    )
    assert torch.equal(film.frames(), torch.cat(list(stream_frames(model, latents, 3))))


def test_what_windows_share_is_handed_over_as_latents(tmp_path: Path) -> None:
    """With full hold and no AdaIN, the second window begins with the first one's last latents to the bit."""
    film = Film(open_ltx(BUNDLED), tmp_path, timeline(), LongVideoOptions(17, 9, adain=0.0), frames=25)
    film.frames()
    first, second = (film.job.read(number) for number in range(2))
    assert first is not None
    assert second is not None
    assert [(w.start, w.end, w.shared) for w in film.made.windows] == [(0, 16, 0), (8, 24, 9)]
    assert torch.equal(first[:, :, -3:], second[:, :, :3])
    assert not torch.equal(first[:, :, -3:], second[:, :, -3:])


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_adain_anchors_to_the_first_window(share: float) -> None:
    first, later = torch.randn(1, 4, 5, 8, 8), 2 * torch.randn(1, 4, 6, 8, 8) + 1
    adjusted, over = adain(later, first, share), (2, 3, 4)
    for value in (torch.mean, torch.std):
        wanted = torch.lerp(value(later, over), value(first, over), share)
        assert torch.allclose(value(adjusted, over), wanted, atol=1e-4)


def test_memory_and_hold_count(tmp_path: Path) -> None:
    """The options of the way by latents each change the second window, and only it."""
    results = {}
    styles: dict[str, dict[str, Any]] = {
        "plain": {},
        "memory": {"memory": 1.0},
        "hold": {"hold": 0.5},
        "adain": {"adain": 1.0},
    }
    for name, style in styles.items():
        options = replace(LongVideoOptions(17, 9), **style)
        film = Film(open_ltx(BUNDLED), tmp_path / name, timeline(), options, frames=25)
        film.frames()
        results[name] = [kept(film.job, number) for number in range(2)]
    plain = results.pop("plain")
    for name, (first, second) in results.items():
        assert torch.equal(first, plain[0]), name
        assert not torch.equal(second, plain[1]), name


def test_the_past_stays_as_it_is() -> None:
    model = open_ltx(BUNDLED)
    past = ContinuationLatents(torch.randn(1, 16, 2, 8, 8), memory=torch.randn(1, 16, 1, 8, 8))
    conditioning = model.encode(PROMPT, "")
    latents = sample(model, conditioning, Request(frames=17, steps=3, seed=1, past=past))
    assert latents.shape == (1, 16, 5, 8, 8)
    assert torch.equal(latents[:, :, :2], past.latents)


def test_prompts_begin_with_new_frames(tmp_path: Path) -> None:
    film = Film(open_ltx(BUNDLED), tmp_path, timeline(0, 30, 50), LongVideoOptions(17, 5), frames=81)
    begins = {w.prompt: w.start + w.shared for w in reversed(film.made.windows)}
    assert begins == {0: 0, 1: 29, 2: 49}
    assert film.frames().shape[0] == 81


@pytest.mark.parametrize("at", [4, 8, 12])
def test_a_prompt_that_begins_soon(tmp_path: Path, at: int) -> None:
    """The window after it shares the whole first one."""
    film = Film(open_ltx(BUNDLED), tmp_path, timeline(0, at), LongVideoOptions(17, 9), frames=25)
    assert film.frames().shape[0] == 25


def test_frames_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Renderer, "by_latents", lambda renderer: iter([torch.zeros(3, 8, 8, 3)]))
    with pytest.raises(RuntimeError, match="3 frames were made, 25 were asked for"):
        Film(open_ltx(BUNDLED), tmp_path, timeline(), frames=25).frames()


def test_smaller_tiles_are_kept_for_what_follows(tmp_path: Path) -> None:
    film, tiling = Film(open_ltx(BUNDLED), tmp_path, timeline(), LongVideoOptions(17, 5), frames=29), Tiling(4, True)
    with film.model.use("vae") as vae, Short(vae.decoder, 0.6):
        film.frames()
    assert film.job.settled(Tiling()) == tiling
    assert sum("Memory ran out" in note for note in film.notes) == 2  # in parts, then in tiles


def test_a_window_that_fails_behind_its_last_step_is_not_sampled_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    style = LongVideoOptions(17, 9)
    whole = Film(open_ltx(BUNDLED), tmp_path / "a", timeline(), style, frames=25).frames()
    film = Film(open_ltx(BUNDLED), tmp_path / "b", timeline(), style, frames=25)

    def failing(*_: object) -> Tensor:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr("reelwire.samplers.long.render.adain", failing)
        with pytest.raises(OutOfMemory, match="Window 2 "):
            film.frames()
    count = len(film.sampled)
    assert count == 2 * film.made.request.steps
    assert torch.equal(film.frames(), whole)
    assert len(film.sampled) == count


def test_a_damaged_window_is_made_again(tmp_path: Path) -> None:
    film = Film(open_ltx(BUNDLED), tmp_path, timeline(), LongVideoOptions(17, 5), frames=41)
    whole = film.frames()
    file = sorted(film.job.folder.glob("window_*"))[1]
    content = bytearray(file.read_bytes())
    content[-5] ^= 255
    file.write_bytes(content)
    film.notes.clear()
    assert torch.equal(film.frames(), whole)
    assert any("window 2 was damaged" in note for note in film.notes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 4}, "other inputs: seed"),
        ({"steps": 3}, "other inputs: steps"),
        ({"width": 96}, "other inputs: width"),
        ({"keyframes": (Keyframe(torch.zeros(1, 8, 8, 3), 0),)}, "other inputs: keyframe 1"),
    ],
)
def test_goes_on_with_the_same_inputs_alone(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    model = open_ltx(BUNDLED)
    Film(model, tmp_path, timeline(), frames=33).frames()
    with pytest.raises(InputError, match=message):
        Film(model, tmp_path, timeline(), frames=33, **changes).frames()
    for other, words in (
        (timeline(0, 20), "other inputs: .*prompt 2"),
        (replace(timeline(), negative="blur"), "negative"),
    ):
        with pytest.raises(InputError, match=words):
            Film(model, tmp_path, other, frames=33).frames()


def test_goes_on_with_the_same_model_alone(tmp_path: Path, tiny_models: Path) -> None:
    Film(open_ltx(BUNDLED), tmp_path, timeline(), frames=33).frames()
    other = Film(open_model(tiny_models, "tiny-ltx-0.9.0"), tmp_path, timeline(), frames=33)
    with pytest.raises(InputError, match=r"other inputs: model, .*(transformer|checkpoint)"):
        other.frames()


def test_a_lora_is_known_by_what_it_holds(tmp_path: Path) -> None:
    """A file that was written anew under its old name is another LoRA."""
    file = tmp_path / "style.safetensors"
    file.write_bytes(b"one")
    model = replace(open_ltx(BUNDLED), loras=(LoRA(file, 1.0, 1.0, {}),))
    film = Film(model, tmp_path / "job", timeline(), frames=17)
    fingerprint = lambda: render_fingerprint(film.model, film.story, film.made, film.style)
    before = fingerprint()
    assert before == fingerprint()
    file.write_bytes(b"two")
    assert [name for name, value in fingerprint().items() if value != before[name]] == ["LoRA"]


def test_other_windows_are_other_inputs(tmp_path: Path, tiny_models: Path) -> None:
    """Where they lie, and what a cache has been told by a calibration meanwhile."""
    model = replace(open_ltx(BUNDLED), cache=SOME["TeaCache"])
    film = Film(model, tmp_path, timeline(), LongVideoOptions(17, 5), frames=29, steps=12)
    fingerprint = lambda plan: render_fingerprint(model, film.story, plan, film.style)
    before, fewer = fingerprint(film.made), replace(film.made, windows=film.made.windows[:1])
    assert before == fingerprint(plan_long(model, film.story, Request(steps=12, seed=3, frames=29), film.style))
    assert [name for name, value in fingerprint(fewer).items() if value != before[name]] == ["places of windows"]
    other = plan_long(model, film.story, Request(steps=4, seed=3, frames=29), film.style)  # too few for a cache
    assert "calibration" in [name for name, value in fingerprint(other).items() if value != before[name]]


@pytest.mark.parametrize("policy", SOME)
def test_a_cache_over_several_windows(tmp_path: Path, tiny_models: Path, policy: str) -> None:
    """Those that look at a whole guided prediction know all windows, others one."""
    plain = open_model(tiny_models, "tiny-wan2.1-t2v")
    model, asked = replace(plain, cache=SOME[policy]), dict[str, Any](frames=length(plain), steps=10)
    if policy not in ("plan", "corrected plan"):
        with pytest.raises(InputError, match=r"knows one window and not several\. Use corrected plan or plan"):
            Film(model, tmp_path, timeline(), **asked)
        return
    cached, uncached = (
        Film(each, tmp_path / str(each is plain), timeline(), **asked).frames() for each in (model, plain)
    )
    assert cached.shape == uncached.shape
    assert not torch.equal(cached, uncached)


@pytest.mark.parametrize("policy", ["plan", "corrected plan"])
def test_a_cache_of_windows_keeps_what_was_said(tmp_path: Path, policy: str) -> None:
    """Of each window with what lies beside its frames: those of long ago, and those that it leads back to."""
    model = replace(open_ltx(BUNDLED), cache=SOME[policy])
    film = Film(model, tmp_path, timeline(), LongVideoOptions(17, 9, memory=1.0), frames=33, steps=10, loop=True)
    film.frames()
    windows = list(dict.fromkeys(map(id, film.caches)))
    last_of_each = [next(c for c in reversed(film.caches) if id(c) == window) for window in windows]
    assert len({cache.peak for cache in last_of_each}) > 1
    for cache in last_of_each:
        assert cache.expected == pytest.approx(cache.peak, rel=0.1)


@pytest.mark.parametrize(
    ("request_", "style", "words"),
    [
        ({"frames": 80}, LongVideoOptions(), "4n\\+1 frames"),
        ({"frames": 81}, LongVideoOptions(window=18), "window = 18"),
        ({"frames": 81}, LongVideoOptions(window=9, overlap=9), "must make new ones"),
        ({"frames": 81}, LongVideoOptions(overlap=4), "overlap = 4"),
        ({"frames": 81}, LongVideoOptions(adain=2.0), "adain = 2.0"),
        (
            {"frames": 81, "keyframes": (Keyframe(torch.zeros(1, 8, 8, 3), 81),)},
            LongVideoOptions(),
            "frame = 81 of keyframe 1",
        ),
        (
            {"frames": 81, "keyframes": (Keyframe(torch.zeros(9, 8, 8, 3), 8), Keyframe(torch.zeros(9, 8, 8, 3), 12))},
            LongVideoOptions(),
            "cannot share frames",
        ),
        ({"frames": 81, "width": 60}, LongVideoOptions(), "width = 60"),
        ({"frames": 81, "sampler": "ddim"}, LongVideoOptions(), "sampler = ddim"),
    ],
)
def test_bad_input_is_failure_before_any_weights(
    tmp_path: Path, request_: dict[str, Any], style: LongVideoOptions, words: str
) -> None:
    model = open_ltx(BUNDLED)
    with pytest.raises(InputError, match=words):
        Film(model, tmp_path, timeline(), style, **request_)
    assert isinstance(model.memory, PlainMemory)
    assert not model.memory._modules


@each_family
def test_every_prompt_is_checked_before_the_first_window(tiny_models: Path, name: str) -> None:
    """The last one too, and what is to be said of each is said once."""
    model = open_model(tiny_models, name)
    if name.startswith("tiny-svd"):
        return
    good, long = "a (red:1.2) circle", "a red circle " * 400
    request = Request(**needed(model), frames=usual(model).frames)
    for prompts, negative, where in (((good, long), "", "prompt 2"), ((good,), long, "negative")):
        story = Timeline(tuple(Prompt(at, text) for at, text in enumerate(prompts)), negative)
        with pytest.raises(InputError) as refused:
            plan_long(model, story, request, PLAIN)
        assert refused.value.name == "timeline"
        assert where in str(refused.value.value)
    assert not model.memory.seen  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", ["tiny-ltx-0.9.0", "tiny-hunyuan-i2v-concat", "tiny-svd"])
def test_notes_on_prompts_are_in_the_plan(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    request = Request(**needed(model), frames=usual(model).frames)
    plain, weighted = (
        plan_long(model, Timeline((Prompt(0, text),), ""), request, PLAIN).notes for text in ("", "a (cat)")
    )
    assert set(plain) < set(weighted)


def test_weights_are_other_inputs_than_letters(tiny_models: Path) -> None:
    """What an unfinished render of an earlier version has sampled, it has sampled with brackets as letters."""
    model = open_ltx(BUNDLED)
    for text, known in (("a (cat)", True), ("a cat", False), (r"a \(cat\)", True)):
        story = Timeline((Prompt(0, text),), "")
        plan = plan_long(model, story, Request(frames=17), PLAIN)
        assert ("weights in prompts" in render_fingerprint(model, story, plan, PLAIN)) == known


def test_models_of_text_alone_take_one_prompt(tiny_models: Path, tmp_path: Path) -> None:
    model = open_model(tiny_models, "tiny-mochi")
    keyed: dict[str, Any] = {"keyframes": (Keyframe(frames(1), 0),)}
    for changes, inputs in (((0, 20), dict[str, Any]()), ((0,), keyed)):
        with pytest.raises(InputError, match="one prompt and no pictures"):
            Film(model, tmp_path, timeline(*changes), frames=49, **inputs)


def test_pictures_at_joints_end_one_window_and_begin_the_next(tiny_models: Path, tmp_path: Path) -> None:
    model = open_model(tiny_models, "tiny-wan2.2-i2v-a14b")
    keyframes = tuple(Keyframe(frames(1, at), at) for at in (0, 11, -1))
    film = Film(model, tmp_path, timeline(), frames=33, keyframes=keyframes)
    placed = {(w.start, w.end): [k.frame for k in w.keyframes] for w in film.made.windows}
    assert all((0 in placed[place]) == (place[0] in (0, 12)) for place in placed)
    assert any("frame 11 is at frame 12" in note for note in film.made.notes)
    assert film.frames().shape[0] == 33


def test_all_models_are_tried() -> None:
    assert set(MODELS) >= {"tiny-wan2.1-vace", "tiny-svd", "tiny-mochi", "tiny-ltx-0.9.5", "tiny-cogvideox1.5-5b-i2v"}
