"""What a timeline says, and what a long render keeps on disk to go on from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from reelwire.loaders.messages import InputError
from reelwire.loaders.vae.tiles import Tiling
from reelwire.samplers.long.job import ENDING, LOCK, Job, fingerprint
from reelwire.samplers.long.timeline import EXAMPLE, MOST, Picture, Prompt, Timeline, read_timeline
from reelwire.tests.support.engine.jobs import kept
from reelwire.tests.support.engine.words import refuses
from safetensors.torch import save_file
from torch import Tensor

properly = settings(max_examples=400, deadline=None, database=None, derandomize=True)


def read(data: Any, fps: float = 24.0, frames: int = 241) -> Timeline:
    return read_timeline(json.dumps(data), fps, frames)


def refused(text: str, frames: int = 241) -> str:
    with pytest.raises(InputError) as refusal:
        read_timeline(text, 24.0, frames)
    return str(refusal.value)


FIRST = {"at": 0, "text": "a"}


# ---------------------------------------------------------------- what is read


def test_the_least() -> None:
    assert read({"prompts": [FIRST]}) == Timeline((Prompt(0, "a"),), "", ())


def test_all_in_seconds() -> None:
    data = {
        "unit": "seconds",
        "negative": "blurry",
        "prompts": [FIRST, {"at": 4.5, "text": "一只猫"}],
        "keyframes": [{"at": -0.5, "image": "a.png"}, {"at": 2, "image": "sub/b.png", "strength": 0.25}],
    }
    pictures = (Picture(-12, "a.png", 1.0), Picture(48, "sub/b.png", 0.25))
    assert read(data) == Timeline((Prompt(0, "a"), Prompt(108, "一只猫")), "blurry", pictures)
    assert read({**data, "unit": "seconds"}) == read({k: v for k, v in data.items() if k != "unit"}), "the default"
    assert [p.frame for p in read(data, fps=30).prompts] == [0, 135]


def test_all_in_frames() -> None:
    """Frames do not count with the rate; keyframes count from the end as they are."""
    data = {"unit": "frames", "prompts": [FIRST, {"at": 7, "text": "b"}], "keyframes": [{"at": -1, "image": "a.png"}]}
    for fps in (1.0, 24.0):
        assert read(data, fps) == Timeline((Prompt(0, "a"), Prompt(7, "b")), "", (Picture(-1, "a.png", 1.0),))


@pytest.mark.parametrize(
    ("at", "frame"), [(-0.001, -1), (-1 / 24, -1), (-0.06, -1), (-0.07, -2), (0.0, 0), (-0.0, 0), (0.01, 0)]
)
def test_a_moment_from_the_end_is_not_the_beginning(at: float, frame: int) -> None:
    (picture,) = read({"prompts": [FIRST], "keyframes": [{"at": at, "image": "a.png"}]}).pictures
    assert picture.frame == frame


def test_the_example_of_the_errors_is_good() -> None:
    read_timeline(EXAMPLE, 24.0, 241)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "empty"),
        (" \n ", "empty"),
        ("a cat", "not JSON (no JSON at line 1, column 1"),
        ('{"prompts": [}', "not JSON"),
        ("[" * 100_000, "not JSON (more than 64 levels"),
        ("1" * 5000, "not JSON"),
        ("\ufeff{}", "no prompts"),
        ("[]", "[]: It is a JSON object"),
        ("null", "null: "),
        ('"text"', '"text": '),
        ("{}", "no prompts"),
    ],
)
def test_texts(text: str, message: str) -> None:
    assert refused(text).startswith(f"timeline = {message}")
    assert EXAMPLE in refused(text)


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"unit": "minutes"}, "unit 'minutes': Times are in seconds or frames"),
        ({"unit": []}, "unit []"),
        ({"unit": None}, "unit None"),
        ({"fps": 24}, "'fps' in the timeline: It has unit, prompts, negative, keyframes"),
        ({"prompts": []}, "no prompts"),
        ({"prompts": "a cat"}, "prompts 'a cat': The prompts are a list of objects"),
        ({"prompts": ["a"]}, "prompts"),
        ({"prompts": None}, "prompts 'None'"),
        ({"keyframes": {}}, "keyframes '{}'"),
        ({"prompts": [{**FIRST, "time": 1}]}, "'time' in prompt 1: It has at, text"),
        ({"prompts": [{**FIRST, "strength": 1}]}, "'strength' in prompt 1"),
        ({"prompts": [{"text": "a"}]}, "prompt 1 without at: Each says where it begins"),
        (
            {"promts": [FIRST]},
            "'promts' in the timeline: It has unit, prompts, negative, keyframes. Did you mean prompts?",
        ),
        ({"prompts": [FIRST, {"at": 1}]}, "prompt 2 without text: Each needs one"),
        ({"prompts": [FIRST, {"at": 1, "text": 5}]}, "text 5 of prompt 2"),
        ({"prompts": [FIRST, {"at": 1, "text": "a\ud800"}]}, "not JSON (half a character in"),
        ({"prompts": [FIRST, {"at": "1", "text": "b"}]}, "at '1' of prompt 2: It is a number"),
        ({"prompts": [FIRST, {"at": True, "text": "b"}]}, "at True of prompt 2"),
        ({"prompts": [FIRST, {"at": float("nan"), "text": "b"}]}, "not JSON ('NaN'"),
        ({"prompts": [FIRST, {"at": float("inf"), "text": "b"}]}, "not JSON ('Infinity'"),
        ({"prompts": [FIRST, {"at": 10**400, "text": "b"}]}, "not JSON ('1000000"),
        ({"prompts": [FIRST, {"at": 1e308, "text": "b"}]}, "at 1e+308"),
        (
            {"prompts": [{"at": 1, "text": "a"}]},
            "the first prompt at frame 24: The first prompt begins the video. Set its at to 0",
        ),
        ({"prompts": [{"at": -1, "text": "a"}]}, "the first prompt at frame -24"),
        (
            {"prompts": [FIRST, {"at": 2, "text": "b"}, {"at": 1, "text": "c"}]},
            "prompt 3 at frame 24, prompt 2 at 48: Prompts stand in the order of time",
        ),
        ({"prompts": [FIRST, {"at": 0.01, "text": "b"}]}, "prompt 2 at frame 0, prompt 1 at 0"),
        (
            {"prompts": [FIRST, {"at": 11, "text": "b"}]},
            "prompt 2 at frame 264: The video ends at frame 240. Let it begin earlier",
        ),
        ({"negative": None}, "negative None of the timeline: It is a text"),
        ({"negative": 3}, "negative 3"),
        ({"keyframes": [{"at": 0}]}, "keyframe 1 without image: Each needs one"),
        ({"keyframes": [{"image": "a"}]}, "keyframe 1 without at"),
        ({"keyframes": [{"at": 0, "image": "a", "strength": "1"}]}, "strength '1' of keyframe 1"),
        ({"keyframes": [{"at": 0, "image": "a", "strength": 10**400}]}, "not JSON ('1000000"),
        ({"keyframes": [{"at": 0, "image": "a", "text": "b"}]}, "'text' in keyframe 1: It has at, image, strength"),
    ],
)
def test_objects(changes: dict[str, Any], refusal: str) -> None:
    message = refused(json.dumps({"prompts": [FIRST], **changes}))
    assert message.startswith(f"timeline = {refusal}")
    assert len(message) < 600


# ---------------------------------------------------------------- anything at all

numbers = st.integers() | st.floats() | st.integers(0, 300) | st.floats(-20, 20)
anything = st.recursive(
    st.none() | st.booleans() | numbers | st.text(),
    lambda x: st.lists(x, max_size=4) | st.dictionaries(st.text(), x, max_size=4),
    max_leaves=8,
)


def mostly(good: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """One in ten is anything."""
    return st.integers(0, 9).flatmap(lambda n: good if n else anything)


times = mostly(st.integers(0, 300) | st.floats(-20, 20))
prompts = st.fixed_dictionaries({"at": times, "text": mostly(st.text())})
keyframes = st.fixed_dictionaries(
    {"at": times, "image": mostly(st.text())}, optional={"strength": mostly(st.floats(0, 1))}
)
in_order = st.lists(prompts, max_size=2).map(lambda more: [FIRST, *sorted(more, key=lambda p: str(p["at"]))])
timelines = st.fixed_dictionaries(
    {"prompts": mostly(in_order)},
    optional={
        "unit": mostly(st.sampled_from(["seconds", "frames"])),
        "negative": mostly(st.text()),
        "keyframes": mostly(st.lists(keyframes, max_size=3)),
    },
)


def check(text: str, frames: int) -> None:
    """Either refused by name or sound."""
    try:
        story = read_timeline(text, 24.0, frames)
    except InputError as error:
        message = str(error)
    else:
        assert story.prompts[0].frame == 0
        assert all(one.frame < other.frame < frames for one, other in pairwise(story.prompts))
        assert all(abs(picture.frame) <= 24 * MOST for picture in story.pictures)
        json.dumps([story.negative, *(p.text for p in story.prompts)], ensure_ascii=False).encode()
        message = "timeline = sound"
    assert message.startswith("timeline = ")


@given(data=timelines | anything, frames=st.integers(1, 10_000))
@properly
def test_any_json(data: Any, frames: int) -> None:
    check(json.dumps(data), frames)


@given(st.text() | st.text('{}[]",:0123456789.-eE truefalsn\\u'))
@example('{"prompts": [{"at": 0, "text": "\\ud83d"}]}')
@properly
def test_any_text(text: str) -> None:
    check(text, 100)


@given(st.lists(st.integers(1, 240), unique=True, max_size=8), st.sampled_from([1.0, 12.0, 24.0, 29.97, 240.0]))
@properly
def test_seconds_and_frames_say_the_same(places: list[int], fps: float) -> None:
    """Every frame can be told in seconds."""
    entries = [(0, "a"), *((place, str(place)) for place in sorted(places))]
    story = read({"prompts": [{"at": at / fps, "text": text} for at, text in entries]}, fps)
    assert story == read({"unit": "frames", "prompts": [{"at": at, "text": text} for at, text in entries]})


# ---------------------------------------------------------------- jobs

INPUTS = {"seed": 1, "prompt 1": [0, "一只猫"], "steps": 20}


@pytest.fixture
def job(tmp_path: Path) -> Job:
    fresh = Job(tmp_path / f"long{ENDING}")
    fresh.begin(INPUTS)
    return fresh


def latents(seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_windows_come_back_as_they_were(job: Job, dtype: torch.dtype) -> None:
    for number in (0, 12345):
        assert job.read(number) is None
        job.write(number, latents(number, dtype).transpose(3, 4)[:, :, 1:])
    for number in (0, 12345):
        stored = job.read(number)
        assert stored is not None
        assert stored.dtype == dtype
        assert torch.equal(stored, latents(number, dtype).transpose(3, 4)[:, :, 1:])
    assert [job.has(n) for n in (0, 1, 12345)] == [True, False, True]


def test_it_goes_on_with_the_same_inputs(job: Job) -> None:
    job.write(0, latents())
    job.begin({**INPUTS, "prompt 1": (0, "一只猫")})  # what JSON makes no difference of
    assert job.has(0)


@pytest.mark.parametrize(
    ("inputs", "changes"),
    [
        ({**INPUTS, "seed": 2}, "seed 1 -> 2"),
        ({**INPUTS, "seed": 2, "steps": 5}, "seed 1 -> 2, steps 20 -> 5"),
        ({"seed": 1, "steps": 20}, "prompt 1"),
        ({**INPUTS, "prompt 2": [9, "b"]}, "prompt 2"),
    ],
)
def test_it_tells_what_differs(job: Job, inputs: dict[str, Any], changes: str) -> None:
    job.write(0, latents())
    with refuses(InputError, "job_other_inputs", "job_rule", folder=f"long{ENDING}", changes=changes):
        job.begin(inputs)
    assert job.has(0), "nothing is lost by asking"
    job.begin(inputs, anew=True)
    assert not job.has(0)
    job.begin(inputs)


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff\xfe", b"[1]", b"5"])
def test_windows_without_their_inputs_are_not_used(job: Job, content: bytes | None) -> None:
    path = job.folder / "inputs.json"
    path.write_bytes(content) if content is not None else path.unlink()
    job.begin(INPUTS)  # there are no windows yet
    job.write(0, latents())
    path.write_bytes(content) if content is not None else path.unlink()
    with refuses(InputError, "job_lost_inputs", folder="long.unfinished"):
        job.begin(INPUTS)
    assert job.has(0)
    job.begin(INPUTS, anew=True)
    assert not job.has(0)


def test_dropped(job: Job) -> None:
    job.write(0, latents())
    job.drop()
    assert not job.folder.exists()
    job.drop()


# ---------------------------------------------------------------- damaged files


def damaged(job: Job, content: bytes) -> bool:
    """Whether a window file of this content is told apart, and removed; if not, it must hold what was written."""
    file = job.folder / "window_0000.safetensors"
    file.write_bytes(content)
    stored = job.read(0)
    assert file.exists() == (stored is not None)
    assert stored is None or (stored.dtype == torch.float32 and torch.equal(stored, latents())), (
        "other latents came back"
    )
    return stored is None


def whole(job: Job) -> bytes:
    job.write(0, latents())
    return (job.folder / "window_0000.safetensors").read_bytes()


@pytest.mark.parametrize("mask", [1, 0x20, 0x80, 0xFF])
def test_every_byte_counts(job: Job, mask: int) -> None:
    content = whole(job)
    for at in range(len(content)):
        flipped = bytearray(content)
        flipped[at] ^= mask
        assert damaged(job, bytes(flipped)), f"byte {at} of {len(content)}"


def test_every_length_counts(job: Job) -> None:
    content = whole(job)
    assert all(damaged(job, content[:n]) for n in range(len(content)))
    assert damaged(job, content + b"\0")
    assert not damaged(job, content)


@pytest.mark.parametrize("content", [b"", b"\0" * 64, b"PK\x03\x04 a zip", b"\xff" * 4096])
def test_foreign_files(job: Job, content: bytes) -> None:
    assert damaged(job, content)
    assert not job.has(0)


@pytest.mark.parametrize(
    ("tensors", "metadata"),
    [
        ({"latents": latents()}, None),
        ({"latents": latents()}, {"digest": "0"}),
        ({"other": latents()}, {"digest": "0"}),
        ({}, {"digest": "unreadable"}),
    ],
)
def test_foreign_safetensors(job: Job, tensors: dict[str, Tensor], metadata: dict[str, str] | None) -> None:
    save_file(tensors, job.folder / "window_0000.safetensors", metadata)
    assert job.read(0) is None
    assert not job.has(0)


def test_shapes_and_types_count() -> None:
    """Files whose bytes are alike and whose shape or type is not."""
    for other in (latents().view(1, 3, 2, 2, 2), latents().view(torch.int32)):
        assert fingerprint(other) != fingerprint(latents())


# ---------------------------------------------------------------- whole or not at all


@contextmanager
def full_disk(room: int) -> Iterator[None]:
    """No file may grow beyond `room` bytes meanwhile, as on a disk that is full."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_leaves_what_was_there(job: Job) -> None:
    job.write(0, latents())
    big = torch.zeros(1, 16, 64, 64, 64)
    with full_disk(2**20), pytest.raises(OSError, match="too large"):
        job.write(0, big)
    with full_disk(2**20), pytest.raises(OSError, match="too large"):
        job.write(1, big)
    assert sorted(p.name for p in job.folder.iterdir()) == ["inputs.json", LOCK, "window_0000.safetensors"]
    stored = Job(job.folder.with_name("a copy of what another host would see"))
    job.folder.rename(stored.folder)
    assert torch.equal(kept(stored, 0), latents())
    stored.folder.rename(job.folder)
    assert torch.equal(kept(job, 1), big), "the window that was not written is lost"
    job.begin(INPUTS)
    assert torch.equal(kept(Job(job.folder), 1), big)


def test_no_parts_are_left(job: Job) -> None:
    job.write(0, latents(1))
    job.write(0, latents())
    (job.folder / "window_0001.safetensors").mkdir()
    with pytest.raises(OSError, match="Window 2 "):
        job.write(1, latents())
    assert sorted(p.name for p in job.folder.iterdir()) == [
        "inputs.json",
        LOCK,
        "window_0000.safetensors",
        "window_0001.safetensors",
    ]
    stored = job.read(0)
    assert stored is not None
    assert torch.equal(stored, latents())


def test_a_job_keeps_the_tiles_that_it_was_begun_with(tmp_path: Path) -> None:
    job = Job(tmp_path / "film.unfinished")
    job.begin(INPUTS)
    assert job.settled(Tiling(16, True)) == Tiling(16, True)
    job.write(0, torch.zeros(1, 2, 3))
    job.begin(INPUTS)
    assert job.settled(Tiling()) == Tiling(16, True)
    job.begin(INPUTS, anew=True)  # the same inputs: nothing is thrown away
    assert job.settled(Tiling()) == Tiling(16, True)
    job.begin({**INPUTS, "seed": 9}, anew=True)
    assert job.settled(Tiling()) == Tiling()
