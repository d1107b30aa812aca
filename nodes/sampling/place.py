"""Where a long video is written, and what it leaves there while it is under way."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import io

from ...loaders.disk import free_bytes
from ...loaders.messages import InputError, message
from ...loaders.video_model import VideoModel
from .. import host
from ..types import InputValue
from ..video.formats import FORMATS
from .inputs import FRAMES

if TYPE_CHECKING:
    from ...samplers.long.job import Job
    from ...samplers.long.plan import LongPlan

BRINGS_SIZE = {"source", "extend"}  # inputs on which the size and the length of a video can depend


def job_of(prefix: str) -> Job:
    """The unfinished render of a file name prefix."""
    from ...samplers.long.job import ENDING, Job

    return Job(host.beside_output(prefix, ENDING))


def check_place(cls: type[io.ComfyNode], prefix: str, format: str) -> None:
    """Raise InputError or OSError, in words, where the video, or what it leaves while it is under way, cannot be
    written."""
    host.check_output(cls, prefix, FORMATS[format].suffix)
    job_of(prefix).check()


def is_size_known(inputs: Mapping[str, InputValue], awaited: Collection[str]) -> bool:
    """Whether the size and the length of a video do not depend on inputs that are still to come."""
    is_asked = inputs.get("frames_from", FRAMES) == FRAMES and inputs.get("width") and inputs.get("height")
    return bool(is_asked) or not BRINGS_SIZE & {*awaited}


def check_room(model: VideoModel, plan: LongPlan, prefix: str, ahead: bool = False) -> None:
    """Raise InputError, before anything is computed, where the disk has less room than the windows will take that are
    still to be written: their latents alone, as nobody knows how well a video can be compressed. Where some wait in
    memory for room, these are written first.

    ahead: inputs are still to come, with which windows may lie otherwise, but no frame in none of them.
    """
    from ...samplers.caches.report import size_in_words
    from ...samplers.long.room import latent_bytes, window_bytes

    frames, job = plan.request.frames, job_of(prefix)
    whole = latent_bytes(model, plan, frames) if ahead else window_bytes(model, plan)
    written, free = job.bytes_written, free_bytes(job.folder.parent)
    needed = whole - written
    if free is None or free >= needed or job.has_late:
        return
    place = Path("output", job.folder.parent.relative_to(host.output_folder())).as_posix()
    sizes = {"needed": size_in_words(needed), "free": size_in_words(free)}
    # a render that goes on keeps its inputs
    remedy = message("free_disk") if written else message("use_less_disk")
    raise InputError("frames", frames, message("disk_lacks_room", place=place, **sizes), remedy)
