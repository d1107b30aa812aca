"""How the windows of a long video lie, what each is given, and what an average over windows is."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from time import process_time
from typing import Any

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from reelwire.loaders.denoiser import Denoiser, NoiseSchedule
from reelwire.loaders.messages import InputError
from reelwire.loaders.notices import stopped_by
from reelwire.loaders.request import Capabilities, Keyframe, Request
from reelwire.samplers.long.context import ContextWindows, sample_in_context, shuffled
from reelwire.samplers.long.plan import LongVideoOptions, plan_long
from reelwire.samplers.long.timeline import Prompt, Timeline
from reelwire.samplers.long.windows import Spans, Window, check_spans, lay_windows, with_keyframes
from reelwire.tests.support.engine.cached_runs import SOME
from reelwire.tests.support.engine.models import PROMPT, open_model, usual
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere
properly = settings(max_examples=500, deadline=None, database=None, derandomize=True)


def timeline(*places: int) -> Timeline:
    return Timeline(tuple(Prompt(at, f"prompt {i}") for i, at in enumerate((0, *places))))


def places(windows: tuple[Window, ...]) -> list[tuple[int, int, int]]:
    return [(w.start, w.end, w.shared) for w in windows]


# ---------------------------------------------------------------- some by hand


@pytest.mark.parametrize(
    ("frames", "spans", "expected"),
    [
        (1, Spans(8, 97, 25), [(0, 0, 0)]),
        (97, Spans(8, 97, 25), [(0, 96, 0)]),
        (9, Spans(8, 97, 25), [(0, 8, 0)]),
        (33, Spans(4, 17, 9), [(0, 16, 0), (8, 24, 9), (16, 32, 9)]),
        (113, Spans(8, 97, 25), [(0, 64, 0), (40, 112, 25)]),  # evenly, not a long one and a short one
        (73, Spans(24, 25, 1, True), [(0, 24, 0), (24, 48, 1), (48, 72, 1)]),
        (27, Spans(13, 14, 1, True), [(0, 13, 0), (13, 26, 1)]),
    ],
)
def test_windows(frames: int, spans: Spans, expected: list[tuple[int, int, int]]) -> None:
    assert places(lay_windows(frames, spans, timeline())) == expected


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ((), [0, 89, 153]),  # where windows begin to make new frames
        ((88,), [0, 89, 153]),
        ((90,), [0, 65, 137]),
        ((112,), [0, 81, 145]),
        ((113,), [0, 89, 153]),
        ((153,), [0, 89, 129, 169]),
        ((113, 89), [0, 65, 137]),
        (tuple(range(1, 209)), [0, 89, 153]),  # no place is better
    ],
)
def test_no_window_begins_shortly_before_a_keyframe(keys: tuple[int, ...], expected: list[int]) -> None:
    laid = lay_windows(209, Spans(8, 97, 25), timeline(), keys=keys)
    assert [w.start + w.shared for w in laid] == expected


def test_prompts_begin_windows() -> None:
    laid = lay_windows(41, Spans(4, 17, 5), timeline(14, 30))
    assert [(w.start + w.shared, w.prompt) for w in laid] == [(0, 0), (13, 1), (21, 1), (29, 2)]


def test_a_prompt_on_the_last_frames_has_a_window() -> None:
    laid = lay_windows(25, Spans(8, 25, 9), timeline(24))
    assert [(w.start + w.shared, w.end, w.prompt) for w in laid] == [(0, 16, 0), (17, 24, 1)]


@pytest.mark.parametrize(("frames", "at", "message"), [
    (81, (19, 21), "prompt 3 at frame 21"), (81, (79, 80), "prompt 3 at frame 80"), (9, (8,), "prompt 2 at frame 8"),
])  # fmt: skip
def test_prompts_too_close(frames: int, at: tuple[int, ...], message: str) -> None:
    with pytest.raises(InputError) as refusal:
        lay_windows(frames, Spans(8, 97, 25), timeline(*at))
    assert str(refusal.value).startswith(f"timeline = {message}: It and the prompt before it need 8 new frames each")


@pytest.mark.parametrize(
    ("spans", "message"),
    [
        (Spans(8, 96, 25), "window = 96: LTX makes 8n+1 frames at a time. Use 89 or 97, or 0 for the default."),
        (Spans(8, 97, 24), "overlap = 24: LTX makes 8n+1 frames at a time. Use 17 or 25"),
        (Spans(8, -7, 1), "window = -7"),
        (Spans(8, 97, 0), "overlap = 0"),
        (Spans(8, 97, -7), "overlap = -7"),
        (
            Spans(8, 25, 25),
            "window = 25: Each window shares its first 25 frames with the one before and must make new ones. "
            "Use 33 or more",
        ),
        (Spans(8, 1, 1), "window = 1: Each window shares"),
        (Spans(8, 9, 17), "window = 9"),
        (Spans(13, 27, 1, True), "window = 27: Windows of LTX are 14 frames long. Use 14"),
        (Spans(24, 25, 25, True), "window = 25: Each"),
    ],
)
def test_spans_that_cannot_be(spans: Spans, message: str) -> None:
    with pytest.raises(InputError) as refusal:
        check_spans(spans, "LTX")
    assert str(refusal.value).startswith(message)


# ---------------------------------------------------------------- any at all


@dataclass(frozen=True)
class Film:
    frames: int
    spans: Spans
    timeline: Timeline
    joints: tuple[int, ...]
    keys: tuple[int, ...] = ()


@st.composite
def films(draw: st.DrawFn, jointed: bool | None = None, keyed: bool = False) -> Film:
    """Films of sound spans and numbers.

    jointed: with keyframes at joints, whose windows share one frame; keyed: with keyframes anywhere.
    """
    step = draw(st.sampled_from([1, 4, 6, 8, 13, 24]))
    fixed = draw(st.booleans()) if jointed else False
    length = 1 if fixed else draw(st.integers(1, 12))
    overlap = 0 if jointed or fixed else draw(st.integers(0, length - 1))
    units = draw(st.integers(int(fixed), 60))
    some = partial(draw, st.lists(st.integers(1, max(step * units, 1)), max_size=4, unique=True))
    joints = tuple(at * step for at in draw(st.sets(st.integers(0, units), max_size=5))) if jointed else ()
    starts = [at for at in sorted(some()) if at <= step * units]
    return Film(
        step * units + 1,
        Spans(step, length * step + 1, overlap * step + 1, fixed),
        timeline(*starts),
        joints,
        tuple(some()) if keyed else (),
    )


def lay(film: Film) -> tuple[Window, ...] | None:
    """Windows; None where it is told in words that a prompt has no room."""
    check_spans(film.spans, "a model")
    try:
        return lay_windows(film.frames, film.spans, film.timeline, film.joints, film.keys)
    except InputError as error:
        message = str(error)
    assert message.startswith("timeline = prompt ")
    starts = [0, *(p.frame for p in film.timeline.prompts[1:]), film.frames]
    assert min(b - a for a, b in pairwise(starts)) < 2 * film.spans.step, "they had room"
    return None


@given(films() | films(jointed=True) | films(keyed=True))
@properly
def test_windows_cover_the_video_once(film: Film) -> None:
    windows, step = lay(film), film.spans.step
    if windows is None:
        return
    new = [n for w in windows for n in range(w.start + w.shared, w.end + 1)]
    assert new == list(range(film.frames)), "each frame is new in one window"
    assert windows[0].shared == 0
    for before, window in pairwise(windows):
        assert window.shared == before.end - window.start + 1, "it begins that much before the end of the one before"
        assert window.shared == min(film.spans.overlap, before.end + 1)
    for window in windows:
        assert window.frames <= film.spans.length
        assert (window.frames - 1) % step == window.start % step == 0
        assert window.frames == film.spans.length or not film.spans.fixed
        assert window.frames > window.shared


@given(films() | films(jointed=True))
@properly
def test_windows_are_no_more_than_needed(film: Film) -> None:
    """As few as fit between two cuts, and there evenly long: no window makes a step more than another."""
    windows, step = lay(film), film.spans.step
    if windows is None:
        return
    prompts = [w.prompt for w in windows]
    cuts = [w.start + w.shared - 1 for one, w in pairwise(windows) if w.prompt != one.prompt or one.end in film.joints]
    assert prompts == sorted(prompts)
    for begin, end in pairwise([0, *cuts, film.frames - 1]):
        inside = [w for w in windows if begin <= max(w.start + w.shared - 1, 0) and w.end <= end]
        room = film.spans.length - film.spans.overlap
        most = film.spans.length - 1 if begin == 0 else room
        assert len(inside) == 1 + -(-max(end - begin - most, 0) // room)
        lengths = [w.frames for w in inside if w.shared in (0, film.spans.overlap)]
        assert max(lengths, default=0) - min(lengths, default=0) <= step


@given(films() | films(jointed=True) | films(keyed=True))
@properly
def test_every_prompt_begins_near_its_time(film: Film) -> None:
    windows = lay(film)
    if windows is None:
        return
    for number, prompt in enumerate(film.timeline.prompts):
        own = [w for w in windows if w.prompt == number]
        assert own, "every prompt has a window"
        begins = min(w.start + w.shared for w in own)
        assert abs(begins - prompt.frame) <= film.spans.step


@given(films(jointed=True))
@properly
def test_joints_end_one_window_and_begin_the_next(film: Film) -> None:
    windows = lay(film)
    if windows is None:
        return
    keyframes = tuple(Keyframe(torch.full((1, 1, 1, 3), at / 2000), at) for at in sorted(film.joints))
    given_ = with_keyframes(windows, keyframes, Capabilities("", "", "", (("first",), ("first", "last"))))
    assert [replace(w, keyframes=()) for w in given_] == list(windows)
    for keyframe in keyframes:
        having = [
            (w, k.frame)
            for w in given_
            for k in w.keyframes
            if k.images is keyframe.images or torch.equal(k.images, keyframe.images)
        ]
        ends = [w for w, at in having if at == w.frames - 1 and w.end == keyframe.frame]
        begins = [w for w, at in having if at == 0 and w.start == keyframe.frame]
        assert len(ends) == (keyframe.frame > 0 or film.frames == 1)
        assert len(begins) == (keyframe.frame < film.frames - 1 or film.frames == 1)
        assert len(having) == 1 + (0 < keyframe.frame < film.frames - 1)


# ---------------------------------------------------------------- keyframes anywhere

Spec = tuple[int, int]


@st.composite
def clips(draw: st.DrawFn, film: Film, step: int) -> tuple[Keyframe, ...]:
    """Planned keyframes: pictures anywhere and clips of step*n+1 frames from multiples of step, disjoint and in order;
    each picture of a brightness that tells its frame in the video."""
    made, free = [], 0
    for _ in range(draw(st.integers(0, 5))):
        if free >= film.frames:
            break
        begin = draw(st.integers(free, min(free + 30, film.frames - 1)))
        on_grid = -(-begin // step) * step
        most = (film.frames - 1 - on_grid) // step
        count = step * draw(st.integers(0, min(most, 60 // step))) + 1 if most >= 0 else 1
        begin = on_grid if count > 1 else begin
        made.append(Keyframe(torch.arange(begin, begin + count).view(-1, 1, 1, 1).expand(-1, 1, 1, 3), begin, 0.5))
        free = begin + count
    return tuple(made)


@given(st.data(), films() | films(keyed=True), st.booleans())
@properly
def test_every_keyframe_is_given_where_its_frames_are_made(data: st.DataObject, film: Film, on_grid: bool) -> None:
    """on_grid: as LTX-Video, whose clips begin and end with latent frames; else as VACE."""
    step = film.spans.step if on_grid else 1
    windows, keyframes = lay(film), data.draw(clips(film, step))
    assume(windows is not None)
    assert windows is not None
    laid = with_keyframes(windows, keyframes, Capabilities("", "", "", None, step, step, True))
    wanted = {k.frame + i for k in keyframes for i in range(len(k.images))}
    new, context = list[tuple[Window, int]](), list[tuple[Window, int]]()
    for window in laid:
        for keyframe in window.keyframes:
            assert keyframe.strength == 0.5
            assert keyframe.frame >= 0
            assert len(keyframe.images) >= 1
            assert keyframe.frame + len(keyframe.images) <= window.frames
            if len(keyframe.images) > 1:
                assert keyframe.frame % step == (len(keyframe.images) - 1) % step == 0
            for i, picture in enumerate(keyframe.images):
                place = window.start + keyframe.frame + i
                assert int(picture[0, 0, 0]) == place, "a picture in the place of another"
                (new if keyframe.frame + i >= window.shared else context).append((window, place))
    assert sorted(place for _, place in new) == sorted(wanted), "each frame is given once where it is new"
    allowed = [(w, w.start + w.shared - 1) for w in laid] if step > 1 else []
    assert all(any(w is window and place == at for w, at in allowed) for window, place in context)


# ---------------------------------------------------------------- context windows


@given(st.integers(1, 20), st.integers(0, 70), st.integers(1, 25), st.sampled_from([1, 2]), st.integers(0, 9))
@properly
def test_shuffled_noise(length: int, more: int, stride: int, dim: int, seed: int) -> None:
    """Each block holds the frames of one window earlier, in another order; the first window is as it was."""
    shape = [1, 3, 3, 2, 2]
    shape[dim] = length
    noise = torch.arange(length).view([-1 if d == dim else 1 for d in range(5)]).expand(shape).float()
    whole = shuffled(noise, dim, more, stride, torch.Generator().manual_seed(seed))
    assert whole.shape == torch.Size([*shape[:dim], length + more, *shape[dim + 1 :]])
    assert torch.equal(whole.narrow(dim, 0, length), noise)
    frames, stride = whole.movedim(dim, 0).flatten(1)[:, 0].int().tolist(), min(stride, length)
    for begin in range(length, length + more, stride):
        block, before = frames[begin : begin + stride], frames[begin - length : begin - length + stride]
        if len(block) == stride:
            assert sorted(block) == sorted(before)
        assert len(set(block)) == len(block), "no frame twice"
        assert set(block) <= set(before)
    again = shuffled(noise, dim, more, stride, torch.Generator().manual_seed(seed))
    assert torch.equal(again, whole)


def test_noise_is_shuffled() -> None:
    noise = torch.arange(32).view(1, 1, -1, 1, 1).float()
    whole = shuffled(noise, 2, 96, 32, torch.Generator().manual_seed(0)).flatten().view(4, 32)
    assert all(not torch.equal(one, other) for one, other in pairwise(whole))


class StoppedError(Exception):
    """What a person's Cancel raises."""


