"""Trains a second tiny model, of the Wan family, for the comparison of caches:  python -m training.tiny_wan OUT

The same world and stages as `tiny_ltx.py`, in one process with one thread. Its text encoder is not trained anew: the
bundled T5 becomes a UMT5 that computes the same, its one table of relative positions repeated in each layer.
"""

from __future__ import annotations

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKLWan, UniPCMultistepScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from transformers import AutoTokenizer, T5EncoderModel, UMT5Config, UMT5EncoderModel

from . import world
from .optim import Log, Trainer, slope
from .tiny_ltx import _crops, _timesteps

BUNDLED = Path(__file__).parent.parent / "loaders" / "bundled"
FPS, TOKENS = 16, 64
VAE_STEPS, FLOW_STEPS = 1500, 2600
FRAMES, SIZE = 17, 64
COPIES, BATCH = 12, 20  # clips of each scene, and of each step of the flow
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
    trainer = Trainer(vae, lambda n, p: p.ndim == 5 and min(p.shape[:2]) > 3, out / "vae.ckpt", seed=1, averaging=0.98)
    log, scenes = Log("vae", 0), sum(world.split(), [])
    for step, rng, generator in trainer.steps(VAE_STEPS):
        clips, weight = _crops(scenes, 6, rng, whole=step > VAE_STEPS // 2 and step % 3 == 0)
        posterior = vae.encode(clips).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator)
        error = vae.decode(posterior.mean + posterior.std * noise).sample - clips
        weight = weight / weight.mean()
        divergence = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).mean()
        loss = (error.abs() * weight).mean() + 2 * (error**2 * weight).mean() + 5e-4 * divergence
        log.add(step, trainer.update(loss, 1e-3 * slope(step, VAE_STEPS, 20, 0.5), 3.0))
    vae.load_state_dict(trainer.average)
    with torch.no_grad():
        rng = random.Random(2)
        samples = [world.sample_clip(rng.choice(scenes), FRAMES, SIZE, SIZE, rng)[0] for _ in range(96)]
        z = torch.cat([vae.eval().encode(clip[None]).latent_dist.mode() for clip in samples])
    statistics = {"latents_mean": z.mean((0, 2, 3, 4)).tolist(), "latents_std": z.std((0, 2, 3, 4)).tolist()}
    vae.register_to_config(**statistics)
    vae.save_pretrained(out / "vae")


@torch.inference_mode()
def encode_latents(out: Path) -> None:
    """Normalised latents of rendered training clips."""
    if (out / "latents.pt").exists():
        return
    vae, rng = AutoencoderKLWan.from_pretrained(out / "vae").eval(), random.Random(100)
    mean, std = (torch.tensor(v).view(1, -1, 1, 1, 1) for v in (vae.config.latents_mean, vae.config.latents_std))
    scenes = world.split()[0] * COPIES
    clips = (world.sample_clip(scene, FRAMES, SIZE, SIZE, rng)[0] for scene in scenes)
    latents = torch.cat([(vae.encode(clip[None]).latent_dist.mode() - mean) / std for clip in clips])
    torch.save((scenes, latents.half()), out / "latents.pt")


def train_flow(out: Path) -> None:
    torch.manual_seed(0)
    scenes, latents = torch.load(out / "latents.pt", weights_only=False)
    encoder, tokenizer, net = build_text_encoder(), build_tokenizer(), WanTransformer3DModel(**TRANSFORMER_CONFIG)
    nn.init.zeros_(net.proj_out.weight)
    nn.init.zeros_(net.proj_out.bias)
    is_matrix = lambda n, p: "blocks" in n and p.ndim == 2 and "scale_shift" not in n
    trainer, log = Trainer(net, is_matrix, out / "flow.ckpt", seed=5, averaging=0.998), Log("flow", 0)
    for step, rng, generator in trainer.steps(FLOW_STEPS, every=100):
        index = torch.randint(len(scenes), (BATCH,), generator=generator)
        x0 = latents[index].float()
        noise, t = torch.randn(x0.shape, generator=generator), _timesteps(BATCH, generator)
        text = read(encoder, tokenizer, [world.training_prompt(scenes[i], rng)[0] for i in index.tolist()])
        velocity = net(torch.lerp(x0, noise, t.view(-1, 1, 1, 1, 1)), t * 1000, text, return_dict=False)[0]
        loss = (velocity - (noise - x0)).square().mean()
        log.add(step, trainer.update(loss, 1.5e-3 * slope(step, FLOW_STEPS, 80, 0.5), 2.5))


def assemble(out: Path, folder: Path) -> None:
    """The averaged weights as a diffusers WanPipeline folder in fp16."""
    net, vae = WanTransformer3DModel(**TRANSFORMER_CONFIG), AutoencoderKLWan.from_pretrained(out / "vae")
    net.load_state_dict(torch.load(out / "flow.ckpt", weights_only=True)["average"])
    clean = AutoencoderKLWan.from_config({k: v for k, v in vae.config.items() if not k.startswith("_")})
    clean.load_state_dict(vae.state_dict())  # from_pretrained would write the work folder's path into the config
    scheduler = UniPCMultistepScheduler(prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=3.0)
    WanPipeline(
        tokenizer=build_tokenizer(),
        text_encoder=build_text_encoder().half(),
        vae=clean.half(),
        scheduler=scheduler,
        transformer=net.half(),
    ).save_pretrained(folder)
    description = dict(fps=FPS, prompt_tokens=TOKENS, boundary=None, per_token_time=False, presets=PRESETS)
    (folder / "reelwire.json").write_text(json.dumps(description) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="work folder; the finished model is OUT/model")
    out = parser.parse_args().out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    stages: dict[str, Callable[[Path], None]] = {"vae": train_vae, "latents": encode_latents, "flow": train_flow}
    for name, stage in stages.items():
        begin = time.monotonic()
        stage(out)
        print(f"stage {name}: {time.monotonic() - begin:.0f} s", flush=True)
    assemble(out, out / "model")


if __name__ == "__main__":
    main()
