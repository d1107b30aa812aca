"""Solvers by name. A family says when (its reference scheduler's sigmas); a solver says how to step between them.

On flow models "DDIM" with eta 0 is Euler: both move straight along the predicted velocity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

SAMPLERS = ("euler", "unipc", "dpm++ 2m", "distilled")


def solver(name: str, reference: Any) -> Any:
    """The scheduler that steps through the reference scheduler's sigmas in the way that `name` says."""
    return _SOLVERS[name](reference)


def _unipc(reference: Any) -> Any:
    """UniPC (Zhao et al. 2023), order 2, on flow predictions."""
    from diffusers import UniPCMultistepScheduler

    return _follow(
        UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, solver_order=2), reference
    )


def _dpmpp_2m(reference: Any) -> Any:
    """DPM-Solver++ 2M (Lu et al. 2022) on flow predictions."""
    from diffusers import DPMSolverMultistepScheduler

    kind = {
        "prediction_type": "flow_prediction",
        "use_flow_sigmas": True,
        "algorithm_type": "dpmsolver++",
        "solver_order": 2,
    }
    return _follow(DPMSolverMultistepScheduler(**kind), reference)


def _follow(scheduler: Any, reference: Any) -> Any:
    """Give a multistep scheduler the reference's sigmas; exactly 1 would divide by zero in the log signal-to-noise ratio."""
    scheduler.set_timesteps(len(reference.timesteps), device=reference.timesteps.device)
    scheduler.sigmas = torch.clamp(reference.sigmas.cpu(), max=1 - 1e-6)
    scheduler.timesteps = reference.timesteps
    return scheduler


_SOLVERS: dict[str, Callable[[Any], Any]] = {
    "euler": lambda reference: reference,
    "distilled": lambda reference: reference,
    "unipc": _unipc,
    "dpm++ 2m": _dpmpp_2m,
}
