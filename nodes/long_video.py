"""One long video, window after window, written as it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from comfy_api.latest import InputImpl, io, ui
from torch import Tensor

from ..loaders.messages import message
from ..loaders.notices import heard_by, say
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from . import host
from .decoding import crf_input, decoded_in_tiles, report_file, with_seam
from .effect import Conditions, counted, idle
from .sampling.apart import spreads_jobs, submitted, watching, where_sampled
from .sampling.inputs import (
    FRAMES,
    made_later,
    media_checks,
    preset_input,
    sampler_input,
    seed_input,
    shift_input,
    side_inputs,
    size_checks,
    source_inputs,
    steps_inputs,
    video_inputs,
)
from .sampling.long import check_long_ahead, left_out, prepared
from .types import (
    ABSENT,
    InputValue,
    KeyframesType,
    model_input,
    number_input,
    share_input,
    sound_input,
    source_sound_input,
    whole_input,
)
from .video_file import FileWriter, write_video
from .words import clock, frame_rules, long_video, models_with

if TYPE_CHECKING:
    from PIL.Image import Image

    from ..samplers.caches.report import Report as CacheReport
    from ..samplers.caches.runner import Runner
    from ..samplers.denoise import RunSoFar
    from ..samplers.long.job import Job
    from ..samplers.long.plan import LongPlan
    from ..samplers.long.spread import Spread
    from ..samplers.parallel.worker import Done

OPENED_BEFORE = 64  # pictures of a timeline whose headers are read before a prompt is queued, while the server waits
RESUME, ANEW = "go on", "start over"
TIMELINE = """{
  "unit": "seconds",
  "prompts": [
    {"at": 0, "text": "A red car drives along the coast at sunrise"},
    {"at": 5, "text": "The red car stops at a lighthouse"}
  ],
  "negative": "",
  "keyframes": []
}"""


COUNTS: Conditions = {
    **{name: {"family": with_feature("latent_windows")} for name in ("adain", "memory", "hold")},
    "shift": {"family": with_feature("flow_shift")},
    "joined": {"extend": True},
}


class LongVideo(FileWriter):
    """Long Video."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLongVideo",
            display_name="Long Video",
            category="Reelwire/sampling",
            is_output_node=True,
            description="Makes a video of any length into an mp4, window after window. Run it again with the same "
            "inputs after any interruption: it goes on where it was.",
            search_aliases=[
                "long",
                "extend",
                "loop",
                "timeline",
                "infinite",
                "sliding window",
                "长视频",
                "时间线",
                "延长",
                "续写",
            ],
            inputs=counted(
                made_later(
                    [
                        model_input(),
                        *_timeline_inputs(),
                        *_window_inputs(),
                        *steps_inputs("Guidance scale; 0: the preset's, 1: off"),
                        sampler_input("default: the model's own"),
                        seed_input("Each window has its own, counted from this one", io.ControlAfterGenerate.fixed),
                        preset_input(),
                        io.String.Input(
                            "filename_prefix",
                            default="video/long",
                            tooltip="Inside ComfyUI's output folder; what is unfinished lies beside it",
                        ),
                        KeyframesType.Input(
                            "keyframes",
                            optional=True,
                            tooltip="Beside those of the timeline; frames are counted in the whole video",
                        ),
                        *_joint_inputs(),
                        shift_input(f"Flow shift of {models_with('flow_shift')}; 0: the preset's"),
                        *_file_inputs(),
                        *_source_inputs(),
                        sound_input(),
                        source_sound_input(),
                        _loop_input(),
                    ]
                ),
                COUNTS,
            ),
            outputs=[io.Video.Output(display_name="video", tooltip="The file that was written")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(
        cls,
        filename_prefix: str | None = None,
        fps: float | None = None,
        timeline: str | None = None,
        frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
        strength: float | None = 1.0,
        source: object = ABSENT,
        mask: object = ABSENT,
        frames_from: str | None = FRAMES,
        extend: object = ABSENT,
        tile: int | None = None,
    ) -> bool | str:
        from ..samplers.early import ENDLESS, check_fps, check_length, check_tile

        numbers = (
            (check_fps, fps),
            (check_tile, tile),
            *size_checks(width, height),
            (check_length, frames, ENDLESS, False),
        )
        story = _check_timeline, timeline, fps or 0.0, (frames or 0) if frames_from == FRAMES else 0
        media = media_checks(strength, source, mask, frames_from, extend)
        return host.valid((host.check_prefix, filename_prefix), *numbers, *media, story)

    @classmethod
    def fingerprint_inputs(cls, **inputs: InputValue) -> list[float]:
        """Render again when a picture of the timeline was replaced, or the file is gone that was written."""
        from ..samplers.long.timeline import read_timeline

        gone = host.files_gone(cls, inputs)
        try:
            pictures = read_timeline(inputs.get("timeline") or "", 24.0, 10**9).pictures
            files = dict.fromkeys(picture.file for picture in pictures)
            return [gone, *(host.modified(Path(host.input_file(file))) for file in files)]
        except ValueError:  # told when the node runs
            return [gone]

    @classmethod
    def check_lazy_status(cls, **inputs: InputValue) -> list[str]:
        """Refuse what cannot work before anything that the video is made of is made."""
        later = check_long_ahead(cls, inputs)
        if later:
            _check_place(cls, inputs["filename_prefix"])
        return later

    @classmethod
    def execute(
        cls,
        filename_prefix: str,
        crf: int = 17,
        unfinished: str = RESUME,
        joined: bool = True,
        **inputs: InputValue,
    ) -> io.NodeOutput:
        from ..samplers.decode import eight_bits
        from ..samplers.long.fingerprint import render_fingerprint, upgraded
        from ..samplers.long.render import Callbacks, clip_pieces, render

        ready = prepared(filename_prefix=filename_prefix, joined=joined, **inputs)
        host.forget_video()
        host.forget_pictures()
        model, story, plan, options, fps = ready.model, ready.timeline, ready.plan, ready.options, ready.fps
        size = plan.request.width, plan.request.height
        path, subfolder, notes = host.output_file(cls, filename_prefix, ".mp4", *size)
        begun, report = render_fingerprint(model, story, plan, options), host.Report(cls)
        with closing(_job(filename_prefix)) as job, heard_by(report.tell), ExitStack() as stack:
            job.begin(begun, unfinished == ANEW, lambda inputs: upgraded(inputs, model, plan))
            is_tiled = inputs.get("tile", 0) > 0
            tiling = ready.tiling if is_tiled else job.settled(ready.tiling)
            report.tell(*host.gone_notes(cls), *notes, *ready.sound_notes)
            report.tell(*idle(cls, {**inputs, "joined": joined}, model), *left_out(plan))
            report.tell(*plan.notes, *(where_sampled(model, plan) or host.shortage(model, plan.longest)))
            watch = _Watching(report, model, plan, job)
            with watch.explaining():
                if tiling.size and not is_tiled:
                    say(decoded_in_tiles(tiling, model))
                callbacks = Callbacks(watch.step, report.tell)
                spread = stack.enter_context(closing(watch.spread())) if spreads_jobs(model) else None
                made = render(model, story, plan, options, job, tiling, callbacks, eight_bits, spread)
                pieces = watch.counted(made)
                pieces = with_seam(report, pieces) if plan.request.loop else pieces
                before = clip_pieces(plan.clip, size, eight_bits) if joined else ()
                total = plan.request.frames - plan.shared + (len(plan.clip) if joined and plan.clip is not None else 0)
                metadata = host.metadata(cls, _note(model, plan, total, fps))
                file = write_video(path, chain(before, pieces), size, fps, crf, metadata, ready.sound)
                path = report_file(report, crf, *file)
            job.drop()
        host.remember_file(cls, path)
        preview = ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.output)])
        watch.report_cache()
        line = long_video(replace(plan.request, frames=total), len(plan.windows), fps, path, watch.seconds)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=report.ui(preview.as_dict(), line))


