"""What the inputs of a long video stand for, checked in one place: before its pictures and its source are made, and
again when it is rendered."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ...loaders.common.picture_files import MOST_TOGETHER
from ...loaders.messages import Message, message
from ...loaders.notices import heard_by, stop_if_asked
from ...loaders.request import Keyframe, Request
from ...loaders.video_model import VideoModel
from .. import host
from ..types import InputValue
from ..video import formats
from ..video.file import FileWriter
from .inputs import DEFAULT, FRAMES, wanted_next
from .place import check_place, check_room, is_size_known
from .request import clip_frames_of, decoding_of, request_of

if TYPE_CHECKING:
    from ...loaders.vae.tiles import Tiling
    from ...samplers.long.plan import LongPlan, LongVideoOptions
    from ...samplers.long.timeline import Timeline


@dataclass(frozen=True)
class Prepared:
    """A long video that can be rendered.

    model: as it decodes. tiling: what a person has asked for, or what memory has room for. fps, sound: of the file;
    sound_notes: what to say of it.
    """

    model: VideoModel
    timeline: Timeline
    plan: LongPlan
    options: LongVideoOptions
    tiling: Tiling
    fps: float
    sound: host.Sound | None
    sound_notes: list[str]


def prepared(
    model: VideoModel,
    timeline: str,
    frames: int,
    filename_prefix: str,
    window: int = 0,
    overlap: int = 0,
    keyframes: tuple[Keyframe, ...] = (),
    adain: float = 0.25,
    memory: float = 0.0,
    hold: float = 1.0,
    fps: float = 0.0,
    tile: int = 0,
    audio: InputValue = None,
    source_sound: bool = True,
    joined: bool = True,
    format: str = formats.DEFAULT,
    awaited: Collection[str] = (),
    **inputs: InputValue,
) -> Prepared:
    """All that a long video needs before it is rendered; raises InputError for what cannot work.

    awaited: names of inputs that are connected and still to come.
    """
    from ...samplers.decode import tiling_of
    from ...samplers.long.plan import LongVideoOptions

    host.check_prefix(filename_prefix)
    asked, source, clip = fps, inputs.get("source"), inputs.get("extend") if joined else None
    fps, sound, notes = _rate_and_sound(model, fps, audio, source_sound, clip, inputs)
    formats.FORMATS[format].check_rate(fps)
    options = LongVideoOptions(window, overlap, adain, memory, hold)
    values = {"frames": frames, "keyframes": keyframes, **inputs}
    if not asked and {"source", "extend"} & {*awaited} and counts_seconds(timeline):
        _check_texts(model, timeline)  # when each counts, only the rate of the source, or of the clip, tells
        timeline = json.dumps({"prompts": [{"at": 0, "text": ""}]})
    story, plan = _planned(model, timeline, fps, options, awaited, values)
    model = decoded_as(model, plan.request, source)
    size = model.facts.latent_shape(plan.request.width, plan.request.height, 1)[3:]
    return Prepared(model, story, plan, options, tiling_of(model, *size, tile), fps, sound, notes)


def check_long_ahead(cls: type[io.ComfyNode], inputs: Mapping[str, InputValue]) -> list[str]:
    """The inputs of a long video that ComfyUI should make next; raises InputError for what cannot work whatever they
    bring, or has no place or no room on disk, so before they are made."""
    later = host.pending(cls, inputs)
    if later:  # else the node itself runs, and checks
        passed_on = ("crf", "unfinished")  # to the file, and whatever they are, there is something to make
        ready = {name: value for name, value in inputs.items() if name not in (*later, *passed_on)}
        made = prepared(**ready, awaited=later)
        check_place(cls, inputs["filename_prefix"], inputs.get("format", formats.DEFAULT))
        if is_size_known(inputs, later):
            check_room(made.model, made.plan, inputs["filename_prefix"], ahead=True)
    return wanted_next(later)


def _planned(
    model: VideoModel,
    timeline: str,
    fps: float,
    options: LongVideoOptions,
    awaited: Collection[str],
    inputs: dict[str, InputValue],
    opened: bool = True,
) -> tuple[Timeline, LongPlan]:
    """(the timeline, the plan of the video) that the inputs stand for; raises InputError. opened: whether pictures are
    read beyond their headers."""
    from ...samplers.long.plan import plan_long
    from ...samplers.long.timeline import read_timeline
    from ...samplers.sources.awaited import blank
    from ...samplers.sources.clip import sized_as_clip

    source, is_counted = inputs.get("source"), inputs.get("frames_from", FRAMES) == FRAMES
    story = read_timeline(timeline, fps, inputs["frames"] if is_counted else None)
    request = request_of(model, fps=fps, **inputs)
    sized, notes = model.complete(sized_as_clip(model, request)), list[str]()
    sizes = _sizes(story)
    images = partial(_images, sizes, (sized.width, sized.height))
    with heard_by(notes.append):  # while other inputs are awaited, the sizes will do to refuse what cannot work
        shown = {file: blank(*size) for file, size in sizes.items()} if awaited or not opened else images()
    pictures = (Keyframe(shown[each.file], each.frame, each.strength) for each in story.pictures)
    plan = plan_long(model, story, replace(request, keyframes=(*request.keyframes, *pictures)), options, awaited)
    plan = replace(plan, notes=(*notes, *plan.notes), shared=plan.shared or clip_frames_of(source, plan.request.frames))
    if awaited and opened:
        with heard_by(lambda _: None):  # a damaged file is refused before anything is made
            images()
    end = None if awaited else plan.request.frames  # no prompt begins behind the end
    return read_timeline(timeline, fps, end), plan


def outlined_plan(
    model: VideoModel,
    timeline: str,
    fps: float,
    options: LongVideoOptions,
    awaited: Collection[str],
    inputs: Mapping[str, InputValue],
) -> LongPlan:
    """The plan of a video as it can be known while its timeline is written: of pictures, headers alone are read."""
    return _planned(model, timeline, fps, options, awaited, {"keyframes": (), **inputs}, opened=False)[1]


def _sizes(story: Timeline) -> dict[str, tuple[int, int]]:
    """(width, height) of each file of a timeline, by its header."""
    sizes = dict[str, tuple[int, int]]()
    for picture in story.pictures:
        if picture.file not in sizes:
            stop_if_asked()
            sizes[picture.file] = host.input_size(picture.file)
    return sizes


def _images(sizes: dict[str, tuple[int, int]], size: tuple[int, int]) -> dict[str, Tensor]:
    """The pictures of a timeline by their files. size: (width, height) of the video.

    Where they are many or large, each is scaled as it is read, so that they take no more memory than frames do.
    """
    many = sum(width * height for width, height in sizes.values()) > MOST_TOGETHER
    return host.input_images(sizes, size if many else None)


def left_out(plan: LongPlan) -> tuple[Message, ...]:
    """What to say of first frames that are not new, where no clip is at hand that they could follow."""
    return (message("clip_left_out", count=plan.shared),) if plan.shared and plan.clip is None else ()


def counts_seconds(timeline: str) -> bool:
    """Whether anything of a timeline lies at a frame that the frame rate decides; raises InputError for what is wrong
    with it at any rate."""
    from ...samplers.early import FASTEST
    from ...samplers.long.timeline import read_timeline

    return read_timeline(timeline, FASTEST, None) != read_timeline(timeline, FASTEST / 2, None)


def _check_texts(model: VideoModel, timeline: str) -> None:
    """Raise InputError for prompts and pictures of a timeline that cannot be, wherever they lie."""
    from ...samplers.early import FASTEST
    from ...samplers.long.plan import check_prompts
    from ...samplers.long.timeline import read_timeline

    story = read_timeline(timeline, FASTEST, None)
    check_prompts(model, story)
    for file in dict.fromkeys(picture.file for picture in story.pictures):
        stop_if_asked()
        host.input_size(file)


def decoded_as(model: VideoModel, request: Request, source: object = None) -> VideoModel:
    """The model, decoding as the preset of a complete request says, else as the latents say that it is made of."""
    decoding = decoding_of(request, source)
    return model if decoding is None else replace(model, decoding=decoding)


def _rate_and_sound(
    model: VideoModel,
    fps: float,
    audio: InputValue,
    source_sound: bool,
    clip: InputValue,
    inputs: Mapping[str, InputValue],
) -> tuple[float, host.Sound | None, list[str]]:
    """(frames per second of the file, its sound, notes). clip: what the file begins with; None: nothing."""
    source = inputs.get("source")
    brings = (clip if source is None else source) if source_sound else None
    fps, sound, notes = FileWriter.rate_and_sound(model, fps, audio, brings, sampled_rate(model, inputs))
    return fps, sound, [*notes, *(FileWriter.clip_apart(fps, clip) if sound is None or brings is not clip else [])]


def sampled_rate(model: VideoModel, inputs: Mapping[str, InputValue]) -> float:
    """Frames per second where nothing is asked for: the source's, the clip's, the preset's, or the model's."""
    preset = inputs.get("preset", DEFAULT)
    brought = host.source_rate(inputs.get("source")) or host.source_rate(inputs.get("extend"), "extend")
    return brought or model.complete(request_of(model, preset=preset)).fps
