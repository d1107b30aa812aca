"""The network as a whole: what is stored is its output less the latents that went in (EasyCache)."""

from __future__ import annotations

from torch import Tensor

from ....loaders.common.peaks import branches
from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from .base import Forward, Mechanism, input_bytes, latent_bytes


class Network(Mechanism):
    """Stores how the network's output differs from its input latents, which are also the signal."""

    signals = ("latents",)

    def forward(self, forward: Forward) -> Tensor:
        x = forward.inputs["hidden_states"]
        if forward.decide(x):
            (change,) = forward.forecast()
            return _latents_of(x, change) + change
        output = forward.compute()
        x = _latents_of(x, output)
        forward.store((output - x,), {"input": x, "output": output})
        return output

    @classmethod
    def stored_bytes(cls, model: VideoModel, request: Request, values: int, signals: int) -> int:
        others = (values + signals - 1) * latent_bytes(model, request)  # without the newest input, which is kept whole
        return (others + input_bytes(model, request)) * branches(model, request)


def _latents_of(x: Tensor, like: Tensor) -> Tensor:
    """The latents among a network's input channels: images and masks lie behind them."""
    for axis, size in enumerate(like.shape):
        if x.shape[axis] != size:
            return x.narrow(axis, 0, size)
    return x
