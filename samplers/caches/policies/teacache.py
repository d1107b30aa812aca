"""TeaCache (Liu et al. 2024, arXiv 2411.19108): a polynomial of how far the input moves says how far the output does.

Coefficients: https://github.com/ali-vilab/TeaCache at 7c10efc, the files named in PUBLISHED. Outside of the range that
they were fitted on the polynomials turn negative, and would count the distance down: they are cut at zero here.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..policy import Policy
from ..state import BranchState, StepContext
from ..store import Calibration, key_of, match, read

Coefficients = tuple[float, ...]


@dataclass(frozen=True)
class Fit:
    """A polynomial (highest power first) of a signal's distance; threshold: as published for about twice the speed.

    warmup, last: the published steps that are computed in any case.
    source: file in the repository.
    low, high: the range of distances that it was fitted on; 0 where it is not published.
    """

    signal: str
    coefficients: Coefficients
    threshold: float
    source: str
    warmup: int = 1
    last: bool = True
    low: float = 0.0
    high: float = 0.0

    def __call__(self, x: float) -> float:
        total = 0.0
        for c in self.coefficients:
            total = total * x + c
        return max(0.0, total)

    def knows(self, x: float) -> bool:
        """Whether a distance lies in its range: the one it was fitted on, or that in which it is above zero."""
        return self.low <= x <= self.high if self.high else self(x) > 0


_WAN, _COG = "TeaCache4Wan2.1/teacache_generate.py", "TeaCache4CogVideoX1.5/teacache_sample_video.py"
# (family, variant) -> what is published for it; the second of Wan's is the mode `use_ret_steps`
PUBLISHED: dict[tuple[str, str], tuple[Fit, ...]] = {
    ("hunyuan_video", "t2v-13b"): (Fit("modulated", (7.33226126e+02, -4.01131952e+02, 6.75869174e+01, -3.14987800e+00, 9.61237896e-02), 0.15, "TeaCache4HunyuanVideo/teacache_sample_video.py"),),
    ("ltx", "0.9.1-2b"): (Fit("modulated", (2.14700694e+01, -1.28016453e+01, 2.31279151e+00, 7.92487521e-01, 9.69274326e-03), 0.05, "TeaCache4LTX-Video/teacache_ltx.py"),),
    ("mochi", "1-preview"): (Fit("modulated", (-3.51241319e+03, 8.11675948e+02, -6.09400215e+01, 2.42429681e+00, 3.05291719e-03), 0.09, "TeaCache4Mochi/teacache_mochi.py"),),
    ("cogvideox", "2b"): (Fit("time", (-3.10658903e+01, 2.54732368e+01, -5.92380459e+00, 1.75769064e+00, -3.61568434e-03), 0.2, _COG),),
    ("cogvideox", "5b"): (Fit("time", (-1.53880483e+03, 8.43202495e+02, -1.34363087e+02, 7.97131516e+00, -5.23162339e-02), 0.2, _COG),),
    ("cogvideox", "1.5-5b"): (Fit("time", (2.50210439e+02, -1.65061612e+02, 3.57804877e+01, -7.81551492e-01, 3.58559703e-02), 0.25, _COG),),
    ("cogvideox", "1.5-5b-i2v"): (Fit("time", (1.22842302e+02, -1.04088754e+02, 2.62981677e+01, -3.06009921e-01, 3.71213220e-02), 0.2, _COG),),
    ("wan", "2.1-t2v-1.3b"): (
        Fit("embedder", (2.39676752e+03, -1.31110545e+03, 2.01331979e+02, -8.29855975e+00, 1.37887774e-01), 0.08, _WAN),
        Fit("embedded", (-5.21862437e+04, 9.23041404e+03, -5.28275948e+02, 1.36987616e+01, -4.99875664e-02), 0.08, _WAN, 5, False),
    ),
    ("wan", "2.1-t2v-14b"): (
        Fit("embedder", (-5784.54975374, 5449.50911966, -1811.16591783, 256.27178429, -13.02252404), 0.2, _WAN),
        Fit("embedded", (-3.03318725e+05, 4.90537029e+04, -2.65530556e+03, 5.87365115e+01, -3.15583525e-01), 0.1, _WAN, 5, False),
    ),
    ("wan", "2.1-i2v-14b-480p"): (
        Fit("embedder", (-3.02331670e+02, 2.23948934e+02, -5.25463970e+01, 5.87348440e+00, -2.01973289e-01), 0.19, _WAN),
        Fit("embedded", (2.57151496e+05, -3.54229917e+04, 1.40286849e+03, -1.35890334e+01, 1.32517977e-01), 0.2, _WAN, 5, False),
    ),
    ("wan", "2.1-i2v-14b-720p"): (
        Fit("embedder", (-114.36346466, 65.26524496, -18.82220707, 4.91518089, -0.23412683), 0.2, _WAN),
        Fit("embedded", (8.10705460e+03, 2.13393892e+03, -3.72934672e+02, 1.66203073e+01, -4.17769401e-02), 0.2, _WAN, 5, False),
    ),
}  # fmt: skip
# variants that share another's coefficients, as the named file has it
_SAME = {("cogvideox", "5b-i2v"): ("cogvideox", "5b"), ("wan", "2.1-flf2v-14b-720p"): ("wan", "2.1-i2v-14b-720p"), ("ltx", "0.9.0-2b"): ("ltx", "0.9.1-2b")}  # fmt: skip
SIGNALS_OF = {"cogvideox": "time", "wan": "embedder"}  # of families without coefficients; else "modulated"
PLAIN_THRESHOLD = 0.1  # of the distance itself, where there is no polynomial


def published(model: VideoModel, retention: bool) -> Fit | None:
    """The published fit for a model; retention: in the mode that computes the first steps."""
    key = (model.name, model.variant)
    fits = PUBLISHED.get(_SAME.get(key, key), ())
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
        return self.polynomial.signal if self.polynomial else "modulated"

    @property
    def computes_last_step(self) -> bool:  # type: ignore[override]
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
            if record is not None:
                notes = (message("calibration_differs", names=", ".join(differs)),) if differs else ()
                return self._with(calibrated(record)), notes
            if self.source == "calibrated":
                rule = message("no_calibration", variant=model.variant, steps=request.steps)
                raise InputError("coefficients", "calibrated", rule, message("calibrate_or_published"))
        fit = published(model, self.retention)
        if fit is None:
            plain = Fit(SIGNALS_OF.get(model.name, "modulated"), (1.0, 0.0), PLAIN_THRESHOLD, "")
            return self._with(plain), (message("teacache_unpublished", variant=model.variant),)
        return self._with(fit), ()

    def _with(self, fit: Fit) -> TeaCache:
        threshold = self.threshold if self.threshold or self.exact else fit.threshold
        return replace(self, polynomial=fit, threshold=threshold, warmup=max(self.warmup, fit.warmup))

    def notes(self, distances: list[float]) -> tuple[str, ...]:
        assert self.polynomial is not None
        outside = sum(not self.polynomial.knows(distance) for distance in distances)
        return (message("teacache_outside", outside=outside, count=len(distances)),) if outside else ()
