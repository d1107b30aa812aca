"""How far a run is, in words on its node."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ...loaders.messages import Message, message
from ...loaders.video_model import VideoModel
from .. import host
from ..words import clock

if TYPE_CHECKING:
    from ...samplers.caches.runner import Runner

EVERY = 0.5  # seconds at least between two


class Status:
    """Says on a node at which step it is, how long the rest takes, what its cache did, and what is on the card.

    model: that runs here; None: another process runs it, whose card is not known.
    """

    def __init__(self, report: host.Report, model: VideoModel | None) -> None:
        self._report, self._model, self._said = report, model, float("-inf")
        self._from: tuple[int, float] | None = None  # a step, and when it was done

    def step(self, done: int, total: int, cache: Runner | None, window: tuple[int, int] = (1, 1)) -> None:
        """Called after every step. done, total: steps of the whole run; window: its number, and how many there are."""
        now = time.monotonic()
        self._from = self._from or (done, now)
        if now - self._said < EVERY and done < total:
            return
        self._said = now
        card = () if self._model is None else host.card_in_use(self._model)
        self._report.show(self._where(done, total, window, now), *_reused(cache), *card)

    def _where(self, done: int, total: int, window: tuple[int, int], now: float) -> Message:
        """The step, and the time that is left; the first step tells none, as it loads what the others have."""
        assert self._from is not None
        step, since = self._from
        number, windows = window
        count = total // windows
        where = message("step_of", step=done - (number - 1) * count, count=count)
        if windows > 1:
            where = message("window_of", number=number, count=windows, step=where)
        if done == step:
            return where
        return message("time_left", where=where, time=clock((now - since) / (done - step) * (total - done)))


def _reused(cache: Runner | None) -> tuple[Message, ...]:
    """What a cache did so far."""
    if cache is None:
        return ()
    from ...samplers.caches.report import steps_so_far

    computed, reused = steps_so_far(cache)
    return (message("steps_so_far", computed=computed, reused=reused),)