def _job(prefix: str) -> Job:
    """The unfinished render of a file name prefix."""
    from ..samplers.long.job import ENDING, Job

    return Job(host.beside_output(prefix, ENDING))


def _check_place(cls: type[io.ComfyNode], prefix: str) -> None:
    """Raise InputError or OSError, in words, where the video, or what it leaves while it is under way, cannot be
    written."""
    host.check_output(cls, prefix, ".mp4")
    _job(prefix).check()


def _note(model: VideoModel, plan: LongPlan, frames: int, fps: float) -> dict[str, object]:
    """What the file says of how it was made."""
    return {
        "family": model.name,
        "variant": model.variant,
        "frames": frames,
        "fps": fps,
        "windows": len(plan.windows),
        "width": plan.request.width,
        "height": plan.request.height,
        "seed": plan.request.seed,
        **({"loop": True} if plan.request.loop else {}),
    }


def _timeline_inputs() -> list[io.Input]:
    """What the video shows, how long it is, and its size."""
    return [
        io.String.Input(
            "timeline",
            multiline=True,
            default=TIMELINE,
            tooltip="JSON: which prompt holds from when on, in seconds or frames, and pictures of ComfyUI's input "
            "folder that the video must show",
        ),
        whole_input(
            "frames",
            241,
            (1, 1_000_000),
            f"Length of the whole video; {frame_rules(long=True)}",
        ),
        *side_inputs(),
    ]


