"""The guided prediction as a whole: what is stored is the x0 that it points to, so a reused step runs no network."""

from __future__ import annotations

from torch import Tensor

from ....loaders.request import Request
from ....loaders.video_model import VideoModel
from ..state import extrapolate
from .base import Mechanism, Prediction, latent_bytes


class Guided(Mechanism):
    """Stores the x0 of each computed step and extrapolates it by the slopes that the policy has planned."""

    of_guided = True

    def predict(self, prediction: Prediction) -> Tensor:
        denoiser, latents, step = prediction.denoiser, prediction.latents, prediction.context.step
        if prediction.decide(None):
            x0 = extrapolate(prediction.state.history, prediction.context.slope)[0]
            return denoiser.from_x0(x0, latents, step).to(prediction.state.memory["dtype"])
        output = prediction.compute()
        prediction.state.memory["dtype"] = output.dtype  # of the latents of all steps, as the schedulers step
        prediction.store((denoiser.x0(output, latents, step),), {}, denoiser.points(step))
        return output

    @classmethod
    def stored_bytes(cls, model: VideoModel, request: Request, values: int, signals: int) -> int:
        return (values + signals) * latent_bytes(model, request, model.beside_latents(request))
