"""Long videos whose last frame meets the first: by the first picture at the end too, by a last window that is led to
what the first began with, or, where one sampling makes the whole video, as the sampler does it."""

from __future__ import annotations

from ...loaders.messages import message
from ...loaders.request import Request
from ...loaders.video_model import VideoModel
from ..loop import check_takes_last, closed
from .windows import Window


def closed_by_picture(model: VideoModel, request: Request) -> tuple[Request, tuple[str, ...]]:
    """(a complete request that loops, with its first picture as the last one too where it has pictures, notes); raises
    InputError where these contradict a loop, or the model takes none at the last frame."""
    if not request.loop or not request.keyframes:
        return request, ()
    spans = [(k.frame % request.frames, k.frame % request.frames + len(k.images)) for k in request.keyframes]
    if all(start > 0 and end < request.frames for start, end in spans):
        return request, ()
    return closed(model, request)


def loop_notes(model: VideoModel, request: Request, mode: str, windows: tuple[Window, ...]) -> tuple[str, ...]:
    """How a request closes that no picture closes; raises InputError where there is no way. mode: an `Extension`'s."""
    if not request.loop or ends_with_picture(request):
        return ()
    if mode == "context_windows" or len(windows) == 1:
        return closed(model, request)[1]
    check_takes_last(model)
    return (message("loop_last_window"),)


def ends_with_picture(request: Request) -> bool:
    """Whether the keyframes of a request, which are in their places, close it."""
    return any(keyframe.frame == request.frames - 1 for keyframe in request.keyframes)
