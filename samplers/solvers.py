"""Solvers by name: functions that carry latents from the first noise level of a schedule to its last.

A family says which noise levels its reference pipeline runs through; a solver steps between them. On flow models "DDIM"
with eta 0 is Euler: both move straight along the predicted velocity.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Protocol

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..loaders.denoiser import SMALLEST, Denoiser, Factor, NoiseSchedule, Scheduler
from ..loaders.parts import Args, Argument, Kwargs
from ..loaders.request import Request
from ..loaders.video_model import VideoModel
from .schedulers import Make, diffusers_scheduler, dpmpp_2m, flow_match_euler, unipc


@dataclass(frozen=True)
class Place:
    """Where a walk was: what its solver and its scheduler remembered, and which noise came next."""

    memory: Mapping[str, object]
    scheduler: Mapping[str, object]
    generator: Tensor

    @property
    def bytes(self) -> int:
        """Of all tensors that are remembered."""
        known = [*self.memory.values(), *self.scheduler.values()]
        flat = [each for value in known for each in (value if isinstance(value, list) else [value])]
        return sum(each.nbytes for each in flat if isinstance(each, Tensor) and each.ndim > 1)


@dataclass(frozen=True)
class Walk:
    """The way of one run through its noise levels, which can be gone back on.

    settle: as `Denoiser.settle`.
    memory: what the solver remembers from prediction to prediction: tensors that it does not write into, and numbers.
    """

    denoiser: Denoiser
    schedule: NoiseSchedule
    settle: Callable[[Tensor, Tensor, int, int], Tensor]
    memory: Kwargs = field(default_factory=dict)

    def place(self) -> Place:
        """Where the walk is."""
        return Place(dict(self.memory), _attributes(self.schedule.scheduler), self.denoiser.generator.get_state())

    def go_back(self, place: Place) -> None:
        """Be there again; what is remembered of what came after is gone."""
        self.memory.clear()
        self.memory.update(place.memory)
        if (scheduler := self.schedule.scheduler) is not None:
            scheduler.__dict__.clear()
            scheduler.__dict__.update(_with_own_lists(place.scheduler))
        self.denoiser.generator.set_state(place.generator)


# (walk, prediction, the latents that it was made from, its number) -> the latents of the next prediction
Advance = Callable[[Walk, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True)
class Turn:
    """Where a walk goes on that has gone back. prediction: number `step` for these latents; None: to be made."""

    latents: Tensor
    step: int
    prediction: Tensor | None


class Denoise(Protocol):
    """What a solver asks for predictions, once for each noise level of the schedule and in its order."""

    denoiser: Denoiser

    def predict(self, latents: Tensor, step: int) -> Tensor:
        """The guided prediction number `step`, as the network makes it."""

    def correct(self, solver: Solver, walk: Walk, latents: Tensor, step: int) -> Turn | None:
        """Where the walk goes on, if prediction number `step` shows that what lies behind is to be taken again."""

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        """The latents after a step, with what is given in them put back. step, following: as in `Denoiser.settle`."""


MOST_STEPS = 1000  # that a run may have


@dataclass(frozen=True)
class Solver:
    """A way to step through noise levels.

    make: the scheduler that knows the noise levels.
    advance: takes the step of one prediction.
    levels: of a scheduler's n noise levels, the index of that of each prediction.
    zero_steps: whether a prediction of zeros leaves the latents where they are, as CFG-Zero*'s first one has to.
    remembered: tensors of the latents' size that it and its scheduler know from earlier steps, at most.
    """

    make: Make
    advance: Advance
    levels: Callable[[int], list[int]] = lambda count: list(range(count))
    zero_steps: bool = True
    remembered: int = 0

    def solve(self, denoise: Denoise, latents: Tensor, schedule: NoiseSchedule) -> Tensor:
        """The latents after the last noise level, from those of the first."""
        walk, step = Walk(denoise.denoiser, schedule, denoise.settle), 0
        while step < len(schedule):
            prediction: Tensor | None = denoise.predict(latents, step)
            turn = denoise.correct(self, walk, latents, step)
            if turn is not None:
                prediction, latents, step = turn.prediction, turn.latents, turn.step
            if prediction is not None:
                latents = self.advance(walk, prediction, latents, step)
                step += 1
        return latents


def noise_schedule(model: VideoModel, request: Request, device: torch.device) -> NoiseSchedule:
    """The noise levels at which the sampler of a complete request asks for predictions."""
    solver = TABLES[model.solvers][request.sampler]
    scheduler = solver.make(model.schedule(request), device)
    count = len(scheduler.timesteps)
    skip = skipped(count, request)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skip)
    levels = solver.levels(count - skip)
    timesteps = scheduler.timesteps[skip:]
    if len(levels) > len(timesteps):
        timesteps = timesteps[levels]
    sigmas = _sigmas(scheduler)[skip:]
    inverted = bool(scheduler.config.get("invert_sigmas"))
    return NoiseSchedule(scheduler, timesteps, tuple(sigmas[i] for i in (*levels, -1)), inverted, tuple(levels))


def prediction_count(model: VideoModel, request: Request) -> int:
    """How many predictions the sampler of a complete request asks for, were it not for a source."""
    return len(prediction_levels(model, request))


def prediction_levels(model: VideoModel, request: Request) -> list[int]:
    """The noise level of each prediction that the sampler of a complete request asks for, were it not for a source."""
    return TABLES[model.solvers][request.sampler].levels(request.steps)


def run_predictions(model: VideoModel, request: Request) -> int:
    """How many predictions the run of a complete request asks for, without the steps that its source leaves out."""
    steps = request.steps - skipped(request.steps, request)
    return len(TABLES[model.solvers][request.sampler].levels(steps))


def fewest_steps(model: VideoModel, request: Request, predictions: int) -> int:
    """The fewest steps in which the run of a complete request asks for so many predictions, however many it has."""
    enough = lambda steps: run_predictions(model, replace(request, steps=steps)) >= predictions
    return next(filter(enough, range(1, MOST_STEPS)), MOST_STEPS)


def skipped(steps: int, request: Request) -> int:
    """How many steps video-to-video leaves out (get_timesteps of diffusers' video-to-video pipelines)."""
    if request.source is None:
        return 0
    return max(steps - min(int(steps * request.strength), steps), 0)


def _attributes(scheduler: Scheduler) -> dict[str, object]:
    """What a scheduler knows."""
    return _with_own_lists({} if scheduler is None else vars(scheduler))


def _with_own_lists(known: Mapping[str, object]) -> dict[str, object]:
    """A scheduler's attributes, in lists that it does not write into: into a tensor it never does."""
    return {name: list(value) if isinstance(value, list) else value for name, value in known.items()}


def _sigmas(scheduler: Scheduler) -> list[float]:
    """The noise of every step, and after the last. Of CogVideoX's schedulers the square root of 1 - alphas_cumprod."""
    if not hasattr(scheduler, "sigmas"):
        return [float((1 - scheduler.alphas_cumprod[time]) ** 0.5) for time in (*scheduler.timesteps.tolist(), 0)]
    sigmas: list[float] = scheduler.sigmas.tolist()
    return [1.0 - sigma for sigma in sigmas] if scheduler.config.get("invert_sigmas") else sigmas


class without_waiting(TorchFunctionMode):  # noqa: N801 (a context manager)
    """Lets a scheduler's single numbers reach the card without the host waiting for it, in the same bits.

    Schedulers that hold their sigmas in RAM copy them over one by one, which waits as reading does: here they travel as
    what a tensor is filled with. UniPC's two equations are solved without asking the card whether they could be.
    """

    def __torch_function__(
        self, func: Callable[..., Argument], types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Argument:
        kwargs = kwargs or {}
        if func is torch.linalg.solve:
            return torch.linalg.solve_ex(*args, **kwargs).result
        if func is torch.Tensor.to and len(args) == 2 and _number(args[0]) and isinstance(args[1], torch.device):
            return torch.full((), args[0].item(), dtype=args[0].dtype, device=args[1])
        return func(*args, **kwargs)


def _stepping(latents: Tensor) -> AbstractContextManager[object]:
    """Around a scheduler's step: nobody waits for latents in RAM, where looking at each call costs 0.3 ms a step."""
    return nullcontext() if latents.device.type == "cpu" else without_waiting()


def _number(value: Tensor) -> bool:
    return value.ndim == 0 and value.device.type == "cpu" and value.is_floating_point()


# ---------------------------------------------------------------- steps of diffusers' schedulers

Step = Callable[[Denoiser, NoiseSchedule, Tensor, Tensor, int], Tensor]  # (.., prediction, latents, step) -> latents


def _scheduler_steps(take: Step) -> Advance:
    """The steps of a diffusers scheduler."""

    def advance(walk: Walk, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
        with _stepping(latents):
            stepped = take(walk.denoiser, walk.schedule, prediction, latents, step)
        return walk.settle(stepped, latents, step, step + 1)

    return advance


def _flow_step(denoiser: Denoiser, schedule: NoiseSchedule, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
    """A step of a scheduler with one sigma for all; where tokens have times of their own, each one's x0 stays right."""
    output, time = denoiser.model_output(prediction, step), schedule.timesteps[step]
    times = denoiser.token_times(step)
    if times is not None:
        output = output * (times / time).unsqueeze(-1)
    if schedule.inverted:
        output = -output
    sample = latents.float() if denoiser.float32_steps else latents
    stepped: Tensor = schedule.scheduler.step(output, time, sample, return_dict=False)[0]
    return stepped


def _euler_step(denoiser: Denoiser, schedule: NoiseSchedule, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
    """A step of FlowMatchEulerDiscreteScheduler, which knows times of tokens, and wants these predictions negated."""
    times = denoiser.token_times(step)
    if times is None:
        return _flow_step(denoiser, schedule, prediction, latents, step)
    output, time = -denoiser.model_output(prediction, step), schedule.timesteps[step]
    stepped: Tensor = schedule.scheduler.step(output, time, latents, per_token_timesteps=times, return_dict=False)[0]
    return stepped


def _ancestral_step(
    denoiser: Denoiser, schedule: NoiseSchedule, prediction: Tensor, latents: Tensor, step: int
) -> Tensor:
    time = schedule.timesteps[step]
    stepped: Tensor = schedule.scheduler.step(prediction, time, latents, generator=denoiser.generator).prev_sample
    return stepped


def _ddim_step(denoiser: Denoiser, schedule: NoiseSchedule, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
    stepped: Tensor = schedule.scheduler.step(prediction, schedule.times[step], latents, return_dict=False)[0]
    return stepped


def _dpm_of_x0(walk: Walk, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
    """CogVideoXDPMScheduler: a two-step method that asks for its last estimate of x0, and draws noise."""
    times, generator = walk.schedule.times, walk.denoiser.generator
    before = times[step - 1] if step else None
    with _stepping(latents):
        stepped, walk.memory["x0"] = walk.schedule.scheduler.step(
            prediction, walk.memory.get("x0"), times[step], before, latents, generator=generator, return_dict=False
        )
    return walk.settle(stepped, latents, step, step + 1)


# ---------------------------------------------------------------- solvers of our own, on flow models


def heun(walk: Walk, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
    """Heun's method (Karras et al. 2022, algorithm 1 without churn): a step's slope is the mean of those at its ends.

    On flow models too the slope is dx/dsigma = (x - x0) / sigma. The last step, to no noise, has one prediction.
    """
    sigmas, memory, first = walk.schedule.sigmas, walk.memory, step % 2 == 0
    slope = (latents.float() - walk.denoiser.x0(prediction, latents, step)) / sigmas[step]
    if first:
        memory.update(latents=latents, slope=slope)
        return walk.settle(latents.float() + (sigmas[step + 1] - sigmas[step]) * slope, latents, step, step + 1)
    begun, mean = memory["latents"], (memory["slope"] + slope) / 2
    stepped = begun.float() + (sigmas[step] - sigmas[step - 1]) * mean
    return walk.settle(stepped, begun, step - 1, step + 1)


def _heun_levels(count: int) -> list[int]:
    """All noise levels twice but the first, where a step begins alone: the second is that at the step's end."""
    return sorted([*range(count), *range(1, count)])


def dpmpp_2m_sde(walk: Walk, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
    """SDE-DPM-Solver++ (2M) (Lu et al. 2022, arXiv 2211.01095), its second order by the midpoint rule.

    x' = sigma'/sigma e^-h x + alpha' (1 - e^-2h) (x0 + (x0 - x0_before) / 2r) + sigma' sqrt(1 - e^-2h) noise

    h is the step's change of lambda = log(alpha / sigma), and r the last step's in units of it. At pure noise lambda
    is -inf, so that e^-h is 0 and the first two steps are of first order, else the first one alone. Noise is drawn on
    the CPU from the request's seed.
    """
    x0 = walk.denoiser.x0(prediction, latents, step)
    (alpha, sigma), (alpha_next, sigma_next) = (walk.denoiser.alpha_sigma(i) for i in (step, step + 1))
    if sigma_next == 0:
        return walk.settle(x0, latents, step, step + 1)
    decay = min(alpha * sigma_next / (alpha_next * sigma), 1.0)  # e^-h
    h = -math.log(decay) if decay > 0 else math.inf
    before, h_before = walk.memory.get("x0"), walk.memory.get("h", math.inf)
    target = x0 if before is None or not 0 < h_before < math.inf else x0 + h / (2 * h_before) * (x0 - before)
    noise = torch.randn(latents.shape, generator=walk.denoiser.generator).to(x0)
    stepped = sigma_next / sigma * decay * latents.float() + alpha_next * (1 - decay**2) * target
    stepped = stepped + sigma_next * math.sqrt(1 - decay**2) * noise
    walk.memory.update(x0=x0, h=h)
    return walk.settle(stepped, latents, step, step + 1)


def stochastic(walk: Walk, prediction: Tensor, latents: Tensor, step: int) -> Tensor:
    """Each step goes to x0 and back to the next noise level with fresh noise (RectifiedFlowScheduler of Lightricks'
    ltx-video, `stochastic_sampling`): x' = alpha' x0 + sigma' noise, drawn on the CPU from the request's seed."""
    x0 = walk.denoiser.x0(prediction, latents, step)
    noise = torch.randn(latents.shape, generator=walk.denoiser.generator).to(x0)
    alpha, sigma = _following(walk.denoiser, walk.schedule, step)
    return walk.settle(alpha * x0 + sigma * noise, latents, step, step + 1)


def _following(denoiser: Denoiser, schedule: NoiseSchedule, step: int) -> tuple[Factor, Factor]:
    """(alpha_t, sigma_t) after a step, [B, N, 1] where tokens have times of their own: the next lower level of each."""
    times = denoiser.token_times(step)
    if times is None:
        return denoiser.alpha_sigma(step + 1)
    levels = torch.tensor(schedule.sigmas, device=times.device).view(-1, 1, 1)
    sigma = (levels * (levels < times / 1000 - SMALLEST)).amax(0).unsqueeze(-1)
    return 1 - sigma, sigma


# ---------------------------------------------------------------- by name

_EULER = Solver(flow_match_euler, _scheduler_steps(_euler_step))
_FLOW_SOLVERS = {
    "euler": _EULER,
    "unipc": Solver(unipc, _scheduler_steps(_flow_step), remembered=3),
    "dpm++ 2m": Solver(dpmpp_2m, _scheduler_steps(_flow_step), remembered=2),
    "heun": Solver(flow_match_euler, heun, _heun_levels, zero_steps=False, remembered=2),
    "dpm++ 2m sde": Solver(flow_match_euler, dpmpp_2m_sde, zero_steps=False, remembered=1),
}
TABLES: dict[str, dict[str, Solver]] = {
    "flow": _FLOW_SOLVERS,
    "distilled flow": {
        **_FLOW_SOLVERS,
        "distilled": _EULER,
        "stochastic": Solver(flow_match_euler, stochastic, zero_steps=False),
    },  # along the timesteps that a distilled checkpoint was trained on
    "zero terminal SNR": {
        "ddim": Solver(diffusers_scheduler("CogVideoXDDIMScheduler"), _scheduler_steps(_ddim_step)),
        "dpm": Solver(diffusers_scheduler("CogVideoXDPMScheduler"), _dpm_of_x0, remembered=1),
    },
    "EDM": {
        "euler": Solver(diffusers_scheduler("EulerDiscreteScheduler"), _scheduler_steps(_flow_step)),
        "euler ancestral": Solver(
            diffusers_scheduler("EulerAncestralDiscreteScheduler"), _scheduler_steps(_ancestral_step)
        ),
        "edm dpm": Solver(
            diffusers_scheduler("EDMDPMSolverMultistepScheduler"), _scheduler_steps(_flow_step), remembered=2
        ),
    },
}
SAMPLERS = tuple(dict.fromkeys(name for table in TABLES.values() for name in table))
