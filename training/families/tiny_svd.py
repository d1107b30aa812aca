"""Trains a tiny Stable Video Diffusion:  python -m training.families.tiny_svd OUT

It sets a picture in motion: of a rendered clip it is given the first frame, as the VAE and as a frozen vision tower of
random weights see it, and how far things move. EDM preconditioning (Karras et al. 2022) with the velocity as target,
noise levels as they are published for SVD. The motion bucket is how much of its way the object goes: 127 is all of it.
"""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLTemporalDecoder,
    EulerDiscreteScheduler,
    StableVideoDiffusionPipeline,
    UNetSpatioTemporalConditionModel,
)
from diffusers.models.attention_processor import AttnProcessor
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModelWithProjection

from .. import world
from ..recipe import SIZE, quick_norms, run, statistics, straighten, train_coder, train_network

FPS, FRAMES, BUCKET = 7, 14, 127
CUT = dict(frames=FRAMES, piece=5, count=4)  # what the VAE is trained on
VAE_STEPS, FLOW_STEPS = 800, 1500
COPIES, BATCH = 3, 4  # rendered clips of each scene, and clips of a step
AUGMENTATION = 0.02  # noise on the picture, as deviation
DROPPED = 0.12  # share of the clips whose picture is not shown
MEAN, DEVIATION, LOWEST, HIGHEST = 0.7, 1.6, 0.002, 700.0  # of the noise levels' logarithms; the scheduler's bounds
WIDTH, LATENTS = 64, 4
VAE_CONFIG: dict[str, Any] = dict(
    down_block_types=("DownEncoderBlock2D",) * 3,
    block_out_channels=(WIDTH,) * 3,
    latent_channels=LATENTS,
    sample_size=SIZE,
    scaling_factor=1.0,
)
UNET_CONFIG: dict[str, Any] = dict(
    sample_size=SIZE // 4,
    block_out_channels=(WIDTH, WIDTH),
    num_attention_heads=(2, 2),
    cross_attention_dim=32,
    layers_per_block=1,
    addition_time_embed_dim=32,
    projection_class_embeddings_input_dim=96,
    num_frames=FRAMES,
    down_block_types=("DownBlockSpatioTemporal", "CrossAttnDownBlockSpatioTemporal"),
    up_block_types=("CrossAttnUpBlockSpatioTemporal", "UpBlockSpatioTemporal"),
)
TOWER_CONFIG = dict(
    hidden_size=48,
    projection_dim=32,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=96,
    image_size=224,
    patch_size=32,
)
SCHEDULER_CONFIG = json.loads((Path(__file__).parent.parent / "tiny_configs.json").read_text(encoding="utf-8"))[
    "svd_scheduler"
]
PRESETS = {
    "default": dict(width=64, height=64, frames=FRAMES, steps=25, guidance=2.0, sampler="euler"),
    "quality": dict(steps=40),
    "balanced": dict(steps=25),
    "speed": dict(steps=16),
}


# ---------------------------------------------------------------- the parts


class ClipVAE(AutoencoderKLTemporalDecoder):
    """The VAE on clips [B, C, T, H, W], as the recipe has them."""

    def encode(self, x: Tensor, return_dict: bool = True) -> Any:
        moments = self.quant_conv(self.encoder(x.transpose(1, 2).flatten(0, 1)))
        moments = moments.unflatten(0, (len(x), -1)).transpose(1, 2)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(moments))

    def decode(self, z: Tensor, num_frames: int = 0, return_dict: bool = True) -> Any:
        count = z.shape[2]
        pixels = super().decode(z.transpose(1, 2).flatten(0, 1), num_frames=count).sample
        return DecoderOutput(sample=pixels.unflatten(0, (-1, count)).transpose(1, 2))


