"""Trains a tiny Wan, for the comparison of caches:  python -m training.families.tiny_wan OUT

The same world and stages as `tiny_ltx.py`, in one process with one thread. Its text encoder is not trained anew: the
bundled T5 becomes a UMT5 that computes the same, its one table of relative positions repeated in each layer.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel, UMT5Config, UMT5EncoderModel

from .. import world
from ..recipe import (
    BUNDLED,
    FRAMES,
    encode_latents,
    noise_levels,
    pathless,
    run,
    statistics,
    train_coder,
    train_network,
)

FPS, TOKENS = 16, 64
VAE_STEPS, FLOW_STEPS = 1500, 2600
COPIES, BATCH = 12, 20  # rendered clips of each scene, and clips of a step
VAE_CONFIG = dict(
    base_dim=16,
    z_dim=16,
    dim_mult=[1, 2, 3],
    num_res_blocks=1,
    temperal_downsample=[True, True],
    attn_scales=[],
    in_channels=12,
    out_channels=12,
    patch_size=2,
    scale_factor_spatial=8,
    scale_factor_temporal=4,
)
TRANSFORMER_CONFIG = dict(
    num_attention_heads=4,
    attention_head_dim=32,
    in_channels=16,
    out_channels=16,
    text_dim=96,
    freq_dim=64,
    ffn_dim=384,
    num_layers=8,
    rope_max_seq_len=128,
)
PRESETS = {
    "default": dict(width=64, height=64, frames=FRAMES, steps=30, guidance=4.0, sampler="unipc", shift=3.0),
    "quality": dict(steps=40),
    "balanced": dict(steps=30),
    "speed": dict(steps=16),
}


def build_text_encoder() -> UMT5EncoderModel:
    """The bundled T5 as a UMT5."""
    old = T5EncoderModel.from_pretrained(BUNDLED / "tiny_ltx" / "text_encoder", dtype=torch.float32)
    sizes = {
        k: getattr(old.config, k)
        for k in ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads", "pad_token_id", "eos_token_id")
    }
    new = UMT5EncoderModel(
        UMT5Config(
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            is_encoder_decoder=False,
            use_cache=False,
            **sizes,
        )
    )
    bias = "block.{}.layer.0.SelfAttention.relative_attention_bias.weight"
    state = {k: v for k, v in old.state_dict().items() if "relative_attention_bias" not in k}
    state |= {
        f"encoder.{bias.format(i)}": old.encoder.state_dict()[bias.format(0)] for i in range(old.config.num_layers)
    }
    new.load_state_dict(state)
    return new.eval().requires_grad_(False)


def build_tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(BUNDLED / "tiny_ltx" / "tokenizer", local_files_only=True)


def read(encoder: UMT5EncoderModel, tokenizer: Any, prompts: list[str]) -> Tensor:
    """Embeddings [B, TOKENS, 96], zero after the prompt's end, as WanPipeline has them."""
    batch = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    hidden = encoder(batch.input_ids, attention_mask=batch.attention_mask).last_hidden_state
    return hidden * batch.attention_mask[..., None]


# ---------------------------------------------------------------- stages


def train_vae(out: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**VAE_CONFIG)
    with torch.no_grad():  # a small posterior variance from the first step
        vae.quant_conv.bias[16:] = -5.0
    train_coder(vae, out / "vae.ckpt", VAE_STEPS, lambda n, p: p.ndim == 5 and min(p.shape[:2]) > 3)
    mean, std = statistics(vae)
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    vae.save_pretrained(out / "vae")


def train_latents(out: Path) -> None:
    vae = AutoencoderKLWan.from_pretrained(out / "vae").eval()
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    encode_latents(out / "latents.pt", COPIES, lambda clip: (vae.encode(clip).latent_dist.mode() - mean) / std)


def train_flow(out: Path) -> None:
    torch.manual_seed(0)
    scenes, latents = torch.load(out / "latents.pt", weights_only=False)
    encoder, tokenizer, net = build_text_encoder(), build_tokenizer(), WanTransformer3DModel(**TRANSFORMER_CONFIG)
    nn.init.zeros_(net.proj_out.weight)
    nn.init.zeros_(net.proj_out.bias)

    def loss(rng: random.Random, generator: torch.Generator) -> Tensor:
        index = torch.randint(len(scenes), (BATCH,), generator=generator)
        x0 = latents[index].float()
        noise, t = torch.randn(x0.shape, generator=generator), noise_levels(BATCH, generator)
        text = read(encoder, tokenizer, [world.training_prompt(scenes[i], rng)[0] for i in index.tolist()])
        velocity = net(torch.lerp(x0, noise, t.view(-1, 1, 1, 1, 1)), t * 1000, text, return_dict=False)[0]
        error: Tensor = (velocity - (noise - x0)).square().mean()
        return error

    is_matrix = lambda n, p: "blocks" in n and p.ndim == 2 and "scale_shift" not in n
    train_network(net, out / "flow.ckpt", FLOW_STEPS, is_matrix, loss)


def assemble(out: Path, folder: Path) -> None:
    """The averaged weights as a diffusers WanPipeline folder in fp16."""
    net, vae = WanTransformer3DModel(**TRANSFORMER_CONFIG), AutoencoderKLWan.from_pretrained(out / "vae")
    net.load_state_dict(torch.load(out / "flow.ckpt", weights_only=True)["average"])
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder().half(),
        vae=pathless(vae).half(),
        scheduler=scheduler,
        transformer=net.half(),
    ).save_pretrained(folder)
    description = dict(fps=FPS, prompt_tokens=TOKENS, boundary=None, per_token_time=False, presets=PRESETS)
    (folder / "reelwire.json").write_text(json.dumps(description) + "\n")


if __name__ == "__main__":
    run(__doc__ or "", {"vae": train_vae, "latents": train_latents, "flow": train_flow}, assemble)
