"""Windows of a long video that others sample: the same frames, all at once where none waits for another."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.request import Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.denoise import sample
from reelwire.samplers.long.fingerprint import render_fingerprint
from reelwire.samplers.long.job import Job
from reelwire.samplers.long.plan import LongPlan, LongVideoOptions, plan_long
from reelwire.samplers.long.render import Callbacks, render
from reelwire.samplers.long.spread import Spread, spread_note
from reelwire.samplers.long.timeline import Timeline, read_timeline
from reelwire.samplers.parallel import jobs
from reelwire.samplers.parallel.crew import Ticket
from reelwire.samplers.parallel.worker import Done, Look
from reelwire.tests.support.engine.models import PROMPT, frames, open_plain
from torch import Tensor

PLAIN = LongVideoOptions()
STORY = read_timeline(json.dumps({"unit": "frames", "prompts": [{"at": 0, "text": PROMPT}]}), 24.0, 10**6)


class Beside:
    """One worker, played by a thread with a model of its own."""

    def __init__(self, model: VideoModel) -> None:
        self.model, self.pool = model, ThreadPoolExecutor(1)
        self.sent, self.taken = list[int](), list[int]()  # how many were taken when one was sent, and done

    def submit(self, _: VideoModel, conditioning: Any, plan: Any) -> jobs.Job:
        self.sent.append(len(self.taken))
        ticket = Ticket(None, seen=Look(2, 2))
        work = lambda: Done(sample(self.model, conditioning, plan), None, (), 0.0, 0, "beside (1)")
        ticket.future = self.pool.submit(work)
        return jobs.Job(ticket)

    def done(self, done: Done) -> None:
        self.taken.append(len(self.sent))

    def spread(self, looks: list[tuple[int, int]]) -> Spread:
        return Spread(self.submit, lambda done, total, *_: looks.append((done, total)), self.done)


def film(model: VideoModel, whole: LongPlan, folder: Path, story: Timeline, spread: Spread | None = None) -> Tensor:
    with closing(Job(folder)) as job:
        job.begin(render_fingerprint(model, story, whole, PLAIN))
        return torch.cat(list(render(model, story, whole, PLAIN, job, None, Callbacks(), spread=spread)))


CASES = {  # tiny model -> (keyframes, counted in windows; what is said)
    "tiny-ltx-0.9.5": ((), "long_in_turn"),
    "tiny-wan2.2-i2v-a14b": ((0, 1, 2), "long_parallel"),
    "tiny-wan2.1-flf2v": ((0, 1, 2, 3), "long_parallel"),
    "tiny-cogvideox-5b-i2v": ((0,), "long_in_turn"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_same_frames(tiny_models: Path, tmp_path: Path, name: str) -> None:
    places, note = CASES[name]
    model = open_plain(tiny_models, name)
    own = model.facts.presets["default"]["frames"] - 1
    keyframes = tuple(Keyframe(frames(1, at), at * own) for at in places)
    count = 3 * own + 1
    whole = plan_long(model, STORY, Request(steps=2, seed=3, frames=count, keyframes=keyframes), PLAIN)
    assert len(whole.windows) > 1
    assert spread_note(whole).key == note
    beside, looks = Beside(open_plain(tiny_models, name)), list[tuple[int, int]]()
    spread = beside.spread(looks)
    made = film(model, whole, tmp_path / "spread", STORY, spread)
    assert torch.equal(made, film(open_plain(tiny_models, name), whole, tmp_path / "here", STORY))
    assert len(beside.sent) == len(beside.taken) == len(whole.windows)
    if note == "long_parallel":
        assert beside.sent[: len(places) - 1] == [0] * (len(places) - 1), "all were sent before one was taken"
    else:
        assert beside.sent == list(range(len(whole.windows))), "each waits for the one before"
    assert all(done <= total for done, total in looks)


def test_one_that_fails_ends_the_render_and_keeps_the_others(tiny_models: Path, tmp_path: Path) -> None:
    name = "tiny-wan2.1-flf2v"
    model = open_plain(tiny_models, name)
    own = model.facts.presets["default"]["frames"] - 1
    keyframes = tuple(Keyframe(frames(1, at), at * own) for at in range(4))
    whole = plan_long(model, STORY, Request(steps=2, seed=3, frames=3 * own + 1, keyframes=keyframes), PLAIN)
    beside = Beside(open_plain(tiny_models, name))
    plain_submit = beside.submit

    def submit(_: VideoModel, conditioning: Any, plan: Any) -> jobs.Job:
        job = plain_submit(_, conditioning, plan)
        if len(beside.sent) == 2:
            job.ticket.future = beside.pool.submit(fail)
        return job

    def fail() -> None:
        raise RuntimeError("no room")

    spread = Spread(submit, lambda *_: None, beside.done)
    with pytest.raises(RuntimeError, match="no room"):
        film(model, whole, tmp_path / "job", STORY, spread)
    beside.pool.shutdown()
    assert Job(tmp_path / "job").has_written(0)


def test_context_windows_are_told() -> None:
    """One sampling: nothing to spread."""
    whole = LongPlan((), None, Request(), "context_windows", None, ())  # type: ignore[arg-type]
    assert spread_note(whole).key == "long_here"
