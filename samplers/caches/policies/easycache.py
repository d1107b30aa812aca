"""EasyCache (Zhou et al. 2025, arXiv 2507.02860): the output moves as the latents do, by a rate measured on the way."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ....loaders.messages import InputError, message
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..policy import At, Policy, State, Values


@dataclass(frozen=True, kw_only=True)
class EasyCache(Policy):
    """threshold: of the change of the output, as a share of its size, that is let go by. Published: 0.025 with a warm-up of
    5 steps for HunyuanVideo, 0.05 with 10 for Wan. It keeps a latent alone, so its memory is small."""

    threshold: float = 0.05

    title: ClassVar[str] = "EasyCache"
    signal: ClassVar[str] = "latents"
    follows: ClassVar[bool] = True
    level: ClassVar[str] = "network"

    @property
    def memory_of(self) -> int:
        return self.order + 4  # changes, the last latents, and the last computed step's input and output

    def suits(self, model: VideoModel) -> None:
        if model.stacks is None:
            raise InputError(
                "policy", "easycache", message("unet_scales", title=model.title), message("use_plan_or_fora")
            )

    def fit(self, model: VideoModel, request: Request) -> tuple[Policy, tuple[str, ...]]:
        self.suits(model)
        return self, ()

    def wants(self, state: State, at: At, moved: float | None, signal: Tensor | None) -> bool:
        seen = state.numbers
        if moved is None or "change" not in seen:
            return False
        rate = seen["change"] / max(seen["way"], 1e-12)
        state.total += rate * moved * seen["latents"] / max(seen["output"], 1e-12)
        return state.total < self.threshold

    def learn(self, state: State, at: At, values: Values, seen: Mapping[str, Tensor]) -> None:
        x, output = seen["input"], seen["output"]
        before = state.memory.get("input"), state.memory.get("output")
        if before[0] is not None and before[1] is not None:
            state.unread |= {"change": _size(output - before[1]), "way": _size(x - before[0])}
        state.memory |= {"input": x.detach(), "output": output.detach()}
        state.unread["output"] = _size(output)

    def looks(self, state: State) -> Mapping[str, Tensor]:
        return {"latents": _size(state.signal)} if state.signal is not None else {}


def _size(x: Tensor) -> Tensor:
    return x.float().abs().mean()
