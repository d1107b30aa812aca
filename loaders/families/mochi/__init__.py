"""Mochi 1 (Genmo, https://github.com/genmoai/mochi).

Every number equals diffusers 0.42's MochiPipeline. Its sigmas count up from 0: the network is told how clean the
latents are, and predicts the way towards the video.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import numpy as np
import torch

from ...common.flow import draw, encoded_source, mix
from ...common.peaks import Moment
from ...common.prompts import encode_t5, t5_prompt
from ...denoiser import Denoiser, Network, NoiseSchedule, Schedule
from ...facts import Facts
from ...messages import message
from ...parts import Config, Inputs
from ...request import Conditioning, Keyframe, Request
from ...vae.peak import CoderPeak
from ...vae.tiles import Pieces, Tile
from ...video_model import VideoModel
from ...weights.bundle import Bundle
from .attention import prompt_lengths
from .checkpoint import FORMAT
from .denoiser import MochiDenoiser
from .vae import decode_pieces, encode_pieces

THRESHOLD_NOISE = 0.025  # of the linear-quadratic schedule (genmoai/models, mochi_preview/infer.py)


class Mochi(VideoModel):
    checkpoint = FORMAT
    batched_guidance = True
    coders: ClassVar[Mapping[str, CoderPeak]] = {
        "": CoderPeak(
            128, decode=14_000, offloaded=8_000, encode=4_600, still=920, grows=565, whole=900, workspaces=0.25
        ),
    }
    moments: ClassVar[Mapping[str, Moment]] = {
        "query and key": Moment(hidden=7, float32=2, copies=1, shared=1, text=0.5),
        "MLP": Moment(hidden=5, mlp=4, shared=1, text=0.1),
    }
    streamed_encode_differs = True
    keeps_padding = message("padding_mochi")
    image_models = message("mochi_image_models")

    @classmethod
    def read_facts(cls, bundle: Bundle) -> Facts:
        network, vae = bundle.parts["transformer"].config, bundle.parts["vae"].config
        std = [s / vae["scaling_factor"] for s in vae.get("latents_std") or [1.0] * vae["latent_channels"]]
        return Facts(
            spatial_ratio=8,
            temporal_ratio=6,
            channels=vae["latent_channels"],
            size_multiple=8 * network["patch_size"],
            hidden_size=network["num_attention_heads"] * network["attention_head_dim"],
            text_width=network["text_embed_dim"],
            layers=network["num_layers"],
            cached_module_outputs=2 * network["num_layers"],
            mean=tuple(vae.get("latents_mean") or [0.0] * len(std)),
            std=tuple(std),
            scheduler=bundle.scheduler,
            **bundle.defaults,
        )

    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        return encode_t5(self, True, positive, negative)

    def check_prompt(self, name: str, text: str) -> tuple[str, ...]:
        return t5_prompt(self, name, text).notes

    def schedule(self, request: Request) -> Schedule:
        from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

        # one step has no linear half: it goes straight from noise to the video
        sigmas = linear_quadratic_schedule(request.steps, THRESHOLD_NOISE) if request.steps > 1 else [1.0]
        return Schedule({"shift": 1.0, **self.facts.scheduler}, request.steps, np.array(sigmas))

    def forward_inputs(self, request: Request, config: Config) -> Inputs:
        facts = self.facts
        empty = partial(torch.empty, device="meta", dtype=getattr(torch, self.recipe.dtype))
        shape = facts.latent_shape(request.width, request.height, request.frames)
        return dict(
            hidden_states=empty(shape),
            encoder_hidden_states=empty(1, facts.prompt_tokens, facts.text_width),
            encoder_attention_mask=empty(1, facts.prompt_tokens, dtype=torch.bool),
            timestep=empty(1),
        )

    def prepare(self, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> Denoiser:
        device, dtype = self.memory.device("transformer"), getattr(torch, self.recipe.dtype)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        text = {
            branch: (v["text"].to(device, dtype), v["mask"].to(device)) for branch, v in conditioning.branches.items()
        }
        both = [torch.cat([text["uncond"][i], text["cond"][i]]) for i in (0, 1)]
        text["cond_uncond"] = both[0], both[1]
        lengths = {branch: prompt_lengths(v["mask"]) for branch, v in conditioning.branches.items()}
        lengths["cond_uncond"] = lengths["uncond"] + lengths["cond"]
        latents = draw(self.facts.latent_shape(request.width, request.height, request.frames), generator, device)
        if request.source is not None and request.strength < 1:
            latents = mix(latents, encoded_source(self, request), schedule.sigmas[0])
        return MochiDenoiser(latents.to(dtype), schedule, request.guidance, generator, text, lengths)

    @classmethod
    def mlp_width(cls, config: Config, hidden: int) -> int:
        return 4 * hidden * 2 // 3

    @classmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        return decode_pieces(vae, latents, tile.offload_state)

    @classmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        return encode_pieces(vae, pixels, count)
