"""Long videos that end where they began: by a picture, by a last window that is led back, or as a circle in time."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.long.fingerprint import render_fingerprint
from reelwire.samplers.long.job import Job
from reelwire.samplers.long.plan import LongPlan, LongVideoOptions, plan_long
from reelwire.samplers.long.render import Callbacks, render
from reelwire.samplers.long.timeline import Timeline, read_timeline
from reelwire.samplers.loop import Seam
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import frames, open_ltx, open_model
from reelwire.tests.support.engine.sampling import sample
from torch import Tensor

# tiny model -> how it closes without pictures and with one at frame 0; None: it is refused
WAYS: dict[str, tuple[str | None, str | None]] = {
    "tiny-hunyuan-t2v": ("turns", None),
    "tiny-hunyuan-i2v-concat": (None, None),
    "tiny-wan2.1-t2v": ("turns", None),
    "tiny-wan2.1-i2v": (None, None),
    "tiny-wan2.1-vace": ("leads back", "picture"),
    "tiny-wan2.2-i2v-a14b": (None, "picture"),
    "tiny-wan2.2-ti2v-5b": (None, None),
    "tiny-cogvideox-2b": ("turns", None),
    "tiny-cogvideox1.5-5b": (None, None),
    "tiny-mochi": ("turns", None),
    "tiny-ltx-0.9.5": ("leads back", "picture"),
    "tiny-svd": (None, None),
}


def story(at: dict[int, str]) -> Timeline:
    prompts = [{"at": frame, "text": text} for frame, text in at.items()]
    return read_timeline(json.dumps({"unit": "frames", "prompts": prompts}), 24.0, 10**6)


ONE = story({0: "a red circle moves right on black"})


def planned(
    model: VideoModel, count: int, window: int, overlap: int = 0, at: Timeline = ONE, loop: bool = True, **asked: Any
) -> LongPlan:
    request = Request(**{"width": 64, "height": 64, "frames": count, "steps": 4, "seed": 3, "loop": loop, **asked})
    return plan_long(model, at, request, LongVideoOptions(window, overlap))


def rendered(
    model: VideoModel, whole: LongPlan, folder: Path, at: Timeline = ONE, stop_at: int = 0
) -> tuple[Tensor, list[Tensor]]:
    """(all frames, the latents of each window). stop_at: raises KeyboardInterrupt at this step."""

    def step(done: int, total: int, run: Any) -> None:
        if done == stop_at:
            raise KeyboardInterrupt

    options = LongVideoOptions(whole.spans.length, whole.spans.overlap)
    with closing(Job(folder / "job")) as job:
        job.begin(render_fingerprint(model, at, whole, options))
        pieces = list(render(model, at, whole, options, job, None, Callbacks(step)))
        latents = [job.read(number) for number in range(len(whole.windows))]
    return torch.cat(pieces), [each for each in latents if each is not None]


def spans_of(model: VideoModel) -> tuple[int, int]:
    """(frames of three windows, of one)."""
    own = model.facts.presets["default"]["frames"]
    return 3 * (own - 1) + 1, own


@pytest.mark.parametrize("name", WAYS)
def test_each_model_closes_it_or_says_why_not(tiny_models: Path, name: str) -> None:
    model = open_model(tiny_models, name)
    for way, keyframes in zip(WAYS[name], ((), (Keyframe(frames(1), 0),)), strict=True):
        if way is None:
            with pytest.raises(InputError) as refused:
                planned(model, *spans_of(model), keyframes=keyframes)
            assert refused.value.name in ("loop", "window"), refused.value  # a window that lacks its first picture
            continue
        whole = planned(model, *spans_of(model), keyframes=keyframes)
        last = [k for k in whole.request.keyframes if k.frame == whole.request.frames - 1]
        assert (whole.turns, whole.leads_back, bool(last)) == (way == "turns", way == "leads back", way == "picture")


@pytest.mark.parametrize("name", ["tiny-wan2.1-t2v", "tiny-wan2.1-vace", "tiny-ltx-0.9.5"])
def test_it_changes_what_closes_it_alone_and_goes_on_after_a_stop(tiny_models: Path, tmp_path: Path, name: str) -> None:
    """One model of each mode: no window but the last is another one, and after a stop in it the bytes are the same."""
    model = open_model(tiny_models, name)
    plain, loop = (planned(model, *spans_of(model), loop=on) for on in (False, True))
    without, windows = (rendered(model, whole, tmp_path / str(whole.request.loop))[1] for whole in (plain, loop))
    assert [torch.equal(a, b) for a, b in zip(without, windows, strict=True)] == [True] * (len(windows) - 1) + [False]
    assert all(torch.isfinite(latents).all() for latents in windows)
    video = rendered(model, loop, tmp_path / "True")[0]
    with pytest.raises(KeyboardInterrupt):
        rendered(model, loop, tmp_path / "again", stop_at=4 * len(windows) - 1)
    assert torch.equal(rendered(model, loop, tmp_path / "again")[0], video)


def test_a_video_of_one_window_is_the_samplers(tmp_path: Path) -> None:
    model = open_ltx(BUNDLED)
    for number, keyframes in enumerate(((), (Keyframe(frames(1), 0),))):
        request = Request(64, 64, 17, 4, seed=3, loop=True, keyframes=keyframes)
        latents = sample(model, model.encode(ONE.prompts[0].text, ""), request)
        whole = planned(model, 17, 17, keyframes=keyframes)
        assert torch.equal(rendered(model, whole, tmp_path / str(number))[1][0], latents)
        assert torch.equal(
            rendered(model, whole, tmp_path / str(number))[0], torch.cat([*stream_frames(model, latents, 3)])
        )


def test_the_trained_model_closes_its_loop(tmp_path: Path) -> None:
    """What moves to the right alone comes back too, as far as it can."""
    model = open_ltx(BUNDLED)
    seams = []
    for loop in (False, True):
        watching, whole = Seam(), planned(model, 49, 25, 9, steps=6, loop=loop)
        watching.watch(rendered(model, whole, tmp_path / str(loop))[0])
        seams.append(watching.ratio)
    assert seams[1] < 0.7 * seams[0]


def test_older_renders_know_nothing_of_it() -> None:
    model, options = open_ltx(BUNDLED), LongVideoOptions(17)
    known = [render_fingerprint(model, ONE, planned(model, 33, 17, loop=on), options) for on in (False, True)]
    assert "loop" not in known[0]
    assert known[1].keys() - known[0].keys() == {"loop"}


PICTURE = frames(1)
BAD: dict[str, tuple[str, dict[str, Any]]] = {
    "a picture at the last frame": ("loop", {"keyframes": (Keyframe(PICTURE, 0), Keyframe(PICTURE, -1))}),
    "a picture at the last frame alone": ("loop", {"keyframes": (Keyframe(PICTURE, -1),)}),
    "a clip that ends it": ("loop", {"keyframes": (Keyframe(PICTURE, 0), Keyframe(frames(9), 24))}),
    "a clip that goes on": ("loop", {"clip": frames(9)}),
    "one window with a picture in its middle": ("loop", {"frames": 17, "keyframes": (Keyframe(PICTURE, 8),)}),
}


@pytest.mark.parametrize("case", BAD)
def test_what_contradicts_it_is_refused(case: str) -> None:
    name, asked = BAD[case]
    with pytest.raises(InputError) as refused:
        planned(open_ltx(BUNDLED), asked.pop("frames", 33), 17, **asked)
    assert refused.value.name == name


def test_pictures_in_between_leave_it_to_the_last_window() -> None:
    whole = planned(open_ltx(BUNDLED), 33, 17, keyframes=(Keyframe(PICTURE, 16),))
    assert whole.leads_back
    assert len(whole.request.keyframes) == 1


def test_a_cache_counts_where_windows_hand_over_latents() -> None:
    """One that compares steps at the same place is refused where the video is turned."""
    model = replace(open_ltx(BUNDLED), cache=TeaCache())
    assert planned(model, 33, 17).leads_back
    with pytest.raises(InputError) as refused:
        planned(model, 17, 17)
    assert refused.value.name == "loop"
