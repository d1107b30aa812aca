"""TeaCache (Liu et al. 2024, arXiv 2411.19108): a polynomial of how far the input moves says how far the output does.

Coefficients: https://github.com/ali-vilab/TeaCache at 7c10efc, in the families' spec.json with their files. Outside of
the range that they were fitted on the polynomials turn negative, and would count the distance down: they are cut at
zero here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ....loaders.messages import InputError, inputs_named, message
from ....loaders.request import Request
from ....loaders.spec import CacheFit, Spec
from ....loaders.video_model import VideoModel
from ..policy import Policy
from ..state import BranchState, StepContext
from ..store import Calibration, key_of, match, read


@dataclass(frozen=True)
class Fit(CacheFit):
    """A published polynomial of a signal's distance, or one of a calibration, with the range of distances that it was
    fitted on; low and high are 0 where that is not known."""

    low: float = 0.0
    high: float = 0.0

    def __call__(self, x: float) -> float:
        """How far the output moves where the signal moves by x; not below 0."""
        total = 0.0
        for c in self.coefficients:
            total = total * x + c
        return max(0.0, total)

    def knows(self, x: float) -> bool:
        """Whether a distance lies in its range: the one it was fitted on, or that in which it is above zero."""
        return self.low <= x <= self.high if self.high else self(x) > 0


PLAIN_THRESHOLD = 0.1  # of the distance itself, where there is no polynomial


def published_fits(spec: Spec) -> dict[str, tuple[Fit, ...]]:
    """Variant -> what is published for it, of a family's spec; the last is that of the mode "retention"."""
    return {variant: tuple(Fit(**vars(fit)) for fit in fits) for variant, fits in spec.cache_fits.items()}


def published(model: VideoModel, retention: bool) -> Fit | None:
    """The published fit for a model; retention: in the mode that computes the first steps."""
    fits = published_fits(model.checkpoint.spec).get(model.variant, ())
    return fits[-1 if retention else 0] if fits else None


def calibrated(record: Calibration) -> Fit:
    """The fit of a record, of its first branch."""
    branch = record.branches[0]
    return Fit(branch.signal, branch.coefficients, PLAIN_THRESHOLD, "calibration", low=branch.low, high=branch.high)


@dataclass(frozen=True, kw_only=True)
class TeaCache(Policy):
    """threshold: of the distance added up since the last computed step; 0 means the published one, unless `exact`.

    retention: Wan's second mode.
    source: of coefficients: "calibrated", "published", or "auto" for the first of them that there is.
    polynomial: None for the model's own, which `prepare` looks up.
    exact: whether a threshold of 0 means that nothing is reused.
    """

    threshold: float = 0.0
    retention: bool = False
    source: str = "auto"
    polynomial: Fit | None = None
    exact: bool = False

    title: ClassVar[str] = "TeaCache"
    position: ClassVar[int | None] = None

    @property
    def signal(self) -> str:  # type: ignore[override]
        """The polynomial's."""
        return self.polynomial.signal if self.polynomial else "modulated"

    @property
    def computes_last_step(self) -> bool:  # type: ignore[override]
        """As the polynomial's source has it."""
        return self.polynomial.last if self.polynomial else True

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        assert self.polynomial is not None
        if distance is None:
            return False
        state.total += self.polynomial(distance)
        return state.total < self.threshold

    def check_model(self, model: VideoModel) -> None:
        if model.stacks is None:
            raise InputError("policy", "TeaCache", message("unet_no_teacache", title=model.title), message("use_fora"))

    def prepare(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        if self.polynomial is not None:
            return self, ()
        if self.source != "published":
            record, differs = match(read(model.recipe.files["checkpoint"]), key_of(model, request))
            if record is not None and record.branches:  # of a few steps nothing is fitted
                notes = (message("calibration_differs", names=inputs_named(*differs)),) if differs else ()
                return self._with(calibrated(record)), notes
            if self.source == "calibrated":
                rule = message("no_calibration", variant=model.variant, steps=request.steps, sampler=request.sampler)
                raise InputError("coefficients", "calibrated", rule, message("calibrate_or_published"))
        fit = published(model, self.retention)
        if fit is None:
            plain = Fit(model.checkpoint.spec.cache_signal, (1.0, 0.0), PLAIN_THRESHOLD, "")
            return self._with(plain), (message("teacache_unpublished", variant=model.variant),)
        return self._with(fit), ()

    def _with(self, fit: Fit) -> TeaCache:
        """The policy with this polynomial, and its threshold where none was set."""
        threshold = self.threshold if self.threshold or self.exact else fit.threshold
        return replace(self, polynomial=fit, threshold=threshold, warmup=max(self.warmup, fit.warmup))

    def notes(self, distances: list[float]) -> tuple[str, ...]:
        assert self.polynomial is not None
        outside = sum(not self.polynomial.knows(distance) for distance in distances)
        return (message("teacache_outside", outside=outside, count=len(distances)),) if outside else ()
