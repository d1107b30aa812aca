"""Refused sizes, lengths, tiles and windows name values that work, and none that works lies nearer."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from reelwire.loaders.limits import ENDLESS, LONGEST, check_frames, check_size, nearest
from reelwire.loaders.messages import InputError, Message
from reelwire.samplers.early import LARGEST, check_side, check_tile
from reelwire.samplers.long.windows import Spans, check_spans

Check = Callable[[int], None]


def numbers(said: object) -> set[int]:
    """All whole numbers among the values of a message."""
    if isinstance(said, Message):
        return set().union(*map(numbers, said.values.values()))
    return {int(str(said))} if str(said).lstrip("-").isdigit() else set()


def works(check: Check, value: int) -> bool:
    try:
        check(value)
    except InputError:
        return False
    return True


def unhelpful(check: Check, values: Iterable[int]) -> list[tuple[int, set[int]]]:
    """Refused values whose remedy names one that is refused too, or misses the nearest one that works."""
    found = []
    for value in values:
        try:
            check(value)
        except InputError as error:
            named = numbers(error.remedy)
            near = next(d for d in range(10_000) if works(check, value - d) or works(check, value + d))
            if (
                not named
                or not all(works(check, one) for one in named)
                or min(abs(one - value) for one in named) > near
            ):
                found.append((value, named))
    return found


@pytest.mark.parametrize("multiple", [8, 16, 32, 64])
def test_sizes(multiple: int) -> None:
    assert unhelpful(lambda value: check_size("width", value, multiple, "It"), range(1, 300)) == []


@pytest.mark.parametrize("step", [1, 4, 6, 8])
def test_frames(step: int) -> None:
    assert unhelpful(lambda value: check_frames(value, step, "It"), range(1, 100)) == []


@pytest.mark.parametrize("step", [4, 6, 8])
@pytest.mark.parametrize("most", [LONGEST, ENDLESS])
def test_no_more_frames_are_named_than_are_made(step: int, most: int) -> None:
    asked = [value for value in range(most - 20, most + 1) if (value - 1) % step]
    named = [refused_for(lambda value: check_frames(value, step, "It", most), value) for value in asked]
    assert max(map(max, named)) <= most
    assert all((value - 1) % step == 0 for values in named for value in values)


def test_tiles() -> None:
    assert unhelpful(check_tile, range(17, 200)) == []  # 0 works too, and lies nearer to less


@pytest.mark.parametrize("step", [4, 8, 13])
@pytest.mark.parametrize("overlap", [1, 2, 5, 9, 27])
def test_windows(step: int, overlap: int) -> None:
    shares = works(lambda value: check_spans(Spans(step, 10 * step + 1, value), "It"), overlap)
    whole = (overlap - 1) // step * step + 1 if shares else 1
    assert unhelpful(lambda value: check_spans(Spans(step, value, whole), "It"), range(1, 70)) == []


@pytest.mark.parametrize("length", [5, 9, 25, 97])
def test_overlaps(length: int) -> None:
    assert unhelpful(lambda value: check_spans(Spans(4, length, value), "It"), range(1, length - 3)) == []


@pytest.mark.parametrize("value", [*range(1, 200, 3), LARGEST - 1])
def test_a_side_before_the_model_is_known(value: int) -> None:
    """The nearest of each kind of model, which is told which one it is for."""
    if works(lambda side: check_side("width", side), value):
        return
    with pytest.raises(InputError) as refusal:
        check_side("width", value)
    remedy = refusal.value.remedy
    assert isinstance(remedy, Message)
    for step in (16, 32, 64):
        assert numbers(remedy.values[f"of_{step}"]) == {*nearest(value, step, step)}
    assert all(number % 8 == 0 and 0 < number <= LARGEST for number in numbers(remedy))
    assert {96, 112} <= numbers(remedy) or value != 100


def refused_for(check: Check, value: int) -> set[int]:
    """The values that a refusal names, or the value itself where it works."""
    try:
        check(value)
    except InputError as error:
        return numbers(error.remedy)
    return {value}


def test_what_ltxs_makers_pad_to_is_named() -> None:
    """ltx_video/inference.py makes the next larger size and length, and cuts; a refusal names both of them."""
    for size in range(32, 300):
        assert ((size - 1) // 32 + 1) * 32 in refused_for(lambda value: check_size("width", value, 32, "It"), size)
    for frames in range(2, 100):
        assert ((frames - 2) // 8 + 1) * 8 + 1 in refused_for(lambda value: check_frames(value, 8, "It"), frames)
