"""The three denoisers of LTX-Video: LTXPipeline, LTXImageToVideoPipeline and LTXConditionPipeline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from einops import rearrange, repeat
from torch import Tensor

from ...common.flow import draw, encoded_source, mix
from ...common.images import compressed, cover, cut_to, stretched
from ...common.prompts import trimmed
from ...denoiser import SMALLEST, Denoiser, Factor, Network, NoiseSchedule
from ...facts import Facts
from ...request import Conditioning, Keyframe, Request
from ...video_model import VideoModel

CONDITION_NOISE = 0.15  # image_cond_noise_scale of LTXConditionPipeline
PREFIX = 2  # latent frames of a clip that become extra tokens (num_prefix_latent_frames of LTXConditionPipeline)
Encode = Callable[[Tensor], Tensor]  # frames [T, H, W, 3] -> latents [1, C, t, h, w]


@dataclass(frozen=True, kw_only=True)
class LTXFacts(Facts):
    """What LTX-Video adds. conditioned: whether it follows LTXConditionPipeline (0.9.5 on) instead of LTXPipeline."""

    conditioned: bool
    distilled_timesteps: tuple[float, ...]


class LTXModel(VideoModel):
    """A VideoModel with the facts of LTX-Video, for the functions here; families/ltx says the rest of it."""

    facts: LTXFacts


# ---------------------------------------------------------------- what a request asks for


def _conditioned(model: LTXModel, request: Request) -> bool:
    """Whether the run follows LTXConditionPipeline, or the makers' own, whose tokens are its; else it is plain
    text-to-video or one given first frame."""
    if request.program is not None:
        return True
    places = [(k.frame, len(k.images), k.strength) for k in request.keyframes]
    simple = not places or places == [(0, 1, 1.0)]
    return model.facts.conditioned or begins_with_source(request) or not simple or request.past is not None


def begins_with_source(request: Request) -> bool:
    """Whether the run begins with its source under noise."""
    begins = request.strength < 1 or (request.program is not None and request.program.begins_with_source)
    return request.source is not None and begins


def _extra_frames(facts: LTXFacts, request: Request) -> int:
    """Latent frames of keyframes and memory that lie beside the video as tokens of their own."""
    clips = [(len(k.images) - 1) // facts.temporal_ratio + 1 for k in request.keyframes if k.frame]
    beside = (request.past.memory, request.past.ending) if request.past is not None else ()
    return sum(min(count, PREFIX) for count in clips) + sum(z.shape[2] for z in beside if z is not None)


# ---------------------------------------------------------------- the three denoisers


@dataclass
class LTXTextDenoiser(Denoiser):
    """LTXPipeline. latents: packed tokens [1, f*h*w, C].

    text, mask: per branch.
    place: what tells the network where each token is.
    shape: latent frames, height, width.
    """

    text: Mapping[str, Tensor]
    mask: Mapping[str, Tensor | None]
    place: Mapping[str, Any]
    shape: tuple[int, int, int]

    def timestep(self, step: int, batch: int) -> Tensor:
        """The timestep of each row, or of each token [batch, N]."""
        return self.schedule.timesteps[step].expand(batch)

    def predict(self, network: Network, latents: Tensor, step: int, branch: str) -> Tensor:
        batch, text = (2 if branch == "cond_uncond" else 1), (branch if branch != "perturbed" else "cond")
        place = {k: v.repeat(batch, 1, 1) if isinstance(v, Tensor) else v for k, v in self.place.items()}
        return self.forward(
            network,
            step,
            branch,
            hidden_states=torch.cat([latents] * batch).to(self.text[text].dtype),
            encoder_hidden_states=self.text[text],
            encoder_attention_mask=self.mask[text],
            timestep=self.timestep(step, batch),
            **place,
        ).float()

    def add_noise(self, x0: Tensor, noise: Tensor, step: int) -> Tensor:
        share = (self.timestep(step, 1) / 1000).unsqueeze(-1)  # of each token, where they differ
        return (1 - share) * x0 + share * noise

    def arranged(self, video: Tensor, beside: Tensor) -> Tensor:
        packed = _pack(video)
        return torch.cat([beside[:, : beside.shape[1] - packed.shape[1]].to(packed), packed], 1)

    def finish(self, latents: Tensor) -> Tensor:
        f, h, w = self.shape
        return rearrange(latents[:, -f * h * w :], "b (f h w) c -> b c f h w", f=f, h=h, w=w)


@dataclass
class LTXImageDenoiser(LTXTextDenoiser):
    """LTXImageToVideoPipeline: the first latent frame is given and stays."""

    def timestep(self, step: int, batch: int) -> Tensor:
        is_first = torch.arange(self.latents.shape[1], device=self.latents.device) < self.shape[1] * self.shape[2]
        return repeat(self.schedule.timesteps[step] * (1 - is_first.float()), "n -> b n", b=batch)

    def scalings(self, step: int) -> tuple[Factor, Factor]:
        return 1.0, -(self.timestep(step, 1) / 1000).clamp(min=SMALLEST)[..., None]

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        first = self.shape[1] * self.shape[2]
        return torch.cat([latents[:, :first], stepped[:, first:]], 1)


@dataclass
class LTXConditionDenoiser(LTXTextDenoiser):
    """LTXConditionPipeline: keyframes and clips anywhere, as tokens with their own place and amount of noise.

    image_noise: how much noise those get that are given whole.
    strengths: [1, N], how much of each token is given (0 made from noise, 1 kept), None without keyframes.
    past: what the video goes on from and must not change, without the noise on what is given.
    """

    strengths: Tensor | None
    past: Tensor | None
    image_noise: float = CONDITION_NOISE
    start: Tensor = field(init=False)

    def __post_init__(self) -> None:
        self.start = self.latents
        self.latents = self.noised(self.latents, 0)

    def noised(self, latents: Tensor, step: int) -> Tensor:
        """Latents for a prediction: tokens that are given whole get a little fresh noise, less with every step."""
        if self.strengths is None or step == len(self.schedule) or not self.image_noise:
            return latents
        noise = torch.randn(latents.shape, generator=self.generator).to(latents)
        noisy = self.start + self.image_noise * noise * ((self.schedule.timesteps[step] / 1000.0) ** 2)
        return torch.where((self.strengths > 1.0 - 1e-6).unsqueeze(-1), noisy, latents)

    def timestep(self, step: int, batch: int) -> Tensor:
        time = self.schedule.timesteps[step].expand(batch).unsqueeze(-1).float()
        return time if self.strengths is None else torch.min(time, (1 - self.strengths.repeat(batch, 1)) * 1000.0)

    def token_times(self, step: int) -> Tensor | None:
        return self.timestep(step, 1)

    def scalings(self, step: int) -> tuple[Factor, Factor]:
        return 1.0, -(self.timestep(step, 1) / 1000).clamp(min=SMALLEST)[..., None]

    def settle(self, stepped: Tensor, latents: Tensor, step: int, following: int) -> Tensor:
        if self.strengths is None:
            return stepped
        is_free = (self.schedule.timesteps[step] / 1000 - 1e-6 < (1.0 - self.strengths)).unsqueeze(-1)
        return self.noised(torch.where(is_free, stepped, latents), following)

    def finish(self, latents: Tensor) -> Tensor:
        video = super().finish(latents)
        if self.past is None:
            return video
        return torch.cat([self.past.to(video), video[:, :, self.past.shape[2] :]], 2)


def _common(
    model: LTXModel,
    conditioning: Conditioning,
    request: Request,
    schedule: NoiseSchedule,
    generator: torch.Generator,
) -> dict[str, Any]:
    facts, device, dtype = model.facts, model.memory.device("transformer"), getattr(torch, model.recipe.dtype)
    cond, uncond = conditioning.branches["cond"], conditioning.branches["uncond"]
    both = {name: torch.cat([uncond[name], cond[name]]) for name in ("text", "mask")}
    trim = trimmed if model.trims_text else lambda text, mask: (text, mask)
    branches = {
        branch: trim(v["text"], v["mask"])
        for branch, v in {"cond": cond, "uncond": uncond, "cond_uncond": both}.items()
    }
    f, h, w = facts.latent_shape(request.width, request.height, request.frames)[2:]
    scale = (facts.temporal_ratio / request.fps, facts.spatial_ratio, facts.spatial_ratio)
    return dict(
        schedule=schedule,
        guidance=request.guidance,
        generator=generator,
        shape=(f, h, w),
        text={b: text.to(device, dtype) for b, (text, _) in branches.items()},
        mask={b: None if model.trims_text and mask.all() else mask.to(device) for b, (_, mask) in branches.items()},
        place=dict(num_frames=f, height=h, width=w, rope_interpolation_scale=scale),
    )


def _no_pictures(frames: Tensor) -> Tensor:
    raise AssertionError("a run without keyframes has no pictures to encode")


def _noise(model: LTXModel, request: Request, generator: torch.Generator) -> Tensor:
    """Latents of noise alone, drawn as the reference pipelines do: the makers' draws tokens."""
    shape = model.facts.latent_shape(request.width, request.height, request.frames)
    if request.program is not None:
        b, c, f, h, w = shape
        tokens = torch.randn(b, f * h * w, c, generator=generator).to(model.memory.device("transformer"))
        return rearrange(tokens, "b (f h w) c -> b c f h w", f=f, h=h, w=w)
    return torch.randn(shape, generator=generator).to(model.memory.device("transformer"))


