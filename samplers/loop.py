"""Videos whose last frame meets the first: by a keyframe at both ends, or by a denoiser that sees time as a circle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..loaders.denoiser import Denoiser, DenoiserWrapper, Network
from ..loaders.facts import Facts
from ..loaders.messages import InputError, about, either, message
from ..loaders.request import Request
from ..loaders.spec import titles_with
from ..loaders.video_model import VideoModel
from .solvers import noise_schedule

GOLDEN = (5**0.5 - 1) / 2  # of the video from step to step, so that the cut lies nowhere twice


def closed(model: VideoModel, request: Request) -> tuple[Request, tuple[str, ...]]:
    """(a request to loop as a model can make it, notes): with its first picture as the last one too, or, where it has
    no pictures, as it is: `circling` closes it. Raises InputError where the model has no honest way."""
    if not request.loop:
        return request, ()
    if request.keyframes:
        return _with_last(model, request)
    if not _reads_text_alone(model):
        rule, remedy = message("loop_needs_picture", title=_title(model)), message("loop_connect_first")
        raise InputError("loop", "true", rule, remedy)
    if model.facts.time_patch > 1:
        raise InputError("loop", "true", message("loop_time_patch", title=_title(model)), message("loop_off"))
    if request.control is not None:
        raise InputError("loop", "true", message("loop_with_control"), message("loop_off"))
    if model.cache is not None:
        with about(model.cache):
            what = message("with_cache", cache=model.cache.title)
            raise InputError("loop", what, message("loop_with_cache"), message("disconnect_cache"))
    steps = noise_schedule(model, request, torch.device("cpu"))
    frames = model.facts.latent_shape(request.width, request.height, request.frames)[2]
    turns = any(turns_of(steps.levels, steps.level_count, frames))
    return request, (message("loop_circles") if turns else message("loop_unturned", steps=len(steps)),)


def _with_last(model: VideoModel, request: Request) -> tuple[Request, tuple[str, ...]]:
    frames = request.frames
    at = {keyframe.frame % frames: keyframe for keyframe in request.keyframes if -frames <= keyframe.frame < frames}
    last = any(keyframe.frame + len(keyframe.images) >= frames for keyframe in at.values()) or frames - 1 in at
    check_takes_last(model)
    if 0 not in at or last:
        rule = message("loop_has_last") if last else message("loop_needs_first")
        raise InputError("loop", "true", rule, message("loop_one_first"))
    first = at[0]
    closing = replace(first, images=first.images[:1], frame=frames - 1)
    return replace(request, keyframes=(*request.keyframes, closing)), (message("loop_keyframe"),)


def check_takes_last(model: VideoModel) -> None:
    """Raise InputError for a model that takes no picture at the last frame beside the first."""
    sets = model.capabilities().sets
    if sets is not None and ("first", "last") not in sets:
        models = either(*titles_with("last_pictures"), *titles_with("pictures_anywhere"))
        rule, remedy = message("loop_no_last", title=_title(model)), message("load_for_loop", models=models)
        raise InputError("loop", "true", rule, remedy)


def _reads_text_alone(model: VideoModel) -> bool:
    """Whether a model makes videos of a prompt alone."""
    sets = model.capabilities().sets
    return sets is None or () in sets


def _title(model: VideoModel) -> str:
    return f"{model.title} ({model.variant})"


def circling(denoiser: Denoiser, request: Request, facts: Facts) -> Denoiser:
    """The denoiser of a complete request; where that loops without pictures, one that sees time as a circle."""
    if not request.loop or request.keyframes:
        return denoiser
    return Circle(denoiser, facts.latent_shape(request.width, request.height, request.frames)[2])


def turns_of(levels: Sequence[int], count: int, frames: int) -> list[int]:
    """By how many of its latent frames a video is turned at each prediction. levels: of these, of so many; at the last
    one the first latent frame lies first, as it is decoded."""
    return [round(level * GOLDEN * frames) % frames * (level < count - 1) for level in levels]


class Circle(DenoiserWrapper):
    """A denoiser that sees the video turned along time by another part of it at each noise level (latent shift, Bi and
    others 2025, Mobius: Text to Seamless Looping Video Generation), so that each frame has both its neighbours."""

    def __init__(self, inner: Denoiser, frames: int) -> None:
        super().__init__(inner)
        self.dim = 1 if inner.latents.ndim == 3 else inner.time_dim  # packed as tokens [B, t*h*w, C], or not
        one, schedule = inner.latents.shape[self.dim] // frames, inner.schedule
        self.turns = [turn * one for turn in turns_of(schedule.levels, schedule.level_count, frames)]

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        """The network's output for the turned latents, turned back."""
        turned = latents.roll(self.turns[step], self.dim)
        return self.inner.predict(network, turned, step, branch).roll(-self.turns[step], self.dim)


class Seam:
    """How well the last frame of a video meets the first: seen piece by piece, none is held."""

    def __init__(self) -> None:
        self._first = self._last = torch.empty(0)
        self._steps, self._count = 0.0, 0

    def watch(self, piece: Tensor) -> None:
        """Look at the next frames [n, H, W, 3] of any type."""
        frames = piece.float()
        if not len(self._first):
            self._first = frames[:1]
        joined = torch.cat([self._last, frames]) if len(self._last) else frames
        self._steps += float((joined[1:] - joined[:-1]).abs().mean((1, 2, 3)).sum())
        self._count += len(joined) - 1
        self._last = frames[-1:]

    @property
    def ratio(self) -> float:
        """The mean difference of the last frame and the first, in mean differences of neighbours; 1 is no seam."""
        step = self._steps / max(self._count, 1)
        return float((self._last - self._first).abs().mean()) / max(step, 1e-6)
