"""The plan of a video longer than a model can sample at once: its windows, each checked before the first is sampled."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor

from ...loaders.limits import ENDLESS, check_frames
from ...loaders.messages import InputError, about, either, inputs_named, message, message_of
from ...loaders.notices import stop_if_asked
from ...loaders.request import Capabilities, Keyframe, Request
from ...loaders.spec import titles_with
from ...loaders.video_model import VideoModel
from ..keyframes import cut_notes, place_keyframes
from ..plan import SamplingPlan, plan
from ..room import context_bytes
from ..sources.awaited import Names
from .loop import closed_by_picture, ends_with_picture, loop_notes
from .media import check_windows_of, outlined, whole_media, window_frames, with_a_source
from .timeline import Timeline
from .windows import Spans, Window, check_spans, lay_windows, with_keyframes

MOST_AT_ONCE = 2**24  # tokens of a video that is sampled as a whole, in windows: some 3 GB of latents


@dataclass(frozen=True)
class LongVideoOptions:
    """How the windows of a long video hang together.

    window, overlap: frames, 0 for the model's own.
    adain: how far the mean and spread of each latent channel are pulled to the first window's.
    memory: how strongly the first latent frame of the video is remembered by all windows, 0 for not at all.
    hold: how strongly what two windows share is kept in the second.
    """

    window: int = 0
    overlap: int = 0
    adain: float = 0.25
    memory: float = 0.0
    hold: float = 1.0


@dataclass(frozen=True)
class LongPlan:
    """A whole render before it begins.

    windows, spans: what is sampled one after another.
    request: of the whole video, complete.
    mode: an `Extension`'s.
    longest: the outline of the longest window's sampling, without its keyframes.
    notes: what the person should know before the render.
    clip: [N, H, W, 3], what the video goes on from; shared: how many of its last frames are the video's first.
    """

    windows: tuple[Window, ...]
    spans: Spans
    request: Request
    mode: str
    longest: SamplingPlan
    notes: tuple[str, ...]
    clip: Tensor | None = None
    shared: int = 0

    @property
    def turns(self) -> bool:
        """Whether one sampling makes the whole video, and sees it as a circle."""
        return self._is_open and (self.mode == "context_windows" or len(self.windows) == 1)

    @property
    def leads_back(self) -> bool:
        """Whether the last window is led to what the first began with."""
        return self._is_open and not self.turns

    @property
    def _is_open(self) -> bool:
        return self.request.loop and not ends_with_picture(self.request)


def plan_long(
    model: VideoModel, timeline: Timeline, request: Request, options: LongVideoOptions, awaited: Names = ()
) -> LongPlan:
    """The plan of a long video; no weights are read. Raises InputError for all that a window's sampler would refuse.

    awaited: as of `plan`.
    """
    title = f"{model.title} ({model.variant})"
    _check_options(options)
    prompt_notes = check_prompts(model, timeline)
    spans = spans_of(model, options)
    if "keyframes" in awaited and _needs_ends(model.capabilities()):
        timeline = replace(timeline, prompts=timeline.prompts[:1])  # where prompts change there may be pictures or not
    least = timeline.prompts[-1].frame + 1 + 2 * spans.step if len(timeline.prompts) > 1 else 0
    request, media = whole_media(model, request, spans, awaited, least)
    check_frames(request.frames, spans.step, title, ENDLESS)
    extension, capabilities = model.extension(), model.capabilities()
    request, picture_notes = closed_by_picture(model, request)
    placed, notes = place_keyframes(request.keyframes, replace(capabilities, sets=None, near=0), request.frames)
    notes += cut_notes(request)
    if extension.mode == "context_windows":
        _check_whole(model, request)
        _check_context(model, title, placed, timeline, request, request.frames > spans.length)
        windows: tuple[Window, ...] = (Window(0, request.frames - 1, 0, 0),)
        title_note = message(
            "long_context", title=title, length=spans.length, overlap=spans.overlap, way=extension.description
        )
    else:
        placed, joint_notes = _on_joints(placed, capabilities, spans, request.frames)
        windows = _windows(request.frames, spans, timeline, placed, capabilities)
        notes += (*joint_notes, *_moved_prompts(windows, timeline))
        title_note = message(
            "long_windows", title=title, count=len(windows), length=spans.length, way=extension.description
        )
        if len(windows) == 1:
            title_note = message("long_one", title=title, frames=request.frames)
    if request.frames <= spans.length:
        notes += _unjoined(options, extension.mode)
    request = replace(request, keyframes=placed)
    notes += (*picture_notes, *loop_notes(model, request, extension.mode, windows))
    check_windows_of(request, extension.mode, windows)
    length = min(spans.length, request.frames)
    outline = replace(outlined(request), frames=length, keyframes=())
    longest = _with_room_for_all(model, plan(model, outline, outline=True), request, extension.mode)
    run_notes = plan(model, with_a_source(model, request, outline), outline=True).notes
    result = LongPlan(
        windows,
        spans,
        request,
        extension.mode,
        longest,
        (title_note, *media.notes, *notes, *run_notes, *prompt_notes),
        media.clip,
        media.shared,
    )
    for window in _each_of_a_kind(result):
        stop_if_asked()
        _check_window(model, result, window)
    return result


def _windows(
    frames: int, spans: Spans, timeline: Timeline, keyframes: tuple[Keyframe, ...], capabilities: Capabilities
) -> tuple[Window, ...]:
    """The windows of a video, each with its keyframes."""
    places = tuple(keyframe.frame for keyframe in keyframes)
    joints, keys = (places, ()) if capabilities.sets is not None else ((), places)
    windows = with_keyframes(lay_windows(frames, spans, timeline, joints, keys), keyframes, capabilities)
    _check_ends(windows, capabilities, spans)
    return windows


def _check_whole(model: VideoModel, request: Request) -> None:
    """Raise InputError for a video of which all latents at once are more than memory takes."""
    tokens = model.facts.tokens(request.width, request.height, request.frames)
    if tokens > MOST_AT_ONCE:
        size = f"{request.width}, {request.height}, {request.frames}"
        rule = message("too_many_whole", title=model.title, tokens=tokens, most=MOST_AT_ONCE)
        raise InputError("width, height, frames", size, rule, message("ask_smaller"))


def _check_options(options: LongVideoOptions) -> None:
    for name in ("adain", "memory", "hold"):
        if not 0 <= getattr(options, name) <= 1:
            raise InputError(name, getattr(options, name), message("share_rule"), message("use_shares"))


def check_prompts(model: VideoModel, timeline: Timeline) -> tuple[str, ...]:
    """Notes on the prompts, all of which are read here; raises InputError for one that a window would refuse."""
    named = [(message("prompt_name", number=n), prompt.text) for n, prompt in enumerate(timeline.prompts, 1)]
    notes = list[str]()
    for name, text in (*named, ("negative", timeline.negative)):
        stop_if_asked()
        try:
            notes += model.check_prompt(name, text)
        except InputError as error:
            value = message("value_of", value=error.value, name=name)
            raise InputError("timeline", value, error.rule, error.remedy) from error
    return tuple(dict.fromkeys(notes))


def spans_of(model: VideoModel, options: LongVideoOptions) -> Spans:
    """Windows as long as the model's default, sharing a quarter where its way of going on does not say; raises
    InputError."""
    facts, title = model.facts, f"{model.title} ({model.variant})"
    length, counts = options.window or facts.presets["default"]["frames"], facts.frame_counts
    if counts and length not in counts:
        rule = message("window_counts", title=title, counts=either(*counts))
        raise InputError("window", length, rule, message("use_value_or_0", value=either(*counts)))
    step = length - 1 if counts else facts.frame_step or facts.temporal_ratio
    units = (length - 1) // step
    quarter = max(units // 4, min(1, units - 1)) * step + 1
    spans = Spans(step, length, options.overlap or model.extension().overlap or quarter, bool(counts))
    check_spans(spans, title)
    return spans


def _moved_prompts(windows: tuple[Window, ...], timeline: Timeline) -> tuple[str, ...]:
    """Prompts that do not begin with the frame that they ask for."""
    begins = {w.prompt: w.start + w.shared for w in reversed(windows)}
    pairs = ((number, prompt.frame, begins[number]) for number, prompt in enumerate(timeline.prompts))
    return tuple(message("prompt_moved", number=n + 1, frame=at, asked=asked) for n, asked, at in pairs if asked != at)


def _with_room_for_all(model: VideoModel, longest: SamplingPlan, whole: Request, mode: str) -> SamplingPlan:
    """The plan of a window with room for what is kept of a whole video that is sampled at once."""
    if mode != "context_windows":
        return longest
    more = context_bytes(model, longest.request, whole.frames, longest.policy)
    return replace(longest, room=longest.room + more)


def _check_context(
    model: VideoModel,
    title: str,
    keyframes: tuple[Keyframe, ...],
    timeline: Timeline,
    request: Request,
    several: bool,
) -> None:
    """A single sampling follows one prompt, and nothing else. several: whether it sees more than one window."""
    remedy = message("load_or", models=model.image_models, others=either(*titles_with("latent_windows")))
    if model.controlled():
        raise InputError("model", title, message("no_control_in_long"), message("use_sample_video"))
    if model.cache is not None and several and not model.cache.mechanism_on(model.stacks).of_guided:
        what = message("with_cache", cache=model.cache.title)
        with about(model.cache):
            others = message("disconnect_cache") if request.loop else message("use_plan_in_windows")
            raise InputError("model", what, message("cache_one_window"), others)
    if keyframes or len(timeline.prompts) > 1:
        what = message("keyframes_word") if keyframes else message("count_prompts", count=len(timeline.prompts))
        raise InputError("timeline", what, message("one_sampling", title=title), remedy)


def _unjoined(options: LongVideoOptions, mode: str) -> tuple[str, ...]:
    """What to say of options that join windows, where a video has one alone."""
    names = ("overlap", "adain", "memory", "hold") if mode == "latents" else ("overlap",)
    changed = [name for name in names if getattr(options, name) != getattr(LongVideoOptions(), name)]
    return (message("nothing_to_join", names=inputs_named(*changed)),) if changed else ()


def _needs_ends(capabilities: Capabilities) -> bool:
    """Whether each window needs a picture at its end too."""
    return capabilities.sets is not None and all("last" in places for places in capabilities.sets)


def _check_ends(windows: tuple[Window, ...], capabilities: Capabilities, spans: Spans) -> None:
    """Where each window needs a picture at its end too, whether each has one."""
    if not _needs_ends(capabilities):
        return
    lacking = [w.end for w in windows if not any(k.frame == w.end - w.start for k in w.keyframes)]
    if lacking:
        rule = message("needs_both_ends", title=capabilities.title)
        remedy = message("put_keyframes_apart", most=spans.length - 1)
        raise InputError("keyframes", message("none_at", frames=", ".join(map(str, lacking[:5]))), rule, remedy)


def _on_joints(
    keyframes: tuple[Keyframe, ...], capabilities: Capabilities, spans: Spans, frames: int
) -> tuple[tuple[Keyframe, ...], tuple[str, ...]]:
    """Where a model takes pictures at its ends alone, each lies where windows can meet."""
    if capabilities.sets is None:
        return keyframes, ()
    step, title = spans.step, capabilities.title
    if spans.overlap > 1:
        rule = message("share_one_picture", title=title)
        raise InputError("overlap", spans.overlap, rule, message("use_0"))
    if keyframes and keyframes[-1].frame and not any("last" in places for places in capabilities.sets):
        rule = message("first_frame_alone", title=title)
        where = message("at_frame", frame=keyframes[-1].frame)
        with about(keyframes[-1]):
            at_joints, anywhere = (either(*titles_with(name)) for name in ("last_pictures", "pictures_anywhere"))
            remedy = message("load_for_joints", at_joints=at_joints, anywhere=anywhere)
            raise InputError("keyframes", where, rule, remedy)
    moved = tuple(replace(k, frame=min(round(k.frame / step) * step, frames - 1)) for k in keyframes)
    pairs = zip(keyframes, moved, strict=True)
    notes = tuple(message("keyframe_on_joint", frame=a.frame, to=b.frame) for a, b in pairs if a.frame != b.frame)
    for one, other in pairwise(moved):
        if one.frame == other.frame:
            with about(other):
                apart = message("put_apart", step=step)
                raise InputError("keyframes", message("two_within", step=step), message("own_joint"), apart)
    return moved, notes


def _each_of_a_kind(whole: LongPlan) -> Iterable[Window]:
    """The windows without those that are like an earlier one for a sampler: a day has thousands."""
    request = whole.request
    if request.source is not None or request.mask is not None or request.control is not None:
        return whole.windows
    last = whole.windows[-1]
    kinds = {
        (id(window),) if window.keyframes or window is last else (window.frames, window.shared): window
        for window in reversed(whole.windows)
    }
    return reversed(kinds.values())


def _check_window(model: VideoModel, whole: LongPlan, window: Window) -> None:
    """Raise InputError for what a sampler would refuse in this window."""
    request, frames = whole.request, min(whole.spans.length, window.frames)
    keyframes = window.keyframes
    if whole.mode == "last_frames" and window.shared and not any(k.frame == 0 for k in keyframes):
        last_frames = torch.zeros(window.shared, request.height, request.width, 3)  # of the window before
        keyframes = (Keyframe(last_frames, 0), *keyframes)
    if whole.mode == "last_frames" and whole.leads_back and window is whole.windows[-1]:
        keyframes = (*keyframes, Keyframe(torch.zeros(1, request.height, request.width, 3), frames - 1))
    try:
        place_keyframes(keyframes, model.capabilities(), frames)
    except InputError as error:
        where = message("window_frames", start=window.start, end=window.end)
        raise InputError("window", where, message_of(error)) from error
    if whole.mode == "last_frames":
        request = replace(window_frames(request, window), frames=frames)
    else:
        request = with_a_source(model, request, replace(outlined(request), frames=frames))
    plan(model, replace(request, keyframes=keyframes, clip=None, past=None, loop=whole.turns))