def _pack(latents: Tensor) -> Tensor:
    return rearrange(latents, "b c f h w -> b (f h w) c")


def text_denoiser(model: LTXModel, request: Request, inputs: dict[str, Any], encode: Encode) -> Denoiser:
    """The denoiser of text-to-video."""
    return LTXTextDenoiser(latents=_pack(_noise(model, request, inputs["generator"])), **inputs)


def image_denoiser(model: LTXModel, request: Request, inputs: dict[str, Any], encode: Encode) -> Denoiser:
    """The denoiser of a video that begins with a picture."""
    first = encode(cover(request.keyframes[0].images, request.width, request.height))
    latents = _noise(model, request, inputs["generator"])
    latents[:, :, :1] = first
    return LTXImageDenoiser(latents=_pack(latents), **inputs)


def condition_denoiser(model: LTXModel, request: Request, inputs: dict[str, Any], encode: Encode) -> Denoiser:
    """The denoiser of a video with keyframes or clips, one that begins with a source, or one that goes on."""
    facts, generator, program = model.facts, inputs["generator"], request.program
    latents = _noise(model, request, generator)
    if begins_with_source(request):
        latents = mix(latents, encoded_source(model, request), inputs["schedule"].sigmas[0])
    strengths = torch.zeros(latents.shape[2], device=latents.device)
    place = partial(_coordinates, facts, request.fps, causal=program is None or facts.conditioned)
    extra = _Extra(facts.temporal_ratio, place, generator)
    if request.past is not None:
        _mix(latents, strengths, 0, request.past.latents.to(latents), request.past.strength)
        if request.past.memory is not None:
            extra.remember(request.past.memory.to(latents), request.past.memory_strength)
        if request.past.ending is not None:
            extra.show(request.past.ending.to(latents), request.frames - 1, 1.0)
    for keyframe in request.keyframes:
        z = encode(_picture(keyframe, request)).to(latents)
        if keyframe.frame == 0:
            _mix(latents, strengths, 0, z, keyframe.strength)
            continue
        if z.shape[2] > PREFIX:  # the rest of a clip lies in the video itself
            _mix(
                latents, strengths, keyframe.frame // facts.temporal_ratio + PREFIX, z[:, :, PREFIX:], keyframe.strength
            )
            z = z[:, :, :PREFIX]
        extra.show(z, keyframe.frame, keyframe.strength)
    f, h, w = inputs["shape"]
    packed = torch.cat([*extra.tokens, _pack(latents)], 1)
    places = torch.cat([*extra.places, place((f, h, w), 0).to(packed.device)], 2)
    of_tokens = None
    if request.keyframes or request.past is not None:
        of_tokens = torch.cat([*extra.strengths, repeat(strengths, "f -> 1 (f n)", n=h * w)], 1)
    past = request.past.latents if request.past is not None and request.past.strength == 1 else None
    noise = CONDITION_NOISE if program is None else program.image_noise
    inputs = {**inputs, "place": {"video_coords": places}}
    return LTXConditionDenoiser(latents=packed, strengths=of_tokens, past=past, image_noise=noise, **inputs)


