"""A plan whose skipped steps are taken again, their x0 interpolated, once the next one is computed.

The plan is the one whose interpolations miss least. What the forecast misses counts too, but only by what the network's
answer to slightly wrong latents carries on of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.linalg import vector_norm

from ....loaders.denoiser import Denoiser
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ...solvers import TABLES
from ..course import MISS, Course, Known, course, longest_gap
from ..state import BranchState, StepContext, Values, extrapolate
from .plan import EDGE, Plan, budget, gram_matrices, place, weight

# How far a network's x0 moves with its latents, |dx0| / |dx|, is near .2 + .25 / alpha_t on tiny_ltx and
# tiny_wan; a plan counts on four times as much, since prompts differ
LEAST, AT_NOISE = 0.8, 1.0


@dataclass(frozen=True, kw_only=True)
class Corrected(Plan):
    """A plan with a corrector."""

    title: ClassVar[str] = "corrected plan"
    position: ClassVar[int | None] = 2
    tooltip: ClassVar[str] = "nearer to the uncached video, by taking skipped steps again"

    @property
    def stored_values(self) -> int:
        """Two computed steps before a gap and the one behind it."""
        return 3

    def estimate(self, model: VideoModel, request: Request) -> int:
        """The stored x0, the latents where the gap under way began, and what the solver remembered there."""
        more = 1 + TABLES[model.solvers][request.sampler].remembered
        return self.mechanism.stored_bytes(model, request, self.stored_values, more)

    def count_cached(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        """More than the plan has where forecasts miss by more than several runs of a calibration let expect."""
        fewest, most = super().count_cached(part, steps, total, branch)
        return fewest, len(steps) if len(self.grams_of(part, len(steps))) > 1 else most

    def course(self, denoiser: Denoiser, part: str, steps: range) -> Course:
        grams, computed = self.grams_of(part, len(steps)), budget(len(steps), self.speed)
        levels = tuple((weight(denoiser, i), *denoiser.alpha_sigma(i)) for i in steps)
        places = tuple(place(denoiser, i) for i in steps)
        known = Known(
            grams or tuple(tuple(map(tuple, gram)) for gram in gram_matrices((), places).tolist()),
            levels,
            tuple(LEAST + AT_NOISE / max(alpha, EDGE) for _, alpha, _ in levels),
            min(self.order, 1),
            longest_gap(len(steps), computed),
            bool(grams),
        )
        return course(known, computed, steps)

    def plan_steps(self, denoiser: Denoiser, part: str, steps: range) -> dict[int, float]:
        return {}

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        assert context.course is not None
        context.course.hear(state.numbers)
        return context.course.skips(context.step)

    def on_computed(
        self, state: BranchState, context: StepContext, values: Values, observed: Mapping[str, Tensor]
    ) -> None:
        assert context.course is not None
        if state.history and context.course.map.known.measured:  # only a calibration tells what a miss weighs
            x0, forecast = values[0], extrapolate(state.history, context.course.slope(context.step))[0]
            state.pending[MISS] = vector_norm(x0 - forecast) / vector_norm(x0)
        context.course.arrive(context.step)
