"""What the file of a VIDEO says of itself, asked once for each state of the file: a node that checks its inputs, waits
for others and then runs would else open it at each stage."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Generic, TypeVar

from comfy_api.latest import Input, InputImpl

from ..pictures import file_state

T = TypeVar("T")


class OfVideos(Generic[T]):
    """Values of VIDEOs, each for as long as its VIDEO is there; those of other packs need not be hashable."""

    def __init__(self) -> None:
        self._values: dict[int, tuple[weakref.ref[Input.Video], T]] = {}

    def get(self, video: Input.Video) -> T | None:
        """The value of a VIDEO; None without one."""
        known = self._values.get(id(video))
        return known[1] if known is not None and known[0]() is video else None

    def put(self, video: Input.Video, value: T) -> T:
        """Keep a value of a VIDEO, where it can be known when it is gone; returns the value."""
        key = id(video)
        with suppress(TypeError):
            self._values[key] = weakref.ref(video, lambda gone: self._drop(key, gone)), value
        return value

    def clear(self) -> None:
        """Forget all."""
        self._values.clear()

    def _drop(self, key: int, gone: weakref.ref[Input.Video]) -> None:
        if key in self._values and self._values[key][0] is gone:
            del self._values[key]


_answers: OfVideos[dict[object, object]] = OfVideos()


def once(video: Input.Video, question: object, ask: Callable[[], T]) -> T:
    """What `ask` answers; asked again where it raised, and where the file of the VIDEO is another now."""
    known, key = _answers.get(video), (question, _state(video))
    answers = _answers.put(video, {}) if known is None else known
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