def build_vae() -> ClipVAE:
    """A small posterior variance from the first step; a constant in the residual stream: the norms keep brightness."""
    vae = ClipVAE(**VAE_CONFIG)
    straighten(vae)
    last = vae.decoder.time_conv_out
    with torch.no_grad():
        vae.quant_conv.bias[LATENTS:], vae.quant_conv.weight[LATENTS:] = -5.0, 0.0
        for layer in (vae.encoder.conv_in, vae.decoder.conv_in):
            layer.bias.normal_(0, 0.5)
        last.weight.zero_()
        last.weight[range(3), range(3), 1] = 1.0
        last.bias.zero_()
    return vae


def build_network() -> UNetSpatioTemporalConditionModel:
    net = UNetSpatioTemporalConditionModel(**UNET_CONFIG)
    nn.init.zeros_(net.conv_out.weight)
    nn.init.zeros_(net.conv_out.bias)
    return net


def build_tower() -> CLIPVisionModelWithProjection:
    torch.manual_seed(7)
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**TOWER_CONFIG)).eval().requires_grad_(False)


def build_pipeline(vae: nn.Module, net: nn.Module, tower: nn.Module) -> Any:
    plain = AutoencoderKLTemporalDecoder(**VAE_CONFIG)
    plain.load_state_dict(vae.state_dict())
    return StableVideoDiffusionPipeline(
        vae=plain,
        image_encoder=tower,
        unet=net,
        scheduler=EulerDiscreteScheduler(**SCHEDULER_CONFIG),
        feature_extractor=CLIPImageProcessor(),
    )


# ---------------------------------------------------------------- stages


