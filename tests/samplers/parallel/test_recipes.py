"""A recipe builds the same model in another process, with all that was set on it: the same latents, bit for bit."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.families import load
from reelwire.loaders.messages import CheckpointError, InputError
from reelwire.loaders.parts import PlainMemory
from reelwire.loaders.request import Decoding, Guidance, Parallel, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.denoise import sample
from reelwire.samplers.parallel.marks import marks_of, other_files
from reelwire.samplers.parallel.versions import differences, versions
from reelwire.samplers.parallel.worker import Done, Failed, Greeting, Work, failed
from reelwire.samplers.plan import plan
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.models import FIRST, MODELS, PROMPT, every, needed, open_plain
from reelwire.tests.support.parallel.process import ProcessWorker, process_worker

pytestmark = pytest.mark.filterwarnings("ignore:In CPU autocast")  # diffusers' Mochi asks for one everywhere


@pytest.fixture(scope="module")
def worker() -> Iterator[ProcessWorker]:
    with process_worker() as process:
        name, wrong = process.call("hello", Greeting(versions(), torch.get_num_threads()))
        assert name
        assert wrong == []
        yield process


def both(worker: ProcessWorker, model: VideoModel, **changes: Any) -> tuple[torch.Tensor, Done | Failed]:
    """(latents made here, what comes of the same elsewhere)."""
    inputs = {**needed(model), "seed": 3, "steps": 4, **changes}
    conditioning = model.encode(PROMPT, "a cat", inputs["keyframes"])
    planned = plan(model, Request(**inputs))
    recipe = model.whole_recipe()
    return sample(model, conditioning, planned), worker.call(
        "work", Work(recipe, marks_of(recipe), conditioning, planned)
    )


def same(worker: ProcessWorker, model: VideoModel, **changes: Any) -> Done:
    here, there = both(worker, model, **changes)
    assert isinstance(there, Done), there
    assert torch.equal(here, there.latents)
    return there


@every
def test_every_model(tiny_models: Path, worker: ProcessWorker, name: str) -> None:
    same(worker, open_plain(tiny_models, name))


Change = Callable[[VideoModel], VideoModel]
CHANGES: dict[str, Change] = {
    "guidance": lambda m: replace(m, guidance=Guidance("apg", end=0.7, eta=0.5, momentum=-0.5)),
    "cache": lambda m: replace(m, cache=FORA(interval=2)),
    "signal cache": lambda m: replace(m, cache=TeaCache(threshold=0.2)),
    "speed": lambda m: replace(m, speed=Speed(attention="native")),
    "presets": lambda m: replace(
        m, facts=replace(m.facts, presets={"default": {**m.facts.presets["default"], "steps": 3}})
    ),
    "storage": lambda m: load(replace(m.recipe, storage="int8"), PlainMemory()),
    "decoding": lambda m: replace(m, decoding=Decoding(timestep=0.1)),
    "parallel": lambda m: replace(m, parallel=Parallel("10.0.0.5:6379", 3)),
}
LTX, WAN, SVD = FIRST["ltx"], FIRST["wan"], FIRST["svd"]


@pytest.mark.parametrize("name", [LTX, WAN])
@pytest.mark.parametrize("change", CHANGES)
def test_every_option(tiny_models: Path, worker: ProcessWorker, name: str, change: str) -> None:
    model = CHANGES[change](open_plain(tiny_models, name))
    done = same(worker, model, steps=0 if change == "presets" else 12)
    assert (done.cache is not None) == ("cache" in change)


def test_motion(tiny_models: Path, worker: ProcessWorker) -> None:
    plain = open_plain(tiny_models, SVD)
    fast = replace(plain, options={"motion_bucket": 200, "fps": 9, "noise_augmentation": 0.3})
    assert not torch.equal(same(worker, plain).latents, same(worker, fast).latents)


def test_a_recipe_travels_whole(tiny_models: Path) -> None:
    """Every field that a node can set comes back but for where the work is done, which is nobody's in a worker."""
    model = CHANGES["guidance"](open_plain(tiny_models, LTX))
    model = replace(model, cache=FORA(interval=3), speed=Speed(), parallel=Parallel(), options={"a": 1})
    again = load(pickle.loads(pickle.dumps(model.whole_recipe())), PlainMemory())
    for each in fields(model):
        if each.name not in ("parts", "memory", "parallel", "node"):
            assert getattr(again, each.name) == getattr(model, each.name), each.name
    assert again.parallel is None
    assert again.recipe == model.recipe
    assert {*MODELS.values()} == {*FIRST}


# ---------------------------------------------------------------- what is not the same there


def test_files_are_compared(tiny_models: Path, tmp_path: Path) -> None:
    """By size, header and samples of the weights: another file of the same size and header is told."""
    folder = tmp_path / "model"
    folder.mkdir()
    file = folder / "weights.safetensors"
    file.write_bytes(bytes(300_000))
    (folder / "notes.md").write_text("of no use")
    recipe = replace(open_plain(tiny_models, LTX).whole_recipe(), files={"checkpoint": folder})
    marks = marks_of(recipe)
    assert [*marks] == [str(file)]
    assert other_files(marks) == []
    file.write_bytes(bytes(150_000) + b"x" + bytes(149_999))
    assert [words.key for words in other_files(marks)] == ["worker_file_differs"]  # type: ignore[attr-defined]
    file.unlink()
    assert [words.key for words in other_files(marks)] == ["worker_file_missing"]  # type: ignore[attr-defined]


def test_a_worker_refuses_other_files_before_it_reads_any(tiny_models: Path, worker: ProcessWorker) -> None:
    model = open_plain(tiny_models, LTX)
    conditioning, planned = model.encode(PROMPT, ""), plan(model, Request(steps=2))
    marks = {**marks_of(model.whole_recipe()), "/nowhere/lora.safetensors": "12 abc"}
    answer = worker.call("work", Work(model.whole_recipe(), marks, conditioning, planned))
    assert isinstance(answer, Failed)
    with pytest.raises(CheckpointError, match=r"lora\.safetensors"):
        raise answer.error()


def test_other_versions_are_told() -> None:
    asked = versions()
    assert differences(asked) == []
    (words,) = differences({**asked, "torch": "1.0"})
    assert "torch" in words
    assert "1.0" in words


@pytest.mark.parametrize(
    "error",
    [
        InputError("steps", 0, "One at least.", "Use 1."),
        CheckpointError("Damaged.", "Download it again."),
        MemoryError(),
    ],
)
def test_errors_travel_with_all_that_they_say(error: Exception) -> None:
    if isinstance(error, InputError):
        error.node = ("ReelwireSampler", "3")
    again = pickle.loads(pickle.dumps(failed(error))).error()
    assert type(again) is type(error) or isinstance(error, MemoryError)
    assert str(again) == str(error) or isinstance(error, MemoryError)
    assert getattr(again, "node", None) == getattr(error, "node", None)


def test_a_models_own_error_comes_back(tiny_models: Path, worker: ProcessWorker) -> None:
    model = open_plain(tiny_models, LTX)
    conditioning, planned = model.encode(PROMPT, ""), plan(model, Request(steps=2))
    recipe = model.whole_recipe()
    wrong = replace(conditioning, width=conditioning.width + 1)
    answer = worker.call("work", Work(recipe, marks_of(recipe), wrong, planned))
    assert isinstance(answer, Failed)
    error = answer.error()
    assert isinstance(error, InputError)
    assert error.name == "conditioning"
