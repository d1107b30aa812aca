"""The plan of one sampling run: its request, checked once and complete, with all that sampling needs to know of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..loaders.common.controls import check_range
from ..loaders.common.images import is_frames
from ..loaders.messages import InputError, about, either, inputs_named, message, series
from ..loaders.request import Control, Request
from ..loaders.spec import titles_with
from ..loaders.video_model import VideoModel
from .caches.policy import Policy, reuses_nothing
from .caches.runner import planned
from .early import check_fps, check_strength
from .guidance import check_guidance, guided_model
from .kernels import attention_notes
from .keyframes import cut_notes, place_keyframes
from .loop import closed
from .parallel.clip.check import check_split
from .room import step_bytes
from .solvers import TABLES, noise_schedule, prediction_count, run_predictions, skipped
from .sources.awaited import Names, with_stand_ins
from .sources.clip import clip_frames, goes_on, sized_as_clip
from .sources.inpaint import gray_notes, hidden_keyframes, latent_mask
from .sources.opened import lengthened, source_notes, sourceless, through_door
from .speed import check_speed

SHIFTED_TOKENS = 2**16  # above which noise levels that are shifted by their number may become one
MOST_TOKENS = 2**20  # ten times HunyuanVideo at 720p and 129 frames


@dataclass(frozen=True)
class SamplingPlan:
    """What `denoise.sample` needs beside a model and a prompt.

    request: complete and checked, its keyframes counted from the start.
    policy: the model's cache, ready for this request; None where every prediction is computed.
    predictions: how many the solver asks for, were it not for a source that spares some.
    room: bytes that the steps need beside the weights; kept: of these, what the cache keeps at most between them.
    notes: what the person should know before the run.
    mask: [1, 1, t, h, w], what of the source is made anew; None where all of it is.
    shared: how many of the first frames are the last ones of the clip that the video goes on from.
    """

    request: Request
    policy: Policy | None
    predictions: int
    room: int
    notes: tuple[str, ...]
    mask: Tensor | None = None
    shared: int = 0
    kept: int = 0


def plan(model: VideoModel, request: Request, outline: bool = False, awaited: Names = ()) -> SamplingPlan:
    """The plan of a request on a model; no weights are read.

    outline: only size, length, steps, guidance, cache and speed are checked, as where nothing is known of the keyframes
    and the control. awaited: names of inputs that are connected and still to come; all that does not rest on what they
    bring is checked. Raises InputError for what this model cannot do.
    """
    request, opening_notes = through_door(request)
    request, idle_notes = sourceless(with_stand_ins(model, request, awaited))
    request, length_notes = lengthened(model, request)
    request = model.complete(sized_as_clip(model, request))
    preset_notes = _preset_notes(model, request)
    model = guided_model(model, request)
    _check_numbers(model, request)
    with about(model.guidance):
        check_guidance(model, request)
    policy, cache_notes = planned(model, request)
    with about(model.speed):
        check_speed(model)
    media_notes: tuple[str, ...] = ()
    mask: Tensor | None = None
    shared = 0 if request.past is not None else clip_frames(model, request)
    if not outline:
        request, clip_notes = goes_on(model, request, shared) if shared else (request, ())
        length_notes += clip_notes
        request, media_notes = _with_media(model, request)
        mask, mask_notes = checked_mask(model, request)
        media_notes += mask_notes
        check_split(model, request, policy)
    before = (*opening_notes, *idle_notes, *length_notes, *preset_notes)
    predictions = prediction_count(model, request)
    after = (*cache_notes, *attention_notes(model, request, predictions), *_idle_notes(model, request, policy))
    notes = (*before, *media_notes, *after)
    room, kept = step_bytes(model, request, policy), 0 if policy is None else policy.estimate(model, request)
    return SamplingPlan(request, policy, predictions, room, notes, mask, shared, kept)


def _preset_notes(model: VideoModel, request: Request) -> tuple[str, ...]:
    """What to say of a preset or a frame rate that does not count as a whole."""
    notes, method = list[str](), model.guidance.method
    if request.program is not None and request.program.stg is not None and method != "cfg":
        notes.append(message("preset_method", method=method, preset=request.preset))
    if request.fps != model.facts.fps and "frame_rate" not in model.checkpoint.spec.features:
        titles = either(*titles_with("frame_rate"))
        notes.append(message("fps_played", title=model.title, fps=f"{request.fps:g}", models=titles))
    return tuple(notes)


def _check_numbers(model: VideoModel, request: Request) -> None:
    offered = TABLES[model.solvers]
    if request.sampler not in offered:
        remedy = message("use_one_of_or_default", names=series(offered))
        raise InputError("sampler", request.sampler, message("no_sampler", title=model.title), remedy)
    if model.guidance.method == "cfg-zero*" and not offered[request.sampler].zero_steps:
        names = series(name for name, solver in offered.items() if solver.zero_steps)
        rule = message("no_zero_step")
        raise InputError("sampler", request.sampler, rule, message("use_one_of_or_default", names=names))
    if not (math.isfinite(request.guidance) and request.guidance >= 0):
        raise InputError("guidance", request.guidance, message("number_from_0"), message("use_guidance"))
    check_fps(request.fps)
    model.check(request)
    _check_tokens(model, request)


def _check_tokens(model: VideoModel, request: Request) -> None:
    tokens = model.facts.tokens(request.width, request.height, request.frames)
    size = f"{request.width}, {request.height}, {request.frames}"
    if tokens > MOST_TOKENS:
        rule = message("too_many_tokens", tokens=tokens, most=MOST_TOKENS)
        raise InputError("width, height, frames", size, rule, message("ask_smaller"))
    if tokens <= SHIFTED_TOKENS:
        return
    with np.errstate(all="ignore"):
        levels = noise_schedule(model, request, torch.device("cpu")).sigmas
    if not all(map(math.isfinite, levels)):
        rule = message("noise_levels_alike", title=model.title, tokens=tokens, steps=request.steps)
        raise InputError("width, height, frames", size, rule, message("ask_smaller"))


def _idle_notes(model: VideoModel, request: Request, policy: Policy | None) -> tuple[str, ...]:
    """What to say of what a person has set and no step of a complete request has a use for."""
    steps, guidance, control = request.steps - skipped(request.steps, request), model.guidance, request.control
    loras = tuple(
        message("lora_no_step", file=lora.file.name, steps=steps, start=lora.start, end=lora.end)
        for lora in model.loras
        if _is_empty(steps, lora.start, lora.end)
    )
    spans = [("guidance", guidance.start, guidance.end)]
    if guidance.method == "skip-layer":
        spans.append(("skip-layer", guidance.layer_start, guidance.layer_end))
    if control is not None:
        spans.append(("control", control.start, control.end))
    idle = [span for span in spans if _is_empty(steps, *span[1:])]
    notes = (*loras, *(message("no_step_between", name=name, steps=steps, start=s, end=e) for name, s, e in idle))
    if control is not None and control.strength == 0:
        notes += (message("control_at_0"),)
    if policy is not None and reuses_nothing(policy, run_predictions(model, request)):
        notes += (message("cache_reuses_nothing", cache=policy.title, count=run_predictions(model, request)),)
    return notes + _expert_notes(model, request)


def _expert_notes(model: VideoModel, request: Request) -> tuple[str, ...]:
    """What to say where a change of experts that a person has set leaves one of them without a step."""
    guidance = model.guidance
    if not (guidance.boundary or guidance.switch_step):
        return ()
    low = model.low_noise_steps(request, noise_schedule(model, request, torch.device("cpu")))
    if not low or any(low) != all(low):
        return ()
    name = "boundary" if guidance.boundary else "switch_step"
    expert = message("high_noise_expert") if all(low) else message("low_noise_expert")
    return (message("expert_no_step", input=inputs_named(name), value=getattr(guidance, name), expert=expert),)


def _is_empty(steps: int, start: float, end: float) -> bool:
    """Whether none of so many steps lies between two shares of them."""
    return int(start * steps) >= int(end * steps)


def _with_media(model: VideoModel, request: Request) -> tuple[Request, tuple[str, ...]]:
    """(the request with its keyframes in their places, notes on them); its source and its control are checked too."""
    request, loop_notes = closed(model, request)
    with about(request.control):
        model.check_pictures(request)
    keyframes, notes = place_keyframes(request.keyframes, model.capabilities(), request.frames)
    request = replace(request, keyframes=keyframes)
    check_strength(request.strength)
    if request.source is not None:
        check_source(model, request, request.source)
        check_computes(request)
    if request.control is not None:
        with about(request.control):
            _check_control(request, request.control)
    return request, (*loop_notes, *notes, *source_notes(request), *cut_notes(request))


def checked_mask(model: VideoModel, request: Request) -> tuple[Tensor | None, tuple[str, ...]]:
    """(the mask [1, 1, t, h, w] of a complete request, or None where all is made anew, notes on it); raises
    InputError."""
    if request.mask is None:
        return None, ()
    if request.source is None:
        raise InputError("mask", message("connected"), message("mask_without_source"), message("connect_source_too"))
    mask = latent_mask(model.facts, request)
    if not mask.any():
        return mask, (message("mask_keeps_all"),)
    if mask.min() == 1:
        return None, (message("mask_all_free"),)
    return mask, (*gray_notes(request.mask), *hidden_keyframes(model.facts, request, mask))


def check_computes(request: Request) -> None:
    """Raise InputError for a strength that leaves no step of a complete request, which would hand its source on."""
    if request.steps < 1 or skipped(request.steps, request) < request.steps:
        return
    least = next(n for n in range(1, 10_001) if int(request.steps * n / 10_000) > 0) / 10_000
    rule = message("strength_no_step", steps=request.steps)
    raise InputError("strength", request.strength, rule, message("use_least_strength", least=f"{least:g}"))


def check_source(model: VideoModel, request: Request, source: Tensor) -> None:
    """Raise InputError for a source that a complete request cannot be made of."""
    if is_frames(source) and len(source) < request.frames:
        rule = message("are_asked_for", frames=request.frames)
        raise InputError("source", message("count_frames", count=len(source)), rule, message("fewer_or_longer_source"))
    if not is_frames(source):
        _check_source_latents(model, request, source)
    if not torch.isfinite(source).all():
        raise InputError("source", message("not_finite_value"), message("holds_nan"), message("check_maker"))


def _check_source_latents(model: VideoModel, request: Request, source: Tensor) -> None:
    shape = model.facts.latent_shape(request.width, request.height, request.frames)
    value = message("latents_shape", shape=list(source.shape))
    if source.ndim != 5 or source.shape[1] != shape[1]:
        rule = message("other_channels", variant=model.variant, channels=shape[1])
        raise InputError("source", value, rule, message("decode_and_connect"))
    if tuple(source.shape) != shape:
        raise InputError("source", value, message("needs_shape", shape=list(shape)), message("give_source_size"))


def _check_control(request: Request, control: Control) -> None:
    """Raise InputError unless its range and strength are sound, and its frames and masks last as long as the video."""
    check_range(control.start, control.end, control.strength)
    frames, masks = (request.frames if part is None else len(part) for part in (control.frames, control.mask))
    rule, remedy = message("are_asked_for", frames=request.frames), message("fewer_or_longer_control")
    if frames < request.frames:
        raise InputError("control", message("count_frames", count=frames), rule, remedy)
    if 1 < masks < request.frames or not masks:
        raise InputError("control", message("count_masks", count=masks), rule, remedy)
    for part in (control.frames, control.mask, control.references):
        if part is not None and not torch.isfinite(part).all():
            raise InputError("control", message("not_finite_value"), message("holds_nan"), message("check_maker"))
