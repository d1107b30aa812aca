"""Stable Video Diffusion and SVD-XT (Stability AI, https://github.com/Stability-AI/generative-models): one image, set
in motion.

Every number equals diffusers 0.42's StableVideoDiffusionPipeline. It reads no text.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from einops import rearrange, repeat
from torch import Tensor

from ...common.flow import draw, encoded_source
from ...common.images import cover, image_processor
from ...common.peaks import Moment
from ...denoiser import Denoiser, Network, NoiseSchedule, Schedule
from ...facts import Facts
from ...messages import message
from ...parts import Config, Inputs
from ...request import Conditioning, Keyframe, Request
from ...vae.peak import CoderPeak
from ...vae.tiles import Pieces, Tile
from ...video_model import VideoModel
from ...weights.bundle import Bundle
from .checkpoint import FORMAT
from .denoiser import SVDDenoiser
from .vae import decode_pieces, encode_pieces

MIN_GUIDANCE = 1.0  # of the first frame (min_guidance_scale); the last frame has the request's
MOTION = {"motion_bucket": 127, "fps": 7, "noise_augmentation": 0.02}  # StableVideoDiffusionPipeline.__call__


class SVD(VideoModel):
    checkpoint = FORMAT
    batched_guidance = True
    solvers = "EDM"
    decode_cycle = 25, 1  # more frames than it makes: all are counted
    keeps_padding = message("padding_svd")
    coders: ClassVar[Mapping[str, CoderPeak]] = {
        "": CoderPeak(128, decode=52_000, offloaded=33_500, encode=1_340, still=1_340, clip=25, chunk=16),
    }
    moments: ClassVar[Mapping[str, Moment]] = {"outermost block": Moment(hidden=28)}
    stacks, dispatches, layers_asked = None, False, False
    text_models = message("svd_text_models")
    methods = ("cfg", "apg", "cfg-zero*", "tcfg")  # its UNet is no stack of blocks to skip

    @classmethod
    def read_facts(cls, bundle: Bundle) -> Facts:
        network, vae = bundle.parts["unet"].config, bundle.parts["vae"].config
        channels = vae["latent_channels"]
        ratio = 2 ** (len(vae["block_out_channels"]) - 1)
        return Facts(
            spatial_ratio=ratio,
            temporal_ratio=1,
            channels=channels,
            size_multiple=ratio * 2 ** (len(network["block_out_channels"]) - 1),
            hidden_size=network["block_out_channels"][0],
            text_width=0,
            prompt_tokens=0,
            mean=(0.0,) * channels,
            std=(1 / vae["scaling_factor"],) * channels,
            scheduler=bundle.scheduler,
            pictures=(("first",),),
            **{key: value for key, value in bundle.defaults.items() if key != "prompt_tokens"},
        )

    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        notes = self.check_prompt("positive", positive) or self.check_prompt("negative", negative)
        return Conditioning(self.name, 0, {"cond": {}, "uncond": {}}, notes)

    def check_prompt(self, name: str, text: str) -> tuple[str, ...]:
        return (message("svd_reads_no_text"),) if text.strip() else ()

    def schedule(self, request: Request) -> Schedule:
        return Schedule(self.facts.scheduler, request.steps)

    def forward_inputs(self, request: Request, config: Config) -> Inputs:
        empty = partial(torch.empty, device="meta", dtype=getattr(torch, self.recipe.dtype))
        _, _, t, h, w = self.facts.latent_shape(request.width, request.height, request.frames)
        return dict(
            sample=empty(1, t, config["in_channels"], h, w),
            timestep=empty((), dtype=torch.float32),
            encoder_hidden_states=empty(1, 1, config["cross_attention_dim"]),
            added_time_ids=empty(1, 3),
        )

    def prepare(self, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> Denoiser:
        generator, device = torch.Generator("cpu").manual_seed(request.seed), self.memory.device("unet")
        dtype, motion = getattr(torch, self.recipe.dtype), {**MOTION, **self.options}
        image = cover(request.keyframes[0].images, request.width, request.height)
        embeds = encode_image(self, image).to(device, dtype)
        pixels = image.movedim(-1, 1) * 2 - 1
        pixels = pixels + motion["noise_augmentation"] * torch.randn(pixels.shape, generator=generator)
        with self.use("vae", self.encoding(request.width, request.height)) as vae:
            z = vae.encode(pixels.to(self.memory.device("vae"), vae.dtype)).latent_dist.mode()
        image_latents = repeat(z.to(device, dtype), "1 c h w -> 1 t c h w", t=request.frames)
        shape = self.facts.latent_shape(request.width, request.height, request.frames)
        noise = draw((1, shape[2], shape[1], *shape[3:]), generator, device).to(dtype)
        latents = noise * schedule.scheduler.init_noise_sigma
        if request.source is not None and request.strength < 1:
            video = rearrange(encoded_source(self, request), "b c t h w -> b t c h w").to(noise)
            latents = video + noise * schedule.sigmas[0]
        ids = torch.tensor([[motion["fps"] - 1, motion["motion_bucket"], motion["noise_augmentation"]]], dtype=dtype)
        scales = torch.linspace(MIN_GUIDANCE, request.guidance, request.frames).view(1, -1, 1, 1, 1).to(device, dtype)
        run = latents, schedule, request.guidance, generator
        return SVDDenoiser(*run, _both(embeds), _both(image_latents), ids.to(device), scales)

    def positions(self, request: Request) -> int:
        """Latent pixels of all frames: a UNet has no tokens."""
        _, _, time, height, width = self.facts.latent_shape(request.width, request.height, request.frames)
        return time * height * width

    @classmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        return decode_pieces(vae, latents, tile.offload_state)

    @classmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        return encode_pieces(vae, pixels, count)

    def to_host(self, latents: Tensor) -> Tensor:
        """The host holds SVD's frames as a batch of images [T, C, h, w]."""
        return rearrange(super().to_host(latents), "1 c t h w -> t c h w")

    def from_host(self, samples: Tensor) -> Tensor:
        return super().from_host(rearrange(samples, "t c h w -> 1 c t h w") if samples.ndim == 4 else samples)


def _both(cond: Tensor) -> dict[str, Tensor]:
    """An input of the network per branch: without the prompt's picture it is zeros."""
    zeros = torch.zeros_like(cond)
    return {"cond": cond, "uncond": zeros, "cond_uncond": torch.cat([zeros, cond])}


def encode_image(model: VideoModel, image: Tensor) -> Tensor:
    """CLIP's view of the image [1, 1, width] (StableVideoDiffusionPipeline.encode_image)."""
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import _resize_with_antialiasing

    processor = image_processor(model.recipe.files.get("image_processor"))
    small = _resize_with_antialiasing(image.movedim(-1, 1) * 2.0 - 1.0, (224, 224))
    processed = processor(
        images=(small + 1.0) / 2.0,
        do_normalize=True,
        do_center_crop=False,
        do_resize=False,
        do_rescale=False,
        return_tensors="pt",
    )
    with model.use("image_encoder") as encoder:
        pixels = processed.pixel_values.to(model.memory.device("image_encoder"), encoder.dtype)
        return encoder(pixels).image_embeds.unsqueeze(1)
