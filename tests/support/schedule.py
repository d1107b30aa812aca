"""In which order two workers take the files of tests: the longest first, and those with a ComfyUI on one of them.

Each worker that runs a test with a ComfyUI boots one, and opens its page; so one worker takes these files as long as
there are any, and the other one the engine's.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from xdist.scheduler import LoadFileScheduling

from .seconds import seconds

if TYPE_CHECKING:
    from xdist.workermanage import WorkerController

# a wrong answer costs the time of a boot and nothing else
HOSTED = re.compile(
    r"/(page|released|soak|campaign)/|/test_(host_|card_workflows|workflows|wiring|messages|arrivals|control|kernels)"
)


class LongestFirst(LoadFileScheduling):
    """xdist's scheduler of files, in that order."""

    def _assign_work_unit(self, node: WorkerController) -> None:
        self.workqueue.move_to_end(self._next(hosted=node is self.nodes[0]), last=False)
        super()._assign_work_unit(node)

    def _next(self, hosted: bool) -> str:
        """The longest file that waits, of the worker's own kind where there is one."""

        def order(file: str) -> tuple[bool, float]:
            return bool(HOSTED.search(file)) == hosted, sum(map(seconds, self.workqueue[file]))

        return max(self.workqueue, key=order)
