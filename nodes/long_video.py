"""One long video, window after window, written as it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from comfy_api.latest import io
from torch import Tensor

from ..loaders.messages import message
from ..loaders.notices import heard_by, say
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from . import host
from .decoding import crf_input, decoded_in_tiles, report_file, with_seam
from .effect import Conditions, counted, idle
from .live import Status
from .sampling.apart import run_of, submitted, watching, where_sampled
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
from .sampling.place import check_room, job_of
from .sampling.request import negative_notes, picture_notes
from .timeline.inputs import check_timeline, picture_times, timeline_input
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
from .video.file import FileWriter, write_video
from .video.formats import DEFAULT, FORMATS, RATED, format_input, format_notes
from .words import frame_rules, long_video, models_with

if TYPE_CHECKING:
    from ..samplers.caches.report import Report as CacheReport
    from ..samplers.caches.runner import Runner
    from ..samplers.denoise import RunSoFar
    from ..samplers.long.job import Job
    from ..samplers.long.plan import LongPlan
    from ..samplers.long.spread import Spread
    from ..samplers.parallel.worker import Done

RESUME, ANEW = "go on", "start over"


COUNTS: Conditions = {
    **{name: {"family": with_feature("latent_windows")} for name in ("adain", "memory", "hold")},
    "shift": {"family": with_feature("flow_shift")},
    "joined": {"extend": True},
    "crf": {"format": RATED},
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
                        format_input(),
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
        story = check_timeline, timeline, fps or 0.0, (frames or 0) if frames_from == FRAMES else 0
        media = media_checks(strength, source, mask, frames_from, extend)
        return host.valid((host.check_prefix, filename_prefix), *numbers, *media, story)

    @classmethod
    def fingerprint_inputs(cls, **inputs: InputValue) -> list[float]:
        """Render again when a picture of the timeline was replaced, or the file is gone that was written."""
        gone = host.files_gone(cls, inputs)
        try:
            return [gone, *picture_times(inputs.get("timeline") or "")]
        except ValueError:  # told when the node runs
            return [gone]

    @classmethod
    def check_lazy_status(cls, **inputs: InputValue) -> list[str]:
        """Refuse what cannot work before anything that the video is made of is made."""
        return check_long_ahead(cls, inputs)

    @classmethod
    def execute(
        cls,
        filename_prefix: str,
        crf: int = 17,
        unfinished: str = RESUME,
        joined: bool = True,
        format: str = DEFAULT,
        **inputs: InputValue,
    ) -> io.NodeOutput:
        from ..samplers.decode import eight_bits, sixteen_bits
        from ..samplers.long.fingerprint import render_fingerprint, upgraded
        from ..samplers.long.render import Callbacks, clip_pieces, render

        ready = prepared(filename_prefix=filename_prefix, joined=joined, format=format, **inputs)
        host.forget_video()
        host.forget_pictures()
        model, story, plan, options, fps = ready.model, ready.timeline, ready.plan, ready.options, ready.fps
        size, form = (plan.request.width, plan.request.height), FORMATS[format]
        bits = sixteen_bits if form.deep else eight_bits
        path, subfolder, notes = host.output_file(cls, filename_prefix, form.suffix, *size)
        check_room(model, plan, filename_prefix)
        begun, report = render_fingerprint(model, story, plan, options), host.Report(cls)
        with closing(job_of(filename_prefix)) as job, heard_by(report.tell), ExitStack() as stack:
            job.begin(begun, unfinished == ANEW, lambda inputs: upgraded(inputs, model, plan))
            is_tiled = inputs.get("tile", 0) > 0
            tiling = ready.tiling if is_tiled else job.settled(ready.tiling)
            report.tell(*host.gone_notes(cls), *notes, *ready.sound_notes)
            chosen = {**inputs, "joined": joined, "format": format, "crf": crf}
            report.tell(*idle(cls, chosen, model), *left_out(plan))
            report.tell(*picture_notes(inputs), *negative_notes(model, plan.longest.request, story.negative.strip()))
            report.tell(*plan.notes, *(where_sampled(model, plan) or host.shortage(model, plan.longest)))
            watch, meter = _Watching(report, model, plan, job), host.Meter(model)
            with watch.explaining():
                if tiling.size and not is_tiled:
                    say(decoded_in_tiles(tiling, model))
                callbacks = Callbacks(watch.step, report.tell)
                spread = stack.enter_context(closing(watch.spread())) if model.does_jobs else None
                pieces = watch.counted(render(model, story, plan, options, job, tiling, callbacks, bits, spread))
                pieces = with_seam(report, pieces) if plan.request.loop else pieces
                before = clip_pieces(plan.clip, size, bits) if joined else ()
                total = plan.request.frames - plan.shared + (len(plan.clip) if joined and plan.clip is not None else 0)
                metadata = host.metadata(cls, _note(model, plan, total, fps))
                file = write_video(path, chain(before, pieces), size, fps, crf, metadata, ready.sound, form)
                path = report_file(report, format_notes(format, crf, ready.sound is not None), *file)
            job.drop()
        host.remember_file(cls, path)
        watch.report_cache()
        line = long_video(replace(plan.request, frames=total), len(plan.windows), fps, path, watch.seconds)
        video = host.made_video(path, _note(model, plan, total, fps), watch.run(meter))
        return io.NodeOutput(video, ui=report.ui(host.shown_file(path, subfolder), line))


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
        timeline_input(
            "Which prompt holds from when on, in seconds or frames, and pictures of ComfyUI's input folder that the "
            "video must show: on a time axis, or as JSON"
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


def _place(model: VideoModel, plan: LongPlan, job: Job, number: int) -> host.Place:
    """Where window `number`, from 0, lies in the video."""
    windows, ratio = plan.windows, model.facts.temporal_ratio
    shared = [(window.shared - 1) // ratio + 1 if window.shared else 0 for window in (*windows[number:], windows[0])]
    before = job.read(number - 1) if shared[0] and job.has(number - 1) else None
    following = shared[1] if number + 1 < len(windows) else 0
    return host.Place(number + 1, len(windows), shared[0], following, before)


class _Watching:
    """Progress over the whole video with the time that is left, and what a person is told when it stops early."""

    def __init__(self, report: host.Report, model: VideoModel, plan: LongPlan, job: Job) -> None:
        self._report, self._model, self._plan, self._job = report, model, plan, job
        self._steps = self._frames = 0
        self._from: int | None = None
        self._place = host.Place(number=0)
        self._view, self._began = host.LiveView(), time.monotonic()
        self._status = Status(report, None if model.does_jobs else model)
        self._cache: Runner | None = None
        self._distant: CacheReport | None = None  # of a worker
        self._spread: Spread | None = None
        self._apart = list[host.Run]()  # what workers have taken for their windows

    @property
    def seconds(self) -> float:
        """Since the node began."""
        return time.monotonic() - self._began

    def run(self, meter: host.Meter) -> host.Run | None:
        """What the whole video has cost; None where windows are of an earlier run, or several cards shared each."""
        if self._spread is not None and len(self._apart) == len(self._plan.windows):
            return meter.joined(self._apart, self._spread.waited)
        is_here = self._model.parallel is None or self._model.does_jobs
        return meter.run() if self._from == 0 and is_here else None

    def report_cache(self) -> None:
        """Say what a cache did in the last window that was sampled."""
        from ..samplers.caches.report import report

        if self._cache is not None:
            self._distant = report(self._cache)
        words = [line for line in (self._distant.words() if self._distant else ()) if line not in self._report]
        of_last = len(self._plan.windows) > 1
        told = [message("last_window", note=line) if of_last else line for line in words]
        self._report.tell(*told, level=logging.INFO)

    def step(self, done: int, total: int, run: RunSoFar) -> None:
        """Called after every step of the whole video."""
        self._steps, self._cache = done, run.cache
        self._from = done - 1 if self._from is None else self._from
        windows = len(self._plan.windows)
        number = (done - 1) * windows // total
        self._status.step(done, total, run.cache, (number + 1, windows))
        place, fps = partial(self._placed, number), self._plan.request.fps
        self._view.latents(*self._moved, self._model, run.preview, fps, number + 1, place)

    def _placed(self, number: int) -> host.Place:
        """Where window `number`, from 0, lies; found once for each."""
        if self._place.number != number + 1:
            self._place = _place(self._model, self._plan, self._job, number)
        return self._place

    def spread(self) -> Spread:
        """The workers that the model names, with their progress and what their caches did shown here."""
        from ..samplers.long.spread import Spread

        self._spread = Spread(submitted, watching(self._report, self._look), self._done)
        return self._spread

    def _look(self, done: int, total: int, latents: Tensor | None) -> None:
        """As `step`, of all windows that workers are at. latents: of one of them."""
        windows, number = len(self._plan.windows), self._spread.number if self._spread is not None else 0
        self._steps = done * self._plan.longest.predictions * windows // max(total, 1)
        if done:
            self._status.step(done, total, None)
        place = host.Place(number + 1, windows)
        self._view.distant(*self._moved, self._model, latents, self._plan.request.fps, place)

    def _done(self, done: Done) -> None:
        self._report.tell(*done.notes)
        self._distant = done.cache
        self._apart.append(run_of(done))

    def counted(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        """The pieces, with progress and live view."""
        for piece in pieces:
            self._frames += len(piece)
            self._view.frames(*self._moved, piece, self._plan.request.fps)
            yield piece

    @property
    def _moved(self) -> tuple[int, int]:
        """(how far the bar is, how far it goes): steps and frames."""
        request = self._plan.request
        steps = self._plan.longest.predictions * len(self._plan.windows)
        return self._steps + self._frames, steps + request.frames - self._plan.shared

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
