"""Where keyframes land in a clip of every model, or in which words they are refused."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from reelwire.loaders.common.images import cover, middle
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Capabilities, Control, Keyframe, Request
from reelwire.samplers.keyframes import cut_notes, place_keyframes
from reelwire.samplers.sources.opened import source_notes
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import MODELS, every, open_ltx, open_model
from reelwire.tests.support.engine.words import worded

Spec = tuple[int, int, float]  # frame, count of pictures, strength
properly = settings(max_examples=400, deadline=None, database=None, derandomize=True)


def at(frame: int, count: int = 1, strength: float = 1.0) -> Spec:
    return frame, count, strength


def made(spec: Spec) -> Keyframe:
    """A keyframe whose every picture is of its own brightness."""
    frame, count, strength = spec
    return Keyframe(torch.arange(count).div(100).view(-1, 1, 1, 1).expand(-1, 2, 2, 3), frame, strength)


def specs(keyframes: tuple[Keyframe, ...]) -> list[Spec]:
    return [(k.frame, len(k.images), k.strength) for k in keyframes]


@lru_cache
def capabilities_of(folder: Path, name: str) -> Capabilities:
    model = open_model(folder, name)
    return model.capabilities()


# ---------------------------------------------------------------- the table
# rows of (keyframes, frames, what comes of them): where they land and, behind these, words of each note; or, as a plain
# text, words of the refusal, " ... " between them

Row = tuple[list[Spec], int, list[Spec] | tuple[list[Spec], list[str]] | str]
ANYWHERE = "or load LTX-Video or Wan2.1-VACE"
ALONE = "makes videos from text alone. Load ... for pictures, or disconnect them."
INSTEAD = {
    "wan": "Load Wan2.1-I2V-14B, Wan2.2-I2V-A14B, Wan2.2-TI2V-5B or Wan2.1-VACE for pictures",
    "hunyuan_video": "Load HunyuanVideo-I2V for pictures",
    "cogvideox": "Load CogVideoX-5B-I2V or CogVideoX1.5-5B-I2V for pictures",
    "mochi": "Load an image-to-video model of another family, as Wan2.1-I2V for pictures",
}
EVERYWHERE: list[Row] = [  # what no model takes, told alike
    (
        [at(17)],
        17,
        "frame = 17 of keyframe 1: A keyframe must lie inside the 17 frames of the video. "
        "Use 0 to 16, or -17 to -1 from the end.",
    ),
    ([at(-18)], 17, "frame = -18 of keyframe 1"),
    ([at(0), at(99)], 17, "frame = 99 of keyframe 2"),
    ([at(0), at(0)], 17, "keyframes = numbers 1 and 2, at frames 0 and 0: Two keyframes cannot share frames."),
    ([at(0, strength=0.0)], 17, "strength = 0.0 of keyframe 1: It must be above 0 and at most 1."),
    ([at(0), at(-1, strength=float("nan"))], 17, "strength = nan of keyframe 2"),
    ([at(0, strength=1.5)], 17, "strength = 1.5 of keyframe 1"),
]
WEAK: Row = ([at(0, strength=0.5)], 17, "strength = 0.5 of keyframe 1: ... keeps its pictures as they are. Use 1.")
CLIP: Row = (
    [at(0, 9)],
    17,
    "keyframes = keyframe 1, a clip of 9 frames: ... takes single pictures. "
    "Connect one picture, or the clip as source.",
)
NONE: list[Row] = [
    ([], 17, []),
    ([at(0)], 17, f"keyframes = keyframe 1 at frame 0: ... {ALONE}"),
    ([at(-1), at(0)], 17, f"keyframes = keyframe 1 at frame -1: ... {ALONE}"),
    ([at(0, 9, 0.5)], 17, f"keyframes = keyframe 1 at frame 0: ... {ALONE}"),
]
FIRST: list[Row] = [
    ([at(0)], 17, [at(0)]),
    ([at(-17)], 17, [at(0)]),
    ([at(0)], 1, [at(0)]),
    ([at(-1)], 1, [at(0)]),
    (
        [],
        17,
        "keyframes = none: ... starts from its first frame. "
        "Connect Keyframe nodes so (frame 0 is the first, -1 the last), or load ... for text alone.",
    ),
    ([at(8)], 17, f"keyframes = keyframe 1 at frame 8: ... its first frame. Move it there, {ANYWHERE}"),
    ([at(-1), at(0)], 17, f"keyframes = keyframe 1 at frame 16: ... its first frame. Move it there, {ANYWHERE}"),
    ([at(0), at(6)], 17, "keyframes = keyframe 2 at frame 6"),
    WEAK,
    CLIP,
    *EVERYWHERE,
]
ONLY_FIRST: list[Row] = [*FIRST, ([at(1)], 17, "keyframes = keyframe 1 at frame 1")]  # nothing is moved
WAN_NEAR: list[Row] = [
    *(
        ([at(n)], 17, ([at(0)], [f"keyframe 1: ... has no place for it at frame {n}; it is at frame 0"]))
        for n in range(1, 5)
    ),
    ([at(5)], 17, "keyframes = keyframe 1 at frame 5"),
]
WAN_LAST: list[Row] = [
    ([at(0), at(-1)], 17, [at(0), at(16)]),
    ([at(-1), at(0)], 17, [at(0), at(16)]),
    ([at(0), at(4)], 5, [at(0), at(4)]),
    *(
        ([at(0), at(n)], 17, ([at(0), at(16)], [f"keyframe 2: ... at frame {n}; it is at frame 16"]))
        for n in range(13, 16)
    ),
    ([at(14), at(3)], 17, ([at(0), at(16)], ["keyframe 1: ... at frame 14;", "keyframe 2: ... at frame 3;"])),
    ([at(0), at(3)], 5, ([at(0), at(4)], ["keyframe 2: ... at frame 3; it is at frame 4"])),
    (
        [at(0), at(12)],
        17,
        f"keyframes = keyframe 2 at frame 12: ... its first frame and its last frame. Move it there, {ANYWHERE}",
    ),
    ([at(0), at(2)], 17, "keyframes = numbers 1 and 2, at frames 0 and 0: Two keyframes cannot share frames."),
    ([at(-1)], 17, "keyframes = last frame: ... its first frame and its last frame. Connect Keyframe nodes so"),
    ([], 17, "keyframes = none"),
    WEAK,
    CLIP,
    *EVERYWHERE,
]
ANY: list[Row] = [
    ([], 17, []),
    ([at(7)], 17, [at(7)]),
    ([at(-1), at(3), at(0)], 17, [at(0), at(3), at(16)]),
    ([at(0)], 1, [at(0)]),
    ([at(n) for n in range(16, -1, -1)], 17, [at(n) for n in range(17)]),
    ([at(0, 17)], 17, [at(0, 17)]),
    ([at(0, 18)], 17, "keyframes = keyframe 1, a clip of ... The video has 17 frames. Give a shorter clip"),
    *EVERYWHERE,
]
VACE: list[Row] = [
    *ANY[:6],
    ([at(3, 6)], 17, [at(3, 6)]),
    ([at(-2, 2), at(0, 3)], 17, [at(0, 3), at(15, 2)]),
    WEAK,
    ([at(0, 18)], 17, "keyframes = keyframe 1, a clip of 18 frames: The video has 17 frames."),
    *EVERYWHERE,
    (
        [at(12, 6)],
        17,
        "frame = 12 of keyframe 1: A clip of 6 frames must lie inside the 17 frames of the video. "
        "Use 0 to 11, or -17 to -6 from the end.",
    ),
    ([at(2, 3), at(4)], 17, "keyframes = numbers 1 and 2, at frames 2 and 4"),
]


def ltx(step: int) -> list[Row]:
    """LTX-Video whose latent frames stand for `step` frames."""
    one, two, whole = step + 1, 2 * step + 1, 4 * step + 1
    cut = f"keyframe 1: ... takes clips of {step}n+1 frames; {one} of its {two - 1} are used"
    moved = f"keyframe 1: ... has no place for it at frame {two}; it is at frame {two - 1}"
    return [
        *(row for row in ANY if row[1] != 17 or len(row[0]) != 1 or row[0][0][1] == 1),
        ([at(3, 1, 0.25), at(-1, 1, 0.5)], whole, [at(3, 1, 0.25), at(whole - 1, 1, 0.5)]),
        ([at(0, one), at(2 * step, two, 0.7)], whole, [at(0, one), at(2 * step, two, 0.7)]),
        ([at(-two, two)], whole, [at(2 * step, two)]),
        ([at(0, two - 1)], whole, ([at(0, one)], [cut])),
        ([at(two, 2)], whole, [at(two, 1)]),  # a single picture lies anywhere
        ([at(two, one)], whole, ([at(two - 1, one)], [moved])),
        ([at(two, two - 1)], whole, ([at(two - 1, one)], [cut, moved])),
        (
            [at(0, whole + step)],
            whole,
            f"keyframes = keyframe 1, a clip of {whole + step} frames: The video has {whole} frames.",
        ),
        (
            [at(whole - step, one)],
            whole,
            f"frame = {whole - step} of keyframe 1: A clip of {one} frames must lie inside",
        ),
        ([at(step - 1), at(step + 1, one)], whole, [at(step - 1), at(step, one)]),
        ([at(step, 1), at(step + 1, one)], whole, f"keyframes = numbers 1 and 2, at frames {step} and {step}"),
    ]


ROWS: dict[str, list[Row]] = {
    "tiny-hunyuan-t2v": NONE,
    "tiny-hunyuan-i2v-concat": ONLY_FIRST,
    "tiny-hunyuan-i2v-replace": ONLY_FIRST,
    "tiny-wan2.1-t2v": NONE,
    "tiny-wan2.1-i2v": FIRST + WAN_NEAR,
    "tiny-wan2.1-vace": VACE,
    "tiny-wan2.1-flf2v": [
        *WAN_LAST,
        ([at(0)], 17, "keyframes = first frame: ... its first frame and its last frame. Connect"),
    ],
    "tiny-wan2.2-t2v-a14b": NONE,
    "tiny-wan2.2-i2v-a14b": [*WAN_LAST, *WAN_NEAR, *FIRST[:4]],
    "tiny-wan2.2-ti2v-5b": [([], 17, []), *WAN_NEAR, *(row for row in FIRST if row[0])],
    "tiny-wan2.1-fun-control": [([], 17, []), *WAN_NEAR, *(row for row in FIRST if row[0])],
    "tiny-cogvideox-2b": NONE,
    "tiny-cogvideox-5b": NONE,
    "tiny-cogvideox-5b-i2v": ONLY_FIRST,
    "tiny-cogvideox1.5-5b": NONE,
    "tiny-cogvideox1.5-5b-i2v": ONLY_FIRST,
    "tiny-cogvideox-fun-control": [
        ([], 17, []),
        ([at(0)], 17, "keyframes = keyframe 1 at frame 0: ... follows a control video and takes no keyframes."),
    ],
    "tiny-mochi": NONE,
    "tiny-ltx-0.9.0": ltx(8),
    "tiny-ltx-0.9.5": ltx(8),
    "tiny-svd": ONLY_FIRST,
    "tiny-svd-xt": ONLY_FIRST,
}


def wording(words: str) -> re.Pattern[str]:
    return re.compile(" .*".join(map(re.escape, words.split(" ... "))))


def check(row: Row, capabilities: Capabilities) -> None:
    spots, frames, expected = row
    keyframes = tuple(map(made, spots))
    if isinstance(expected, str):
        with pytest.raises(InputError) as refusal:
            place_keyframes(keyframes, capabilities, frames)
        assert wording(expected).match(str(refusal.value)), (row, str(refusal.value))
        return
    places, words = expected if isinstance(expected, tuple) else (expected, None)
    placed, notes = place_keyframes(keyframes, capabilities, frames)
    assert specs(placed) == places, row
    if words is not None:
        assert len(notes) == len(words), (row, notes)
        assert all(wording(w).match(note) for w, note in zip(words, notes, strict=True)), (row, notes)


@every
def test_the_table(tiny_models: Path, name: str) -> None:
    capabilities = capabilities_of(tiny_models, name)
    for row in ROWS[name]:
        check(row, capabilities)
    assert set(ROWS) == set(MODELS)


def test_the_bundled_model() -> None:
    model = open_ltx(BUNDLED)
    for row in ltx(4):
        check(row, model.capabilities())


@pytest.mark.parametrize("name", [name for name, rows in ROWS.items() if rows is NONE])
def test_models_of_text_alone_tell_what_to_load(tiny_models: Path, name: str) -> None:
    with pytest.raises(InputError) as refusal:
        place_keyframes((made(at(0)),), capabilities_of(tiny_models, name), 17)
    assert INSTEAD[MODELS[name]] in str(refusal.value)
    assert f"({name})" in str(refusal.value)


def test_notes_are_of_what_was_changed_alone(tiny_models: Path) -> None:
    """A clip is cut at its end, and neither it nor what stays where it is gets another picture."""
    clip, picture = made(at(9, 12)), made(at(3))
    (one, other), notes = place_keyframes((clip, picture), capabilities_of(tiny_models, "tiny-ltx-0.9.5"), 33)
    assert torch.equal(other.images, clip.images[:9])
    assert one is picture or torch.equal(one.images, picture.images)
    assert len(notes) == 2
    assert all(note.startswith("keyframe 1: LTX-Video (tiny-ltx-0.9.5)") for note in notes)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_pictures_that_are_not_finite(tiny_models: Path, bad: float) -> None:
    broken = Keyframe(torch.full((1, 2, 2, 3), bad), -1)
    for name in ("tiny-wan2.2-i2v-a14b", "tiny-ltx-0.9.5", "tiny-wan2.1-vace"):
        with pytest.raises(InputError, match="image = keyframe 2, not finite"):
            place_keyframes((made(at(0)), broken), capabilities_of(tiny_models, name), 17)


# ---------------------------------------------------------------- any keyframes at all

STRENGTHS = [1.0] * 6 + [0.5, 0.0, -1.0, 1.5, float("nan"), float("inf")]
ends = st.sampled_from([0, -1])
keyframe_lists = st.lists(
    st.tuples(
        ends | st.integers(-200, 200),
        st.just(1) | st.integers(1, 40),
        st.sampled_from(STRENGTHS),
        st.sampled_from([0.5] * 9 + [float("nan")]),
    ),
    max_size=4,
)


def any_keyframes(rows: list[tuple[int, int, float, float]]) -> tuple[Keyframe, ...]:
    return tuple(Keyframe(torch.full((count, 1, 1, 3), value), frame, s) for frame, count, s, value in rows)


def planned(keyframes: tuple[Keyframe, ...], capabilities: Capabilities, frames: int) -> tuple[Keyframe, ...] | None:
    """The plan, that of it being the same again; None where it is refused in words."""
    try:
        placed, notes = place_keyframes(keyframes, capabilities, frames)
    except InputError as error:
        refusal = str(error)
    else:
        refusal = ""
    if refusal:
        assert re.match(r"(keyframes|frame|strength|image) = \S", refusal)
        numbers = [int(n) for n in re.findall(r"(?:of|=) keyframe (\d+)", refusal)]
        assert all(1 <= n <= len(keyframes) for n in numbers)
        return None
    again, more = place_keyframes(placed, capabilities, frames)
    assert (specs(again), more) == (specs(placed), ())
    before = sorted((k.frame % frames, len(k.images), k.strength) for k in keyframes)
    assert (not notes) == (before == specs(placed)), "changes and only they are noted"
    return placed


def check_planned(placed: tuple[Keyframe, ...], capabilities: Capabilities, frames: int) -> None:
    taken = [range(k.frame, k.frame + len(k.images)) for k in placed]
    assert all(span.start >= 0 and span.stop <= frames for span in taken)
    assert all(one.stop <= other.start for one, other in pairwise(taken)), "in order, disjoint"
    for keyframe in placed:
        assert 0 < keyframe.strength <= 1
        assert keyframe.strength == 1 or capabilities.strengths
        assert torch.isfinite(keyframe.images).all()
        if len(keyframe.images) > 1:
            assert (len(keyframe.images) - 1) % capabilities.clip_step == 0
            assert keyframe.frame % capabilities.clip_start == 0
    if capabilities.sets is not None:
        assert all(len(k.images) == 1 for k in placed)
        assert [k.frame for k in placed] in [
            [{"first": 0, "last": frames - 1}[p] for p in s] for s in capabilities.sets
        ]


@given(rows=keyframe_lists, frames=st.integers(1, 200), name=st.sampled_from([*MODELS]))
@properly
def test_any_keyframes_are_planned_or_refused(
    tiny_models: Path, rows: list[tuple[int, int, float, float]], frames: int, name: str
) -> None:
    capabilities, keyframes = capabilities_of(tiny_models, name), any_keyframes(rows)
    placed = planned(keyframes, capabilities, frames)
    other = planned(keyframes[::-1], capabilities, frames)
    assert (placed is None) == (other is None), "their order in the list does not count"
    if placed is not None and other is not None:
        assert len(placed) == len(keyframes)
        assert specs(placed) == specs(other)
        check_planned(placed, capabilities, frames)


@given(counts=st.lists(st.integers(1, 40), max_size=6), name=st.sampled_from(["tiny-ltx-0.9.5", "tiny-wan2.1-vace"]))
@properly
def test_models_of_any_keyframes_take_all_that_fit(tiny_models: Path, counts: list[int], name: str) -> None:
    capabilities, frames = capabilities_of(tiny_models, name), 60 * len(counts) + 1
    keyframes = tuple(made(at(60 * i, count)) for i, count in enumerate(counts))
    placed = planned(keyframes, capabilities, frames)
    assert placed is not None
    check_planned(placed, capabilities, frames)
    for before, after in zip(keyframes, placed, strict=True):
        assert torch.equal(after.images, before.images[: len(after.images)])
        assert 0 <= before.frame - after.frame < capabilities.clip_start


# ---------------------------------------------------------------- pictures of another shape


@pytest.mark.parametrize(
    ("size", "part"),
    [((128, 320), "128x128"), ((320, 128), "128x128"), ((64, 64), ""), ((128, 128), ""), ((128, 130), "")],
)
def test_what_is_cut_of_a_picture_is_said(size: tuple[int, int], part: str) -> None:
    height, width = size
    key = Keyframe(torch.zeros(1, height, width, 3), 0)
    notes = cut_notes(Request(64, 64, 17, keyframes=(key,)))
    assert [worded(note).values["middle"] for note in notes] == ([part] if part else [])


def test_what_is_cut_is_what_cover_leaves_out() -> None:
    """The middle has the values that are seen, what lies outside has others."""
    frames = torch.zeros(1, 100, 300, 3)
    width, height = middle(frames, 64, 64)
    left = (frames.shape[2] - width) // 2
    frames[:, :, left : left + width] = 1.0
    assert (width, height) == (100, 100)
    assert cover(frames, 64, 64)[:, :, 2:-2].min() > 0.9


def test_sources_and_control_videos_are_cut_too() -> None:
    wide = torch.zeros(17, 64, 128, 3)
    notes = source_notes(Request(64, 64, 17, source=wide, control=Control(wide), fps=24, rated=True, strength=0.5))
    assert [worded(worded(note).values["name"]).key for note in notes] == ["the_source", "the_control"]
    assert cut_notes(Request(64, 64, 17, source=torch.zeros(1, 16, 5, 8, 8))) == ()
