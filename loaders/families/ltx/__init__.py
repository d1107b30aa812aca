"""LTX-Video 0.9.0 to 0.9.8, 2B and 13B (Lightricks, https://github.com/Lightricks/LTX-Video).

Every number equals diffusers 0.42's LTXPipeline, LTXImageToVideoPipeline or LTXConditionPipeline; the docstrings name
the one that a piece of code follows. `ltx_files.py` knows the layouts on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from einops import rearrange, repeat
from torch import Tensor

from ...common.flow import FlowRun, begin, draw, encoded_source, mix
from ...common.images import cover
from ...common.peaks import Moment
from ...common.prompts import check_prompts, encode_t5, load_tokenizer, trimmed
from ...denoiser import SMALLEST, Run, Schedule
from ...facts import Facts, Stacks
from ...messages import CheckpointError, InputError, message
from ...parts import Memory, Recipe
from ...request import Capabilities, Conditioning, Extension, Keyframe, Request
from ...vae.peak import CoderPeak
from ...vae.tiles import Pieces, Tile
from ...video_model import VideoModel
from ...weights.encoders import KINDS, read_encoder, width
from .checkpoint import read_ltx
from .vae import Noise, decode_pieces, encode_pieces

CONDITION_NOISE = 0.15  # image_cond_noise_scale of LTXConditionPipeline
PREFIX = 2  # latent frames of a clip that become extra tokens (num_prefix_latent_frames of LTXConditionPipeline)
Network = Any  # a diffusers or transformers module, whose attributes are untyped
Encode = Callable[[Tensor], Tensor]  # frames [T, H, W, 3] -> latents [1, C, t, h, w]


@dataclass(frozen=True, kw_only=True)
class LTXFacts(Facts):
    """What LTX-Video adds. conditioned: the checkpoint follows LTXConditionPipeline (0.9.5 on) instead of LTXPipeline."""

    conditioned: bool
    distilled_timesteps: tuple[float, ...]


class LTX(VideoModel):
    name, title, batched_guidance, solvers = "ltx", "LTX-Video", True, "ltx"
    coders: ClassVar[Mapping[str, CoderPeak]] = {
        "0.9.0": CoderPeak(
            128, decode=1_215, thrifty=690, full=1.65, full_thrifty=1.25, encode=660, still=165, whole=124
        ),
        "0.9.1": CoderPeak(256, decode=1_390, thrifty=380, full_thrifty=1.65, encode=660, still=165, whole=124),
        "0.9.5": CoderPeak(256, decode=1_350, thrifty=380, full_thrifty=1.65, encode=1_240, still=175, whole=124),
    }
    moments: ClassVar[Mapping[str, Moment]] = {
        "query and key": Moment(hidden=6, float32=4, copies=1, timed=13),
        "MLP": Moment(hidden=4, float32=2, mlp=2, timed=13),
        "key of the text": Moment(hidden=5, float32=2, timed=13, keys=3, keys32=2, key_copies=1),
    }
    rounds_encode = True
    stacks = Stacks(pairs=False)
    masked = r"\.attn2$"

    @classmethod
    def load(cls, recipe: Recipe, memory: Memory) -> VideoModel:
        files = read_ltx(recipe.files["checkpoint"], recipe.files.get("vae"))
        if "text_encoder" not in recipe.files:
            raise CheckpointError(
                message("no_text_encoder", file=recipe.files["checkpoint"].name),
                message("put_and_choose", advice=KINDS["t5"].advice),
            )
        text = read_encoder(recipe.files["text_encoder"], "t5")
        text_width = width(text)
        if text_width != files.transformer_config["caption_channels"]:
            name, wanted = recipe.files["text_encoder"].name, files.transformer_config["caption_channels"]
            raise CheckpointError(
                message(
                    "ltx_text_width",
                    file=name,
                    width=text_width,
                    checkpoint=recipe.files["checkpoint"].name,
                    wanted=wanted,
                ),
                message("choose_t5"),
            )
        network, vae = files.weights()
        for weights in (network, vae, text):  # what does not fit is refused now, not after the prompt was read
            weights.check()
        dtype = getattr(torch, recipe.dtype)
        config = files.transformer_config
        facts = LTXFacts(
            spatial_ratio=files.spatial_ratio, temporal_ratio=files.temporal_ratio, size_multiple=files.spatial_ratio,
            channels=config["in_channels"], width=config["num_attention_heads"] * config["attention_head_dim"],
            text_width=text_width, scheduler=files.scheduler_config, pictures=None, layers=config["num_layers"], modules=3 * config["num_layers"], **files.defaults,
        )  # fmt: skip
        load = partial(network.build, dtype, True, recipe.storage)
        parts = {
            "transformer": network.part("transformer", load, ("text_encoder",)),
            "vae": vae.part("vae", partial(vae.build, dtype, False, "")),
            "text_encoder": text.part("text_encoder", partial(text.build, dtype, True, "")),
        }
        return cls(files.variant, facts, parts, replace(recipe, variant=files.variant), memory)

    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        facts, device = _facts(self), self.memory.device("text_encoder")
        tokenizer = load_tokenizer(self.recipe.files["tokenizer"])
        check_prompts(tokenizer, facts.prompt_tokens, positive=positive, negative=negative)
        with self.use("text_encoder") as encoder:
            read = partial(encode_t5, encoder, tokenizer, facts.prompt_tokens, facts.conditioned, device)
            (cond, notes), (uncond, more) = read(positive, "positive"), read(negative, "negative")
        return Conditioning(self.name, facts.text_width, {"cond": cond, "uncond": uncond}, notes + more)

    def check(self, request: Request) -> None:
        super().check(request)
        if request.sampler == "distilled" and not _facts(self).distilled_timesteps:
            rule = message("no_distilled", variant=self.variant)
            raise InputError("sampler", "distilled", rule, message("use_euler_or_distilled"))
        fixed = len(_facts(self).distilled_timesteps)
        if request.sampler == "distilled" and request.steps != fixed:
            rule = message("distilled_steps", steps=fixed)
            raise InputError("steps", request.steps, rule, message("use_steps_or_euler", steps=fixed))

    def capabilities(self) -> Capabilities:
        """Any number anywhere, clips too (LTXConditionPipeline)."""
        step = self.facts.temporal_ratio
        return replace(super().capabilities(), clip_step=step, clip_start=step, strengths=True)

    def extension(self) -> Extension:
        return Extension(
            "latents",
            message("way_ltx"),
        )

    def schedule(self, request: Request) -> Schedule:
        """What LTXConditionPipeline gives its scheduler, or LTXPipeline: there, sigmas that the clip's size shifts."""
        from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift
        from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule

        facts = _facts(self)
        if request.sampler == "distilled" or _conditioned(self, request):
            # given timesteps must not be shifted again, so the scheduler is static (LTXConditionPipeline)
            static = {**facts.scheduler, "use_dynamic_shifting": False, "shift": 1.0, "shift_terminal": None}
            given = torch.tensor(facts.distilled_timesteps)
            times = given if request.sampler == "distilled" else linear_quadratic_schedule(request.steps) * 1000
            times = np.array(times).astype(np.float32)
            return Schedule(static, len(times), times / 1000, times)
        whole = {} if request.steps > 1 else {"shift_terminal": None}  # one step has nothing to stretch: it ends at 0
        tokens = int(np.prod(facts.latent_shape(request.width, request.height, request.frames)[2:]))
        limits = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        mu = calculate_shift(tokens, *(facts.scheduler.get(name, usual) for name, usual in limits.items()))
        sigmas = np.linspace(1.0, 1 / request.steps, request.steps)
        return Schedule({"shift": 1.0, **facts.scheduler, **whole}, request.steps, sigmas, mu=mu)

    def forward_inputs(self, request: Request, config: Mapping[str, Any]) -> dict[str, Any]:
        facts = _facts(self)
        empty = partial(torch.empty, device="meta", dtype=getattr(torch, self.recipe.dtype))
        _, channels, f, h, w = facts.latent_shape(request.width, request.height, request.frames)
        conditioned, given = _conditioned(self, request), bool(request.keyframes) or request.past is not None
        tokens = f * h * w + (_extra_frames(facts, request) * h * w if conditioned else 0)
        each = (1, tokens) if given else (1, 1) if conditioned else (1,)
        place: dict[str, Any] = {"video_coords": empty(1, 3, tokens, dtype=torch.float32)}
        if not conditioned:
            ratio = facts.spatial_ratio
            place = dict(
                num_frames=f,
                height=h,
                width=w,
                rope_interpolation_scale=(facts.temporal_ratio / facts.fps, ratio, ratio),
            )
        return dict(
            hidden_states=empty(1, tokens, channels),
            timestep=empty(*each, dtype=torch.float32),
            encoder_hidden_states=empty(1, facts.prompt_tokens, facts.text_width),
            encoder_attention_mask=empty(1, facts.prompt_tokens, dtype=torch.bool),
            **place,
        )

    def prepare(self, conditioning: Conditioning, request: Request, scheduler: Any) -> Run:
        generator = torch.Generator("cpu").manual_seed(request.seed)
        make = _condition_run if _conditioned(self, request) else _image_run if request.keyframes else _text_run
        if not request.keyframes:
            return make(self, conditioning, request, scheduler, generator, _no_pictures)
        longest = max(len(keyframe.images) for keyframe in request.keyframes)
        with self.use("vae", self.encoding(request.width, request.height, longest)) as vae:
            encode = lambda frames: self.encode_video(vae, frames, generator)
            return make(self, conditioning, request, scheduler, generator, encode)

    def positions(self, request: Request) -> int:
        """Tokens of the video, and those in front of it: of keyframes that are not at its start, of what lies long ago."""
        *_, height, width = self.facts.latent_shape(request.width, request.height, request.frames)
        clips = ((len(k.images) - 1) // self.facts.temporal_ratio + 1 for k in request.keyframes if k.frame)
        memory = None if request.past is None else request.past.memory
        more = sum(min(clip, PREFIX) for clip in clips) + (0 if memory is None else memory.shape[2])
        return super().positions(request) + more * height * width

    def timed(self, request: Request) -> bool:
        return bool(request.keyframes) or request.past is not None

    def to_vae(self, vae: Network, latents: Pieces, seed: int) -> Pieces:
        """The last denoising step of VAEs with timestep conditioning uses decode_timestep .05 and noise .025 (model card)."""
        generator = torch.Generator("cpu").manual_seed(seed)
        for frame in latents:
            z = frame.float()
            mean, std = _statistics(vae, z)
            z = z * std / vae.config.scaling_factor + mean
            if vae.config.timestep_conditioning:
                z = (1 - 0.025) * z + 0.025 * torch.randn(z.shape, generator=generator).to(z)
            yield z.to(vae.dtype)

    def from_vae(self, vae: Network, latents: Tensor) -> Tensor:
        mean, std = _statistics(vae, latents)
        return ((latents - mean) * vae.config.scaling_factor / std).float()

    @classmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        time = torch.full((1,), 0.05, device=vae.latents_mean.device, dtype=vae.dtype)
        noise = Noise(torch.Generator("cpu").manual_seed(seed), tile)
        return decode_pieces(vae, latents, time if vae.config.timestep_conditioning else None, noise)

    @classmethod
    def coder(cls, config: Mapping[str, Any]) -> str:
        if not config.get("timestep_conditioning"):
            return "0.9.0"
        return "0.9.1" if any(config.get("decoder_inject_noise") or ()) else "0.9.5"

    @classmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        return encode_pieces(vae, pixels, count)


def _facts(model: VideoModel) -> LTXFacts:
    assert isinstance(model.facts, LTXFacts)
    return model.facts


def _statistics(vae: Network, z: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (v.view(1, -1, 1, 1, 1).to(z) for v in (vae.latents_mean, vae.latents_std))
    return mean, std


# ---------------------------------------------------------------- what a request asks for


def _conditioned(model: VideoModel, request: Request) -> bool:
    """Whether the run follows LTXConditionPipeline; else it is plain text-to-video or one given first frame."""
    places = [(k.frame, len(k.images), k.strength) for k in request.keyframes]
    simple = not places or places == [(0, 1, 1.0)]
    sourced = request.source is not None and request.strength < 1
    return _facts(model).conditioned or sourced or not simple or request.past is not None


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


def _common(model: VideoModel, conditioning: Conditioning, request: Request, scheduler: Any) -> dict[str, Any]:
    facts, device, dtype = _facts(model), model.memory.device("transformer"), getattr(torch, model.recipe.dtype)
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


def _noise(model: VideoModel, request: Request, generator: torch.Generator) -> Tensor:
    shape = model.facts.latent_shape(request.width, request.height, request.frames)
    return torch.randn(shape, generator=generator).to(model.memory.device("transformer"))


def _pack(latents: Tensor) -> Tensor:
    return rearrange(latents, "b c f h w -> b (f h w) c")


def _text_run(model: VideoModel, conditioning: Conditioning, request: Request, scheduler: Any, generator: torch.Generator, encode: Encode) -> Run:  # fmt: skip
    return _TextRun(
        latents=_pack(_noise(model, request, generator)), **_common(model, conditioning, request, scheduler)
    )


def _image_run(model: VideoModel, conditioning: Conditioning, request: Request, scheduler: Any, generator: torch.Generator, encode: Encode) -> Run:  # fmt: skip
    first = encode(cover(request.keyframes[0].images, request.width, request.height))
    latents = _noise(model, request, generator)
    latents[:, :, :1] = first
    return _ImageRun(latents=_pack(latents), **_common(model, conditioning, request, scheduler))


def _condition_run(model: VideoModel, conditioning: Conditioning, request: Request, scheduler: Any, generator: torch.Generator, encode: Encode) -> Run:  # fmt: skip
    facts, common = _facts(model), _common(model, conditioning, request, scheduler)
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