def train_vae(out: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    quick_norms(vae)
    is_matrix = lambda n, p: p.ndim >= 4 and min(p.shape[:2]) > 2 * LATENTS
    train_coder(vae, out / "vae.ckpt", VAE_STEPS, is_matrix, late=2 / 3, centred=0.02, half=True, **CUT)
    normalise(vae, statistics(vae, half=True, frames=FRAMES)[1])
    torch.save(vae.state_dict(), out / "vae.pt")


@torch.no_grad()
def normalise(vae: ClipVAE, std: Tensor) -> None:
    """Latents of deviation 1 in each channel, by the layers that write and read them."""
    vae.quant_conv.bias[LATENTS:].sub_(2 * std.log())
    for values in (vae.quant_conv.weight, vae.quant_conv.bias):
        values[:LATENTS].div_(std.view(-1, *[1] * (values.ndim - 1)))
    vae.decoder.conv_in.weight.mul_(std.view(1, -1, 1, 1))


def trained_vae(out: Path) -> ClipVAE:
    vae = ClipVAE(**VAE_CONFIG)
    vae.load_state_dict(torch.load(out / "vae.pt", weights_only=True))
    return vae.eval()


def moved(scene: world.Scene, rng: random.Random) -> tuple[Tensor, int]:
    """A clip [3, T, H, W] in which the object goes a part of its way, and the motion bucket that says so."""
    path, share = world.sample_path(scene.motion, FRAMES, SIZE, SIZE, rng), rng.choice((1.0, rng.uniform(0.2, 1.0)))
    path = world.Path(*(value[:1] + share * (value - value[:1]) for value in path))
    bucket = round(BUCKET * share) if share < 1 else rng.choice((BUCKET, BUCKET, rng.randint(BUCKET, 255)))
    return world.render(scene, path, SIZE, SIZE)[0], bucket


@torch.inference_mode()
def train_latents(out: Path) -> None:
    """Rendered training clips as latents, and their first frames as both encoders see them."""
    if (out / "latents.pt").exists():
        return
    rng, vae, scenes = random.Random(100), trained_vae(out), world.split()[0] * COPIES
    quick_norms(vae)
    pipe, generator = build_pipeline(vae, build_network(), build_tower()), torch.Generator().manual_seed(100)
    rows: dict[str, list[Tensor]] = {name: [] for name in ("video", "picture", "view", "told")}
    for scene in scenes:
        clip, bucket = moved(scene, rng)
        noise = AUGMENTATION if rng.random() < 0.5 else math.exp(rng.uniform(-6, -1.5))
        first = clip[:, :1] + noise * torch.randn(clip[:, :1].shape, generator=generator)
        with torch.autocast("cpu", torch.bfloat16):
            z = vae.encode(torch.cat([clip, first], 1)[None]).latent_dist.mode()[0].transpose(0, 1)
        shown = Image.fromarray(((clip[:, 0] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy())
        rows["view"].append(pipe._encode_image(shown, "cpu", 1, False)[0])
        rows["told"].append(torch.tensor([float(bucket), noise]))
        rows["video"].append(z[:-1].half())
        rows["picture"].append(z[-1:].half())
    torch.save({name: torch.stack(values) for name, values in rows.items()}, out / "latents.pt")


def levels(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels: log-normal, a tenth uniform in the logarithm over all that the scheduler goes through."""
    normal = MEAN + DEVIATION * torch.randn(count, generator=generator)
    low, high = math.log(LOWEST), math.log(HIGHEST)
    uniform = low + (high - low) * torch.rand(count, generator=generator)
    return torch.where(torch.rand(count, generator=generator) < 0.1, uniform, normal).clamp(low, high).exp()


class Velocity:
    """The loss of a step, on cached latents."""

    def __init__(self, out: Path, net: nn.Module) -> None:
        self.net, self.clips = net, torch.load(out / "latents.pt", weights_only=True)

    def __call__(self, _: random.Random, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(self.clips["video"]), (BATCH,), generator=generator)
        x0, picture, view, told = (self.clips[name][index].float() for name in ("video", "picture", "view", "told"))
        shown = torch.rand(BATCH, generator=generator) >= DROPPED
        noise, level = torch.randn(x0.shape, generator=generator), levels(BATCH, generator)
        sigma = level.view(-1, 1, 1, 1, 1)
        noisy, scale = x0 + sigma * noise, (sigma**2 + 1).sqrt()
        fps = torch.randint(4, 30, (BATCH, 1), generator=generator).float()
        with torch.autocast("cpu", torch.bfloat16):
            output = self.net(
                sample=torch.cat([noisy / scale, (picture * shown.view(-1, 1, 1, 1, 1)).expand_as(x0)], 2),
                timestep=0.25 * level.log(),
                encoder_hidden_states=view * shown.view(-1, 1, 1),
                added_time_ids=torch.cat([fps, told], 1),
                return_dict=False,
            )[0]
        loss: Tensor = (output.float() - (noisy / scale**2 - x0) * scale / sigma).square().mean()
        return loss


def train_flow(out: Path) -> None:
    torch.manual_seed(0)
    net = build_network()
    net.set_attn_processor(AttnProcessor())  # whose backward is faster on so few frames; it leaves no trace
    is_matrix = lambda n, p: (p.ndim >= 4 and min(p.shape[:2]) > 8) or ("transformer_blocks" in n and p.ndim == 2)
    train_network(net, out / "flow.ckpt", FLOW_STEPS, is_matrix, Velocity(out, net))


def assemble(out: Path, folder: Path) -> None:
    """The averaged weights as a diffusers StableVideoDiffusionPipeline folder in fp16."""
    net = build_network()
    net.load_state_dict(torch.load(out / "flow.ckpt", weights_only=True)["average"])
    pipe = build_pipeline(trained_vae(out), net, build_tower())
    for part in (pipe.vae, pipe.unet, pipe.image_encoder):
        part.half()
    pipe.save_pretrained(folder)
    described = dict(fps=FPS, prompt_tokens=0, frame_counts=[FRAMES], presets=PRESETS)
    (folder / "reelwire.json").write_text(json.dumps(described) + "\n")


if __name__ == "__main__":
    stages = {"vae": train_vae, "latents": train_latents, "flow": train_flow}
    run(__doc__ or "", stages, assemble)