def test_noise_of_a_long_video_takes_no_time_and_stops() -> None:
    """Of a million frames: it took minutes, and heard nobody."""
    noise, begin = torch.zeros(1, 1, 7, 1, 1), process_time()
    assert shuffled(noise, 2, 50_000, 4, torch.Generator().manual_seed(0)).shape[2] == 50_007
    assert process_time() - begin < 5
    looks = iter([None, None, StoppedError()])

    def stop() -> None:
        if (error := next(looks)) is not None:
            raise error

    with stopped_by(stop), pytest.raises(StoppedError):
        shuffled(noise, 2, 50_000, 4, torch.Generator().manual_seed(0))


def test_a_whole_video_that_memory_does_not_hold_is_refused(tiny_models: Path) -> None:
    model = open_model(tiny_models, "tiny-mochi")
    story, size = Timeline((Prompt(0, "a"),)), replace(usual(model), width=512, height=512, frames=999_997)
    with pytest.raises(InputError) as refusal:
        plan_long(model, story, size, LongVideoOptions())
    assert refusal.value.name == "width, height, frames"
    assert plan_long(model, story, replace(size, frames=601), LongVideoOptions()).mode == "context_windows"


class Echo(Denoiser):
    """Its network returns what it sees times a factor, one for each call."""

    calls: list[Tensor]
    factors: tuple[float, ...] = ()

    def predict(self, network: object, latents: Tensor, step: int, branch: str) -> Tensor:
        self.calls.append(latents)
        return latents * (self.factors[len(self.calls) - 1] if self.factors else 1.0)


