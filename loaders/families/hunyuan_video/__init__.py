"""HunyuanVideo 13B (Tencent, https://github.com/Tencent-Hunyuan/HunyuanVideo): T2V, and I2V of both kinds.

Every number equals diffusers 0.42's HunyuanVideoPipeline or HunyuanVideoImageToVideoPipeline. `prompts.py`
reads the prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from ...common.flow import draw, encoded_source, mix
from ...common.images import cover
from ...common.peaks import Moment, Reader, reader
from ...common.prompts import trimmed
from ...denoiser import Denoiser, Network, NoiseSchedule, Schedule
from ...facts import Stacks, TokenSplit
from ...messages import InputError, message
from ...parts import Config, Inputs
from ...request import Conditioning, Keyframe, Request
from ...vae.peak import CoderPeak
from ...vae.tiles import Pieces, Tile
from ...video_model import VideoModel
from ...weights.bundle import Bundle
from .checkpoint import FORMAT
from .denoiser import HunyuanConcatDenoiser, HunyuanDenoiser, HunyuanFacts, HunyuanReplaceDenoiser
from .prompts import CLIP_TOKENS, check_prompt, encode_prompt, template_tokens, text_tokens
from .vae import decode_pieces, encode_pieces

# how an image comes in -> the text refiner reads every N-th of its tokens (image_embed_interleave of the pipeline)
INTERLEAVE = {"latent_concat": 2, "token_replace": 4}
# which input of a block is the mask of its attention, and which the first frame's number of tokens
MASK, FIRST_TOKENS = 3, 6  # (HunyuanVideoTransformer3DModel.forward)


class HunyuanVideo(VideoModel):
    facts: HunyuanFacts
    checkpoint = FORMAT
    batched_guidance = False
    coders: ClassVar[Mapping[str, CoderPeak]] = {
        "": CoderPeak(128, decode=40_500, offloaded=40_500, encode=35_000, still=1_880, workspaces=0.45),
    }
    moments: ClassVar[Mapping[str, Moment]] = {
        # whose positions turn those of the video's tokens alone; branches come one by one
        "query and key of a single block": Moment(hidden=8, mlp=1, copies=1, shared=2, rotary=2, text=1),
        "output of a single block": Moment(hidden=8.6, mlp=2, rotary=2, text=1),
    }
    decode_cycle = 2, 3
    stacks = Stacks(("transformer_blocks", "single_transformer_blocks"))
    tokens_at = TokenSplit(
        embedders=("x_embedder.proj",),
        positions_dim=0,
        attentions=r"^(single_)?transformer_blocks\.\d+\.attn$",
        prompt="after",
        counted=FIRST_TOKENS,
    )
    masked = "."
    image_models, text_models = "HunyuanVideo-I2V", "HunyuanVideo (T2V)"

    @classmethod
    def read_facts(cls, bundle: Bundle) -> HunyuanFacts:
        network, vae = bundle.parts["transformer"].config, bundle.parts["vae"].config
        image = network.get("image_condition_type") or ""
        ratio, channels = vae.get("spatial_compression_ratio", 8), vae["latent_channels"]
        return HunyuanFacts(
            spatial_ratio=ratio,
            temporal_ratio=vae.get("temporal_compression_ratio", 4),
            channels=channels,
            size_multiple=ratio * network["patch_size"],
            hidden_size=network["num_attention_heads"] * network["attention_head_dim"],
            text_width=network["text_embed_dim"],
            layers=network["num_layers"],
            cached_module_outputs=2 * network["num_layers"] + network["num_single_layers"],
            mean=(0.0,) * channels,
            std=(1 / vae["scaling_factor"],) * channels,
            scheduler=bundle.scheduler,
            image=image,
            embedded=bool(network["guidance_embeds"]),
            discarded_frames=4 if image == "latent_concat" else 0,
            pictures=(("first",),) if image else ((),),
            reads_pictures=bool(image),
            **bundle.defaults,
        )

    def encode(self, positive: str, negative: str, keyframes: tuple[Keyframe, ...] = ()) -> Conditioning:
        facts = self.facts
        image = next((k.images[:1] for k in keyframes if k.frame == 0), None) if facts.image else None
        if facts.image and image is None:
            rule = message("reads_first_frame", variant=self.variant)
            raise InputError("keyframes", message("none"), rule, message("connect_keyframe_too"))
        notes = self.check_prompt("positive", positive) + self.check_prompt("negative", negative)
        cond = encode_prompt(self, positive, "positive", image, INTERLEAVE.get(facts.image, 1))
        # the reference reads a black image with the negative prompt, and every second of its tokens, whatever the
        # kind
        black = None if image is None else torch.zeros_like(image)
        uncond = encode_prompt(self, negative, "negative", black, 2)
        return Conditioning(self.name, facts.text_width, {"cond": cond, "uncond": uncond}, notes, image)

    def check_prompt(self, name: str, text: str) -> tuple[str, ...]:
        return check_prompt(self, bool(self.facts.image), text, name)

    def schedule(self, request: Request) -> Schedule:
        sigmas = np.linspace(1.0, 0.0, request.steps + 1)[:-1]
        return Schedule({"shift": request.shift or 1.0}, request.steps, sigmas)

    def forward_inputs(self, request: Request, config: Config) -> Inputs:
        facts = self.facts
        empty = partial(torch.empty, device="meta", dtype=getattr(torch, self.recipe.dtype))
        _, _, *shape = facts.latent_shape(request.width, request.height, request.frames)
        words = text_tokens(self, INTERLEAVE.get(facts.image, 0))
        return dict(
            hidden_states=empty(1, config["in_channels"], *shape),
            timestep=empty(1, dtype=torch.float32),
            guidance=empty(1) if facts.embedded else None,
            encoder_hidden_states=empty(1, words, facts.text_width),
            encoder_attention_mask=empty(1, words),
            pooled_projections=empty(1, config["pooled_projection_dim"]),
        )

    def prepare(self, conditioning: Conditioning, request: Request, schedule: NoiseSchedule) -> Denoiser:
        facts, device, dtype = self.facts, self.memory.device("transformer"), getattr(torch, self.recipe.dtype)
        generator = torch.Generator("cpu").manual_seed(request.seed)
        latents = draw(facts.latent_shape(request.width, request.height, request.frames), generator, device)
        first = None
        if facts.image:
            with self.use("vae", self.encoding(request.width, request.height)) as vae:
                image = cover(request.keyframes[0].images, request.width, request.height)
                first = self.encode_video(vae, image).to(latents)
            share = torch.tensor([0.999], device=device)  # the image shines through the noise a little
            latents = latents * share + first.repeat(1, 1, latents.shape[2], 1, 1) * (1 - share)
        if request.source is not None and request.strength < 1:
            latents = mix(latents, encoded_source(self, request), schedule.sigmas[0])
        branches = {
            branch: _trimmed(read) if self.trims_text else read for branch, read in conditioning.branches.items()
        }
        text = {branch: {k: v.to(device, dtype) for k, v in read.items()} for branch, read in branches.items()}
        scale = torch.tensor([request.guidance], dtype=dtype, device=device) * 1000.0 if facts.embedded else None
        guidance = self.guidance.true_scale or 1.0 if facts.embedded else request.guidance
        kinds = {"latent_concat": HunyuanConcatDenoiser, "token_replace": HunyuanReplaceDenoiser}
        kind = kinds.get(facts.image, HunyuanDenoiser)
        return kind(latents, schedule, guidance, generator, text=text, embedded=scale, dtype=dtype, first=first)

    def read_tokens(self, encoder: Reader, prompt_tokens: int = 0) -> int:
        """CLIP's own number; Llama's with the template around the prompt, and the image's."""
        if encoder.kind == "clip":
            return CLIP_TOKENS
        seen = max(encoder.pictures - 1, 0) if self.facts.reads_pictures else 0
        return (prompt_tokens or self.facts.prompt_tokens) + template_tokens(self) + seen

    def text_positions(self, request: Request) -> int:
        """The prompt's, and those of the image's tokens that are kept."""
        encoder = reader(self.parts["text_encoder"].tensors)
        tokens = max(encoder.pictures - 1, 0) if encoder and self.facts.image else 0  # but the one that stands for all
        return self.facts.prompt_tokens + tokens // INTERLEAVE.get(self.facts.image, 1)

    @contextmanager
    def unmasked(self, network: Network) -> Iterator[None]:
        """Without the mask that the network gives its blocks as their fourth input, for which the fast kernels of
        attention are left out."""
        drop = lambda block, inputs: (*inputs[:MASK], None, *inputs[MASK + 1 :])
        blocks = (block for name in self.stacks.lists for block in getattr(network, name))
        handles = [block.register_forward_pre_hook(drop) for block in blocks]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def from_vae(self, vae: Network, latents: Tensor) -> Tensor:
        return latents.float() * vae.config.scaling_factor

    @classmethod
    def decode_pieces(cls, vae: Network, latents: Pieces, tile: Tile, seed: int) -> Pieces:
        return decode_pieces(vae, latents)

    @classmethod
    def encode_pieces(cls, vae: Network, pixels: Pieces, count: int) -> Pieces:
        return encode_pieces(vae, pixels, count)


def _trimmed(read: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A branch without the rows that the network masks: those behind as many as the mask has ones."""
    text, mask = trimmed(read["text"], read["mask"])
    return {**read, "text": text, "mask": mask}
