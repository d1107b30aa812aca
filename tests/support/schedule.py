"""In which order two workers take the files of tests: the longest first, and those with a ComfyUI on one of them.

Each worker that runs a test with a ComfyUI boots one, and opens its page; so one worker takes these files as long as
there are any, and the other one the engine's. An open page draws all the time: its files are the last of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from xdist.scheduler import LoadFileScheduling

from .seconds import seconds

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

# the session's own; a file that is not of its kind costs the other worker a boot
HOST_FIXTURES, PAGE_FIXTURE = {"host", "card_host", "dynamic_card_host"}, "page"
HOSTED = re.compile(
    r"/(page|released)/|/test_(host_(?!memory)|card_workflows|card_estimate|workflows|wiring|messages|arrivals|control"
    r"|farm|campaign|soak|hung)"
)
PAGED = re.compile(r"/(page|released)/|/test_(workflows|messages)\.")


class LongestFirst(LoadFileScheduling):
    """xdist's scheduler of files, in that order."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(following(self.workqueue, hosted=node is self.nodes[0]), last=False)
        super()._assign_work_unit(node)


def following(waiting: Mapping[str, Iterable[str]], hosted: bool) -> str:
    """The file that a worker takes next: the longest that waits, of the worker's own kind where there is one.

    waiting: file -> its tests.
    """

    def order(file: str) -> tuple[bool, bool, float]:
        own = bool(HOSTED.search(file)) == hosted
        return own, not PAGED.search(file), sum(map(seconds, waiting[file]))

    return max(waiting, key=order)
