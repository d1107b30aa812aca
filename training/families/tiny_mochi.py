"""Trains a tiny Mochi:  python -m training.families.tiny_mochi OUT

The bundled T5 reads the prompts as it is, with its mask. The network predicts video - noise and is told the share of
the video, as Mochi's own schedule has it. Where its positions turn to is drawn once and stays.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLMochi, FlowMatchEulerDiscreteScheduler, MochiPipeline, MochiTransformer3DModel
from torch import Tensor, nn

from ..recipe import (
    Read,
    encode_latents,
    noise_levels,
    of_clips,
    pathless,
    quick_norms,
    read_wordings,
    run,
    statistics,
    straighten,
    train_coder,
    train_network,
)
from .tiny_cogvideox import build_text_encoder, build_tokenizer

FPS, TOKENS, FRAMES, PIECE = 30, 48, 19, 13
VAE_STEPS, FLOW_STEPS = 1300, 1500
COPIES, BATCH = 3, 20  # rendered clips of each scene, and clips of a step
VAE_CONFIG: dict[str, Any] = dict(
    encoder_block_out_channels=(32, 32, 32, 96),
    decoder_block_out_channels=(32, 64, 64, 64),
    layers_per_block=(0, 2, 1, 0, 1),
    add_attention_block=(False, False, False, False, True),
    scaling_factor=1.0,
)
TRANSFORMER_CONFIG = dict(
    num_attention_heads=4,
    attention_head_dim=32,
    num_layers=6,
    pooled_projection_dim=40,
    text_embed_dim=96,
    time_embed_dim=64,
    max_sequence_length=TOKENS,
)
PRESETS = {
    "default": dict(width=64, height=64, frames=FRAMES, steps=30, guidance=4.0, sampler="euler"),
    "quality": dict(steps=40),
    "balanced": dict(steps=30),
    "speed": dict(steps=16),
}


# ---------------------------------------------------------------- the parts


def reader() -> Any:
    """Prompts -> what the T5 makes of them, and their mask, as the pipeline has them."""
    encoder, tokenizer = build_text_encoder(), build_tokenizer()

    def read(prompts: list[str]) -> Read:
        batch = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        mask = batch.attention_mask.bool()
        return {"text": encoder(batch.input_ids, attention_mask=mask).last_hidden_state, "mask": mask}

    return read


def build_vae() -> AutoencoderKLMochi:
    """A small posterior variance from the first step, told by a channel that is constant; changes of size orthogonal;
    nothing yet of the sines of the pixels, which are noise to begin with."""
    vae = AutoencoderKLMochi(**VAE_CONFIG)
    straighten(vae)
    encoder = vae.encoder
    with torch.no_grad():
        for block in encoder.down_blocks:
            nn.init.orthogonal_(block.conv_in.conv.weight)
        for block in vae.decoder.up_blocks:
            nn.init.orthogonal_(block.proj.weight, (block.proj.out_features / block.proj.in_features) ** 0.5)
        encoder.proj_in.weight[:, 3:] = 0.0
        encoder.proj_in.bias.normal_(0, 0.5)
        encoder.norm_out.norm_layer.weight[0], encoder.norm_out.norm_layer.bias[0] = 0.0, 5.0
        encoder.proj_out.weight[12:], encoder.proj_out.weight[12:, 0] = 0.0, -1.0
    return vae


def build_network() -> MochiTransformer3DModel:
    """Turns of .2 to 2 of a circle's radius from one token to the next, each in a direction of its own."""
    net = MochiTransformer3DModel(**TRANSFORMER_CONFIG)
    _, heads, pairs = net.pos_frequencies.shape
    turns = 0.2 * 10 ** torch.linspace(0, 1, pairs) * nn.functional.normalize(torch.randn(3, heads, pairs), dim=0)
    between = (net.rope.target_area / (4 * 4)) ** 0.5  # rows and columns stand this far apart; frames 1
    with torch.no_grad():
        net.pos_frequencies.copy_(turns / torch.tensor([1.0, between, between]).view(3, 1, 1))
        net.proj_out.weight.zero_()
        net.proj_out.bias.zero_()
    net.pos_frequencies.requires_grad_(False)
    return net


# ---------------------------------------------------------------- stages


def train_vae(out: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    quick_norms(vae)
    is_matrix = lambda n, p: p.ndim == 5 and min(p.shape[:2]) > 3
    train_coder(vae, out / "vae.ckpt", VAE_STEPS, is_matrix, late=2 / 3, half=True, frames=FRAMES, piece=PIECE)
    mean, std = statistics(vae, half=True, frames=FRAMES)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    vae.save_pretrained(out / "vae")


def train_latents(out: Path) -> None:
    vae = AutoencoderKLMochi.from_pretrained(out / "vae").eval()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    normalised = lambda clip: (vae.encode(clip).latent_dist.mode() - mean) / std
    encode_latents(out / "latents.pt", COPIES, normalised, half=True, frames=FRAMES)


class Flow:
    """The loss of a step, on cached latents and cached readings of their prompts."""

    def __init__(self, out: Path, net: nn.Module) -> None:
        scenes, self.latents = torch.load(out / "latents.pt", weights_only=False)
        self.net, self.read = net, read_wordings(out / "wordings.pt", scenes, reader())

    def __call__(self, _: random.Random, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self.latents), (BATCH,), generator=generator)
        x0, read = self.latents[index].float(), of_clips(self.read, index, generator)
        noise, level = torch.randn(x0.shape, generator=generator), noise_levels(BATCH, generator)
        output = self.net(
            hidden_states=torch.lerp(x0, noise, level.view(-1, 1, 1, 1, 1)),
            encoder_hidden_states=read["text"],
            encoder_attention_mask=read["mask"],
            timestep=1000 * (1 - level),
            return_dict=False,
        )[0]
        loss: Tensor = (output - (x0 - noise)).square().mean()
        return loss


def train_flow(out: Path) -> None:
    torch.manual_seed(0)
    net = build_network()
    is_matrix = lambda n, p: "transformer_blocks" in n and p.ndim == 2
    train_network(net, out / "flow.ckpt", FLOW_STEPS, is_matrix, Flow(out, net))


def assemble(out: Path, folder: Path) -> None:
    """The averaged weights as a diffusers MochiPipeline folder in fp16."""
    net, vae = build_network(), AutoencoderKLMochi.from_pretrained(out / "vae")
    net.load_state_dict(torch.load(out / "flow.ckpt", weights_only=True)["average"])
    pipe: Any = MochiPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=pathless(vae).half(),
        text_encoder=build_text_encoder().half(),
        tokenizer=build_tokenizer(),
        transformer=net.half(),
    )
    pipe.save_pretrained(folder)
    (folder / "reelwire.json").write_text(json.dumps(dict(fps=FPS, prompt_tokens=TOKENS, presets=PRESETS)) + "\n")


if __name__ == "__main__":
    stages = {"vae": train_vae, "latents": train_latents, "flow": train_flow}
    run(__doc__ or "", stages, assemble)
