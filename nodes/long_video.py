"""One long video, window after window, written as it goes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from comfy_api.latest import InputImpl, io, ui
from torch import Tensor

from ..loaders.messages import message
from ..loaders.notices import heard_by, say
from ..loaders.request import Keyframe
from ..loaders.spec import with_feature
from ..loaders.video_model import VideoModel
from ..samplers.solvers import SAMPLERS
from . import host
from .decoding import FileWriter, decoded_in_tiles
from .effect import Conditions, counted, idle
from .families import frame_rules, titles_with
from .sampling import DEFAULT, PRESET, PRESETS, request_of, size_checks
from .types import KeyframesType, model_input
from .video_file import write_video
from .words import long_video

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
}


class LongVideo(FileWriter):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireLongVideo", display_name="Long Video", category="Reelwire/sampling", is_output_node=True,
            description="Makes a video of any length into an mp4, window after window. Run it again with the same inputs after any interruption: it goes on where it was.",
            search_aliases=["long", "extend", "loop", "timeline", "infinite", "sliding window", "长视频", "时间线", "延长", "续写"],
            inputs=counted([
                model_input(),
                io.String.Input("timeline", multiline=True, default=TIMELINE, tooltip="JSON: which prompt holds from when on, in seconds or frames, and pictures of ComfyUI's input folder that the video must show"),
                io.Int.Input("frames", default=241, min=1, max=1_000_000, tooltip=f"Length of the whole video; {frame_rules(long=True)}"),
                io.Int.Input("width", default=0, min=-16384, max=16384, tooltip="Pixels; 0: the preset's"),
                io.Int.Input("height", default=0, min=-16384, max=16384, tooltip="Pixels; 0: the preset's"),
                io.Int.Input("window", default=0, min=0, max=100_000, tooltip="Frames that are sampled at once; 0: as the model was trained"),
                io.Int.Input("overlap", default=0, min=0, max=100_000, tooltip="Frames that a window shares with the one before; 0: a quarter of the window, or what the model allows"),
                io.Int.Input("steps", default=0, min=0, max=1000, tooltip="0: the preset's"),
                io.Float.Input("guidance", default=0.0, min=0.0, max=100.0, step=0.1, tooltip="Guidance scale; 0: the preset's, 1: off"),
                io.Combo.Input("sampler", options=[DEFAULT, *SAMPLERS], default=DEFAULT, tooltip="default: the model's own"),
                io.Int.Input("seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=io.ControlAfterGenerate.fixed, tooltip="Each window has its own, counted from this one"),
                io.Combo.Input("preset", options=list(PRESETS), default=DEFAULT, tooltip=PRESET),
                io.String.Input("filename_prefix", default="video/long", tooltip="Inside ComfyUI's output folder; what is unfinished lies beside it"),
                KeyframesType.Input("keyframes", optional=True, tooltip="Beside those of the timeline; frames are counted in the whole video"),
                io.Float.Input("adain", default=0.25, min=0.0, max=1.0, step=0.05, optional=True, advanced=True,
                               tooltip="LTX-Video: how far each window is pulled to the colours and the contrast of the first"),
                io.Float.Input("memory", default=0.0, min=0.0, max=1.0, step=0.05, optional=True, advanced=True,
                               tooltip="LTX-Video: how strongly every window remembers the first frame of the video"),
                io.Float.Input("hold", default=1.0, min=0.0, max=1.0, step=0.05, optional=True, advanced=True,
                               tooltip="LTX-Video: how strongly a window keeps what it shares with the one before"),
                io.Float.Input("shift", default=0.0, min=0.0, max=100.0, step=0.1, optional=True, advanced=True, tooltip=f"Flow shift of {titles_with('flow_shift')}; 0: the preset's"),
                io.Float.Input("fps", default=0.0, min=0.0, max=240.0, step=0.01, optional=True, advanced=True, tooltip="Frames per second of the file and of the timeline's seconds; 0: the model's own"),
                io.Int.Input("crf", default=17, min=0, max=51, optional=True, advanced=True, tooltip="H.264 quality: 0 lossless, 17 looks lossless, 28 small"),
                io.Int.Input("tile", default=0, min=0, max=16384, optional=True, advanced=True, tooltip="Pixels across a tile of each frame while decoding; 0: the whole frame, or as much as memory allows"),
                io.Combo.Input("unfinished", options=[RESUME, ANEW], default=RESUME, optional=True, advanced=True,
                               tooltip="What to do with an unfinished render of this name that was begun with other inputs: refuse, or drop it and start over"),
            ], COUNTS),
            outputs=[io.Video.Output(display_name="video", tooltip="The file that was written")],
            hidden=[io.Hidden.unique_id],
        )  # fmt: skip

    @classmethod
    def validate_inputs(  # type: ignore[override]
        cls,
        filename_prefix: str | None = None,
        fps: float | None = None,
        timeline: str | None = None,
        frames: int | None = None,
        width: int | None = None,
        height: int | None = None,
    ) -> bool | str:
        from ..samplers.early import ENDLESS, check_fps, check_length

        numbers = (check_fps, fps), *size_checks(width, height), (check_length, frames, ENDLESS, False)
        told = _check_timeline, timeline, fps or 0.0, frames or 0
        return host.valid((host.check_prefix, filename_prefix), *numbers, told)

    @classmethod
    def fingerprint_inputs(cls, timeline: str | None = None, **_: Any) -> list[float]:
        """Render again when a picture of the timeline was replaced."""
        from ..samplers.long.timeline import read_timeline

        try:
            pictures = read_timeline(timeline or "", 24.0, 10**9).pictures
            return [host.changed(Path(host.input_file(picture.file))) for picture in pictures]
        except ValueError:  # told when the node runs
            return []

    @classmethod
    def execute(cls, model: VideoModel, timeline: str, frames: int, filename_prefix: str, window: int = 0, overlap: int = 0,
                keyframes: tuple[Keyframe, ...] = (), adain: float = 0.25, memory: float = 0.0, hold: float = 1.0, fps: float = 0.0,
                crf: int = 17, tile: int = 0, unfinished: str = RESUME, **inputs: Any) -> io.NodeOutput:  # fmt: skip
        from ..samplers.decode import eight_bits, tiling_of
        from ..samplers.long.fingerprint import render_fingerprint, upgraded
        from ..samplers.long.job import ENDING, Job
        from ..samplers.long.plan import LongVideoOptions, plan_long
        from ..samplers.long.render import render
        from ..samplers.long.timeline import read_timeline

        fps = cls.rate(model, fps)
        told = read_timeline(timeline, fps, frames)
        options = LongVideoOptions(window, overlap, adain, memory, hold)
        pictures = tuple(Keyframe(host.input_picture(p.file), p.frame, p.strength) for p in told.pictures)
        request = request_of(model, frames=frames, keyframes=(*(keyframes or ()), *pictures), **inputs)
        made = plan_long(model, told, request, options)
        size = made.request.width, made.request.height
        tiling = tiling_of(model, *model.facts.latent_shape(*size, 1)[3:], tile)
        path, subfolder = host.output_file(filename_prefix, ".mp4", *size)
        job = Job(host.beside_output(filename_prefix, ENDING))
        begun = render_fingerprint(model, told, made, options)
        job.begin(begun, unfinished == ANEW, lambda inputs: upgraded(inputs, model, made))
        tiling = tiling if tile else job.settled(tiling)
        report = host.Report(cls)
        report.tell(*idle(cls, {"adain": adain, "memory": memory, "hold": hold}, model))
        report.tell(*made.notes, *host.shortage(model, made.longest))
        watch = _Watching(report, model, made, job)
        note = {"family": model.name, "variant": model.variant, "frames": frames, "fps": fps, "windows": len(made.windows),
                "width": size[0], "height": size[1], "seed": made.request.seed}  # fmt: skip
        with watch.kept(), heard_by(report.tell):
            if tiling is not None and tiling.size and not tile:
                say(decoded_in_tiles(tiling, model))
            pieces = watch.counted(render(model, told, made, options, job, tiling, watch.callbacks, eight_bits))
            write_video(path, pieces, size, fps, crf, host.metadata(cls, {"reelwire": note}))
        job.drop()
        shown = ui.PreviewVideo([ui.SavedResult(path.name, subfolder, io.FolderType.output)])
        watch.tell_of_cache()
        line = long_video(made.request, len(made.windows), fps, path, watch.seconds)
        return io.NodeOutput(InputImpl.VideoFromFile(str(path)), ui=report.ui(shown.as_dict(), line))


def _check_timeline(timeline: str, fps: float, frames: int) -> None:
    """Raise InputError for what is wrong with a timeline whatever the model is. fps, frames: 0 where they are not known."""
    from ..samplers.long.timeline import read_timeline

    for picture in read_timeline(timeline, fps or None, frames or None).pictures:
        host.input_file(picture.file)


class _Watching:
    """Progress over the whole video with the time that is left, and what a person is told when it stops early."""

    def __init__(self, report: host.Report, model: VideoModel, made: Any, job: Any) -> None:
        from ..samplers.long.render import Callbacks

        self._report, self._model, self._made, self._job = report, model, made, job
        self._steps, self._frames, self._from = 0, 0, None
        self._update, self._began = host.progress(), time.monotonic()
        self._cache = None
        self.callbacks = Callbacks(self._step, report.tell)

    @property
    def seconds(self) -> float:
        """Since the node began."""
        return time.monotonic() - self._began

    def tell_of_cache(self) -> None:
        """Say what a cache did in the last window that was sampled."""
        if self._cache is None:
            return
        from ..samplers.caches.report import report

        estimate = self._cache.policy.estimate(self._model, self._made.longest.request)
        words = [line for line in report(self._cache, estimate).words() if line not in self._report]
        self._report.tell(*(message("last_window", note=line) for line in words), level=logging.INFO)

    def _step(self, done: int, total: int, run: Any) -> None:
        self._steps, self._cache = done, run.cache
        self._from = done - 1 if self._from is None else self._from
        pace = (time.monotonic() - self._began) / (done - self._from)
        window = (done - 1) * len(self._made.windows) // total + 1
        left = _clock(pace * (total - done))
        self._report.show(message("time_left_window", number=window, count=len(self._made.windows), time=left))
        self._move(lambda: host.latent_picture(self._model, run.preview()))

    def counted(self, pieces: Iterator[Tensor]) -> Iterator[Tensor]:
        for piece in pieces:
            self._frames += len(piece)
            self._move(partial(host.frame_picture, piece[-1]))
            yield piece

    def _move(self, picture: Callable[[], Any]) -> None:
        request = self._made.request
        steps = self._made.longest.predictions * len(self._made.windows)
        self._update(self._steps + self._frames, steps + request.frames, picture)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Adds to any error how much is kept, and how to go on."""
        try:
            yield
        except host.Interrupted:
            raise
        except Exception as error:
            count = len(self._made.windows)
            if not any(map(self._job.has, range(count))):
                raise
            done, place = sum(map(self._job.has, range(count))), self._job.folder.relative_to(host.output_folder())
            words = message("windows_kept", done=done, count=count, place=f"output/{place.as_posix()}")
            raise host.extended(error, words) from error


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return (
        message("clock_h_min", hours=minutes // 60, minutes=minutes % 60)
        if minutes >= 60
        else message("clock_min_s", minutes=minutes, seconds=rest)
    )


NODES = [LongVideo]
