"""Skipped steps are taken again once the next one is computed: between two steps x0 is known better than ahead.

A forecast extrapolates, and what it misses stays in the latents. When the step behind the gap is computed, the x0 of
the skipped ones is interpolated, and the solver goes through the gap again from where it began: its steps alone, no
forward pass. It is the corrector of a predictor-corrector solver (UniPC, Zhao et al. 2023, arXiv 2302.04867) on the
grid of the uncached run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from ..solvers import Place, Walk
from .course import Course
from .state import BranchState, excess

Goal = tuple[Tensor, int]  # latents, and the number of the prediction that is made from them
Again = Callable[[Tensor, Tensor, int], Tensor]  # (x0, latents, step) -> the latents of the next step


@dataclass
class Gap:
    """Skipped steps in a row. place, latents: where the first of them began."""

    place: Place
    latents: Tensor
    steps: list[int] = field(default_factory=list)

    @property
    def bytes(self) -> int:
        """Of what it keeps."""
        return self.latents.nbytes + self.place.bytes


class Corrector:
    """The gaps of one expert's steps. state: where the x0 of its computed steps are stored, the newest last."""

    def __init__(self, course: Course, state: BranchState) -> None:
        self._course, self._state = course, state
        self._computed: list[int] = []
        self._gap: Gap | None = None

    @property
    def bytes(self) -> int:
        """Of what the gap under way keeps."""
        return self._gap.bytes if self._gap is not None else 0

    def correct(self, walk: Walk, latents: Tensor, step: int, skipped: bool, again: Again) -> Goal | None:
        """Where the run goes on: at a computed step, after the gap before it was gone through again, or in it, at a
        step that has to be computed too. None where there was no gap."""
        if skipped:
            self._gap = self._gap or Gap(walk.place(), latents)
            self._gap.steps.append(step)
            return None
        gap, self._gap = self._gap, None
        stored = [values[0] for _, values in self._state.history]
        self._computed = [*self._computed, step][-len(stored) :]
        if gap is None:
            return None
        basis, goal = list(self._computed), step
        if self._course.missed_far:
            goal = self._course.reject()
            self._computed.pop()
            self._state.history.pop()
        walk.go_back(gap.place)
        latents, before = gap.latents, [each for each in gap.steps if each < goal]
        for skipped_step in before:
            latents = again(_weighted(self._course.weights(skipped_step, basis), stored), latents, skipped_step)
        if goal < step and before:
            self._gap = Gap(gap.place, gap.latents, before)
        return latents, goal


def follows(alpha: float, sigma: float) -> float:
    """The share of a move of its latents alpha * x0 + sigma * noise that x0 makes along with them.

    All of it, where latents are not larger than x0 and noise. After a wrong x0 it is .3 to 3 in the middle of a run and
    1 to 1.1 at its end; 1 is nearest on tiny_ltx, tiny_wan, tiny_hunyuan and tiny_mochi. SVD's latents are up to 700
    times as large, and x0 follows by as much less.
    """
    return 1 / excess(alpha, sigma)


def _weighted(weights: tuple[float, ...], values: list[Tensor]) -> Tensor:
    total = weights[0] * values[0]
    for weight, value in zip(weights[1:], values[1:], strict=True):
        total = total.add(value, alpha=weight)
    return total
