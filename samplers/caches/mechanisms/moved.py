"""All blocks at once, and how far latents and time have moved since the last computed step (SenCache)."""

from __future__ import annotations

from torch import Tensor

from .base import Forward
from .blocks import Blocks


class Moved(Blocks):
    """Measures these two beside what it stores.

    moved: the root of the mean square of the latents' change, a number for each that the network gives.
    time: the change of the time that the network is told, the mean over tokens that have times of their own.
    """

    def forward(self, forward: Forward) -> Tensor:
        state, latents = forward.state, forward.split.whole_batch(forward.inputs["hidden_states"])
        now = forward.inputs["timestep"].float().mean()
        if state.signal is not None:
            moved = (latents.float() - state.signal.float()).norm() / state.memory["numbers"] ** 0.5
            state.pending |= {"moved": moved, "time": (now - state.memory["time"]).abs()}
        state.memory["now"] = now
        output = super().forward(forward)
        passes = latents.numel() // forward.inputs["hidden_states"].numel()
        state.memory["numbers"] = output.numel() * passes
        return output
