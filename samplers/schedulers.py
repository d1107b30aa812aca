"""diffusers' schedulers with the noise levels that a family's reference pipeline gives its own."""

from __future__ import annotations

from collections.abc import Callable

import torch

from ..loaders.denoiser import Schedule, Scheduler

Make = Callable[[Schedule, torch.device], Scheduler]  # -> a diffusers scheduler with its timesteps set
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2}
_SHIFTING = ("use_dynamic_shifting", "shift_terminal", "time_shift_type")


def diffusers_scheduler(kind: str) -> Make:
    """A scheduler that takes the schedule as it stands, as the reference pipeline's does."""

    def make(schedule: Schedule, device: torch.device) -> Scheduler:
        import diffusers

        scheduler = getattr(diffusers, kind).from_config(dict(schedule.config))
        options = {"sigmas": schedule.sigmas, "timesteps": schedule.timesteps, "mu": schedule.mu}
        options = {name: value for name, value in options.items() if value is not None}
        spaced = {} if schedule.sigmas is not None else {"num_inference_steps": schedule.steps}
        scheduler.set_timesteps(**spaced, **options, device=device)
        return scheduler

    return make


flow_match_euler = diffusers_scheduler("FlowMatchEulerDiscreteScheduler")


def unipc(schedule: Schedule, device: torch.device) -> Scheduler:
    """UniPC (Zhao et al. 2023), order 2, on flow predictions."""
    from diffusers import UniPCMultistepScheduler as UniPC

    config = schedule.config
    if schedule.timesteps is not None or config.get("invert_sigmas"):
        return _follow(UniPC(**_FLOW), flow_match_euler(schedule, device))
    shifting = {name: config[name] for name in _SHIFTING if name in config}
    native = {**_FLOW, **shifting, "flow_shift": config["shift"]}
    return diffusers_scheduler("UniPCMultistepScheduler")(
        Schedule(native, schedule.steps, schedule.sigmas, None, schedule.mu), device
    )


def dpmpp_2m(schedule: Schedule, device: torch.device) -> Scheduler:
    """DPM-Solver++ 2M (Lu et al. 2022) on flow predictions."""
    from diffusers import DPMSolverMultistepScheduler as DPM

    kind = {**_FLOW, "algorithm_type": "dpmsolver++"}
    if schedule.sigmas is not None or schedule.timesteps is not None:
        return _follow(DPM(**kind), flow_match_euler(schedule, device))
    native = Schedule({**kind, "flow_shift": schedule.config["shift"]}, schedule.steps)
    return diffusers_scheduler("DPMSolverMultistepScheduler")(native, device)


def _follow(scheduler: Scheduler, reference: Scheduler) -> Scheduler:
    """A multistep scheduler with the reference's sigmas; exactly 1 would divide by zero in the log-SNR.

    Where the reference counts its sigmas up from 0 (Mochi), the follower counts them down from 1.
    """
    inverted = bool(reference.config.invert_sigmas)
    scheduler.set_timesteps(len(reference.timesteps), device=reference.timesteps.device)
    sigmas = 1 - reference.sigmas.cpu() if inverted else reference.sigmas.cpu()
    scheduler.sigmas = torch.clamp(sigmas, max=1 - 1e-6)
    scheduler.timesteps = 1000 - reference.timesteps if inverted else reference.timesteps
    return scheduler