def _picture(keyframe: Keyframe, request: Request) -> Tensor:
    """Given frames [N, H, W, 3] as the VAE reads them, of the video's size; the makers' program cuts first, compresses,
    and scales last."""
    width, height, program = request.width, request.height, request.program
    if program is None:
        return cover(keyframe.images, width, height)
    images = cut_to(keyframe.images, width, height)
    if program.compression and not keyframe.settled:
        images = compressed(images, program.compression)
    return stretched(images, width, height)


@dataclass
class _Extra:
    """Tokens in front of the video's: of keyframes and clips, and of what lies long ago. place: as `_coordinates`."""

    temporal_ratio: int
    place: Callable[..., Tensor]
    generator: torch.Generator
    tokens: list[Tensor] = field(default_factory=list)
    places: list[Tensor] = field(default_factory=list)
    strengths: list[Tensor] = field(default_factory=list)

    def remember(self, z: Tensor, strength: float) -> None:
        """Add latents as if they lay before the video."""
        noise = draw(tuple(z.shape), self.generator, z.device)
        before = -z.shape[2] * self.temporal_ratio
        self._add(torch.lerp(noise, z, strength), self.place(z.shape[2:], before, causal=False), strength)

    def show(self, z: Tensor, frame: int, strength: float) -> None:
        """Add the latents of a keyframe at its frame."""
        noise = torch.randn(z.shape, generator=self.generator).to(z)
        self._add(torch.lerp(noise, z, strength), self.place(z.shape[2:], frame), strength)

    def _add(self, latents: Tensor, place: Tensor, strength: float) -> None:
        self.tokens.append(_pack(latents))
        self.places.append(place.to(latents.device))
        self.strengths.append(torch.full(self.tokens[-1].shape[:2], strength, device=latents.device))


def _mix(latents: Tensor, strengths: Tensor, at: int, z: Tensor, strength: float) -> None:
    here = slice(at, at + z.shape[2])
    latents[:, :, here] = torch.lerp(latents[:, :, here], z, strength)
    strengths[here] = strength


def _coordinates(facts: LTXFacts, fps: float, shape: tuple[int, ...], frame: int, causal: bool = True) -> Tensor:
    """Place [1, 3, f*h*w] of tokens in seconds and pixels. causal: the first latent frame of a clip is one frame
    long."""
    f, h, w = torch.meshgrid(*(torch.arange(n) for n in shape), indexing="ij")
    time = f * facts.temporal_ratio
    time = (time + 1 - facts.temporal_ratio).clamp(min=0) + frame if causal else time + frame
    place = torch.stack([time, h * facts.spatial_ratio, w * facts.spatial_ratio]).flatten(1)[None].float()
    place[:, 0] = place[:, 0] * (1.0 / fps)
    return place
