"""How the network's output moves with its latents and with its time, measured beside a run that computes all steps.

By finite differences between a step and the next one, as https://github.com/vita-epfl/SenCache (4bf419b) does it for
SenCache (Haghighi and Alahi 2026, arXiv 2602.24208): along the solver's own path, so that both cost one more forward
pass a step, of the new latents at the old time.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from ..state import Values
from .base import Forward
from .blocks import Blocks

TINY = 1e-12


class Sensitivity(Blocks):
    """Hands over, beside what Blocks stores, how the step before was sensitive.

    by latents: |f(x', t) - f(x, t)| / |x' - x|, x' being the next step's latents.
    by time: the root of the mean square of f(x', t') - f(x', t), over |t' - t|; 0 where both steps have one time.
    """

    def forward(self, forward: Forward) -> Tensor:
        stored: list[Values] = []
        output = super().forward(replace(forward, store=lambda values, _: stored.append(values)))
        inputs, memory = forward.inputs, forward.state.memory
        latents, time = inputs["hidden_states"], inputs["timestep"]
        observed = {} if "before" not in memory else sensitivity(forward, output, *memory["before"])
        memory["before"] = latents, time, output
        forward.store(stored[0], observed)
        return output


def sensitivity(
    forward: Forward, output: Tensor, latents: Tensor, time: Tensor, output_before: Tensor
) -> dict[str, Tensor]:
    """Of the step before, whose latents, time and output these are. output: of this step."""
    inputs = {**forward.inputs, "timestep": time}
    between = forward.network(**inputs, return_dict=False)[0].float()
    moved = (inputs["hidden_states"].float() - latents.float()).norm()
    elapsed = (forward.inputs["timestep"].float() - time.float()).mean().abs()
    change = (output.float() - between).square().mean().sqrt()
    return {
        "by latents": (between - output_before.float()).norm() / moved.clamp(min=TINY),
        "by time": change / elapsed.clamp(min=TINY) * (elapsed > TINY),
    }
