"""Trains the bundled tiny LTX-Video model from nothing:  python -m training.tiny_ltx OUT

Real diffusers and transformers classes, the real folder layout, procedural data only (`world.py`). Stages: the video
VAE; a warm start of the T5 encoder (each token tells all four attributes); latents of rendered clips; the transformer
together with the T5 encoder as a rectified flow (Liu et al. 2022) with logit-normal timesteps (Esser et al. 2024).
Each stage is checkpointed in OUT: the same command goes on where it stopped. `evaluate.py` measures the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from diffusers import AutoencoderKLLTXVideo, FlowMatchEulerDiscreteScheduler, LTXPipeline, LTXVideoTransformer3DModel
from einops import rearrange
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, T5Config, T5EncoderModel

from . import world
from .optim import Log, Trainer, rank, slope
from .recipe import noise_levels, statistics, train_coder

FPS = 25
TOKENS = 128  # LTXPipeline pads prompts to this length and gives the text encoder no mask
VAE_STEPS, TEXT_STEPS, FLOW_STEPS = 2200, 300, 4600
SHORT_STEPS = 744  # of the flow, on clips of three latent frames
VAE_CONFIG = dict(
    latent_channels=16,
    block_out_channels=(32, 64, 64),
    decoder_block_out_channels=(48, 96),
    down_block_types=("LTXVideo095DownBlock3D",) * 2,
    downsample_type=("spatiotemporal",) * 2,
    layers_per_block=(0, 1, 1),
    decoder_layers_per_block=(0, 1, 1),
    spatio_temporal_scaling=(True, True),
    decoder_spatio_temporal_scaling=(True, True),
    decoder_inject_noise=(False,) * 3,
    upsample_residual=(True,) * 2,
    upsample_factor=(2, 2),
    patch_size=2,
    patch_size_t=1,
    encoder_causal=True,
    decoder_causal=False,
    timestep_conditioning=False,
)
TRANSFORMER_CONFIG = dict(
    in_channels=16,
    out_channels=16,
    num_attention_heads=4,
    attention_head_dim=32,
    cross_attention_dim=128,
    num_layers=6,
    caption_channels=96,
)
TEXT_CONFIG = dict(
    d_model=96,
    d_kv=24,
    d_ff=192,
    num_layers=2,
    num_heads=4,
    feed_forward_proj="gated-gelu",
    dropout_rate=0.0,
    pad_token_id=0,
    eos_token_id=1,
    is_encoder_decoder=False,
    use_cache=False,
)
# (frames, height, width): clips of each scene, share of the training steps, clips in a step and rank
BUCKETS = {
    (17, 64, 64): (11, 0.58, 12), (33, 64, 64): (3, 0.16, 6), (17, 64, 96): (2, 0.09, 8),
    (17, 96, 64): (2, 0.09, 8), (97, 64, 64): (1, 0.08, 2),
}  # fmt: skip
IMAGE_BUCKET, KEYS = (17, 64, 64), (8, 16)  # clips that also train image-to-video, and frames that serve as keyframes


# ---------------------------------------------------------------- the parts


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Words and single Chinese characters; everything else is <unk>."""
    normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.BertNormalizer(clean_text=True, handle_chinese_chars=True, lowercase=True)]
    )
    split = pre_tokenizers.BertPreTokenizer()
    words = sorted({w for t in world.vocabulary_text() for w, _ in split.pre_tokenize_str(normalizer.normalize_str(t))})
    vocabulary = {w: i for i, w in enumerate(["<pad>", "</s>", "<unk>", *words])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, split
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        model_max_length=TOKENS,
        model_input_names=["input_ids", "attention_mask"],
    )


def build_text_encoder(tokenizer: PreTrainedTokenizerFast) -> T5EncoderModel:
    return T5EncoderModel(T5Config(vocab_size=len(tokenizer), tie_word_embeddings=False, **TEXT_CONFIG))


def build_vae() -> AutoencoderKLLTXVideo:
    """Small posterior variance from the first step; a constant in the residual stream: RMSNorm keeps brightness."""
    vae = AutoencoderKLLTXVideo(**VAE_CONFIG)
    with torch.no_grad():
        out, front, back = vae.encoder.conv_out.conv, vae.encoder.conv_in.conv, vae.decoder.conv_in.conv
        out.bias[-1], out.weight[-1] = -5.0, 0.0
        front.bias.normal_(0, 0.5)
        back.bias.normal_(0, 0.5)
        front.weight.mul_(1.5)
        back.weight.mul_(2.0)
        vae.latents_mean.zero_()
        vae.latents_std.fill_(1)
    return vae


