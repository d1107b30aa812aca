"""Latents name the model that made them, so that a decoder needs no second wire."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from ..loaders.messages import InputError, message
from ..loaders.parts import Recipe
from ..loaders.video_model import VideoModel
from . import host

if TYPE_CHECKING:
    from ..samplers.plan import SamplingPlan
    from ..samplers.sources.inpaint import Inpainting

KEY = "reelwire_origin"  # of a LATENT, beside "reelwire", which is what goes into files


class Origin:
    """The model that made latents: its recipe, and itself while somebody else holds it.

    A LATENT outlives its loader in the host's cache: it must not keep weights in memory, so that the model is read anew
    (its headers, then its VAE) where it was dropped. LoRAs, caches and guidance do not change how latents are decoded.
    """

    def __init__(self, recipe: Recipe, model: VideoModel | None = None, most_on_card: float = 0.0) -> None:
        self._recipe, self._most = recipe, getattr(getattr(model, "memory", None), "most_on_card", most_on_card)
        self._reference = weakref.ref(model) if model is not None else None

    def model(self) -> VideoModel:
        """The model, ready to decode."""
        model = self._reference() if self._reference is not None else None
        return model if model is not None else host.load_model(self._recipe, self._most)

    def __reduce__(self) -> tuple[object, ...]:
        """Another process builds the model from its recipe."""
        return Origin, (self._recipe, None, self._most)


def from_model(model: VideoModel, samples: Tensor, note: Mapping[str, object], source: object = None) -> host.Latent:
    """A LATENT with how it was made and by which model, and the sound of the video or latents that it was made from."""
    return {"samples": samples, "reelwire": note, KEY: Origin(model.recipe, model), **host.heard_in(source)}


def untouched_in(model: VideoModel, plan: SamplingPlan, source: object) -> host.Latent:
    """What a LATENT holds of a plan's source, whose pictures stay where a mask keeps it; nothing without a mask.

    source: what it was given as. Where that was made under the same mask itself, what it kept is kept.
    """
    from ..samplers.sources.inpaint import Inpainting

    if plan.mask is None or plan.request.source is None:
        return {}
    new = Inpainting(plan.request.source, plan.mask.cpu())
    before = untouched_of(model, source, new.source) if isinstance(source, dict) else None
    same = before is not None and ((before.mask > 0) == (new.mask > 0)).all()
    return {host.UNTOUCHED: {"source": model.to_host((before if same and before else new).source), "mask": new.mask}}


def untouched_of(model: VideoModel, latent: host.Latent, samples: Tensor) -> Inpainting | None:
    """The source that a LATENT, these latents for the model, keeps outside of a mask; None where it keeps none, and
    where another node has changed it since."""
    from ..samplers.sources.inpaint import Inpainting

    held = latent.get(host.UNTOUCHED)
    if not host.is_untouched(held):
        return None
    found = Inpainting(host.latents_of(model, {"samples": held["source"]}), held["mask"])
    return found if found.is_kept_in(samples) else None


def decoder(model: VideoModel | None, latent: host.Latent) -> VideoModel:
    """The model that is connected, else the one that made the latents; raises InputError where they do not say it."""
    if model is not None:
        return model
    origin = latent.get(KEY)
    if not isinstance(origin, Origin):
        raise InputError("model", message("not_connected"), message("latents_unnamed"), message("connect_their_loader"))
    return origin.model()
