"""What the file of a VIDEO says of itself, asked once for each state of the file: a node that checks its inputs, waits
for others and then runs would else open it at each stage."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar
from weakref import WeakKeyDictionary

from comfy_api.latest import Input, InputImpl

from ..pictures import file_state

T = TypeVar("T")

_known: WeakKeyDictionary[Input.Video, dict[object, object]] = WeakKeyDictionary()


def once(video: Input.Video, question: object, ask: Callable[[], T]) -> T:
    """What `ask` answers; asked again where it raised, and where the file of the VIDEO is another now."""
    answers, key = _known.setdefault(video, {}), (question, _state(video))
    if key not in answers:
        answers[key] = ask()
    return answers[key]  # type: ignore[return-value]


def _state(video: Input.Video) -> object:
    """What changes with the file of a VIDEO."""
    source = video.get_stream_source() if isinstance(video, InputImpl.VideoFromFile) else None
    if isinstance(source, str):
        try:
            return file_state(source)
        except OSError:
            return None
    return None if source is None else source.getbuffer().nbytes
