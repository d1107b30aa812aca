"""Images, masks and clips of a request: opened by the one door, and what is not used of them, in words."""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ...loaders.common.door import open_images, open_mask
from ...loaders.common.images import is_frames, middle
from ...loaders.messages import InputError, Message, about, either, inputs_named, message, sentences
from ...loaders.notices import stop_if_asked
from ...loaders.request import Control, Keyframe, Request
from ...loaders.video_model import VideoModel

Notes = tuple[Message, ...]
UNNOTICED = 0.97  # nobody minds a thirtieth of a side


def through_door(request: Request) -> tuple[Request, Notes]:
    """(the request with all its images and masks as the models take them, notes); raises InputError."""
    notes: list[Message] = []
    shared = dict[int, Tensor]()  # opened images of keyframes, by what came: many may show the same

    def images(name: str, value: Tensor) -> Tensor:
        value, more = open_images(name, value)
        notes.extend(more)
        return value

    def mask(name: str, value: Tensor) -> Tensor:
        value, more = open_mask(name, value)
        notes.extend(more)
        return value

    def control(value: Control) -> Control:
        frames = None if value.frames is None else images("control", value.frames)
        masks = None if value.mask is None else mask("control", value.mask)
        references = None if value.references is None else images("control", value.references)
        return replace(value, frames=frames, mask=masks, references=references)

    def keyframe(value: Keyframe) -> Keyframe:
        stop_if_asked()
        if id(value.images) not in shared:
            with about(value):
                shared[id(value.images)] = images("image", value.images)
        return replace(value, images=shared[id(value.images)])

    source = request.source
    if source is not None and source.ndim != 5:
        source = images("source", source)
    with about(request.control):
        changed = None if request.control is None else control(request.control)
    opened = replace(
        request,
        source=source,
        keyframes=tuple(map(keyframe, request.keyframes)),
        control=changed,
        mask=None if request.mask is None else mask("mask", request.mask),
        clip=None if request.clip is None else images("extend", request.clip),
        rated=request.rated or request.fps > 0,
    )
    return opened, tuple(dict.fromkeys(notes))


def lengthened(model: VideoModel, request: Request, step: int = 0) -> tuple[Request, Notes]:
    """(a request that asks to be as long as its source with that many frames, cut to what the model makes, notes).

    step: of a long video's frames; 0: a clip's. Raises InputError where nothing has a length, or it is too short.
    """
    if not request.as_long:
        return request, ()
    is_long = step > 0  # there is always a number, so that it says nothing
    if request.source is not None and not is_frames(request.source):
        return replace(request, frames=0, as_long=False), _idle(request)  # latents bring their own length
    video = next((video for _, video in _videos(request)), None)
    if video is None:
        rule, remedy = message("nothing_has_length"), message("connect_source_or_frames")
        raise InputError("frames_from", "source", rule, remedy)
    count, counts = len(video), () if step else model.facts.frame_counts
    step = step or model.facts.frame_step or model.facts.temporal_ratio
    frames = max((c for c in counts if c <= count), default=0) if counts else (count - 1) // step * step + 1
    if not frames:
        rule = message("frames_counts", title=f"{model.title} ({model.variant})", counts=either(*counts))
        raise InputError("source", message("count_frames", count=count), rule, message("longer_source"))
    return replace(request, frames=frames, as_long=False, counted=True), () if is_long else _idle(request)


def sourceless(request: Request) -> tuple[Request, Notes]:
    """(the request, with strength 1 where there is no source that it could be the strength of, notes)."""
    if request.source is not None or request.strength == 1:
        return request, ()
    strength, source = inputs_named("strength"), inputs_named("source")
    note = message("idle_unconnected", input=strength, value=request.strength, other=source)
    return replace(request, strength=1.0), (note,)


def _idle(request: Request) -> Notes:
    """What to say of `frames` where the source says how long the video is."""
    return (message("frames_unused", frames=request.frames),) if request.frames else ()


def source_notes(request: Request) -> Notes:
    """What is not used of the source, the control video and the mask of a complete request, and what is scaled."""
    notes = [*_length_notes(request), *_size_notes(request)]
    begun = request.program is not None and request.program.begins_with_source
    if request.source is not None and request.strength >= 1 and request.mask is None and not begun:
        notes.append(message("source_unused"))
    return tuple(notes)


def _videos(request: Request) -> list[tuple[str, Tensor]]:
    """The source and the control video, where they are frames, each with its name."""
    frames = None if request.control is None else request.control.frames
    named = ((message("the_source"), request.source), (message("the_control"), frames))
    return [(name, video) for name, video in named if is_frames(video)]


def _length_notes(request: Request) -> list[Message]:
    notes = []
    videos = _videos(request)
    if request.mask is not None:
        videos.append((message("the_mask"), request.mask))
    for name, video in videos:
        left = len(video) - request.frames
        if left > 0:
            numbers = dict(count=len(video), used=request.frames, left=left)
            notes.append(message("frames_left_out", name=name, **numbers, lasting=_lasting(request)))
    if is_frames(request.source) and not request.rated and not notes:
        notes.append(message("source_unrated", fps=f"{request.fps:g}"))
    return notes


def _lasting(request: Request) -> str:
    """How long a complete request's frames last, and what to do where they should last otherwise."""
    values = {"seconds": f"{request.frames / request.fps:.3g}", "fps": f"{request.fps:g}"}
    rate = message("lasting_rated", **values) if request.rated else message("lasting", **values)
    return rate if request.counted else sentences(rate, message("raise_frames"))


def cut_note(name: str, images: Tensor, request: Request) -> Notes:
    """What to say of images [N, H, W, ...] whose middle alone fills a complete request's frames, if it does."""
    width, height = middle(images, request.width, request.height)
    if width >= UNNOTICED * images.shape[2] and height >= UNNOTICED * images.shape[1]:
        return ()
    size, video = f"{images.shape[2]}x{images.shape[1]}", f"{request.width}x{request.height}"
    return (message("picture_cut", name=name, size=size, middle=f"{width}x{height}", video=video),)


def fit_notes(name: str, images: Tensor, request: Request) -> Notes:
    """What to say of images [N, H, W, ...] that are cut or scaled to a complete request; one line at most."""
    own, video = f"{images.shape[2]}x{images.shape[1]}", f"{request.width}x{request.height}"
    scaled = () if own == video else (message("frames_scaled", name=name, size=own, video=video),)
    return cut_note(name, images, request) or scaled


def _size_notes(request: Request) -> list[Message]:
    videos = _videos(request)
    notes = [note for name, video in videos for note in fit_notes(name, video, request)]
    mask = request.mask
    if mask is not None and all(mask.shape[1:3] != video.shape[1:3] for _, video in videos):
        notes += cut_note(message("the_mask"), mask, request)
    return notes
