"""What is said of a source, a mask and a clip: how long they last, at whose rate, and how they are cut or scaled."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from reelwire.loaders.messages import Message
from reelwire.loaders.request import Keyframe, Request
from reelwire.samplers.long.plan import LongVideoOptions, plan_long
from reelwire.samplers.long.timeline import read_timeline
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import PROMPT, frames, open_ltx
from reelwire.tests.support.engine.words import worded

STORY = read_timeline(f'{{"prompts": [{{"at": 0, "text": "{PROMPT}"}}]}}', 24.0, 10**6)
LONG = LongVideoOptions()


def said(long: bool, **inputs: Any) -> dict[str, Message]:
    """Key -> what is said of a request."""
    model, request = open_ltx(BUNDLED), Request(**{"steps": 2, "guidance": 1.0, **inputs})
    result = plan_long(model, STORY, request, LONG) if long else plan(model, request)
    return {note.key: note for note in result.notes if isinstance(note, Message)}


def parts(message: Any) -> list[Message]:
    """The messages that a message is made of, itself first."""
    return [message, *(p for v in message.values.values() if isinstance(v, Message) for p in parts(v))]


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize("fps", [0.0, 12.0, 30.0])
@pytest.mark.parametrize("as_long", [False, True])
def test_what_is_left_out_is_told_at_the_videos_rate(long: bool, fps: float, as_long: bool) -> None:
    size = {"as_long": True} if as_long else {"frames": 25}
    note = said(long, source=frames(60), strength=0.5, fps=fps, **size)["frames_left_out"]
    lasting = {part.key: part for part in parts(note)}
    rate = lasting["lasting_rated" if fps else "lasting"]
    used = note.values["used"]
    assert (used, note.values["left"]) == ((57, 3) if as_long else (25, 35))
    assert float(rate.values["fps"]) == (fps or 25)
    assert float(rate.values["seconds"]) == pytest.approx(int(used) / (fps or 25), rel=5e-3)
    assert ("raise_frames" in lasting) == (not as_long)


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(("fps", "noted"), [(0.0, True), (30.0, False)])
def test_frames_that_are_all_used_say_no_rate(long: bool, fps: float, noted: bool) -> None:
    assert ("source_unrated" in said(long, source=frames(33), frames=33, strength=0.5, fps=fps)) == noted


def wide(count: int) -> torch.Tensor:
    return torch.rand(count, 48, 128, 3, generator=torch.Generator().manual_seed(1))


LARGE = torch.rand(33, 128, 128, 3, generator=torch.Generator().manual_seed(1))
MASK = torch.zeros(1, 48, 128)
MASK[..., 50:70] = 1
FITS: list[tuple[dict[str, Any], dict[str, list[str]]]] = [
    ({"source": wide(33), "strength": 0.5}, {"picture_cut": ["the_source"]}),
    ({"source": LARGE, "strength": 0.5}, {"frames_scaled": ["the_source"]}),
    ({"source": frames(33), "strength": 0.5}, {}),
    ({"source": frames(33), "mask": MASK}, {"picture_cut": ["the_mask"]}),
    ({"source": wide(33), "mask": MASK}, {"picture_cut": ["the_source"]}),
    ({"source": LARGE, "mask": torch.ones(1, 16, 16) * MASK[:, :16, 50:66]}, {"frames_scaled": ["the_source"]}),
    ({"clip": wide(30)}, {"picture_cut": ["the_clip"]}),
    ({"clip": LARGE}, {"frames_scaled": ["the_clip"]}),
    ({"clip": frames(30)}, {}),
    ({"clip": wide(30), "keyframes": (Keyframe(wide(1), -1),)}, {"picture_cut": ["keyframe_name", "the_clip"]}),
]


@pytest.mark.parametrize("long", [False, True])
@pytest.mark.parametrize(("inputs", "expected"), FITS)
def test_each_is_told_once_how_it_is_cut_or_scaled(
    long: bool, inputs: dict[str, Any], expected: dict[str, list[str]]
) -> None:
    model, request = open_ltx(BUNDLED), Request(64, 64, frames=33, steps=2, guidance=1.0, fps=25.0, **inputs)
    result = plan_long(model, STORY, request, LONG) if long else plan(model, request)
    names: dict[str, list[str]] = {}
    for note in result.notes:
        if getattr(note, "key", "") in ("picture_cut", "frames_scaled"):
            names.setdefault(worded(note).key, []).append(worded(worded(note).values["name"]).key)
    assert {key: sorted(each) for key, each in names.items()} == expected


@pytest.mark.parametrize("long", [False, True])
def test_a_size_that_came_of_a_clip_is_told(long: bool) -> None:
    clip = torch.rand(30, 52, 130, 3)
    assert said(long, clip=clip, frames=33)["goes_on"].values["size"] == "128x48"
    assert said(long, clip=clip, frames=33, width=64, height=64)["goes_on"].values["size"] == "64x64"