# ---------------------------------------------------------------- stage 1: the VAE


def train_vae(out: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    train_coder(vae, out / "vae.ckpt", VAE_STEPS, lambda n, p: p.ndim == 5 and "coder.conv_out" not in n)
    for own, value in zip((vae.latents_mean, vae.latents_std), statistics(vae), strict=True):
        own.copy_(value)
    if rank() == 0:
        vae.save_pretrained(out / "vae")


# ---------------------------------------------------------------- stage 2: the text encoder learns to read


def tokenize(tokenizer: PreTrainedTokenizerFast, prompts: list[str]) -> tuple[Tensor, Tensor]:
    batch = tokenizer(prompts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt")
    return batch.input_ids, batch.attention_mask


def train_text(out: Path) -> None:
    """Linear heads on every token must tell colour, shape, motion and background, or that they are not said."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    text_encoder = build_text_encoder(tokenizer)
    values = (list(world.COLOURS), list(world.SHAPES), list(world.MOTIONS), list(world.BACKGROUNDS))
    heads = nn.ModuleList(nn.Linear(96, len(v) + 1) for v in values)
    trainer = Trainer(
        nn.ModuleDict({"text": text_encoder, "heads": heads}), lambda n, p: False, out / "text.ckpt", seed=3
    )
    log, (train, _) = Log("text", trainer.rank), world.split()
    for step, rng, _ in trainer.steps(TEXT_STEPS):
        scenes = rng.choices(train, k=24)
        prompts, named = zip(*(world.training_prompt(s, rng) for s in scenes), strict=True)
        ids, mask = tokenize(tokenizer, list(prompts))
        hidden = text_encoder(ids, attention_mask=mask if step % 4 == 0 else None).last_hidden_state
        loss = hidden.new_zeros(())
        for i, head in enumerate(heads):
            label = torch.tensor([values[i].index(s[i]) + 1 if n[i] else 0 for s, n in zip(scenes, named, strict=True)])
            error = F.cross_entropy(head(hidden).mT, label[:, None].expand(ids.shape), reduction="none")
            loss = loss + (error * mask).sum() / mask.sum()
        log.add(step, trainer.update(loss, 2e-3 * slope(step, TEXT_STEPS, 20, 0.3), 1.0))


# ---------------------------------------------------------------- stage 3: latents


@torch.inference_mode()
def encode_latents(out: Path, rank: int, ranks: int) -> None:
    """Normalised latents of rendered training clips and of their KEYS frames as single pictures, one file a bucket."""
    vae = AutoencoderKLLTXVideo.from_pretrained(out / "vae").eval()
    mean, std = (v.view(1, -1, 1, 1, 1) for v in (vae.latents_mean, vae.latents_std))
    encode = lambda clip: ((vae.encode(clip[None]).latent_dist.mode() - mean) / std).half()
    for number, (size, (clips, _, _)) in enumerate(BUCKETS.items()):
        file = out / "latents" / f"{'x'.join(map(str, size))}.{rank}.pt"
        if file.exists():
            continue
        rng, scenes, latents, keys = (
            random.Random(100 + 10 * number + rank),
            (world.split()[0] * clips)[rank::ranks],
            [],
            [],
        )
        for scene in scenes:
            clip = world.sample_clip(scene, *size, rng)[0]
            latents.append(encode(clip))
            if size == IMAGE_BUCKET:
                keys.append(torch.cat([encode(clip[:, k : k + 1]) for k in KEYS], 2))
        torch.save((scenes, torch.cat(latents), torch.cat(keys) if keys else None), file)
        print(f"latents {file.name}: {len(scenes)} clips", flush=True)


# ---------------------------------------------------------------- stage 4: the flow


def _coordinates(frames: int, height: int, width: int, start: int = 0) -> Tensor:
    """Positions [3, F*h*w] in seconds and pixels as in LTXConditionPipeline: latent frame f begins at 4f - 3."""
    f, y, x = torch.meshgrid(torch.arange(frames), torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([((f * 4 - 3).clamp(min=0) + start) / FPS, y * 8, x * 8]).flatten(1).float()


class Flow:
    """One training step's loss on cached latents."""

    def __init__(self, out: Path, net: nn.ModuleDict, tokenizer: PreTrainedTokenizerFast) -> None:
        self.net, self.tokenizer = net, tokenizer
        self.data: dict[tuple[int, int, int], tuple[list[world.Scene], Tensor, Tensor | None]] = {}
        for size in BUCKETS:
            files = sorted((out / "latents").glob(f"{'x'.join(map(str, size))}.*.pt"))
            scenes, latents, keys = zip(*(torch.load(f, weights_only=False) for f in files), strict=True)
            self.data[size] = sum(scenes, []), torch.cat(latents), torch.cat(keys) if keys[0] is not None else None

    def pick(self, step: int, bucket: random.Random) -> tuple[tuple[int, int, int], int | None, bool]:
        """(bucket, latent frames to keep, whether with images) of a step; short clips first: a prefix is a clip."""
        if step < SHORT_STEPS or step % 10 == 9:
            return IMAGE_BUCKET, 3, False
        if step % 8 == 6:
            return IMAGE_BUCKET, None, True
        return bucket.choices(list(BUCKETS), [b[1] for b in BUCKETS.values()])[0], None, False

    def loss(
        self, size: tuple[int, int, int], keep: int | None, images: bool, rng: random.Random, generator: torch.Generator
    ) -> Tensor:
        scenes, latents, keys = self.data[size]
        batch = BUCKETS[size][2] * (2 if keep else 1)
        index = torch.randint(len(scenes), (batch,), generator=generator)
        z = latents[index][:, :, :keep].float()
        frames, height, width = z.shape[2:]
        x0 = rearrange(z, "b c f h w -> b (f h w) c")
        noise = torch.randn(x0.shape, generator=generator)
        t = noise_levels(batch, generator)[:, None].expand(x0.shape[:2])
        place: dict[str, Any] = dict(video_coords=_coordinates(frames, height, width)[None].repeat(batch, 1, 1))
        if rng.random() < 0.7 and not images:
            place = dict(num_frames=frames, height=height, width=width, rope_interpolation_scale=(4 / FPS, 8, 8))
        condition = rng.choice(["first", "first", "last", "both"]) if images else ""
        if condition in ("first", "both"):  # in place, as image-to-video does
            t = t * (torch.arange(t.shape[1]) >= height * width)
        xt, time = torch.lerp(x0, noise, t[..., None]), t * 1000
        if condition in ("last", "both"):  # as extra tokens in front, as keyframes do
            key = rng.randrange(len(KEYS)) if condition == "last" else -1
            assert keys is not None, "the bucket of images has them"
            xt = torch.cat([rearrange(keys[index][:, :, key].float(), "b c h w -> b (h w) c"), xt], 1)
            time = F.pad(time, (height * width, 0))
            here = _coordinates(1, height, width, KEYS[key])[None].repeat(batch, 1, 1)
            place = dict(video_coords=torch.cat([here, place["video_coords"]], 2))
        prompts = [world.training_prompt(scenes[i], rng)[0] for i in index.tolist()]
        ids, mask = tokenize(self.tokenizer, prompts)
        text = self.net["text"](ids, attention_mask=mask if rng.random() < 0.2 else None).last_hidden_state
        velocity = self.net["flow"](
            hidden_states=xt,
            encoder_hidden_states=text,
            encoder_attention_mask=mask,
            return_dict=False,
            timestep=time if images else time[:, 0],
            **place,
        )[0][:, -x0.shape[1] :]
        error = (velocity - (noise - x0)).square().mean(-1)
        return (error * (t > 0)).sum() / (t > 0).sum()


def train_flow(out: Path) -> None:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    net = nn.ModuleDict(
        {"text": build_text_encoder(tokenizer), "flow": LTXVideoTransformer3DModel(**TRANSFORMER_CONFIG)}
    )
    flow_net: Any = net["flow"]
    nn.init.zeros_(flow_net.proj_out.weight)
    nn.init.zeros_(flow_net.proj_out.bias)
    start = torch.load(out / "text.ckpt", weights_only=True)["average"]
    net["text"].load_state_dict({k.removeprefix("text."): v for k, v in start.items() if k.startswith("text.")})
    torch._dynamo.config.recompile_limit = 64
    for block in flow_net.transformer_blocks:
        block.compile(dynamic=False)
    is_matrix = lambda n, p: "transformer_blocks" in n and p.ndim == 2 and "scale_shift" not in n
    trainer = Trainer(net, is_matrix, out / "flow.ckpt", seed=5, groups={"text.": 0.3}, averaging=0.998)
    flow, log, bucket = Flow(out, net, tokenizer), Log("flow", trainer.rank), random.Random(9)
    choices = [flow.pick(step, bucket) for step in range(FLOW_STEPS)]
    for step, rng, generator in trainer.steps(FLOW_STEPS, every=100):
        loss = flow.loss(*choices[step], rng, generator)
        log.add(step, trainer.update(loss, 1.5e-3 * slope(step, FLOW_STEPS, 80, 0.5), 2.5))


# ---------------------------------------------------------------- all of it

PRESETS = {
    "default": dict(width=64, height=64, frames=17, steps=25, guidance=4.0, sampler="euler"),
    "quality": dict(steps=40),
    "balanced": dict(steps=25),
    "speed": dict(steps=12),
}


@torch.no_grad()
def preview_colours(vae: AutoencoderKLLTXVideo) -> list[list[float]]:
    """Least-squares weights [17][3] from a normalised latent pixel and 1 to the colour (-1..1) it stands for."""
    rng, rows, colours = random.Random(4), [], []
    mean, std = (v.view(1, -1, 1, 1, 1) for v in (vae.latents_mean, vae.latents_std))
    for scene in rng.choices(sum(world.split(), []), k=48):
        clip = world.sample_clip(scene, 17, 64, 64, rng)[0][None]
        z = (vae.encode(clip).latent_dist.mode() - mean) / std
        small = F.avg_pool3d(torch.cat([clip[:, :, :1].expand(-1, -1, 3, -1, -1), clip], 2), (4, 8, 8))
        rows.append(rearrange(z, "1 c f h w -> (f h w) c"))
        colours.append(rearrange(small, "1 c f h w -> (f h w) c"))
    latents = F.pad(torch.cat(rows), (0, 1), value=1.0)
    return [[round(v, 4) for v in row] for row in torch.linalg.lstsq(latents, torch.cat(colours)).solution.tolist()]


def assemble(out: Path, folder: Path) -> None:
    """The averaged weights as a diffusers LTXPipeline folder in fp16."""
    average = torch.load(out / "flow.ckpt", weights_only=True)["average"]
    tokenizer = build_tokenizer()
    parts = {"text.": build_text_encoder(tokenizer), "flow.": LTXVideoTransformer3DModel(**TRANSFORMER_CONFIG)}
    for prefix, part in parts.items():
        part.load_state_dict({k.removeprefix(prefix): v for k, v in average.items() if k.startswith(prefix)})
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        max_image_seq_len=4096,
        shift_terminal=0.1,
    )
    vae = AutoencoderKLLTXVideo(**VAE_CONFIG)  # from_pretrained would write the work folder's path into the config
    vae.load_state_dict(AutoencoderKLLTXVideo.from_pretrained(out / "vae").state_dict())
    defaults = dict(
        fps=FPS,
        prompt_tokens=TOKENS,
        conditioned=False,
        distilled_timesteps=[],
        presets=PRESETS,
        rgb=preview_colours(vae),
    )
    LTXPipeline(
        scheduler=scheduler,
        vae=vae.half(),
        text_encoder=parts["text."].half(),
        tokenizer=tokenizer,
        transformer=parts["flow."].half(),
    ).save_pretrained(folder)
    (folder / "reelwire.json").write_text(json.dumps(defaults) + "\n")


def work(rank: int, ranks: int, out: Path) -> None:
    """One worker process: all stages in order."""
    torch.set_num_threads(1)
    if ranks > 1:
        dist.init_process_group("gloo", init_method=f"file://{out / 'store'}", rank=rank, world_size=ranks)
    stages = [
        ("vae", lambda: train_vae(out)),
        ("text", lambda: train_text(out)),
        ("latents", lambda: encode_latents(out, rank, ranks)),
        ("flow", lambda: train_flow(out)),
    ]
    for name, stage in stages:
        begin = time.monotonic()
        stage()
        if ranks > 1:
            dist.barrier()
        if rank == 0:
            print(f"stage {name}: {time.monotonic() - begin:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path, help="work folder; the finished model is OUT/model")
    parser.add_argument(
        "--ranks", type=int, default=2, help="worker processes, one thread each (the result depends on it)"
    )
    arguments = parser.parse_args()
    out = arguments.out.resolve()
    (out / "latents").mkdir(parents=True, exist_ok=True)
    (out / "store").unlink(missing_ok=True)
    torch.multiprocessing.spawn(work, (arguments.ranks, out), nprocs=arguments.ranks)
    assemble(out, out / "model")
    digest = hashlib.sha256((out / "model/transformer/diffusion_pytorch_model.safetensors").read_bytes()).hexdigest()
    print(f"{out / 'model'}: transformer {digest[:12]}")


if __name__ == "__main__":
    main()
