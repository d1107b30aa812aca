"""The one door for images and masks: every door with every type, shape and fault."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from reelwire.loaders.common.door import open_images, open_mask
from reelwire.loaders.messages import InputError
from reelwire.loaders.request import Control, Guidance, Keyframe, Request
from reelwire.samplers.estimate.count import expert_steps
from reelwire.samplers.guidance import check_switch
from reelwire.samplers.plan import plan
from reelwire.samplers.solvers import noise_schedule
from reelwire.tests.support.engine.models import frames, open_model, run, used_by
from reelwire.tests.support.engine.words import worded
from torch import Tensor

TYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.uint8, torch.uint16, torch.bool]
EXACT = {torch.float16: 6e-4, torch.bfloat16: 4e-3, torch.uint8: 3e-3, torch.uint16: 1e-5, torch.bool: 0.6}


def typed(images: Tensor, dtype: torch.dtype) -> Tensor:
    """Images in 0..1 as nodes of other packs may hold them."""
    if dtype == torch.bool:
        return images > 0.5
    if dtype.is_floating_point:
        return images.to(dtype)
    return (images * {torch.uint8: 255, torch.uint16: 65535}[dtype]).round().to(torch.int32).to(dtype)


def control_of(request: Request) -> Control:
    assert request.control is not None
    return request.control


def changed(request: Request, **fields: Any) -> Request:
    return replace(request, control=replace(control_of(request), **fields))


# where images enter a request -> how they are put there, and taken out
DOORS: dict[str, tuple[Callable[[Request, Tensor], Request], Callable[[Request], Any]]] = {
    "source": (lambda r, x: replace(r, source=x), lambda r: r.source),
    "keyframes": (lambda r, x: replace(r, keyframes=(Keyframe(x[-1:], 0),)), lambda r: r.keyframes[0].images),
    "control": (lambda r, x: changed(r, frames=x), lambda r: control_of(r).frames),
    "extend": (lambda r, x: replace(r, clip=x), lambda r: r.keyframes[0].images),
    "references": (lambda r, x: changed(r, references=x[-1:]), lambda r: control_of(r).references),
}


def base(door: str) -> Request:
    return Request(64, 64, 5, strength=0.5 if door == "source" else 1.0, control=Control(frames(5)))


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_every_door_takes_every_type(tiny_models: Path, door: str, channels: int) -> None:
    model, (put, taken) = open_model(tiny_models, "tiny-wan2.1-vace"), DOORS[door]
    images = torch.rand(5, 48, 80, channels, generator=torch.Generator().manual_seed(1))
    expected = images[..., :3].expand(5, 48, 80, 3)
    for dtype in TYPES:
        opened = taken(plan(model, put(base(door), typed(images, dtype))).request)
        assert opened.dtype == torch.float32
        assert opened.shape[1:] == (48, 80, 3)
        error = (opened - expected[-len(opened) :]).abs().max().item()
        assert error <= EXACT.get(dtype, 1e-7), (door, dtype, error)


@pytest.mark.parametrize("door", DOORS)
def test_every_door_refuses_alike(tiny_models: Path, door: str) -> None:
    model, (put, _) = open_model(tiny_models, "tiny-wan2.1-vace"), DOORS[door]
    holes = frames(5)
    holes[-1, 3, 4, 1] = torch.inf
    wrong = {
        "holds_nan": [holes, holes.half(), holes.double() * float("nan")],
        "not_a_picture": [frames(5)[..., :2], frames(5).flatten(2, 3)[:, :9, :9], torch.rand(5, 8, 8, 5)],
        "pixel_type_rule": [frames(5).mul(255).to(torch.int64), frames(5).to(torch.complex64)],
    }
    for key, tensors in wrong.items():
        for images in tensors:
            with pytest.raises(InputError) as refusal:
                plan(model, put(base(door), images))
            assert worded(refusal.value.rule).key == key
    assert used_by(model) == []


def test_what_is_changed_is_said() -> None:
    plain = frames(2)
    opened, notes = open_images("x", plain)
    assert opened is plain
    assert notes == ()
    rgba = torch.cat([plain, torch.ones(2, 64, 64, 1)], 3)
    assert open_images("x", rgba)[1] == ()  # an alpha that hides nothing
    rgba[0, 0, 0, 3] = 0.5
    assert [note.key for note in open_images("x", rgba)[1]] == ["alpha_left_out"]
    opened, (note,) = open_images("x", plain * 2 - 0.5)
    assert note.key == "beyond_range"
    assert (opened.min(), opened.max()) == (0, 1)
    assert open_images("x", plain * 1.0005)[1] == ()  # nobody sees it
    assert open_images("x", plain[0])[0].shape == (1, 64, 64, 3)


@pytest.mark.parametrize("dtype", TYPES)
def test_masks(dtype: torch.dtype) -> None:
    mask = (torch.rand(3, 8, 9, generator=torch.Generator().manual_seed(2)) > 0.5).float()
    for shape in ((3, 8, 9), (3, 1, 8, 9), (3, 8, 9, 1), (1, 1, 3, 8, 9)):
        opened, notes = open_mask("mask", typed(mask, dtype).reshape(shape))
        assert torch.equal(opened, mask)
        assert notes == ()
    assert torch.equal(open_mask("mask", typed(mask, dtype)[0])[0], mask[:1])


# ---------------------------------------------------------------- the experts' change


@pytest.mark.parametrize(
    ("guidance", "solver", "strength", "high"),
    [
        (Guidance(switch_step=2), "euler", 1.0, 2),
        (Guidance(switch_step=7), "unipc", 1.0, 7),
        (Guidance(switch_step=3), "heun", 1.0, 5),  # one prediction of the first step, two of the others
        (Guidance(switch_step=3), "euler", 0.75, 1),  # a source leaves the first two out
        (Guidance(boundary=1.0), "euler", 1.0, 1),
        (Guidance(boundary=0.5), "euler", 1.0, None),
        (Guidance(), "euler", 1.0, None),
    ],
)
def test_the_experts_change_where_it_is_asked(
    tiny_models: Path, guidance: Guidance, solver: str, strength: float, high: int | None
) -> None:
    model = replace(open_model(tiny_models, "tiny-wan2.2-t2v-a14b"), guidance=guidance)
    facts: Any = model.facts
    request: dict[str, Any] = dict(
        sampler=solver, steps=8, strength=strength, source=frames(17) if strength < 1 else None
    )
    planned = plan(model, Request(**request)).request
    schedule = noise_schedule(model, planned, torch.device("cpu"))
    low = model.low_noise_steps(planned, schedule)
    if high is None:
        share = guidance.boundary or facts.boundary
        high = int((schedule.timesteps >= share * 1000).sum())
    assert low == [False] * high + [True] * (len(schedule) - high)
    assert {part: len(steps) for part, steps in expert_steps(model, planned).items()} == {
        part: count for part, count in (("transformer", high), ("transformer_2", len(schedule) - high)) if count
    }
    run(model, **request)
    used = [name for name, _ in used_by(model) if name.startswith("transformer")]
    assert used == [name for name, count in (("transformer", high), ("transformer_2", len(low) - high)) if count]


def test_a_change_of_experts_that_cannot_be(tiny_models: Path) -> None:
    two, one = (open_model(tiny_models, f"tiny-wan{name}") for name in ("2.2-t2v-a14b", "2.1-t2v"))
    wrong = [
        (two, Guidance(switch_step=8), "switch_step", "switch_step_rule"),
        (two, Guidance(boundary=0.5, switch_step=2), "boundary, switch_step", "one_switch"),
        (one, Guidance(boundary=0.5), "boundary", "one_expert"),
        (one, Guidance(switch_step=2), "switch_step", "one_expert"),
    ]
    for model, guidance, name, key in wrong:
        with pytest.raises(InputError) as refusal:
            plan(replace(model, guidance=guidance), Request(steps=8))
        assert (refusal.value.name, worded(refusal.value.rule).key) == (name, key)
    for values in ((1.5, 0), (float("nan"), 0), (-0.1, 0), (0, -1)):
        with pytest.raises(InputError):
            check_switch(*values)