def _window_inputs() -> list[io.Input]:
    """How the video is cut into windows."""
    return [
        whole_input("window", 0, (0, 100_000), "Frames that are sampled at once; 0: as the model was trained"),
        whole_input(
            "overlap",
            0,
            (0, 100_000),
            "Frames that a window shares with the one before; 0: a quarter of the window, or what the model allows",
        ),
    ]


def _joint_inputs() -> list[io.Input]:
    """How windows are joined."""
    families = models_with("latent_windows")
    return [
        share_input(
            "adain",
            0.25,
            f"{families}: how far each window is pulled to the colours and the contrast of the first",
            step=0.05,
            optional=True,
            advanced=True,
        ),
        share_input(
            "memory",
            0.0,
            f"{families}: how strongly every window remembers the first frame of the video",
            step=0.05,
            optional=True,
            advanced=True,
        ),
        share_input(
            "hold",
            1.0,
            f"{families}: how strongly a window keeps what it shares with the one before",
            step=0.05,
            optional=True,
            advanced=True,
        ),
    ]


def _file_inputs() -> list[io.Input]:
    """How the video is decoded and written."""
    return [
        number_input(
            "fps",
            0.0,
            (0.0, 240.0, 0.01),
            "Frames per second of the file and of the timeline's seconds, which "
            f"{models_with('frame_rate')} is told; 0: the preset's or the model's own",
            optional=True,
            advanced=True,
        ),
        crf_input(optional=True),
        whole_input(
            "tile",
            0,
            (0, 16384),
            "Pixels across a tile of each frame while decoding; 0: the whole frame, or as much as memory allows",
            optional=True,
            advanced=True,
        ),
        io.Combo.Input(
            "unfinished",
            options=[RESUME, ANEW],
            default=RESUME,
            optional=True,
            advanced=True,
            tooltip="What to do with an unfinished render of this name that was begun with other inputs: refuse, or "
            "drop it and start over",
        ),
    ]


def _source_inputs() -> list[io.Input]:
    """What the video is made of, or goes on from."""
    return [
        *video_inputs(),
        *source_inputs(),
        io.Boolean.Input(
            "joined",
            default=True,
            optional=True,
            advanced=True,
            tooltip="Whether the file begins with the whole clip of extend; else it holds the new frames alone",
        ),
    ]


