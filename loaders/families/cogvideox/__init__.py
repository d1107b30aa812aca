"""CogVideoX 2B, 5B and 1.5-5B (Zhipu AI, https://github.com/zai-org/CogVideo), and Fun-Control by Alibaba PAI.

Every number equals diffusers 0.42's CogVideoXPipeline, CogVideoXImageToVideoPipeline, CogVideoXVideoToVideoPipeline or
CogVideoXFunControlPipeline.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange
from torch import Tensor

from ...common.flow import draw, encoded_source
from ...common.images import cover
from ...common.peaks import Moment
from ...common.prompts import encode_t5, t5_prompt
from ...denoiser import Denoiser, Network, NoiseSchedule, Schedule
from ...facts import TokenSplit
from ...messages import InputError, either, message
from ...parts import Config, Inputs
from ...request import Conditioning, Keyframe, Request
from ...vae.peak import CoderPeak
from ...vae.tiles import Pieces, Tile
from ...video_model import VideoModel
from ...weights.bundle import Bundle
from .checkpoint import FORMAT
from .denoiser import CogDenoiser, CogFacts, _padding, _rope
from .vae import decode_pieces, encode_pieces

OFS = 2.0  # what the 1.5 image-to-video model is told (CogVideoXImageToVideoPipeline)


class CogVideoX(VideoModel):
    facts: CogFacts
    checkpoint = FORMAT
    batched_guidance = True
    single_rows = "^ofs_embedding"
    solvers = "zero terminal SNR"
    keeps_padding = message("padding_cogvideox")
    coders: ClassVar[Mapping[str, CoderPeak]] = {
        "": CoderPeak(128, decode=37_000, offloaded=37_000, encode=21_850, still=5_550),
    }
    moments: ClassVar[Mapping[str, Moment]] = {
        "query and key": Moment(hidden=7, float32=2, copies=1, rotary=3, text=1),
        "MLP": Moment(hidden=4, mlp=2, rotary=3, text=1),
    }
    tokens_at = TokenSplit(joint_embedder="patch_embed", positions="image_rotary_emb", positions_dim=0, prompt="before")
    dispatches = False
    text_first = True
    decode_cycle = 1, 2
    image_models = either("CogVideoX-5B-I2V", "CogVideoX1.5-5B-I2V")
    text_models = either("CogVideoX-5B", "CogVideoX1.5-5B")

    @classmethod
    def read_facts(cls, bundle: Bundle) -> CogFacts:
        network, vae = bundle.parts["transformer"].config, bundle.parts["vae"].config
        ratio = 2 ** (len(vae["block_out_channels"]) - 1)
        control = bundle.pipeline.get("_class_name") == "CogVideoXFunControlPipeline" or "control" in bundle.variant
        channels, learned = vae["latent_channels"], network.get("use_learned_positional_embeddings")
        takes_image = network["in_channels"] > channels and not control
        return CogFacts(
            spatial_ratio=ratio,
            temporal_ratio=vae.get("temporal_compression_ratio", 4),
            channels=channels,
            frame_step=8,
            size_multiple=ratio * network["patch_size"],
            hidden_size=network["num_attention_heads"] * network["attention_head_dim"],
            text_width=network["text_embed_dim"],
            layers=network["num_layers"],
            cached_module_outputs=2 * network["num_layers"],
            mean=(0.0,) * channels,
            std=(1 / vae["scaling_factor"],) * channels,
            scheduler=bundle.scheduler,
            network=network,
            time_patch=network.get("patch_size_t") or 1,
            inverse_scale=bool(vae.get("invert_scale_latents")),
            fixed=(network["sample_width"] * ratio, network["sample_height"] * ratio) if learned else None,
            control=control,
            pictures=(("first",),) if takes_image else ((),),
            **bundle.defaults,
        )

    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        return encode_t5(self, False, positive, negative)

    def check_prompt(self, name: str, text: str) -> tuple[str, ...]:
        return t5_prompt(self, name, text).notes

    def check(self, request: Request) -> None:
        fixed = self.facts.fixed
        if fixed and (request.width, request.height) != fixed:
            rule = message("positions_fixed", title=self.title, variant=self.variant, width=fixed[0], height=fixed[1])
            raise InputError("width, height", f"{request.width}x{request.height}", rule, message("use_default_0"))
        for name, most in zip(("width", "height"), self.facts.largest, strict=True):
            if getattr(request, name) > most:
                rule = message("positions_most", title=self.title, variant=self.variant, most=most)
                raise InputError(name, getattr(request, name), rule, message("use_at_most", most=most))
        super().check(request)

    def check_pictures(self, request: Request) -> None:
        super().check_pictures(request)
        if not self.controlled():
            return
        control, title = request.control, f"{self.title} ({self.variant})"
        if control is None or control.frames is None:
            raise InputError(
                "control", message("none"), message("needs_control", title=title), message("connect_control")
            )
        if control.mask is not None or control.references is not None:
            raise InputError(
                "control", message("control_mask"), message("control_alone", title=title), message("disconnect_them")
            )

    def controlled(self) -> bool:
        return self.facts.control

    def schedule(self, request: Request) -> Schedule:
        return Schedule(self.facts.scheduler, request.steps)

    def forward_inputs(self, request: Request, config: Config) -> Inputs:
        facts = self.facts
        empty = partial(torch.empty, device="meta", dtype=getattr(torch, self.recipe.dtype))
        _, _, t, h, w = facts.latent_shape(request.width, request.height, request.frames)
        t += _padding(facts, request)
        return dict(
            hidden_states=empty(1, t, config["in_channels"], h, w),
            timestep=empty(1, dtype=torch.int64),
            encoder_hidden_states=empty(1, facts.prompt_tokens, facts.text_width),
            ofs=empty(1) if facts.network.get("ofs_embed_dim") else None,
            image_rotary_emb=_rope(facts, request.height, request.width, t, torch.device("meta")),
        )

    def prepare(self, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> Denoiser:
        facts, device, dtype = self.facts, self.memory.device("transformer"), getattr(torch, self.recipe.dtype)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        text = {branch: v["text"].to(device, dtype) for branch, v in conditioning.branches.items()}
        text["cond_uncond"] = torch.cat([text["uncond"], text["cond"]])
        condition = self._first_frame(request, generator, dtype) if request.keyframes else None
        latents = self._start(request, generator, schedule).to(dtype)
        if facts.control:
            condition = self._control(request, dtype)
        rope = _rope(facts, request.height, request.width, latents.shape[1], device)
        ofs = latents.new_full((1,), OFS) if facts.network.get("ofs_embed_dim") else None
        return CogDenoiser(
            latents,
            schedule,
            request.guidance,
            generator,
            text=text,
            condition=condition,
            control=request.control,
            rope=rope,
            ofs=ofs,
            padding=_padding(facts, request),
            dynamic=self.guidance.dynamic,
        )

    def _start(self, request: Request, generator: torch.Generator, schedule: NoiseSchedule) -> Tensor:
        """Noise [1, t, C, h, w], or the source with noise on it (CogVideoXVideoToVideoPipeline.prepare_latents)."""
        facts, device = self.facts, self.memory.device("transformer")
        b, c, t, h, w = facts.latent_shape(request.width, request.height, request.frames)
        video = None
        if request.source is not None and request.strength < 1:
            video = rearrange(encoded_source(self, request, generator), "b c t h w -> b t c h w").to(device)
            video = torch.cat([video[:, :1]] * _padding(facts, request) + [video], 1)
        noise = draw((b, t + _padding(facts, request), c, h, w), generator, device)
        scheduler = schedule.scheduler
        latents = noise if video is None else scheduler.add_noise(video, noise, schedule.timesteps[:1])
        return latents * scheduler.init_noise_sigma

    def _first_frame(self, request: Request, generator: torch.Generator, dtype: torch.dtype) -> Tensor:
        """The first frame [1, t, C, h, w] and nothing after it (CogVideoXImageToVideoPipeline.prepare_latents)."""
        facts, image = self.facts, cover(request.keyframes[0].images, request.width, request.height)
        with self.use("vae", self.encoding(request.width, request.height)) as vae:
            z = self.vae_latents(vae, image, generator)
        scale = facts.std[0] if facts.inverse_scale else 1 / facts.std[0]
        first = rearrange(z.to(self.memory.device("transformer"), dtype), "b c t h w -> b t c h w") * scale
        b, c, t, h, w = facts.latent_shape(request.width, request.height, request.frames)
        padding = _padding(facts, request)
        filled = torch.cat([first, first.new_zeros(b, t + padding - 1, c, h, w)], 1)
        return torch.cat([filled[:, : filled.shape[1] % facts.time_patch], filled], 1)

    def _control(self, request: Request, dtype: torch.dtype) -> Tensor:
        """The control video's latents [1, t, C, h, w]. A strength other than 1 is an approximation of ours: the network
        was trained with whole ones, and scaling these scales what they add to its first, linear layer."""
        assert request.control is not None
        assert request.control.frames is not None
        frames = cover(request.control.frames[: request.frames], request.width, request.height)
        with self.use("vae", self.encoding(request.width, request.height, request.frames)) as vae:
            z = self.encode_video(vae, frames)
        z = rearrange(z, "b c t h w -> b t c h w").to(self.memory.device("transformer"), dtype)
        return z * request.control.strength

    def from_vae(self, vae: Network, latents: Tensor) -> Tensor:
        return latents.float() * (1 / self.facts.std[0])

    @classmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        return decode_pieces(vae, latents, tile.offload_state)

    @classmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        return encode_pieces(vae, pixels, count)
