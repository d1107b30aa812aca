"""The three kinds of run of LTX-Video: LTXPipeline, LTXImageToVideoPipeline and LTXConditionPipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from ...common.flow import FlowRun, begin, draw, encoded_source, mix
from ...common.images import cover
from ...common.prompts import trimmed
from ...denoiser import SMALLEST, Run
from ...facts import Facts
from ...request import Conditioning, Request
from ...video_model import VideoModel

CONDITION_NOISE = 0.15  # image_cond_noise_scale of LTXConditionPipeline
PREFIX = 2  # latent frames of a clip that become extra tokens (num_prefix_latent_frames of LTXConditionPipeline)
Network = Any  # a diffusers or transformers module, whose attributes are untyped
Encode = Callable[[Tensor], Tensor]  # frames [T, H, W, 3] -> latents [1, C, t, h, w]


@dataclass(frozen=True, kw_only=True)
class LTXFacts(Facts):
    """What LTX-Video adds. conditioned: the checkpoint follows LTXConditionPipeline (0.9.5 on) instead of LTXPipeline."""

    conditioned: bool
    distilled_timesteps: tuple[float, ...]


class LTXModel(VideoModel):
    """A VideoModel with the facts of LTX-Video, for the functions here; families/ltx says the rest of it."""

    facts: LTXFacts


# ---------------------------------------------------------------- what a request asks for


def _conditioned(model: LTXModel, request: Request) -> bool:
    """Whether the run follows LTXConditionPipeline; else it is plain text-to-video or one given first frame."""
    places = [(k.frame, len(k.images), k.strength) for k in request.keyframes]
    simple = not places or places == [(0, 1, 1.0)]
    sourced = request.source is not None and request.strength < 1
    return model.facts.conditioned or sourced or not simple or request.past is not None


def _extra_frames(facts: LTXFacts, request: Request) -> int:
    """Latent frames of keyframes and memory that lie beside the video as tokens of their own."""
    clips = [(len(k.images) - 1) // facts.temporal_ratio + 1 for k in request.keyframes if k.frame]
    memory = request.past.memory if request.past is not None else None
    return sum(min(count, PREFIX) for count in clips) + (0 if memory is None else memory.shape[2])


# ---------------------------------------------------------------- the three kinds of run


@dataclass
class _TextRun(FlowRun):
    """LTXPipeline. latents: packed tokens [1, f*h*w, C]; place: what tells the network where each token is."""

    text: Mapping[str, Tensor]
    mask: Mapping[str, Tensor | None]
    place: Mapping[str, Any]
    shape: tuple[int, int, int]  # latent frames, height, width

    def timestep(self, step: int, batch: int) -> Tensor:
        return self.timesteps[step].expand(batch)

    def predict(self, network: Network, step: int, branch: str) -> Tensor:
        batch = 2 if branch == "cond_uncond" else 1
        place = {k: v.repeat(batch, 1, 1) if isinstance(v, Tensor) else v for k, v in self.place.items()}
        return self.forward(
            network, step, branch, hidden_states=torch.cat([self.latents] * batch).to(self.text[branch].dtype),
            encoder_hidden_states=self.text[branch], encoder_attention_mask=self.mask[branch],
            timestep=self.timestep(step, batch), **place,
        ).float()  # fmt: skip

    def preview(self) -> Tensor:
        return self.unpack(self.clean())

    def finish(self) -> Tensor:
        return self.unpack(self.latents)

    def unpack(self, tokens: Tensor) -> Tensor:
        f, h, w = self.shape
        return rearrange(tokens[:, -f * h * w :], "b (f h w) c -> b c f h w", f=f, h=h, w=w)


@dataclass
class _ImageRun(_TextRun):
    """LTXImageToVideoPipeline: the first latent frame is given and stays."""

    def line(self, step: int) -> tuple[Any, Any]:
        return 1.0, -(self.timestep(step, 1) / 1000).clamp(min=SMALLEST)[..., None]

    def timestep(self, step: int, batch: int) -> Tensor:
        given = torch.arange(self.latents.shape[1], device=self.latents.device) < self.shape[1] * self.shape[2]
        return repeat(self.timesteps[step] * (1 - given.float()), "n -> b n", b=batch)

    def advance(self, step: int, prediction: Tensor) -> None:
        first = self.shape[1] * self.shape[2]
        rest = self.scheduler.step(
            prediction[:, first:], self.timesteps[step], self.latents[:, first:], return_dict=False
        )[0]
        self.latents = torch.cat([self.latents[:, :first], rest], 1)
        self.remember(step, torch.where(self.timestep(step, 1)[..., None] > 0, prediction, 0.0))


@dataclass
class _ConditionRun(_TextRun):
    """LTXConditionPipeline: keyframes and clips anywhere, as tokens with their own place and amount of noise.

    given: [1, N], how much of each token is given (0 made from noise, 1 kept), None without keyframes.
    """

    given: Tensor | None
    start: Tensor
    generator: torch.Generator
    past: Tensor | None  # what the video goes on from and must not change, without the noise on what is given

    def finish(self) -> Tensor:
        latents = super().finish()
        if self.past is None:
            return latents
        return torch.cat([self.past.to(latents), latents[:, :, self.past.shape[2] :]], 2)

    def before(self, step: int) -> None:
        if self.given is not None:  # given tokens get a little fresh noise, less with every step
            noise = torch.randn(self.latents.shape, generator=self.generator).to(self.latents)
            noised = self.start + CONDITION_NOISE * noise * ((self.timesteps[step] / 1000.0) ** 2)
            self.latents = torch.where((self.given > 1.0 - 1e-6).unsqueeze(-1), noised, self.latents)

    def line(self, step: int) -> tuple[Any, Any]:
        return 1.0, -(self.timestep(step, 1) / 1000).clamp(min=SMALLEST)[..., None]

    def timestep(self, step: int, batch: int) -> Tensor:
        time = self.timesteps[step].expand(batch).unsqueeze(-1).float()
        return time if self.given is None else torch.min(time, (1 - self.given.repeat(batch, 1)) * 1000.0)

    def advance(self, step: int, prediction: Tensor) -> None:
        from diffusers import FlowMatchEulerDiscreteScheduler

        time, mine = self.timesteps[step], self.timestep(step, 1)
        per_token = isinstance(self.scheduler, FlowMatchEulerDiscreteScheduler)
        if per_token:
            stepped = self.scheduler.step(-prediction, time, self.latents, per_token_timesteps=mine, return_dict=False)[
                0
            ]
        else:  # solvers with one sigma for all: scaled so that each token's estimate of the clean video stays right
            scaled = prediction * (mine / time).unsqueeze(-1)
            stepped = self.scheduler.step(scaled, time, self.latents, return_dict=False)[0]
        free = None if self.given is None else (time / 1000 - 1e-6 < (1.0 - self.given)).unsqueeze(-1)
        self.latents = stepped if free is None else torch.where(free, stepped, self.latents)
        self.remember(step, prediction if free is None else torch.where(free, prediction, 0.0))


def _common(model: LTXModel, conditioning: Conditioning, request: Request, scheduler: Any) -> dict[str, Any]:
    facts, device, dtype = model.facts, model.memory.device("transformer"), getattr(torch, model.recipe.dtype)
    cond, uncond = conditioning.branches["cond"], conditioning.branches["uncond"]
    both = {name: torch.cat([uncond[name], cond[name]]) for name in ("text", "mask")}
    read = {"cond": cond, "uncond": uncond, "cond_uncond": both}
    ready = trimmed if model.trims_text else lambda text, mask: (text, mask)
    branches = {b: ready(v["text"], v["mask"]) for b, v in read.items()}
    f, h, w = facts.latent_shape(request.width, request.height, request.frames)[2:]
    scale = (facts.temporal_ratio / facts.fps, facts.spatial_ratio, facts.spatial_ratio)
    timesteps, skip = begin(scheduler, request)
    return dict(
        timesteps=timesteps, scheduler=scheduler, guidance=request.guidance, skip=skip, shape=(f, h, w),
        text={b: text.to(device, dtype) for b, (text, _) in branches.items()},
        mask={b: None if model.trims_text and mask.all() else mask.to(device) for b, (_, mask) in branches.items()},
        place=dict(num_frames=f, height=h, width=w, rope_interpolation_scale=scale),
    )  # fmt: skip


def _no_pictures(frames: Tensor) -> Tensor:
    raise AssertionError("a run without keyframes has no pictures to encode")


def _noise(model: LTXModel, request: Request, generator: torch.Generator) -> Tensor:
    shape = model.facts.latent_shape(request.width, request.height, request.frames)
    return torch.randn(shape, generator=generator).to(model.memory.device("transformer"))


def _pack(latents: Tensor) -> Tensor:
    return rearrange(latents, "b c f h w -> b (f h w) c")


def _text_run(model: LTXModel, conditioning: Conditioning, request: Request, scheduler: Any, generator: torch.Generator, encode: Encode) -> Run:  # fmt: skip
    return _TextRun(
        latents=_pack(_noise(model, request, generator)), **_common(model, conditioning, request, scheduler)
    )


def _image_run(model: LTXModel, conditioning: Conditioning, request: Request, scheduler: Any, generator: torch.Generator, encode: Encode) -> Run:  # fmt: skip
    first = encode(cover(request.keyframes[0].images, request.width, request.height))
    latents = _noise(model, request, generator)
    latents[:, :, :1] = first
    return _ImageRun(latents=_pack(latents), **_common(model, conditioning, request, scheduler))


def _condition_run(model: LTXModel, conditioning: Conditioning, request: Request, scheduler: Any, generator: torch.Generator, encode: Encode) -> Run:  # fmt: skip
    facts, common = model.facts, _common(model, conditioning, request, scheduler)
    latents = _noise(model, request, generator)
    if request.source is not None and request.strength < 1:
        latents = mix(latents, encoded_source(model, request), scheduler.sigmas[common["skip"]])
    given = torch.zeros(latents.shape[2], device=latents.device)
    tokens, places, amounts = [], [], []
    if request.past is not None:
        past = request.past.latents.to(latents)
        _mix(latents, given, 0, past, request.past.strength)
        if request.past.memory is not None:
            z, strength = request.past.memory.to(latents), request.past.memory_strength
            tokens.append(_pack(torch.lerp(draw(z.shape, generator, z.device), z, strength)))
            places.append(_coordinates(facts, z.shape[2:], -z.shape[2] * facts.temporal_ratio, False).to(z.device))
            amounts.append(torch.full(tokens[-1].shape[:2], strength, device=z.device))
    for keyframe in request.keyframes:
        frames = cover(keyframe.images, request.width, request.height)
        z = encode(frames).to(latents)
        if keyframe.frame == 0:
            _mix(latents, given, 0, z, keyframe.strength)
            continue
        if z.shape[2] > PREFIX:  # the rest of a clip lies in the video itself
            _mix(latents, given, keyframe.frame // facts.temporal_ratio + PREFIX, z[:, :, PREFIX:], keyframe.strength)
            z = z[:, :, :PREFIX]
        noise = torch.randn(z.shape, generator=generator).to(z)
        tokens.append(_pack(torch.lerp(noise, z, keyframe.strength)))
        places.append(_coordinates(facts, z.shape[2:], keyframe.frame).to(z.device))
        amounts.append(torch.full(tokens[-1].shape[:2], keyframe.strength, device=z.device))
    f, h, w = common["shape"]
    packed = torch.cat([*tokens, _pack(latents)], 1)
    place = torch.cat([*places, _coordinates(facts, (f, h, w), 0).to(packed.device)], 2)
    kept = request.keyframes or request.past is not None
    amount = torch.cat([*amounts, repeat(given, "f -> 1 (f n)", n=h * w)], 1) if kept else None
    common["place"] = {"video_coords": place}
    held = request.past.latents if request.past is not None and request.past.strength == 1 else None
    return _ConditionRun(latents=packed, given=amount, start=packed.clone(), generator=generator, past=held, **common)


def _mix(latents: Tensor, given: Tensor, at: int, z: Tensor, strength: float) -> None:
    here = slice(at, at + z.shape[2])
    latents[:, :, here] = torch.lerp(latents[:, :, here], z, strength)
    given[here] = strength


def _coordinates(facts: LTXFacts, shape: tuple[int, ...], frame: int, short_first: bool = True) -> Tensor:
    """Place [1, 3, f*h*w] of latent tokens in seconds and pixels; the first latent frame of a clip is one frame long."""
    f, h, w = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    time = f * facts.temporal_ratio
    time = (time + 1 - facts.temporal_ratio).clamp(min=0) + frame if short_first else time + frame
    place = torch.stack([time, h * facts.spatial_ratio, w * facts.spatial_ratio]).flatten(1)[None].float()
    place[:, 0] = place[:, 0] * (1.0 / facts.fps)
    return place
