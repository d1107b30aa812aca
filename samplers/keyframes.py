"""Pure planning of keyframes: where each one lands in a clip, or why it cannot."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from ..loaders.messages import InputError, Message, about, both, either, message
from ..loaders.notices import stop_if_asked
from ..loaders.request import Capabilities, Keyframe, Request
from ..loaders.spec import titles_with
from .sources.opened import cut_note

_ENDS = {"first": message("first_frame"), "last": message("last_frame")}
Placed = tuple[tuple[Keyframe, ...], tuple[str, ...]]  # (keyframes in order, notes on what was moved or cut)


def place_keyframes(keyframes: tuple[Keyframe, ...], capabilities: Capabilities, frames: int) -> Placed:
    """Keyframes in order, counted from the start of a clip of `frames`, as a model can honour them.

    What is only nearly right is moved or cut, and noted; anything else raises InputError, naming the keyframe by its
    number in the list.
    """
    placed, notes = [], list[str]()
    finite = set[object]()  # images that were looked through: many keyframes may show the same
    for number, keyframe in enumerate(keyframes, 1):
        stop_if_asked()
        name = message("keyframe_name", number=number)
        with about(keyframe):
            _check(name, keyframe, capabilities)
            _check_finite(name, keyframe.images, finite)
            at = _fitted(name, keyframe, capabilities, notes)
            at = replace(at, frame=_place(name, at, frames))
        placed.append((_moved(name, at, capabilities, frames, notes), number))
    placed.sort(key=lambda pair: pair[0].frame)
    for (first, one), (second, other) in pairwise(placed):
        stop_if_asked()
        if second.frame < first.frame + len(first.images):
            where = message(
                "keyframe_numbers", one=min(one, other), other=max(one, other), first=first.frame, second=second.frame
            )
            with about(max((one, first), (other, second), key=lambda pair: pair[0])[1]):
                raise InputError("keyframes", where, message("keyframes_share"), message("give_own"))
    _check_set(placed, capabilities, frames)
    return tuple(keyframe for keyframe, _ in placed), tuple(notes)


def cut_notes(request: Request) -> tuple[str, ...]:
    """Notes on keyframes of another shape than a complete request's: only their middle fills the video."""
    notes: list[Message] = []
    images = [keyframe.images for keyframe in request.keyframes if not keyframe.of_clip]
    for number, each in enumerate(images, 1):
        stop_if_asked()
        notes.extend(cut_note(message("keyframe_name", number=number), each, request))
    return tuple(notes)


def _check(name: str, keyframe: Keyframe, capabilities: Capabilities) -> None:
    """Whether the model knows this kind of keyframe at all."""
    count, title = len(keyframe.images), capabilities.title
    if capabilities.sets == ((),):
        raise InputError(
            "keyframes",
            message("keyframe_at", name=name, frame=keyframe.frame),
            message("takes", title=title, takes=capabilities.takes),
            capabilities.remedy,
        )
    if count > 1 and not capabilities.clip_step:
        raise InputError(
            "keyframes",
            message("keyframe_clip", name=name, count=count),
            message("single_pictures", title=title),
            message("connect_one_picture"),
        )
    if not 0 < keyframe.strength <= 1:
        rule = message("share_above_0")
        raise InputError(
            "strength", message("value_of", value=keyframe.strength, name=name), rule, message("use_1_to_keep")
        )
    if keyframe.strength != 1 and not capabilities.strengths:
        raise InputError(
            "strength",
            message("value_of", value=keyframe.strength, name=name),
            message("keeps_pictures", title=title),
            message("use_1"),
        )


def _check_finite(name: str, images: Tensor, finite: set[object]) -> None:
    """Whether images hold numbers alone. finite: those of which it is known."""
    place = images.data_ptr(), images.shape, images.stride()
    if place in finite:
        return
    if not torch.isfinite(images).all():
        rule = message("picture_nan")
        raise InputError("image", message("name_not_finite", name=name), rule, message("load_again"))
    finite.add(place)


def _fitted(name: str, keyframe: Keyframe, capabilities: Capabilities, notes: list[str]) -> Keyframe:
    """A clip cut to a length that the model takes."""
    count, step = len(keyframe.images), capabilities.clip_step
    if count == 1 or (count - 1) % step == 0:
        return keyframe
    length = (count - 1) // step * step + 1
    notes.append(message("clip_cut", name=name, title=capabilities.title, step=step, kept=length, count=count))
    return replace(keyframe, images=keyframe.images[:length])


def _place(name: str, keyframe: Keyframe, frames: int) -> int:
    at = keyframe.frame + frames if keyframe.frame < 0 else keyframe.frame
    count = len(keyframe.images)
    if count > frames:
        rule = message("video_has", frames=frames)
        raise InputError("keyframes", message("keyframe_clip", name=name, count=count), rule, message("shorter_clip"))
    if not 0 <= at <= frames - count:
        clip = message("clip_inside", count=count, frames=frames)
        rule = clip if count > 1 else message("keyframe_inside", frames=frames)
        remedy = message("use_frames_span", last=frames - count, frames=frames, count=count)
        raise InputError("frame", message("value_of", value=keyframe.frame, name=name), rule, remedy)
    return at


def _moved(name: str, keyframe: Keyframe, capabilities: Capabilities, frames: int, notes: list[str]) -> Keyframe:
    """A clip at a frame where it can begin; a picture beside the first or the last frame in that place."""
    at, last = keyframe.frame, frames - 1
    to = at
    if len(keyframe.images) > 1:
        to = at // capabilities.clip_start * capabilities.clip_start
    elif capabilities.near:
        lasts = any("last" in places for places in capabilities.sets or ())
        ends = {at: 0} | ({last - at: last} if lasts else {})  # how far from it -> the end
        to = next((end for far, end in sorted(ends.items()) if far < capabilities.near + (end == 0)), at)
    if to != at:
        notes.append(message("keyframe_moved", name=name, title=capabilities.title, frame=at, to=to))
    return replace(keyframe, frame=to)


def _check_set(placed: list[tuple[Keyframe, int]], capabilities: Capabilities, frames: int) -> None:
    """Whether these keyframes, each with its number in the list, are together a set that the model takes."""
    if capabilities.sets is None:
        return
    rule, places = (
        message("takes", title=capabilities.title, takes=capabilities.takes),
        {place for allowed in capabilities.sets for place in allowed},
    )
    placed_at = tuple({frames - 1: "last", 0: "first"}.get(k.frame, "") for k, _ in placed)
    for (keyframe, number), place in zip(placed, placed_at, strict=True):
        if place not in places:
            where = message("keyframe_at", name=message("keyframe_name", number=number), frame=keyframe.frame)
            with about(keyframe):
                remedy = message("move_or_load", models=either(*titles_with("pictures_anywhere")))
                raise InputError("keyframes", where, rule, remedy)
    if placed_at not in capabilities.sets:
        value = both(*(_ENDS[place] for place in placed_at)) if placed_at else message("none")
        raise InputError("keyframes", value, rule, capabilities.remedy)
