"""Jobs of all families over two workers of a real Ray, some of which are killed: the same bytes as here."""

from __future__ import annotations

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Parallel, Request
from reelwire.samplers.denoise import sample
from reelwire.samplers.parallel import jobs
from reelwire.samplers.parallel.crew import FRESH
from reelwire.samplers.plan import plan
from reelwire.tests.support.engine.models import FIRST, PROMPT, needed, open_plain
from reelwire.tests.support.parallel.bomb import Bomb

pytestmark = [
    pytest.mark.filterwarnings("ignore:In CPU autocast"),  # diffusers' Mochi asks for one everywhere
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # Ray's own sockets and processes
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
HERE = Parallel("", 2)
SECONDS = 10.0  # in which a death is noticed


@pytest.fixture(scope="module")
def ray_crew() -> Iterator[Any]:
    yield jobs.crew(HERE)
    jobs.close_all()


def asked(folder: Path, name: str, **changes: Any) -> tuple[Any, ...]:
    """(model, conditioning, plan) of a small run, by two workers."""
    model = open_plain(folder, name)
    inputs = {**needed(model), "seed": 3, "steps": 4, **changes}
    conditioning = model.encode(PROMPT, "a cat", inputs["keyframes"])
    return replace(model, parallel=HERE), conditioning, plan(model, Request(**inputs))


def done(job: jobs.Job) -> jobs.Done:
    return jobs.wait(job, lambda _: None, lambda: time.sleep(0.02))


def test_all_families(ray_crew: Any, tiny_models: Path) -> None:
    """Both workers have some of them, and each result is that of this process."""
    runs = [asked(tiny_models, name, seed=seed) for name in FIRST.values() for seed in (1, 2)]
    under_way = [jobs.submit(*run) for run in runs]
    expected = [sample(*run) for run in runs]
    results = [done(job) for job in under_way]
    for run, result, wanted in zip(runs, results, expected, strict=True):
        assert torch.equal(result.latents, wanted), run[0].name
        assert result.peak > 0
    assert len({result.machine for result in results}) == 2


def pid(machine: str) -> int:
    found = re.search(r"\((\d+)\)", machine)
    assert found is not None
    return int(found[1])


def test_killed_by_the_system(ray_crew: Any, tiny_models: Path) -> None:
    """SIGKILL while it samples: noticed in seconds, done elsewhere with the same bytes, and told."""
    run = asked(tiny_models, FIRST["ltx"], steps=400)  # so that there is time for a look at it
    expected = sample(*run)
    job = jobs.submit(*run)
    while job.look.done < 1 and not job.is_done:
        time.sleep(0.01)
    os.kill(pid(job.ticket.machine), signal.SIGKILL)
    killed = time.monotonic()
    while not job.ticket.losses and not job.is_done:
        time.sleep(0.01)
    assert job.ticket.tries == 1
    assert time.monotonic() - killed < SECONDS
    assert torch.equal(done(job).latents, expected)
    assert job.ticket.losses[0].key == "worker_lost"


def test_killed_while_it_has_nothing_to_do(ray_crew: Any, tiny_models: Path) -> None:
    """The next job has lost nothing, and costs nobody a try."""
    run = asked(tiny_models, FIRST["ltx"])
    idle = {pid(done(job).machine) for job in [jobs.submit(*run) for _ in range(4)]}
    time.sleep(FRESH + 0.5)
    os.kill(idle.pop(), signal.SIGKILL)
    time.sleep(1.0)
    again = [jobs.submit(*run) for _ in range(2)]
    assert all(torch.equal(done(job).latents, sample(*run)) for job in again)
    assert [(job.ticket.tries, job.ticket.losses) for job in again] == [(0, []), (0, [])]


def test_ended_from_within(ray_crew: Any, tiny_models: Path, tmp_path: Path) -> None:
    """os._exit at some moment of the run."""
    model, conditioning, planned = asked(tiny_models, FIRST["wan"], steps=30)
    expected = sample(model, conditioning, planned)
    bomb: Any = Bomb(str(tmp_path / "spent"), random.Random(4).uniform(0.0, 0.3))
    job = jobs.submit(model, replace(conditioning, notes=(bomb,)), planned)
    assert torch.equal(done(job).latents, expected)
    assert job.ticket.tries == 1
    assert (tmp_path / "spent").exists()


def test_nobody_wants_it(ray_crew: Any, tiny_models: Path) -> None:
    """A run that is interrupted ends on the worker too, which then takes the next."""
    run = asked(tiny_models, FIRST["ltx"], steps=400)
    job = jobs.submit(*run)

    def stop(look: jobs.Look) -> None:
        if look.done > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        jobs.wait(job, stop, lambda: time.sleep(0.02))
    end = time.monotonic() + SECONDS
    while not job.is_done and time.monotonic() < end:
        time.sleep(0.02)
    assert job.ticket.future.cancelled()
    short = asked(tiny_models, FIRST["ltx"])
    assert torch.equal(done(jobs.submit(*short)).latents, sample(*short))


def test_previews_come_along(ray_crew: Any, tiny_models: Path) -> None:
    run, previews = asked(tiny_models, FIRST["ltx"], steps=3000), list[Any]()

    def on_look(look: Any) -> None:
        if look.preview is not None:
            previews.append(look.preview)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        jobs.wait(jobs.submit(*run), on_look, lambda: time.sleep(0.02))
    shape = run[0].facts.latent_shape(run[2].request.width, run[2].request.height, 1)
    assert previews[0].shape == shape
    assert torch.isfinite(previews[0]).all()


def test_more_workers_than_there_are(ray_crew: Any, tiny_models: Path) -> None:
    model, *rest = asked(tiny_models, FIRST["ltx"])
    with pytest.raises(InputError, match="10000") as error:
        done(jobs.submit(replace(model, parallel=Parallel("", 10_000)), *rest))
    assert error.value.name == "workers"


def test_nothing_listens_to_others(ray_crew: Any) -> None:
    """All of Ray's processes on this machine listen on 127.0.0.1."""
    if not sys.platform.startswith("linux"):
        pytest.skip("reads /proc")
    ours = {os.getpid(), *descendants(os.getpid())}
    sockets = set[str]()
    for process in ours:
        for entry in Path(f"/proc/{process}/fd").glob("*"):
            try:
                target = os.readlink(entry)
            except OSError:
                continue
            sockets |= {target[8:-1]} if target.startswith("socket:[") else set()
    lines = [
        line.split() for kind in ("tcp", "tcp6") for line in Path(f"/proc/net/{kind}").read_text().splitlines()[1:]
    ]
    listening = [parts[1].partition(":")[0] for parts in lines if parts[3] == "0A" and parts[9] in sockets]
    assert len(listening) > 3, "Ray's are among them"
    assert {*listening} <= {"0100007F", "0000000000000000FFFF00000100007F"}


def descendants(parent: int) -> list[int]:
    """All processes below one."""
    answer = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in answer.stdout.splitlines()]
    below, waiting = list[int](), [parent]
    while waiting:
        children = [child for child, of in pairs if of == waiting[0]]
        below, waiting = below + children, waiting[1:] + children
    return below
