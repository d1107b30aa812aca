"""What an unfinished render is known by: it goes on with a later version, whose options have more fields."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, make_dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Guidance, Keyframe, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.samplers.caches.policies.external import DiffusersFirstBlock, DiffusersTaylorSeer
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policies.teacache import Fit, TeaCache
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.long.fingerprint import _digest, canonical, render_fingerprint, upgraded
from reelwire.samplers.long.job import Job
from reelwire.samplers.long.plan import LongPlan, LongVideoOptions, plan_long
from reelwire.samplers.long.timeline import Prompt, Timeline
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.components import BUNDLED
from reelwire.tests.support.engine.models import open_ltx as load

TIMELINE, OPTIONS = Timeline((Prompt(0, "a red circle"),)), LongVideoOptions(17, 5)
TEACACHE = TeaCache(threshold=0.2, polynomial=Fit("modulated", (1.0, -0.5), 0.1, ""))


@dataclass(frozen=True)
class Shape:
    size: int
    colour: str = "red"
    node: str = field(default="", repr=False)
    sides: tuple[int, ...] = ()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "None"),
        (0.25, "0.25"),
        ("a", "'a'"),
        (Shape(3), "Shape(size=3)"),
        (Shape(3, node="7"), "Shape(size=3)"),
        (Shape(3, "blue", sides=(1, 2)), "Shape(size=3, colour='blue', sides=(1, 2, ))"),
        (Guidance(), "Guidance()"),
    ],
)
def test_what_is_as_by_default_is_left_out(value: object, text: str) -> None:
    assert canonical(value) == text


def test_a_new_field_with_a_default_changes_nothing() -> None:
    today = make_dataclass("Options", [("scale", float, 1.0)])
    later = make_dataclass("Options", [("scale", float, 1.0), ("hardness", int, 0)])
    assert canonical(today()) == canonical(later())
    assert canonical(today(2.0)) == canonical(later(2.0)) != canonical(later(2.0, 1))


# ---------------------------------------------------------------- renders that were begun before


def planned(model: VideoModel) -> LongPlan:
    return plan_long(model, TIMELINE, Request(frames=29, steps=12, seed=3), OPTIONS)


def begun(folder: Path, model: VideoModel, **written: Any) -> Job:
    """A job with a window, whose inputs an earlier version wrote: every field of every option."""
    whole = planned(model)
    inputs = render_fingerprint(model, TIMELINE, whole, OPTIONS)
    inputs |= {"guidance node": str(model.guidance), "speed": str(model.speed), "cache": str(model.cache)}
    inputs |= {"calibration": _digest(repr(whole.longest.policy)), **written}
    job = Job(folder / "job")
    job.begin({name: value for name, value in inputs.items() if value is not ...})
    job.write(0, torch.zeros(1, 16, 3, 8, 8))
    return job


def go_on(job: Job, model: VideoModel) -> None:
    whole = planned(model)
    inputs = render_fingerprint(model, TIMELINE, whole, OPTIONS)
    job.begin(inputs, upgrade=lambda earlier: upgraded(earlier, model, whole))


CHANGES: dict[str, Callable[[VideoModel], VideoModel]] = {
    "plain": lambda model: model,
    "guidance": lambda model: replace(model, guidance=Guidance("skip-layer", layers=(1, 2))),
    "speed": lambda model: replace(model, speed=Speed(attention="native")),
    "plan": lambda model: replace(model, cache=Plan(speed=2.0)),
    "teacache": lambda model: replace(model, cache=TEACACHE),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_render_of_an_earlier_version_goes_on(tmp_path: Path, change: str) -> None:
    model = CHANGES[change](load(BUNDLED))
    job = begun(tmp_path, model)
    go_on(job, model)
    go_on(job, model)


def test_a_render_from_before_an_option_had_all_its_fields_goes_on(tmp_path: Path) -> None:
    model = load(BUNDLED)
    fewer = str(model.guidance).replace(", threshold=15.0", "")
    assert fewer != str(model.guidance)
    go_on(begun(tmp_path / "a", model, **{"guidance node": fewer}), model)
    go_on(begun(tmp_path / "b", model, hold=...), model)  # an option of long videos that came later
    assert asdict(LongVideoOptions())["hold"] == 1.0


LIBRARY_CACHES = [(DiffusersTaylorSeer(order=1, interval=4), 0.0, 4), (DiffusersFirstBlock(threshold=0.1), 0.1, 5)]


@pytest.mark.parametrize(("policy", "threshold", "interval"), LIBRARY_CACHES)
def test_a_render_from_before_libraries_caches_had_classes_goes_on(
    tmp_path: Path, policy: Policy, threshold: float, interval: int
) -> None:
    common = f"start=0.0, end=1.0, warmup={policy.warmup}, longest={policy.longest}, order={policy.order}"
    own = f"kind={policy.title!r}, threshold={threshold}, interval={interval}, ratios=(), first_blocks=1"
    model = replace(load(BUNDLED), cache=policy)
    job = begun(tmp_path / "a", model, cache=f"External({common}, {own})", calibration="of the old class")
    go_on(job, model)
    other = own.replace(policy.title, "diffusers seacache")
    job = begun(tmp_path / "b", model, cache=f"External({common}, {other})", calibration="of the old class")
    with pytest.raises(InputError, match=r"other inputs: .*cache"):
        go_on(job, model)


@pytest.mark.parametrize(("change", "message"), [("guidance", "guidance node"), ("speed", "speed"), ("plan", "cache")])
def test_other_options_are_still_refused(tmp_path: Path, change: str, message: str) -> None:
    model = load(BUNDLED)
    job = begun(tmp_path, model)
    with pytest.raises(InputError, match=f"other inputs: .*{message}"):
        go_on(job, CHANGES[change](model))
    with pytest.raises(InputError, match=r"other inputs: .*guidance node"):
        go_on(begun(tmp_path / "damaged", model, **{"guidance node": "Guidance(method='apg'"}), model)


# ---------------------------------------------------------------- what a window's sampler would refuse


def test_a_models_own_rule_is_told_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the input that it is about has the name of those that a window may lack."""
    model = load(BUNDLED)

    def refuse(self: VideoModel, request: Request) -> None:
        raise InputError("keyframes", "1", "This model wants none on Sundays")

    monkeypatch.setattr(type(model), "check_pictures", refuse)
    with pytest.raises(InputError, match="on Sundays") as refusal:
        plan_long(model, TIMELINE, Request(frames=29, keyframes=(Keyframe(torch.zeros(1, 8, 8, 3), 0),)), OPTIONS)
    assert refusal.value.name == "keyframes"
