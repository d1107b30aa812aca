"""Trains a tiny CogVideoX:  python -m training.families.tiny_cogvideox OUT

The bundled T5 reads the prompts as it is. The network learns the velocity (Salimans and Ho 2022) on the published 2B's
noise schedule, whose last step is noise alone; DDIM and DPM both take its steps.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.autoencoders.autoencoder_kl_cogvideox import CogVideoXSpatialNorm3D
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel

from ..recipe import (
    BUNDLED,
    FRAMES,
    Read,
    encode_latents,
    noise_levels,
    of_clips,
    read_wordings,
    run,
    statistics,
    straighten,
    train_coder,
    train_network,
)

FPS, TOKENS = 8, 48
VAE_STEPS, FLOW_STEPS = 600, 1200
COPIES, BATCH = 6, 20  # rendered clips of each scene, and clips of a step
VAE_CONFIG = dict(
    block_out_channels=(8, 16, 32, 48),
    layers_per_block=1,
    norm_num_groups=2,
    latent_channels=16,
    scaling_factor=1.0,
    down_block_types=("CogVideoXDownBlock3D",) * 4,
    up_block_types=("CogVideoXUpBlock3D",) * 4,
)
TRANSFORMER_CONFIG = dict(
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=16,
    out_channels=16,
    time_embed_dim=64,
    text_embed_dim=96,
    num_layers=6,
    sample_width=8,
    sample_height=8,
    sample_frames=FRAMES,
    max_text_seq_length=TOKENS,
)
SCHEDULER_CONFIG = dict(
    beta_schedule="scaled_linear",
    beta_start=0.00085,
    beta_end=0.012,
    prediction_type="v_prediction",
    rescale_betas_zero_snr=True,
    timestep_spacing="trailing",
    snr_shift_scale=3.0,
    set_alpha_to_one=True,
    clip_sample=False,
)
PRESETS = {
    "default": dict(width=64, height=64, frames=FRAMES, steps=30, guidance=4.0, sampler="ddim"),
    "quality": dict(steps=40),
    "balanced": dict(steps=30),
    "speed": dict(steps=16, sampler="dpm"),
}


# ---------------------------------------------------------------- the parts


def build_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BUNDLED / "tiny_ltx" / "tokenizer", local_files_only=True)


def build_text_encoder() -> T5EncoderModel:
    encoder = T5EncoderModel.from_pretrained(BUNDLED / "tiny_ltx" / "text_encoder", dtype=torch.float32)
    return encoder.eval().requires_grad_(False)


def reader() -> Any:
    """Prompts -> what the T5 makes of them and of the padding behind them, as the pipeline has it."""
    encoder, tokenizer = build_text_encoder(), build_tokenizer()

    def read(prompts: list[str]) -> Read:
        batch = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
        return {"text": encoder(batch.input_ids).last_hidden_state}

    return read


def build_vae() -> AutoencoderKLCogVideoX:
    """A small posterior variance from the first step; a constant in the residual stream: the norms keep brightness."""
    vae = AutoencoderKLCogVideoX(**VAE_CONFIG)
    straighten(vae)
    with torch.no_grad():
        last = vae.encoder.conv_out.conv
        last.bias[16:], last.weight[16:] = -5.0, 0.0
        vae.encoder.conv_in.conv.bias.normal_(0, 0.5)
    return vae


def build_network() -> CogVideoXTransformer3DModel:
    net = CogVideoXTransformer3DModel(**TRANSFORMER_CONFIG)
    nn.init.zeros_(net.proj_out.weight)
    nn.init.zeros_(net.proj_out.bias)
    return net


# ---------------------------------------------------------------- stages


def train_vae(out: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    is_matrix = lambda n, p: p.ndim == 5 and min(p.shape[:2]) > 3
    train_coder(vae, out / "vae.ckpt", VAE_STEPS, is_matrix, late=2 / 3, centred=0.02, half=True)
    normalise(vae, statistics(vae, half=True)[1])
    vae.save_pretrained(out / "vae")


@torch.no_grad()
def normalise(vae: AutoencoderKLCogVideoX, std: Tensor) -> None:
    """Latents of deviation 1 in each channel, by the layers that write and read them."""
    last, channels = vae.encoder.conv_out.conv, len(std)
    last.bias[channels:].sub_(2 * std.log())
    for values in (last.weight, last.bias):
        values[:channels].div_(std.view(-1, *[1] * (values.ndim - 1)))
    norms = [m for m in vae.decoder.modules() if isinstance(m, CogVideoXSpatialNorm3D)]
    for layer in (vae.decoder.conv_in, *(layer for norm in norms for layer in (norm.conv_y, norm.conv_b))):
        layer.conv.weight.mul_(std.view(1, -1, 1, 1, 1))


def train_latents(out: Path) -> None:
    vae = AutoencoderKLCogVideoX.from_pretrained(out / "vae").eval()
    encode_latents(out / "latents.pt", COPIES, lambda clip: vae.encode(clip).latent_dist.mode(), half=True)


class Velocity:
    """The loss of a step, on cached latents and cached readings of their prompts."""

    def __init__(self, out: Path, net: nn.Module) -> None:
        scenes, self.latents = torch.load(out / "latents.pt", weights_only=False)
        self.net, self.read = net, read_wordings(out / "wordings.pt", scenes, reader())
        signal = CogVideoXDDIMScheduler(**SCHEDULER_CONFIG).alphas_cumprod.float()
        self.alpha, self.sigma = signal.sqrt(), (1 - signal).clamp(min=0).sqrt()
        self.levels = self.sigma / (self.alpha + self.sigma)  # as the noise levels of a flow

    def __call__(self, _: random.Random, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self.latents), (BATCH,), generator=generator)
        x0 = self.latents[index].float().transpose(1, 2)
        noise, level = torch.randn(x0.shape, generator=generator), noise_levels(BATCH, generator)
        time = torch.searchsorted(self.levels, level).clamp(max=len(self.levels) - 1)
        time = torch.where(torch.rand(BATCH, generator=generator) < 0.04, len(self.levels) - 1, time)
        alpha, sigma = (v[time].view(-1, 1, 1, 1, 1) for v in (self.alpha, self.sigma))
        velocity = self.net(
            hidden_states=alpha * x0 + sigma * noise,
            encoder_hidden_states=of_clips(self.read, index, generator)["text"],
            timestep=time,
            return_dict=False,
        )[0]
        loss: Tensor = (velocity - (alpha * noise - sigma * x0)).square().mean()
        return loss


def train_flow(out: Path) -> None:
    torch.manual_seed(0)
    net = build_network()
    is_matrix = lambda n, p: "transformer_blocks" in n and p.ndim == 2
    train_network(net, out / "flow.ckpt", FLOW_STEPS, is_matrix, Velocity(out, net))


def assemble(out: Path, folder: Path) -> None:
    """The averaged weights as a diffusers CogVideoXPipeline folder in fp16."""
    net, vae = build_network(), build_vae()
    net.load_state_dict(torch.load(out / "flow.ckpt", weights_only=True)["average"])
    vae.load_state_dict(AutoencoderKLCogVideoX.from_pretrained(out / "vae").state_dict())
    pipe: Any = CogVideoXPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder().half(),
        vae=vae.half(),
        transformer=net.half(),
        scheduler=CogVideoXDDIMScheduler(**SCHEDULER_CONFIG),
    )
    pipe.save_pretrained(folder)
    (folder / "reelwire.json").write_text(json.dumps(dict(fps=FPS, prompt_tokens=TOKENS, presets=PRESETS)) + "\n")


if __name__ == "__main__":
    stages = {"vae": train_vae, "latents": train_latents, "flow": train_flow}
    run(__doc__ or "", stages, assemble)
