"""The guided prediction as a whole: what is stored is the x0 that it points to, so a reused step runs no network."""

from __future__ import annotations

from torch import Tensor

from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..state import extrapolate
from .base import Mechanism, Prediction, latent_bytes


class Guided(Mechanism):
    """Stores the x0 of each computed step and extrapolates it by the slopes that the policy has planned."""

    def predict(self, prediction: Prediction) -> Tensor:
        run, step = prediction.run, prediction.context.step
        if prediction.decide(None):
            denoised = extrapolate(prediction.state.history, prediction.context.slopes[step])[0]
            return run.from_clean(denoised, step)
        output = prediction.compute()
        prediction.store((run.to_clean(output, step),), {})
        return output

    @classmethod
    def stored_bytes(cls, model: VideoModel, request: Request, values: int, signals: int) -> int:
        return (values + signals) * latent_bytes(model, request)
