"""Windows of a long video that workers sample: those that wait for no other all at once, the others in turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ...loaders.messages import Message, message
from ...loaders.request import Conditioning
from ...loaders.video_model import VideoModel
from ..plan import SamplingPlan
from .plan import LongPlan
from .windows import Window

if TYPE_CHECKING:
    from ..parallel.jobs import Done, Job

PAUSE = 0.05  # seconds between two looks


def waits_for_none(whole: LongPlan, number: int, window: Window) -> bool:
    """Whether a window can be sampled before the others are: it begins with a picture of its own, and does not lead
    back to how the video began."""
    leads_back = whole.leads_back and number == len(whole.windows) - 1
    begins = not window.shared or any(keyframe.frame == 0 for keyframe in window.keyframes)
    return whole.mode == "last_frames" and begins and not leads_back


def spread_note(whole: LongPlan) -> Message:
    """What several workers can do for a video."""
    if whole.mode == "context_windows":
        return message("long_here")
    free = sum(waits_for_none(whole, number, window) for number, window in enumerate(whole.windows))
    return message("long_parallel", free=free, count=len(whole.windows)) if free > 1 else message("long_in_turn")


@dataclass
class Spread:
    """The samplings that workers are at, or have done.

    submit: begins one. look: hears of all of them, (steps done, in all, latents of a preview or None, the
    one that is waited for), and may raise to stop them. done: hears what came of each.
    number: of the window that is waited for, from 0; waited: seconds for which nothing else was done.
    """

    submit: Callable[[VideoModel, Conditioning, SamplingPlan], Job]
    look: Callable[[int, int, Tensor | None, Job], None]
    done: Callable[[Done], None]
    number: int = 0
    waited: float = 0.0
    _jobs: dict[int, Job] = field(default_factory=dict)
    _taken: dict[int, int] = field(default_factory=dict)  # window -> its steps

    def send(self, number: int, model: VideoModel, conditioning: Conditioning, plan: SamplingPlan) -> None:
        """Begin to sample a window."""
        self._jobs[number] = self.submit(model, conditioning, plan)

    def sent(self, number: int) -> bool:
        """Whether a window is under way, or done and not taken yet."""
        return number in self._jobs

    def finished(self) -> Iterator[int]:
        """Windows that can be taken without waiting, and have not failed."""
        for number, job in [*self._jobs.items()]:
            if job.has_made:
                yield number

    def take(self, number: int, count: int, meanwhile: Callable[[], None]) -> Tensor:
        """Latents of a window, once they are there; raises the error that it ended with. count: of all windows."""
        job, self.number = self._jobs[number], number
        while not job.is_done:
            looks = [each.look for each in self._jobs.values()]
            each = max([look.total for look in looks] + [*self._taken.values()], default=0)
            self.look(each * len(self._taken) + sum(look.done for look in looks), each * count, job.look.preview, job)
            meanwhile()
            began = time.monotonic()
            time.sleep(PAUSE)
            self.waited += time.monotonic() - began
        del self._jobs[number]
        done = job.result()
        self._taken[number] = job.look.total
        self.done(done)
        return done.latents

    def close(self) -> None:
        """Nobody wants the rest any more."""
        for job in self._jobs.values():
            job.cancel()
