"""Compare Videos."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from comfy_api.latest import Input, InputImpl, io

from ...loaders.messages import InputError, data, message, quoted
from .. import host
from ..decoding import crf_input, report_file
from ..types import InputValue, number_input, whole_input
from ..video.file import FileWriter, write_video
from ..video.formats import DEFAULT, format_notes
from ..words import written
from .language import LANGUAGES, said
from .render import ENDS, HOLD

if TYPE_CHECKING:
    from .lettering import Lettering
    from .table import Entry, Table

MOST = 9  # videos
NAMES = tuple(f"video_{number}" for number in range(1, MOST + 1))


class CompareVideos(FileWriter):
    """Compare Videos."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="ReelwireCompare",
            display_name="Compare Videos",
            category="Reelwire/reports",
            is_output_node=True,
            description="Shows videos side by side in one labelled video, with a table of what each has taken: time, "
            "peak memory, file size, and cost by the hour. The table is saved beside the mp4 as a web page and as a "
            "picture.",
            search_aliases=[
                "compare",
                "side by side",
                "grid",
                "benchmark",
                "xy plot",
                "对比",
                "比较",
                "并排",
                "网格",
            ],
            inputs=[*_video_inputs(), *_word_inputs(), *_grid_inputs()],
            outputs=[
                io.Video.Output(display_name="video", tooltip="The file that was written"),
                io.String.Output(display_name="report", tooltip="The table as text (Markdown)"),
                io.String.Output(display_name="json", tooltip="The same as numbers: bytes and seconds"),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def validate_inputs(cls, filename_prefix: str | None = None, fps: float | None = None) -> bool | str:
        from ...samplers.early import check_fps

        return host.valid((host.check_prefix, filename_prefix), (check_fps, fps))

    @classmethod
    def check_lazy_status(
        cls, filename_prefix: str, sound: int = 0, fps: float = 0.0, **inputs: InputValue
    ) -> list[str]:
        """Refuse what cannot be written before the videos are made."""
        from ...samplers.early import check_fps

        check_fps(fps)
        _check_sound(sound, inputs)
        host.check_output(cls, filename_prefix, ".mp4")
        return host.pending(cls, inputs)

    @classmethod
    def execute(
        cls,
        filename_prefix: str,
        labels: str = "",
        columns: int = 0,
        width: int = 0,
        ends: str = HOLD,
        fps: float = 0.0,
        sound: int = 0,
        price: float = 0.0,
        language: str = "English",
        crf: int = 17,
        **videos: Input.Video,
    ) -> io.NodeOutput:
        from .files import write_report
        from .grid import background, lay_out
        from .lettering import Lettering
        from .render import Rendering, length_of
        from .table import Table, caption

        report, lettering = host.Report(cls), Lettering()
        _check_sound(sound, videos)
        table = Table(_entries(report, {n: v for n, v in videos.items() if v is not None}, labels), price)
        clips = [entry.clip for entry in table.entries]
        grid, length = lay_out([(c.width, c.height) for c in clips], columns, width), length_of(clips, fps, ends)
        words = [(e.label, " · ".join(said(each, language) for each in caption(e))) for e in table.entries]
        rendering = Rendering(clips, grid, background(grid, words, lettering), length, ends)
        size, metadata = (grid.width, grid.height), host.metadata(cls, None)
        path, subfolder, notes = host.output_file(cls, filename_prefix, ".mp4", *size)
        heard, lost = _sound(videos, sound)
        unlike = (*_few_columns(columns, grid.columns), *_other_width(width, grid.width))
        report.tell(*host.gone_notes(cls), *notes, *lost, *unlike)
        try:
            file = write_video(path, rendering.frames(), size, float(length.fps), crf, metadata, heard)
        finally:
            host.forget_video()
        path = report_file(report, format_notes(DEFAULT, crf, heard is not None), *file)
        files = write_report(path, table, rendering.middle(), lettering, language, metadata)
        for each in (path, *files):
            host.remember_file(cls, each)
        report.tell(*_lacking(lettering))
        report.tell(message("report_beside", names=", ".join(f.name for f in files)), level=logging.INFO)
        result = written(*size, length.frames, float(length.fps), path)
        preview = host.shown_file(path, subfolder)
        outputs = InputImpl.VideoFromFile(str(path)), _markdown(table, language), json.dumps(table.facts(), indent=1)
        return io.NodeOutput(*outputs, ui=report.ui({**preview, "reelwire_table": [_sendable(table)]}, result))


def _video_inputs() -> list[io.Input]:
    """Sockets for the videos."""
    tooltip = (
        "A video: of Decode Video to File or Long Video, which know what it has taken, or of any other node. Each is "
        "scaled to fit its place, and its proportions stay"
    )
    return [io.Video.Input(name, optional=number > 1, lazy=True, tooltip=tooltip) for number, name in enumerate(NAMES)]


def _word_inputs() -> list[io.Input]:
    """What is written, and where."""
    return [
        io.String.Input(
            "labels",
            multiline=True,
            default="",
            optional=True,
            tooltip="What stands above each video: the first line is for video_1, the second for video_2. A video "
            "without a line bears the name of its model, else of its file",
        ),
        number_input(
            "price",
            0.0,
            (0.0, 100_000.0, 0.01),
            "Of one hour of the card, in any currency; 0 leaves the cost out",
            optional=True,
        ),
        io.Combo.Input(
            "language",
            options=list(LANGUAGES),
            default="English",
            optional=True,
            tooltip="Of the words in the video and the report",
        ),
        io.String.Input("filename_prefix", default="video/compare", tooltip="Inside ComfyUI's output folder"),
    ]


def _grid_inputs() -> list[io.Input]:
    """What becomes of sizes, lengths, rates and sounds that differ."""
    return [
        whole_input("columns", 0, (0, MOST), "Videos beside each other; 0: what is most like a screen", optional=True),
        io.Combo.Input(
            "ends",
            options=list(ENDS),
            default=HOLD,
            optional=True,
            tooltip="What a video does that is shorter than the longest: its last frame stays, or it begins again; or "
            "all end with the shortest",
        ),
        number_input(
            "fps",
            0.0,
            (0.0, 240.0, 0.01),
            "Frames per second of the grid; 0: the highest of the videos. Of each moment the newest frame of each "
            "video is shown, so that all run at their own speed",
            optional=True,
            advanced=True,
        ),
        whole_input(
            "sound",
            0,
            (0, MOST),
            "The video whose sound goes along: 1 for video_1; 0: none",
            optional=True,
            advanced=True,
        ),
        whole_input(
            "width",
            0,
            (0, 7680),
            "Pixels across the grid; 0: as the videos need, at most 1920",
            optional=True,
            advanced=True,
        ),
        crf_input(optional=True),
    ]


def _check_sound(sound: int, inputs: Mapping[str, object]) -> None:
    """Raise InputError where the video is not connected whose sound was asked for."""
    if sound and f"video_{sound}" not in inputs:
        raise InputError("sound", sound, message("sound_of_none", name=f"video_{sound}"), message("use_sound_number"))


def _sound(videos: Mapping[str, Input.Video | None], number: int) -> tuple[host.Sound | None, list[str]]:
    """(the sound of the video of this number, notes): none, and said, where nothing came, or it is silent."""
    if not number:
        return None, []
    name = f"video_{number}"
    video = videos.get(name)
    if video is None:
        return None, [message("sound_never_came", name=name)]
    sound, notes = host.opened_audio(video, name)
    return sound, [message("sound_has_none", name=name) if sound is None else note for note in notes]


def _entries(report: host.Report, videos: Mapping[str, Input.Video], labels: str) -> tuple[Entry, ...]:
    """What each video is; labels without a video are said."""
    from .clips import clip_of
    from .table import Entry, default_label

    lines = dict(zip(NAMES, (line.strip() for line in labels.split("\n")), strict=False))
    unused = [line for name, line in lines.items() if line and name not in videos]
    unused += [line for line in labels.split("\n")[MOST:] if line.strip()]
    report.tell(*(message("label_without_video", label=line) for line in unused))
    entries = []
    for name in (name for name in NAMES if name in videos):
        clip, (note, run) = clip_of(name, videos[name]), host.about_video(videos[name], name)
        label = quoted(lines.get(name, "")) or default_label(note, clip, _file_name(videos[name]))
        entries.append(Entry(label, clip, note, run))
    return tuple(entries)


def _file_name(video: Input.Video) -> str:
    source = video.get_stream_source() if isinstance(video, InputImpl.VideoFromFile) else None
    return os.path.basename(source) if isinstance(source, str) else ""


def _few_columns(asked: int, columns: int) -> list[str]:
    return [message("columns_fewer", asked=asked, count=columns)] if asked > columns else []


def _other_width(asked: int, width: int) -> list[str]:
    return [message("grid_width", asked=asked, width=width)] if asked and asked != width else []


def _lacking(lettering: Lettering) -> list[str]:
    """What to say of signs that no font here has."""
    signs = [*lettering.lacking]
    return [message("signs_lacking", signs=" ".join(signs[:20]), count=len(signs))] if signs else []


def _markdown(table: Table, language: str) -> str:
    from ...samplers.estimate.report import table as drawn

    rows = [[said(cell, language).replace("|", "\\|") for cell in row] for row in table.rows()]
    return "\n".join(drawn([said(cell, language) for cell in table.head()], rows))


def _sendable(table: Table) -> str:
    """The table for the page, which says its words in its own language."""
    rows = [[data(cell) for cell in row] for row in table.rows()]
    return json.dumps({"head": [data(cell) for cell in table.head()], "rows": rows})


NODES = [CompareVideos]
