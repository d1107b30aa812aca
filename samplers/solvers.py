"""Solvers by name. A family says which noise levels its reference pipeline runs through; a solver steps between them.

On flow models "DDIM" with eta 0 is Euler: both move straight along the predicted velocity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ..loaders.denoiser import Schedule

Make = Callable[[Schedule, torch.device], Any]
_FLOW = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "solver_order": 2}
_SHIFTING = ("use_dynamic_shifting", "shift_terminal", "time_shift_type")


def solver(table: str, name: str, schedule: Schedule, device: torch.device) -> Any:
    """A diffusers scheduler with its timesteps set; table: the family's `solvers`, name: of a sampler."""
    return TABLES[table][name](schedule, device)


class without_waiting(TorchFunctionMode):  # noqa: N801 (a context manager)
    """Lets a solver's single numbers reach the card without the host waiting for it, in the same bits.

    Solvers that hold their sigmas in RAM copy them over one by one, which waits as reading does: here they travel as what a
    tensor is filled with. UniPC's two equations are solved without asking the card whether they could be.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.linalg.solve:
            return torch.linalg.solve_ex(*args, **kwargs).result
        if func is torch.Tensor.to and len(args) == 2 and _number(args[0]) and isinstance(args[1], torch.device):
            return torch.full((), args[0].item(), dtype=args[0].dtype, device=args[1])
        return func(*args, **kwargs)


def _number(value: torch.Tensor) -> bool:
    return value.ndim == 0 and value.device.type == "cpu" and value.is_floating_point()


def _of(kind: str) -> Make:
    """A solver that takes the schedule as it stands, as the reference pipeline's scheduler does."""

    def make(schedule: Schedule, device: torch.device) -> Any:
        import diffusers

        scheduler = getattr(diffusers, kind).from_config(dict(schedule.config))
        given = {"sigmas": schedule.sigmas, "timesteps": schedule.timesteps, "mu": schedule.mu}
        given = {name: value for name, value in given.items() if value is not None}
        spaced = {} if schedule.sigmas is not None else {"num_inference_steps": schedule.steps}
        scheduler.set_timesteps(**spaced, **given, device=device)
        return scheduler

    return make


_euler = _of("FlowMatchEulerDiscreteScheduler")


def _unipc(schedule: Schedule, device: torch.device) -> Any:
    """UniPC (Zhao et al. 2023), order 2, on flow predictions."""
    from diffusers import UniPCMultistepScheduler as UniPC

    config = schedule.config
    if schedule.timesteps is not None or config.get("invert_sigmas"):
        return _follow(UniPC(**_FLOW), _euler(schedule, device))
    shifting = {name: config[name] for name in _SHIFTING if name in config}
    native = Schedule({**_FLOW, **shifting, "flow_shift": config["shift"]}, schedule.steps, schedule.sigmas, None, schedule.mu)  # fmt: skip
    return _of("UniPCMultistepScheduler")(native, device)


def _dpmpp_2m(schedule: Schedule, device: torch.device) -> Any:
    """DPM-Solver++ 2M (Lu et al. 2022) on flow predictions."""
    from diffusers import DPMSolverMultistepScheduler as DPM

    kind = {**_FLOW, "algorithm_type": "dpmsolver++"}
    if schedule.sigmas is not None or schedule.timesteps is not None:
        return _follow(DPM(**kind), _euler(schedule, device))
    native = Schedule({**kind, "flow_shift": schedule.config["shift"]}, schedule.steps)
    return _of("DPMSolverMultistepScheduler")(native, device)


def _follow(scheduler: Any, reference: Any) -> Any:
    """Give a multistep scheduler the reference's sigmas; exactly 1 would divide by zero in the log signal-to-noise ratio.

    Where the reference counts its sigmas up from 0 (Mochi), the follower counts them down from 1.
    """
    inverted = bool(reference.config.invert_sigmas)
    scheduler.set_timesteps(len(reference.timesteps), device=reference.timesteps.device)
    sigmas = 1 - reference.sigmas.cpu() if inverted else reference.sigmas.cpu()
    scheduler.sigmas = torch.clamp(sigmas, max=1 - 1e-6)
    scheduler.timesteps = 1000 - reference.timesteps if inverted else reference.timesteps
    return scheduler


_FLOW_SOLVERS = {"euler": _euler, "unipc": _unipc, "dpm++ 2m": _dpmpp_2m}
TABLES: dict[str, dict[str, Make]] = {
    "flow": _FLOW_SOLVERS,
    "ltx": {**_FLOW_SOLVERS, "distilled": _euler},  # along the timesteps that a distilled checkpoint was trained on
    "cogvideox": {"ddim": _of("CogVideoXDDIMScheduler"), "dpm": _of("CogVideoXDPMScheduler")},
    "svd": {
        "euler": _of("EulerDiscreteScheduler"),
        "euler ancestral": _of("EulerAncestralDiscreteScheduler"),
        "edm dpm": _of("EDMDPMSolverMultistepScheduler"),
    },
}
SAMPLERS = tuple(dict.fromkeys(name for table in TABLES.values() for name in table))
