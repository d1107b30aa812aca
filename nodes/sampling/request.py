"""What inputs stand for: the request of a sampler, and latents of other nodes as a model has them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields

from comfy_api.latest import Input, io
from torch import Tensor

from ...loaders.messages import InputError, Message, message
from ...loaders.request import Control, Decoding, Keyframe, Request
from ...loaders.video_model import VideoModel
from ...samplers.early import check_length_from
from .. import host
from ..types import InputValue
from .inputs import DEFAULT, FRAMES, SOURCE, wanted_next


def check_ahead(cls: type[io.ComfyNode], model: VideoModel, inputs: Mapping[str, InputValue]) -> list[str]:
    """The inputs of a sampler that ComfyUI should make next; raises InputError for what cannot work whatever they
    bring, so before anything of them is sampled, decoded or encoded.

    model: as the sampler takes it.
    """
    from ...samplers.plan import plan

    later = host.pending(cls, inputs)
    if later:  # else the node itself runs, and checks
        ready = {name: value for name, value in inputs.items() if name not in (*later, "conditioning")}
        plan(model, request_of(model, **ready), awaited=later)
        host.source_sound(inputs.get("source"))
    return wanted_next(later)


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
    family = host.note_of(latent).get("family", model.name)
    if family != model.name:
        rule = message("latents_of_family", family=family, model=model.name)
        raise InputError("source", family, rule, message("decode_and_connect"))
    latents = host.latents_of(model, latent)
    if latents.ndim != 5:  # of another model, and no frames
        rule = message("other_channels", variant=model.variant, channels=model.facts.channels)
        value = message("latents_shape", shape=list(latents.shape))
        raise InputError("source", value, rule, message("decode_and_connect"))
    return latents


def picture_notes(inputs: Mapping[str, InputValue]) -> tuple[Message, ...]:
    """What files of videos say of the frames that a sampler starts from, and that does not count here."""
    return tuple(note for name in ("source", "extend") for note in host.picture_notes(name, inputs.get(name)))


def negative_notes(model: VideoModel, request: Request, negative: str) -> tuple[str, ...]:
    """What to say of a negative prompt that no prediction of a complete request asks for."""
    from ...samplers.guidance import reads_negative

    is_idle = negative and model.facts.text_width and not reads_negative(model, request)
    return (message("negative_unused"),) if is_idle else ()


def noise_mask_of(latent: object) -> dict[str, Tensor]:
    """The noise mask of a LATENT, which stays with what is made of it, as in ComfyUI's own nodes."""
    mask = latent.get("noise_mask") if isinstance(latent, dict) else None
    return {} if mask is None else {"noise_mask": mask}


def clip_frames_of(source: object, frames: int) -> int:
    """How many of the first frames of a video, made of this source, are those of a clip that the source goes on from;
    0 where it does not, or has another number of frames."""
    note = _note_of(source)
    count = note.get("clip_frames", 0) if note.get("frames") == frames else 0
    return count if isinstance(count, int) and 0 < count < frames else 0


def decoding_of(request: Request, source: object) -> Decoding | None:
    """How what is made of a complete request and this source is decoded: as its preset says, else as the source's; None
    where neither says it."""
    if request.program is not None:
        return request.program.decoding
    note = _note_of(source).get("decoding")
    known = {field.name for field in fields(Decoding)}
    return Decoding(**note) if isinstance(note, dict) and note and note.keys() <= known else None


def _note_of(latent: object) -> Mapping[str, InputValue]:
    """What a LATENT says of how it was made; nothing of another value."""
    return host.note_of(latent) if isinstance(latent, dict) else {}
