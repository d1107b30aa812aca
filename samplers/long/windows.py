"""Pure planning of a long video: which windows are sampled one after another, and what each of them is given."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

from ...loaders.limits import nearest
from ...loaders.messages import InputError, either, message
from ...loaders.notices import stop_if_asked
from ...loaders.request import Capabilities, Keyframe
from .timeline import Timeline


@dataclass(frozen=True)
class Window:
    """One sampling run: the frames `start` to `end` of the video, both included.

    shared: how many of its first frames the windows before have made; prompt: number in the timeline; keyframes:
    counted from `start`.
    """

    start: int
    end: int
    shared: int
    prompt: int
    keyframes: tuple[Keyframe, ...] = ()

    @property
    def frames(self) -> int:
        return self.end - self.start + 1


@dataclass(frozen=True)
class Spans:
    """How windows may lie.

    step: frames between the places where one may begin or end.
    length, overlap: frames of a window and of what it shares with the one before, both a multiple of step, and one.
    fixed: whether every window is that long.
    """

    step: int
    length: int
    overlap: int
    fixed: bool = False


def check_spans(spans: Spans, title: str) -> None:
    """Raise InputError for windows that cannot be."""
    if spans.fixed and spans.length != spans.step + 1:
        rule = message("window_fixed", title=title, frames=spans.step + 1)
        raise InputError("window", spans.length, rule, message("use_value_or_0", value=spans.step + 1))
    step, rule = spans.step, message("window_rule", title=title, step=spans.step)
    shared = 1 if spans.overlap < 1 or (spans.overlap - 1) % step else spans.overlap
    if spans.length < 1 or (spans.length - 1) % step:
        near = either(*nearest(spans.length, shared + step, step))
        raise InputError("window", spans.length, rule, message("use_value_or_0", value=near))
    if shared != spans.overlap:
        near = either(*nearest(spans.overlap, 1, step, spans.length - step))
        raise InputError("overlap", spans.overlap, rule, message("use_value_or_0", value=near))
    if spans.length <= spans.overlap:
        rule = message("window_new_frames", overlap=spans.overlap)
        raise InputError("window", spans.length, rule, message("larger_window", least=spans.overlap + spans.step))


def lay_windows(
    frames: int, spans: Spans, timeline: Timeline, joints: tuple[int, ...] = (), keys: tuple[int, ...] = ()
) -> tuple[Window, ...]:
    """Windows that cover a video of `frames` exactly; raises InputError.

    A prompt begins with the first new frame of a window, as near to its time as step allows. joints: frames at which a
    window must end and the next begin, because a keyframe lies there. keys: frames of keyframes that may lie anywhere;
    no window begins shortly before one, where it could, as the way there would be too short.
    """
    step, units = spans.step, (frames - 1) // spans.step
    near = {-(-key // step) for key in keys}
    starts = _prompt_starts(timeline, step, units)
    cuts = sorted({*starts[1:], *(joint // step for joint in joints if 0 < joint < frames - 1)})
    laid, begin = list[Window](), 0
    for cut in (*cuts, units):
        for end in _ends(begin, cut, spans, not laid, near):
            stop_if_asked()
            back = (spans.overlap - 1) // step if laid else 0
            start = max(0, begin - back)
            prompt = bisect_right(starts, begin) - 1
            laid.append(Window(start * step, end * step, (begin - start) * step + 1 if laid else 0, prompt))
            begin = end
    return tuple(laid)


def _prompt_starts(timeline: Timeline, step: int, units: int) -> list[int]:
    """The unit of `step` frames, of all `units`, after which each prompt begins."""
    starts = [0]
    for number, prompt in enumerate(timeline.prompts[1:], 2):
        starts.append(min(max(round((prompt.frame - 1) / step), 1), units - 1))  # the last has a window too
        if starts[-1] <= starts[-2]:
            where = message("prompt_at", number=number, frame=prompt.frame)
            rule = message("prompts_room", step=step, first=step + 1)
            raise InputError("timeline", where, rule, message("give_prompts_room"))
    return starts


def _ends(begin: int, end: int, spans: Spans, first: bool, keys: set[int]) -> list[int]:
    """Where windows end that make the units `begin` to `end`: evenly long, but for keyframes in the units `keys`."""
    length, back = (spans.length - 1) // spans.step, (spans.overlap - 1) // spans.step
    room, most = length - back, length if first else length - back  # the first has nothing before it, so it makes more
    ends, at = list[int](), begin
    while at < end:
        stop_if_asked()
        more = -(-max(end - at - most, 0) // room)  # windows after this one
        even = (end - at + (most - room) * more) / (more + 1)
        at = avoid_keyframes(at + round(even), at + max(most // 2, 1), keys, room // 3) if more else end
        ends.append(at)
        most = room
    return ends or [end] * first  # a video of a single frame


def avoid_keyframes(end: int, earliest: int, keys: set[int], margin: int) -> int:
    """Where a window ends, at `end` or not much earlier, so that no keyframe lies in the first units of the next."""
    ends = range(end, earliest - 1, -1)
    return next((e for e in ends if not any(key in keys for key in range(e + 1, e + margin + 1))), end)


def with_keyframes(
    windows: tuple[Window, ...], keyframes: tuple[Keyframe, ...], capabilities: Capabilities
) -> tuple[Window, ...]:
    """Each of the keyframes, which are in order, in the window that makes its frames; clips that reach over a window's
    end go on in the next.

    Where a model takes pictures at the ends alone, the picture at a joint ends one window and begins the next.
    """

    lasts = [keyframe.frame + len(keyframe.images) - 1 for keyframe in keyframes]
    firsts = [keyframe.frame for keyframe in keyframes]

    def of_window(window: Window) -> tuple[Keyframe, ...]:
        stop_if_asked()
        near = keyframes[bisect_left(lasts, window.start) : bisect_right(firsts, window.end)]
        touching = (keyframe for keyframe in near if _touches(window, keyframe, capabilities))
        return tuple(_part_inside(window, keyframe, capabilities) for keyframe in touching)

    return tuple(replace(window, keyframes=of_window(window)) for window in windows)


def _touches(window: Window, keyframe: Keyframe, capabilities: Capabilities) -> bool:
    first, last = keyframe.frame, keyframe.frame + len(keyframe.images) - 1
    if capabilities.sets is not None:
        return first in (window.start, window.end)
    return last >= window.start + window.shared and first <= window.end


def _part_inside(window: Window, keyframe: Keyframe, capabilities: Capabilities) -> Keyframe:
    """The part of a keyframe that lies in a window, counted from the window's start."""
    shared = max(window.shared - 1, 0) if capabilities.clip_start > 1 else window.shared  # where clips can begin
    begin = max(window.start + shared, keyframe.frame)
    first = begin - keyframe.frame if len(keyframe.images) > 1 else 0
    images = keyframe.images[first : max(window.end - keyframe.frame, 0) + 1]
    return replace(keyframe, images=images, frame=keyframe.frame + first - window.start)
