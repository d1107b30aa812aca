"""The timeline's input, which two nodes have, and what can be refused of it before a model is known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from comfy_api.latest import io

from .. import host

WIDGET = "REELWIRE_TIMELINE"  # the page's control; the input itself is a STRING, so that any text can be wired in
OPENED_BEFORE = 64  # pictures whose headers are read before a prompt is queued, while the server waits
EXAMPLE = """{
  "unit": "seconds",
  "prompts": [
    {"at": 0, "text": "A red car drives along the coast at sunrise"},
    {"at": 5, "text": "The red car stops at a lighthouse"}
  ],
  "negative": "",
  "keyframes": []
}"""


def timeline_input(tooltip: str) -> io.Input:
    """The text of a timeline, which the page shows as blocks and pictures."""
    field = io.String.Input("timeline", multiline=True, default=EXAMPLE, tooltip=tooltip)
    field.extra_dict = {"widgetType": WIDGET}
    return field


def check_timeline(timeline: str, fps: float, frames: int) -> None:
    """Raise InputError for what is wrong with a timeline whatever the model is. fps, frames: 0 where not known."""
    from ...samplers.long.timeline import read_timeline

    pictures = read_timeline(timeline, fps or None, frames or None).pictures
    for number, file in enumerate(dict.fromkeys(picture.file for picture in pictures)):
        check = host.input_size if number < OPENED_BEFORE else host.input_file
        check(file)


def picture_times(timeline: str) -> Iterator[float]:
    """When each picture of a timeline was last written; raises ValueError for what is none."""
    from ...samplers.long.timeline import read_timeline

    pictures = read_timeline(timeline, 24.0, 10**9).pictures
    for file in dict.fromkeys(picture.file for picture in pictures):
        yield host.modified(Path(host.input_file(file)))
