"""LTX-Video 0.9.0 to 0.9.8, 2B and 13B (Lightricks, https://github.com/Lightricks/LTX-Video).

Every number equals diffusers 0.42's LTXPipeline, LTXImageToVideoPipeline or LTXConditionPipeline; the docstrings name
the one that a piece of code follows. `checkpoint.py` knows the layouts on disk.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...common.peaks import Moment
from ...common.prompts import encode_t5, t5_prompt
from ...denoiser import Denoiser, NoiseSchedule, Schedule
from ...facts import Stacks, TokenSplit
from ...messages import InputError, message
from ...parts import Config, Inputs, Part
from ...request import Capabilities, Conditioning, Extension, Keyframe, Program, Request
from ...vae.peak import CoderPeak
from ...vae.tiles import Pieces, Tile
from ...weights.bundle import Bundle
from ...weights.entry import describing
from .checkpoint import FORMAT
from .denoiser import (
    LTXFacts,
    LTXModel,
    Network,
    _common,
    _conditioned,
    _extra_frames,
    _no_pictures,
    condition_denoiser,
    image_denoiser,
    text_denoiser,
)
from .perturbation import MODES, perturbed
from .upsampler import load_upsampler, tone_mapped, upscale
from .vae import Noise, decode_pieces, encode_pieces

TIMESTEP, NOISE = 0.05, 0.025  # decode_timestep and decode_noise_scale of the model card, and of all configurations


class LTX(LTXModel):
    checkpoint = FORMAT
    batched_guidance = True
    solvers = "distilled flow"
    coders: ClassVar[Mapping[str, CoderPeak]] = {
        "0.9.0": CoderPeak(
            128, decode=1_215, offloaded=690, full=1.65, full_offloaded=1.25, encode=660, still=165, whole=124
        ),
        "0.9.1": CoderPeak(256, decode=1_390, offloaded=380, full_offloaded=1.65, encode=660, still=165, whole=124),
        "0.9.5": CoderPeak(256, decode=1_350, offloaded=380, full_offloaded=1.65, encode=1_240, still=175, whole=124),
    }
    moments: ClassVar[Mapping[str, Moment]] = {
        "query and key": Moment(hidden=6, float32=4, copies=1, timed=13, keys=1),
        "MLP": Moment(hidden=4, float32=2, mlp=2, timed=13, keys=1),
        "key of the text": Moment(hidden=5, float32=2, timed=13, keys=3, keys32=2, key_copies=1),
    }
    streamed_encode_differs = True
    stacks = Stacks(pairs=False)
    tokens_at = TokenSplit(inputs=("hidden_states", "timestep"))
    masked = r"\.attn2$"
    methods: ClassVar[tuple[str, ...]] = (*LTXModel.methods, "stg")
    stg_modes: ClassVar[tuple[str, ...]] = (*MODES,)

    @classmethod
    def read_facts(cls, bundle: Bundle) -> LTXFacts:
        network, vae = bundle.parts["transformer"].config, bundle.parts["vae"].config
        ratio = vae["patch_size"] * 2 ** _stages(vae, "spatial")
        return LTXFacts(
            spatial_ratio=ratio,
            temporal_ratio=vae["patch_size_t"] * 2 ** _stages(vae, "temporal"),
            size_multiple=ratio,
            channels=network["in_channels"],
            hidden_size=network["num_attention_heads"] * network["attention_head_dim"],
            text_width=network["caption_channels"],
            scheduler=bundle.scheduler,
            pictures=None,
            layers=network["num_layers"],
            cached_module_outputs=3 * network["num_layers"],
            **bundle.defaults,
        )

    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        return encode_t5(self, self.facts.conditioned, positive, negative)

    def check_prompt(self, name: str, text: str) -> tuple[str, ...]:
        return t5_prompt(self, name, text).notes

    def check(self, request: Request) -> None:
        super().check(request)
        if request.sampler == "distilled" and not self.facts.distilled_timesteps:
            rule = message("no_distilled", variant=self.variant)
            raise InputError("sampler", "distilled", rule, message("use_euler_or_distilled"))
        fixed = len(self.facts.distilled_timesteps)
        if request.sampler == "distilled" and request.steps != fixed:
            rule = message("distilled_steps", steps=fixed)
            raise InputError("steps", request.steps, rule, message("use_steps_or_euler", steps=fixed))
        listed = len(request.program.timesteps) if request.program is not None else 0
        if listed and request.sampler != "distilled" and request.steps != listed:
            rule = message("preset_steps", preset=request.preset, steps=listed)
            raise InputError("steps", request.steps, rule, message("use_value_or_0", value=listed))

    def check_pictures(self, request: Request) -> None:
        super().check_pictures(request)
        if request.program is not None and request.program.begins_with_source and request.source is None:
            rule = message("preset_needs_source", preset=request.preset)
            raise InputError("source", message("not_connected"), rule, message("connect_enlarged"))

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
        """What LTXConditionPipeline gives its scheduler, or LTXPipeline: there, sigmas that the clip's size shifts.

        The makers' program (RectifiedFlowScheduler of ltx-video) takes the same, or timesteps of its own.
        """
        from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

        facts, program = self.facts, request.program
        tokens = int(np.prod(facts.latent_shape(request.width, request.height, request.frames)[2:]))
        if request.sampler == "distilled" or _conditioned(self, request):
            # given timesteps must not be shifted again, so the scheduler is static (LTXConditionPipeline)
            static = {**facts.scheduler, "use_dynamic_shifting": False, "shift": 1.0, "shift_terminal": None}
            if request.sampler == "distilled":
                given = torch.tensor(facts.distilled_timesteps)
            elif program is not None and not facts.conditioned and not program.timesteps:
                given = shifted_levels(facts.scheduler, request.steps, tokens) * 1000
            else:
                given = _levels(program or Program(), request.steps) * 1000
            times: Any = np.array(given).astype(np.float32)
            return Schedule(static, len(times), times / 1000, times)
        whole = {} if request.steps > 1 else {"shift_terminal": None}  # one step has nothing to stretch: it ends at 0
        limits = {"base_image_seq_len": 256, "max_image_seq_len": 4096, "base_shift": 0.5, "max_shift": 1.15}
        mu = calculate_shift(tokens, *(facts.scheduler.get(name, usual) for name, usual in limits.items()))
        sigmas = np.linspace(1.0, 1 / request.steps, request.steps)
        return Schedule({"shift": 1.0, **facts.scheduler, **whole}, request.steps, sigmas, mu=mu)

    def forward_inputs(self, request: Request, config: Config) -> Inputs:
        facts = self.facts
        empty = partial(torch.empty, device="meta", dtype=getattr(torch, self.recipe.dtype))
        _, channels, f, h, w = facts.latent_shape(request.width, request.height, request.frames)
        conditioned, given = _conditioned(self, request), bool(request.keyframes) or request.past is not None
        tokens = self.positions(request)
        each = (1, tokens) if given else (1, 1) if conditioned else (1,)
        place: dict[str, Any] = {"video_coords": empty(1, 3, tokens, dtype=torch.float32)}
        if not conditioned:
            ratio = facts.spatial_ratio
            place = dict(
                num_frames=f,
                height=h,
                width=w,
                rope_interpolation_scale=(facts.temporal_ratio / request.fps, ratio, ratio),
            )
        return dict(
            hidden_states=empty(1, tokens, channels),
            timestep=empty(*each, dtype=torch.float32),
            encoder_hidden_states=empty(1, facts.prompt_tokens, facts.text_width),
            encoder_attention_mask=empty(1, facts.prompt_tokens, dtype=torch.bool),
            **place,
        )

    def prepare(self, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> Denoiser:
        generator = torch.Generator("cpu").manual_seed(request.seed)
        inputs = _common(self, conditioning, request, schedule, generator)
        make = image_denoiser if request.keyframes else text_denoiser
        if _conditioned(self, request):
            make = condition_denoiser
        if not request.keyframes:
            return make(self, request, inputs, _no_pictures)
        longest = max(len(keyframe.images) for keyframe in request.keyframes)
        with self.use("vae", self.encoding(request.width, request.height, longest)) as vae:
            encode = lambda frames: self.encode_video(vae, frames, generator)
            return make(self, request, inputs, encode)

    def perturb(self, network: Network, blocks: Sequence[int], mode: str) -> AbstractContextManager[None]:
        return perturbed(network, blocks, mode)

    def beside(self, request: Request) -> int:
        """Tokens of keyframes that are not at the start of the video, and of what lies long ago or at its end."""
        *_, height, width = self.facts.latent_shape(request.width, request.height, request.frames)
        return _extra_frames(self.facts, request) * height * width if _conditioned(self, request) else 0

    def upsampler(self, folder: Path) -> Part:
        with describing(folder, self.title):
            return load_upsampler(folder, self.facts.channels, self.recipe.dtype)

    def upscale(self, upsampler: Part, latents: Tensor, adain: float = 0.0, tone_map: float = 0.0) -> Tensor:
        return upscale(self, upsampler, latents, adain, tone_map)

    def timed(self, request: Request) -> bool:
        return bool(request.keyframes) or request.past is not None

    def to_vae(self, vae: Network, latents: Pieces, seed: int) -> Pieces:
        """The last denoising step of VAEs with timestep conditioning gets some noise: .025 of what the VAE reads, as in
        diffusers' pipelines; where a share is set, of the normalised latents, as in the makers'."""
        generator, share = torch.Generator("cpu").manual_seed(seed), self.decoding.noise
        own, given = (NOISE, 0.0) if share < 0 else (0.0, share)
        conditioned = vae.config.timestep_conditioning
        for frame in latents:
            z = _noisy(frame.float(), given, generator) if conditioned else frame.float()
            z = tone_mapped(z, max(self.decoding.tone_map, 0.0))
            mean, std = _statistics(vae, z)
            z = z * std / vae.config.scaling_factor + mean
            z = _noisy(z, own, generator) if conditioned else z
            yield z.to(vae.dtype)

    def from_vae(self, vae: Network, latents: Tensor) -> Tensor:
        mean, std = _statistics(vae, latents)
        return ((latents - mean) * vae.config.scaling_factor / std).float()

    @classmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        return _decode(vae, latents, tile, seed, TIMESTEP)

    def decode_tile(self, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        timestep = self.decoding.timestep
        return _decode(vae, latents, tile, seed, TIMESTEP if timestep < 0 else timestep)

    @classmethod
    def coder(cls, config: Config) -> str:
        if not config.get("timestep_conditioning"):
            return "0.9.0"
        return "0.9.1" if any(config.get("decoder_inject_noise") or ()) else "0.9.5"

    @classmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        return encode_pieces(vae, pixels, count)


def _levels(program: Program, steps: int) -> Tensor:
    """The noise levels of so many predictions, from 1 to 0: the program's own, or LTXConditionPipeline's."""
    from diffusers.pipelines.ltx.pipeline_ltx_condition import linear_quadratic_schedule

    if program.timesteps:
        return torch.tensor(program.timesteps)
    count = program.skip_first + steps + program.skip_last
    levels: Tensor = linear_quadratic_schedule(count)[program.skip_first : count - program.skip_last]
    return levels


def shifted_levels(scheduler: Config, steps: int, tokens: int) -> Tensor:
    """The noise levels of the makers' program before 0.9.5, from 1 to 0: even steps, shifted by the clip's size and
    stretched to a last one (sd3_resolution_dependent_timestep_shift of ltx-video); in float32, as there."""
    fewest, most = scheduler["base_image_seq_len"], scheduler["max_image_seq_len"]
    slope = (scheduler["max_shift"] - scheduler["base_shift"]) / (most - fewest)
    weight = math.exp(slope * tokens + scheduler["base_shift"] - slope * fewest)
    levels = weight / (weight + (1 / torch.linspace(1, 1 / steps, steps) - 1))
    terminal = scheduler.get("shift_terminal")
    if not terminal or steps == 1:
        return levels
    return 1 - (1 - levels) / ((1 - levels[-1]) / (1 - terminal))


def _decode(vae: Network, latents: Pieces, tile: Tile, seed: int, timestep: float) -> Pieces:
    time = torch.full((1,), timestep, device=vae.latents_mean.device, dtype=vae.dtype)
    noise = Noise(torch.Generator("cpu").manual_seed(seed), tile)
    return decode_pieces(vae, latents, time if vae.config.timestep_conditioning else None, noise)


def _noisy(z: Tensor, share: float, generator: torch.Generator) -> Tensor:
    return (1 - share) * z + share * torch.randn(z.shape, generator=generator).to(z) if share else z


def _stages(config: Config, kind: str) -> int:
    """How many stages of the VAE's encoder compress space or time ("spatial" or "temporal")."""
    scaled = config["spatio_temporal_scaling"]
    types = config.get("downsample_type") or ("conv",) * len(scaled)
    return sum(used and t in ("conv", "spatiotemporal", kind) for used, t in zip(scaled, types, strict=True))


def _statistics(vae: Network, z: Tensor) -> tuple[Tensor, Tensor]:
    mean, std = (v.view(1, -1, 1, 1, 1).to(z) for v in (vae.latents_mean, vae.latents_std))
    return mean, std
