"""The bar, the still and the moving picture of the node that runs."""

from __future__ import annotations

import time
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from comfy.cli_args import args
from comfy_execution.utils import get_executing_context
from torch import Tensor

from ....loaders.video_model import VideoModel
from ..notes import displayed, has_page, send
from ..progress import progress
from .colours import coloured, published
from .film import Film, shares
from .learned import Lesson, learned_colours
from .strip import chosen, strip_of

if TYPE_CHECKING:
    from PIL.Image import Image

EVERY = 0.5  # seconds at least between two moving pictures
SHARE = 0.01  # of a run's time that they may take
BEFORE = 4  # latent frames of the window before that are shown with a join
SLOWEST, FASTEST = 4.0, 30.0  # frames a second of the moving picture


@dataclass(frozen=True)
class Place:
    """Where in a video a window lies. Frames are latent ones.

    number, count: of the window, from 1. shared: its first frames, which it shares with the window before; following:
    its last ones, which the next one will share. before: the window before [1, C, t, h, w], up to the end of what both
    share; None where it is not known.
    """

    number: int = 1
    count: int = 1
    shared: int = 0
    following: int = 0
    before: Tensor | None = None


class LiveView:
    """What the running node shows of the video that it makes."""

    def __init__(self) -> None:
        self._update, self._due, self._film = progress(), float("-inf"), Film()
        self._lesson: Lesson | None = None
        self._window = 0  # that is shown
        context = get_executing_context()
        self._node = displayed(context.node_id) if context is not None else ""

    def learn(self, model: VideoModel, latents: Tensor) -> None:
        """Learn the colours of latents [1, C, t, h, w] from the frames that come, where nobody has published them."""
        if published(model) is None and learned_colours(model) is None:
            self._lesson = Lesson(model, latents)

    def latents(
        self,
        done: int,
        total: int,
        model: VideoModel,
        latents: Callable[[], Tensor],
        fps: float = 0.0,
        window: int = 1,
        place: Callable[[], Place] = Place,
    ) -> None:
        """Move the bar, and now and then show latents [1, C, t, h, w]; may raise to stop.

        latents, place: made when somebody sees them. fps: frames per second of the video; 0: the model's. window: its
        number; a new one is shown at once.
        """

        self._film = Film()

        def picture() -> Image:
            whole = latents().cpu()  # waits for the card
            began = time.perf_counter()
            if not self._is_due(done >= total or window != self._window):
                return still(coloured(model, whole[:, :, whole.shape[2] // 2][:, :, None])[0])
            self._window, where = window, place()
            before = _before(where)
            whole = whole if before is None else torch.cat([before.to(whole), whole], 2)
            count = whole.shape[2]
            frames = coloured(model, whole[:, :, chosen(count)])
            marks = _marks(count, 0 if before is None else before.shape[2], where)
            seconds = model.facts.frames(count) / (fps or model.facts.fps)
            self._send(frames, seconds, {"window": where.number, "windows": where.count, "marks": marks}, began)
            return still(frames[(marks[0] + len(frames)) // 2])

        self._update(done, total, picture)

    def distant(
        self, done: int, total: int, model: VideoModel, latents: Tensor | None, fps: float, place: Place | None = None
    ) -> None:
        """As `latents`, of a run on a worker, which does not always send some. place: of its window."""
        where = place or Place()
        if latents is None:
            self._update(done, total)
        else:
            self.latents(done, total, model, lambda: latents, fps, where.number, lambda: where)

    def frames(self, done: int, total: int, piece: Tensor, fps: float) -> None:
        """Move the bar, and now and then show what is decoded, to which frames [n, H, W, 3] in 0..1 or in whole numbers
        are new; may raise to stop."""
        self._film.add(piece)
        if self._lesson is not None:
            self._lesson.add(piece)

        def picture() -> Image:
            began = time.perf_counter()
            if self._is_due(done >= total):
                self._send(self._film.frames, self._film.count / fps, {}, began)
            return still(piece[-1])

        self._update(done, total, picture)

    def _is_due(self, at_once: bool) -> bool:
        return (at_once or time.monotonic() >= self._due) and has_page()

    def _send(self, frames: Tensor, seconds: float, more: dict[str, object], began: float) -> None:
        """Send a strip of frames [n, h, w, 3] in 0..1 that are so many seconds long; the next one waits until they take
        no more than their share of the time."""
        strip = strip_of(frames)
        seconds = min(max(seconds, strip.frames / FASTEST), strip.frames / SLOWEST)
        content = {"frames": strip.frames, "ratio": strip.ratio, "seconds": seconds, **more}
        send("reelwire.live", {"node": self._node, "picture": b64encode(strip.jpeg).decode(), **content})
        self._due = time.monotonic() + max(EVERY, (time.perf_counter() - began) / SHARE)


def still(frame: Tensor) -> Image:
    """A PIL image of a frame [H, W, 3] in 0..1 or in whole numbers, no larger than ComfyUI's --preview-size."""
    from PIL import Image

    frame = (shares(frame.cpu()).float().clamp(0, 1) * 255).round().to(torch.uint8)
    image = Image.fromarray(frame.numpy())
    image.thumbnail((args.preview_size, args.preview_size))
    return image


def _before(place: Place) -> Tensor | None:
    """The frames of the window before that come before the join."""
    if place.before is None:
        return None
    new = place.before.shape[2] - place.shared
    return place.before[:, :, max(0, new - BEFORE) : new]


def _marks(count: int, first: int, place: Place) -> list[int]:
    """How many of the frames that are shown are of the window before, of the join, new, and of the next join."""
    joined = first + place.shared
    ends = (first, joined, max(joined, count - place.following), count)
    shown = [sum(frame < end for frame in chosen(count)) for end in ends]
    return [shown[0], *(later - earlier for earlier, later in pairwise(shown))]