def _loop_input() -> io.Input:
    """Whether the last frame of the whole video meets the first."""
    tooltip = (
        "The last frame of the whole video meets the first: with a keyframe at frame 0, that picture ends the video "
        f"too; else the last window is led to how the video began, on {models_with('latent_windows')} and on models "
        "that take a picture at the last frame, and text-to-video models see the whole as a circle. How well the ends "
        "meet is said here"
    )
    return io.Boolean.Input("loop", default=False, optional=True, advanced=True, tooltip=tooltip)


def _check_timeline(timeline: str, fps: float, frames: int) -> None:
    """Raise InputError for what is wrong with a timeline whatever the model is. fps, frames: 0 where not known."""
    from ..samplers.long.timeline import read_timeline

    pictures = read_timeline(timeline, fps or None, frames or None).pictures
    for number, file in enumerate(dict.fromkeys(picture.file for picture in pictures)):
        check = host.input_size if number < OPENED_BEFORE else host.input_file
        check(file)


class _Watching:
    """Progress over the whole video with the time that is left, and what a person is told when it stops early."""

    def __init__(self, report: host.Report, model: VideoModel, plan: LongPlan, job: Job) -> None:
        self._report, self._model, self._plan, self._job = report, model, plan, job
        self._steps = self._frames = 0
        self._from: int | None = None
        self._update, self._began = host.progress(), time.monotonic()
        self._cache: Runner | None = None
        self._distant: CacheReport | None = None  # of a worker

    @property
    def seconds(self) -> float:
        """Since the node began."""
        return time.monotonic() - self._began

    def report_cache(self) -> None:
        """Say what a cache did in the last window that was sampled."""
        from ..samplers.caches.report import report

        if self._cache is not None:
            estimate = self._cache.policy.estimate(self._model, self._plan.longest.request)
            self._distant = report(self._cache, estimate)
        words = [line for line in (self._distant.words() if self._distant else ()) if line not in self._report]
        self._report.tell(*(message("last_window", note=line) for line in words), level=logging.INFO)

    def step(self, done: int, total: int, run: RunSoFar) -> None:
        """Called after every step of the whole video."""
        self._steps, self._cache = done, run.cache
        self._from = done - 1 if self._from is None else self._from
        pace = (time.monotonic() - self._began) / (done - self._from)
        window = (done - 1) * len(self._plan.windows) // total + 1
        left = clock(pace * (total - done))
        self._report.show(message("time_left_window", number=window, count=len(self._plan.windows), time=left))
        self._move(lambda: host.latent_preview(self._model, run.preview()))

    def spread(self) -> Spread:
        """The workers that the model names, with their progress and what their caches did shown here."""
        from ..samplers.long.spread import Spread

        watch = watching(self._model, self._report, self._look)
        return Spread(submitted, watch, self._done)

    def _look(self, done: int, total: int, picture: Callable[[], Image] | None) -> None:
        """As `step`, of all windows that workers are at."""
        self._steps = done * self._plan.longest.predictions * len(self._plan.windows) // max(total, 1)
        self._move(picture)

    def _done(self, done: Done) -> None:
        self._report.tell(*done.notes)
        self._distant = done.cache

    def counted(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """The pieces, with progress and preview."""
        for piece in pieces:
            self._frames += len(piece)
            self._move(partial(host.frame_preview, piece[-1]))
            yield piece

    def _move(self, picture: Callable[[], Image] | None) -> None:
        request = self._plan.request
        steps = self._plan.longest.predictions * len(self._plan.windows)
        self._update(self._steps + self._frames, steps + request.frames - self._plan.shared, picture)

    @contextmanager
    def explaining(self) -> Iterator[None]:
        """Add to any error how many windows are done, and how to go on."""
        try:
            yield
        except host.Interrupted:
            raise
        except Exception as error:
            count = len(self._plan.windows)
            if not any(map(self._job.has_written, range(count))):
                raise
            done, place = (
                sum(map(self._job.has_written, range(count))),
                self._job.folder.relative_to(host.output_folder()),
            )
            words = message("windows_kept", done=done, count=count, place=f"output/{place.as_posix()}")
            raise host.extended(error, words) from error


NODES = [LongVideo]
