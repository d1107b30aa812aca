"""What inputs stand for: the request of a sampler, and latents of other nodes as a model has them."""

from __future__ import annotations

from collections.abc import Mapping

from comfy_api.latest import Input
from torch import Tensor

from ...loaders.messages import InputError, message
from ...loaders.request import Control, Keyframe, Request
from ...loaders.video_model import VideoModel
from ...samplers.early import check_length_from
from .. import host
from ..types import InputValue
from .inputs import DEFAULT, FRAMES, SOURCE


def numbers_of(inputs: Mapping[str, InputValue]) -> dict[str, InputValue]:
    """Those of a sampler's inputs that can be checked while what the video is made of is still sampled."""
    known = ["width", "height", "steps", "guidance", "sampler", "seed", "preset", "shift", "fps"]
    if inputs.get("frames_from", FRAMES) == FRAMES:
        known.append("frames")
    return {name: inputs[name] for name in known if name in inputs}


def request_of(
    model: VideoModel,
    width: int = 0,
    height: int = 0,
    frames: int = 0,
    steps: int = 0,
    guidance: float = 0.0,
    sampler: str = DEFAULT,
    seed: int = 0,
    preset: str = DEFAULT,
    keyframes: tuple[Keyframe, ...] = (),
    source: Tensor | host.Latent | Input.Video | None = None,
    strength: float = 1.0,
    control: Control | None = None,
    shift: float = 0.0,
    mask: Tensor | None = None,
    frames_from: str = FRAMES,
    extend: Tensor | Input.Video | None = None,
    fps: float = 0.0,
    loop: bool = False,
) -> Request:
    """The request that a sampler's inputs stand for, before defaults are filled in."""
    plain = {DEFAULT: ""}
    check_length_from(frames_from, True)
    fps = fps or host.source_rate(source) or host.source_rate(extend, "extend")
    source, noise_mask = _source(model, source)
    if mask is not None and noise_mask is not None:
        raise InputError("mask", message("connected"), message("two_masks"), message("disconnect_one_mask"))
    return Request(
        width,
        height,
        frames,
        steps,
        guidance,
        plain.get(sampler, sampler),
        plain.get(preset, preset),
        seed,
        tuple(keyframes or ()),
        source,
        strength,
        shift,
        control=control,
        mask=noise_mask if mask is None else mask,
        as_long=frames_from == SOURCE,
        clip=host.video_frames(extend, "extend") if isinstance(extend, Input.Video) else extend,
        fps=fps,
        loop=bool(loop),
    )


def _source(
    model: VideoModel, source: Tensor | host.Latent | Input.Video | None
) -> tuple[Tensor | None, Tensor | None]:
    """(frames as they are, those of a VIDEO, or latents as the model has them, the noise mask of these)."""
    if isinstance(source, Input.Video):
        return host.video_frames(source), None
    if not isinstance(source, dict):
        return source, None
    return latents_of(model, source), source.get("noise_mask")


def latents_of(model: VideoModel, latent: host.Latent) -> Tensor:
    """A LATENT's latents as the model has them; raises InputError for those of another family."""
    family = latent.get("reelwire", {}).get("family", model.name)
    if family != model.name:
        rule = message("latents_of_family", family=family, model=model.name)
        raise InputError("source", family, rule, message("decode_and_connect"))
    latents = host.latents_of(model, latent)
    if latents.ndim != 5:  # of another model, and no frames
        rule = message("other_channels", variant=model.variant, channels=model.facts.channels)
        value = message("latents_shape", shape=list(latents.shape))
        raise InputError("source", value, rule, message("decode_and_connect"))
    return latents


def noise_mask_of(latent: object) -> dict[str, Tensor]:
    """The noise mask of a LATENT, which stays with what is made of it, as in ComfyUI's own nodes."""
    mask = latent.get("noise_mask") if isinstance(latent, dict) else None
    return {} if mask is None else {"noise_mask": mask}
