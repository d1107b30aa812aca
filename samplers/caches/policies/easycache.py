"""EasyCache (Zhou et al. 2025, arXiv 2507.02860): the output moves with the latents, at a rate measured in the run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ....loaders.messages import InputError, message
from ....loaders.video_model import VideoModel
from ..mechanisms.network import Network
from ..policy import Policy
from ..state import BranchState, StepContext, Values


@dataclass(frozen=True, kw_only=True)
class EasyCache(Policy):
    """threshold: of the change of the output, as a share of its size, under which a step is reused.

    Published: 0.025 with a warm-up of 5 steps for HunyuanVideo, 0.05 with 10 for Wan. It stores latents alone, so its
    memory is small.
    """

    threshold: float = 0.05

    title: ClassVar[str] = "EasyCache"
    position: ClassVar[int | None] = 3
    tooltip: ClassVar[str] = "the least memory of those that adapt"
    mechanism = Network
    signal: ClassVar[str] = "latents"
    decides_once: ClassVar[bool] = True

    @property
    def stored_signals(self) -> int:
        return 3  # the last latents, and the last computed step's input and output

    def check_model(self, model: VideoModel) -> None:
        if model.stacks is None:
            rule = message("unet_scales", title=model.title)
            raise InputError("policy", "easycache", rule, message("use_plan_or_fora"))

    def should_skip(self, state: BranchState, context: StepContext, distance: float | None) -> bool:
        numbers = state.numbers
        if distance is None or "output change" not in numbers:
            return False
        assert state.signal is not None
        given = state.signal.numel() / state.memory["input"].numel()  # pictures in further channels, which do not move
        rate = numbers["output change"] / max(numbers["input change"], 1e-12)
        state.total += rate * distance * given * numbers["latents"] / max(numbers["output"], 1e-12)
        return state.total < self.threshold

    def on_computed(
        self, state: BranchState, context: StepContext, values: Values, observed: Mapping[str, Tensor]
    ) -> None:
        x, output = observed["input"], observed["output"]
        last_x, last_output = state.memory.get("input"), state.memory.get("output")
        if last_x is not None and last_output is not None:
            state.pending |= {"output change": _size(output - last_output), "input change": _size(x - last_x)}
        state.memory |= {"input": x.detach(), "output": output.detach()}
        state.pending["output"] = _size(output)

    def numbers_to_read(self, state: BranchState) -> Mapping[str, Tensor]:
        return {"latents": _size(state.signal)} if state.signal is not None else {}


def _size(x: Tensor) -> Tensor:
    """Mean absolute value, on the card."""
    return x.float().abs().mean()
