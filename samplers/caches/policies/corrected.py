"""A plan whose skipped steps are taken again, their x0 interpolated, once the next one is computed.

The plan is the one whose interpolations miss least. What the forecast misses counts too, but only by what the network's
answer to slightly wrong latents carries on of it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor
from torch.linalg import vector_norm

from ....loaders.denoiser import Denoiser
from ....loaders.messages import Message, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ...solvers import TABLES, run_predictions
from ..course import MISS, NEAR, Course, Known, course, longest_gap
from ..policy import FEWEST, SHORTEST, Policy
from ..state import BranchState, StepContext, Values, extrapolate
from .plan import EDGE, Plan, budget, gram_matrices, level, place, weight

# How far a network's x0 moves with its latents, |dx0| / |dx|, is near .2 + .25 / alpha_t on tiny_ltx and
# tiny_wan; a plan counts on four times as much, since prompts differ
LEAST, AT_NOISE = 0.8, 1.0
# Of errors at pure noise, as an exponent. More than a plan's 2 helps the worst prompts; 3 and 4 help them more, and
# cost 2.3 dB of the mean on tiny_hunyuan (docs/caches.md)
GROWTH = 2.5


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

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        """In runs so short that each prediction counts, only by a calibration that differs in nothing."""
        policy, notes = super().prepare(model, request)
        return (self if notes and run_predictions(model, request) < FEWEST else policy), notes

    def pays(self, predictions: int) -> bool:
        """In shorter runs too where a calibration tells what they cost."""
        return super().pays(predictions) or (bool(self.grams) and self.is_free and predictions >= SHORTEST)

    def why_off(self, predictions: int, notes: tuple[str, ...]) -> tuple[str, ...]:
        if self.speed == 1 or predictions < SHORTEST:
            return super().why_off(predictions, notes)
        numbers = {"cache": self.title, "count": predictions, "least": FEWEST, "near": round(NEAR)}
        off = message("corrected_off", **numbers) if self.is_free else message("corrected_off_span", **numbers)
        known = {note.key: note for note in notes if isinstance(note, Message)}
        others = [message("calibration_for_others")] if "planned_by_noise_other" in known else []
        return (off, *others, *(known[key] for key in known if key == "calibration_differs_plan"))

    @property
    def near(self) -> float:
        """dB that the calibration must expect of each expert, as errors add up: something in short runs alone."""
        is_short = 0 < sum(len(runs[0]) for _, runs in self.grams) < FEWEST
        return NEAR + 10 * math.log10(len(self.grams)) if is_short else -math.inf

    def count_cached(self, part: str, steps: range, total: int, branch: str = "") -> tuple[int, int]:
        """More than the plan has where forecasts miss by more than several runs of a calibration let expect, and in a
        short run."""
        fewest, most = super().count_cached(part, steps, total, branch)
        return fewest, len(steps) if self.near > 0 or len(self.grams_of(part, len(steps))) > 1 else most

    def course(self, denoiser: Denoiser, part: str, steps: range) -> Course:
        grams, computed = self.grams_of(part, len(steps)), budget(len(steps), self.speed)
        levels = tuple((weight(denoiser, i, GROWTH), *level(denoiser, i)) for i in steps)
        places = tuple(place(denoiser, i) for i in steps)
        known = Known(
            grams or tuple(tuple(map(tuple, gram)) for gram in gram_matrices((), places).tolist()),
            levels,
            tuple(LEAST + AT_NOISE / max(alpha, EDGE) for _, alpha, _ in levels),
            min(self.order, 1),
            longest_gap(len(steps), computed),
            bool(grams),
        )
        return course(known, computed, steps, self.near)

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