def echo(length: int, more: int, stride: int, factors: tuple[float, ...] = ()) -> tuple[ContextWindows, Echo]:
    noise = torch.randn(1, 2, length, 2, 2, generator=torch.Generator().manual_seed(1))
    inner = Echo(noise, NoiseSchedule(None, torch.zeros(1), (1.0, 0.0)), 1.0, torch.Generator())
    inner.calls, inner.factors = [], factors
    return ContextWindows(inner, more, stride, 3), inner


@given(st.integers(1, 12), st.integers(0, 40), st.integers(1, 12))
@properly
def test_the_average_of_what_all_windows_see_is_the_video(length: int, more: int, stride: int) -> None:
    windows, inner = echo(length, more, min(stride, length))
    whole = windows.latents
    assert torch.allclose(windows.predict(None, whole, 0, "cond"), whole, atol=1e-5)
    assert all(window.shape[2] == length for window in inner.calls)
    assert torch.equal(inner.calls[0], whole[:, :, :length])
    assert torch.equal(inner.calls[-1], whole[:, :, more:])
    assert len(inner.calls) == 1 + -(-more // min(stride, length))


def test_the_average_fades_from_one_window_to_the_next() -> None:
    """Where two windows lie over each other, each counts by how far the frame is from its ends."""
    windows, _ = echo(5, 3, 3, (1.0, 2.0))
    whole = windows.latents
    shares = (windows.predict(None, whole, 0, "cond") / whole)[0, 0, :, 0, 0].tolist()
    assert shares == pytest.approx([1, 1, 1, (2 + 2 * 1) / 3, (1 + 2 * 2) / 3, 2, 2, 2], abs=1e-5)


CONTEXT = ["tiny-hunyuan-t2v", "tiny-wan2.1-t2v", "tiny-cogvideox-2b", "tiny-cogvideox1.5-5b", "tiny-mochi"]


@pytest.mark.parametrize("name", CONTEXT)
def test_a_real_run_is_spread(tiny_models: Path, name: str) -> None:
    """One window is the sampler's own video to the bit; of a longer one every latent frame is predicted."""
    model = open_model(tiny_models, name)
    conditioning = model.encode(PROMPT, "")
    own, step = usual(model).frames, model.facts.frame_step or model.facts.temporal_ratio
    request = Request(frames=own, steps=2, seed=3)
    latents = sample_in_context(model, conditioning, model.complete(request), own, step + 1, lambda *_: None)
    assert torch.equal(latents, sample(model, conditioning, request))
    longer = model.complete(replace(request, frames=3 * (own - 1) + 1))
    latents = sample_in_context(model, conditioning, longer, own, 1, lambda *_: None)
    assert latents.shape == model.facts.latent_shape(longer.width, longer.height, longer.frames)
    assert all(latents[:, :, t].std() > 0 for t in range(latents.shape[2]))


@pytest.mark.parametrize("policy", ["plan", "corrected plan"])
def test_a_cache_keeps_of_all_windows_what_was_said(tiny_models: Path, policy: str) -> None:
    """And the steps have room for it, and for the latents of the whole video."""
    model = replace(open_model(tiny_models, "tiny-wan2.1-t2v"), cache=SOME[policy])
    asked = Request(frames=49, steps=10, seed=3)
    prepared = plan_long(model, timeline(), asked, LongVideoOptions(window=17, overlap=5))
    request, spans, of_one = prepared.request, prepared.spans, prepared.longest.policy
    assert prepared.mode == "context_windows"
    assert of_one is not None
    runs: list[Any] = []
    see = lambda done, total, run: runs.append(run)
    sample_in_context(model, model.encode(PROMPT, ""), request, spans.length, spans.overlap, see)
    assert runs[-1].cache.expected == pytest.approx(runs[-1].cache.peak, rel=0.1)
    assert runs[-1]._room == prepared.longest.room > of_one.estimate(model, request)
