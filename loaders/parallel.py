"""Over how many workers a model's work is spread, and how: the choice alone, which starts nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .messages import InputError, Origin, message, series

Mode = Literal["jobs", "context", "branches", "experts"]
MODES: tuple[Mode, ...] = ("jobs", "context", "branches", "experts")
MOST_WORKERS = 1024


@dataclass(frozen=True)
class Parallel:
    """How the work of a model is spread.

    address: of a Ray cluster; empty: the cards of this machine.
    workers: processes, each with a card of its own where there are any; 0: one for each card.
    mode: "jobs" (each clip, segment or decode on a worker of its own), "context" (the tokens of one clip over all
        workers), "branches" (the forward passes of guidance, one on each) or "experts" (Wan 2.2's two networks).
    """

    address: str = ""
    workers: int = 0
    mode: Mode = "jobs"
    node: Origin | None = field(default=None, compare=False, repr=False)

    @property
    def splits_clip(self) -> bool:
        """Whether all workers sample one clip together."""
        return self.mode != "jobs"


def check_parallel(parallel: Parallel) -> None:
    """Raise InputError for a choice that no model can be spread by."""
    if parallel.mode not in MODES:
        raise InputError("mode", parallel.mode, message("no_parallel_mode"), message("use_one_of", names=series(MODES)))
    least = 2 if parallel.splits_clip else 1
    if parallel.workers and not least <= parallel.workers <= MOST_WORKERS:
        rule = message("workers_range", mode=parallel.mode, least=least, most=MOST_WORKERS)
        raise InputError("workers", parallel.workers, rule, message("use_workers", count=least))
    if parallel.mode == "experts" and parallel.workers not in (0, 2):
        raise InputError("workers", parallel.workers, message("experts_are_two"), message("use_workers", count=2))
