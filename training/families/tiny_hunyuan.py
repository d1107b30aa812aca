"""Trains a tiny HunyuanVideo:  python -m training.families.tiny_hunyuan OUT

Text encoders first: a Llama and a CLIP of the world's words, whose last token must tell all four attributes, and which
then stay as they are. The network has two streams and one, and is told the guidance scale: at last it learns, from
itself, what classifier-free guidance makes of it (Meng et al. 2023), so that one forward a step does.
"""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import (
    AutoencoderKLHunyuanVideo,
    FlowMatchEulerDiscreteScheduler,
    HunyuanVideoPipeline,
    HunyuanVideoTransformer3DModel,
)
from diffusers.pipelines.hunyuan_video.pipeline_hunyuan_video import DEFAULT_PROMPT_TEMPLATE
from tokenizers import Tokenizer, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, LlamaConfig, LlamaModel, PreTrainedTokenizerFast

from .. import world
from ..optim import Log, Trainer, slope
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

FPS, TOKENS = 24, 64
VAE_STEPS, TEXT_STEPS, FLOW_STEPS, GUIDE_STEPS = 600, 600, 1200, 120
COPIES, BATCH, LONGEST = 6, 20, 32  # rendered clips of each scene; clips of a step, and tokens of a prompt in it
STRONGEST = 8.0  # guidance scale that the network learns
TEMPLATE = DEFAULT_PROMPT_TEMPLATE["template"]
VAE_CONFIG = dict(block_out_channels=(8, 16, 32, 48), layers_per_block=1, norm_num_groups=2, scaling_factor=1.0)
TRANSFORMER_CONFIG = dict(
    in_channels=16,
    out_channels=16,
    num_attention_heads=4,
    attention_head_dim=32,
    num_layers=2,
    num_single_layers=3,
    num_refiner_layers=1,
    mlp_ratio=3.0,
    text_embed_dim=96,
    pooled_projection_dim=64,
    rope_axes_dim=(8, 12, 12),
)
LLAMA_CONFIG = dict(
    hidden_size=96,
    intermediate_size=192,
    num_attention_heads=4,
    max_position_embeddings=512,
)
CLIP_CONFIG = dict(
    hidden_size=64,
    intermediate_size=128,
    num_attention_heads=2,
    num_hidden_layers=2,
    max_position_embeddings=77,
)
READ_LAYERS, LLAMA_LAYERS = 2, 4  # the pipeline reads what comes out two layers before the last
LLAMA_SIGNS = ("<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>")
CLIP_SIGNS = ("<|startoftext|>", "<|endoftext|>")
PRESETS = {
    "default": dict(width=64, height=64, frames=FRAMES, steps=30, guidance=4.0, sampler="euler", shift=3.0),
    "quality": dict(steps=40),
    "balanced": dict(steps=30),
    "speed": dict(steps=16),
}


# ---------------------------------------------------------------- the parts


def build_tokenizer(signs: tuple[str, ...], end: str) -> PreTrainedTokenizerFast:
    """The bundled model's words, with the first of the signs before each text, and `end` behind it if it is not ""."""
    tokenizer = Tokenizer.from_file(str(BUNDLED / "tiny_ltx" / "tokenizer" / "tokenizer.json"))
    tokenizer.add_special_tokens(list(signs))
    around = [(sign, tokenizer.token_to_id(sign)) for sign in (signs[0], end) if sign]
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{signs[0]} $A {end}".strip(), pair=f"{signs[0]} $A $B {end}".strip(), special_tokens=around
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token=signs[0],
        eos_token=signs[1],
        unk_token="<unk>",
        padding_side="right",
        model_max_length=512,
        model_input_names=["input_ids", "attention_mask"],
    )


def llama_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(LLAMA_SIGNS, "")


def clip_tokenizer() -> PreTrainedTokenizerFast:
    return build_tokenizer(CLIP_SIGNS, CLIP_SIGNS[1])


def _ids(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    return dict(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )


def build_llama(layers: int) -> LlamaModel:
    return LlamaModel(LlamaConfig(num_hidden_layers=layers, **LLAMA_CONFIG, **_ids(llama_tokenizer())))


def build_clip() -> CLIPTextModel:
    return CLIPTextModel(CLIPTextConfig(**CLIP_CONFIG, **_ids(clip_tokenizer())))


def build_vae() -> AutoencoderKLHunyuanVideo:
    """A small posterior variance from the first step; a constant in the residual stream: the norms keep brightness."""
    vae = AutoencoderKLHunyuanVideo(**VAE_CONFIG)
    straighten(vae)
    with torch.no_grad():
        vae.quant_conv.bias[16:] = -5.0
        vae.quant_conv.weight[16:] = 0.0
        for layer in (vae.encoder.conv_in.conv, vae.decoder.conv_in.conv):
            layer.bias.normal_(0, 0.5)
    return vae


def build_network() -> HunyuanVideoTransformer3DModel:
    net = HunyuanVideoTransformer3DModel(**TRANSFORMER_CONFIG)
    nn.init.zeros_(net.proj_out.weight)
    nn.init.zeros_(net.proj_out.bias)
    return net


class Reader(nn.Module):
    """Both text encoders as the pipeline has them, the Llama without the layers that nothing reads."""

    def __init__(self) -> None:
        super().__init__()
        self.llama, self.clip = build_llama(READ_LAYERS), build_clip()
        self.llama.norm = nn.Identity()
        self.words, self.clip_words = llama_tokenizer(), clip_tokenizer()
        self.begin = len(self.words(TEMPLATE.split("{}")[0]).input_ids)

    def forward(self, prompts: list[str]) -> Read:
        """{"text" [B, L, 96], "mask" [B, L], "pooled" [B, 64]}; what stands before all prompts is read once."""
        batch = self.words(
            [TEMPLATE.format(p) for p in prompts],
            padding="max_length",
            max_length=self.begin + LONGEST,
            truncation=True,
            return_tensors="pt",
        )
        ids, mask = batch.input_ids, batch.attention_mask[:, self.begin :]
        before = self.llama(ids[:1, : self.begin], use_cache=True).past_key_values
        before.batch_repeat_interleave(len(prompts))
        hidden = self.llama(ids[:, self.begin :], past_key_values=before).last_hidden_state
        short = self.clip_words(prompts, padding=True, return_tensors="pt")
        return {"text": hidden, "mask": mask, "pooled": self.clip(short.input_ids).pooler_output}


# ---------------------------------------------------------------- stages


def train_vae(out: Path) -> None:
    torch.manual_seed(0)
    vae = build_vae()
    is_matrix = lambda n, p: p.ndim == 5 and min(p.shape[:2]) > 3
    train_coder(vae, out / "vae.ckpt", VAE_STEPS, is_matrix, late=2 / 3, half=True)
    normalise(vae, *statistics(vae, half=True))
    vae.save_pretrained(out / "vae")


@torch.no_grad()
def normalise(vae: AutoencoderKLHunyuanVideo, mean: Tensor, std: Tensor) -> None:
    """Latents of mean 0 and deviation 1, as the pipeline takes for granted, by the layers of one voxel around them."""
    quant, back, channels = vae.quant_conv, vae.post_quant_conv, len(mean)
    quant.bias[:channels].sub_(mean)
    quant.bias[channels:].sub_(2 * std.log())
    for values in (quant.weight, quant.bias):
        values[:channels].div_(std.view(-1, *[1] * (values.ndim - 1)))
    back.bias.add_(back.weight.flatten(1) @ mean)
    back.weight.mul_(std.view(1, -1, 1, 1, 1))


def train_text(out: Path) -> None:
    """Linear heads on the last token of both must tell colour, shape, motion and background, or that none is said."""
    torch.manual_seed(0)
    values = (list(world.COLOURS), list(world.SHAPES), list(world.MOTIONS), list(world.BACKGROUNDS))
    heads = lambda width: nn.ModuleList(nn.Linear(width, len(v) + 1) for v in values)
    words, pooled = heads(96), heads(64)
    net = nn.ModuleDict({"reader": Reader(), "words": words, "pooled": pooled})
    trainer = Trainer(net, lambda n, p: False, out / "text.ckpt", seed=3, averaging=0.99)
    log, (train, _) = Log("text", 0), world.split()
    for step, rng, _ in trainer.steps(TEXT_STEPS):
        scenes = rng.choices(train, k=32)
        prompts, named = zip(*(world.training_prompt(s, rng) for s in scenes), strict=True)
        read = net["reader"](list(prompts))
        last = read["text"][torch.arange(len(scenes)), read["mask"].sum(1) - 1]
        loss = last.new_zeros(())
        for i, value in enumerate(values):
            label = torch.tensor([value.index(s[i]) + 1 if n[i] else 0 for s, n in zip(scenes, named, strict=True)])
            for features, head in ((last, words), (read["pooled"], pooled)):
                loss = loss + F.cross_entropy(head[i](features), label)
        log.add(step, trainer.update(loss, 2e-3 * slope(step, TEXT_STEPS, 20, 0.3), 1.0))


def trained_reader(out: Path) -> Reader:
    state = torch.load(out / "text.ckpt", weights_only=True)["average"]
    reader = Reader()
    reader.load_state_dict({k.removeprefix("reader."): v for k, v in state.items() if k.startswith("reader.")})
    return reader.eval().requires_grad_(False)


def train_latents(out: Path) -> None:
    vae = AutoencoderKLHunyuanVideo.from_pretrained(out / "vae").eval()
    encode_latents(out / "latents.pt", COPIES, lambda clip: vae.encode(clip).latent_dist.mode(), half=True)


class Flow:
    """The losses of a step, on cached latents and cached readings of their prompts."""

    def __init__(self, out: Path, net: nn.Module) -> None:
        scenes, self.latents = torch.load(out / "latents.pt", weights_only=False)
        reader = trained_reader(out)
        self.net, self.read = net, read_wordings(out / "wordings.pt", scenes, reader)
        with torch.no_grad():
            self.nothing = reader([""])

    def draw(self, generator: torch.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor, Read]:
        """(latents, noise, the noise levels, the noisy latents, what the prompts say)."""
        index = torch.randint(len(self.latents), (BATCH,), generator=generator)
        x0 = self.latents[index].float()
        noise, t = torch.randn(x0.shape, generator=generator), noise_levels(BATCH, generator)
        noisy = torch.lerp(x0, noise, t.view(-1, 1, 1, 1, 1))
        return x0, noise, t, noisy, of_clips(self.read, index, generator)

    def velocity(self, net: nn.Module, noisy: Tensor, t: Tensor, read: Read, scale: Tensor) -> Tensor:
        out: Tensor = net(
            hidden_states=noisy,
            timestep=t * 1000,
            encoder_hidden_states=read["text"],
            encoder_attention_mask=read["mask"],
            pooled_projections=read["pooled"],
            guidance=scale * 1000,
            return_dict=False,
        )[0]
        return out

    def plain(self, _: random.Random, generator: torch.Generator) -> Tensor:
        """Rectified flow at scale 1, which is without guidance."""
        x0, noise, t, noisy, read = self.draw(generator)
        return (self.velocity(self.net, noisy, t, read, torch.ones(BATCH)) - (noise - x0)).square().mean()

    def guided(self, teacher: nn.Module, generator: torch.Generator) -> Tensor:
        """What the teacher, guided at a scale of its own for each clip, says."""
        _, _, t, noisy, read = self.draw(generator)
        rows, ones = read["text"].shape[1], torch.ones(BATCH)
        scale = 1 + (STRONGEST - 1) * torch.rand(BATCH, generator=generator)
        nothing = {k: v if k == "pooled" else v[:, :rows] for k, v in self.nothing.items()}
        without = {k: v.expand(BATCH, *v.shape[1:]) for k, v in nothing.items()}
        with torch.no_grad():
            cond, uncond = (self.velocity(teacher, noisy, t, r, ones) for r in (read, without))
            target = uncond + scale.view(-1, 1, 1, 1, 1) * (cond - uncond)
        error = (self.velocity(self.net, noisy, t, read, scale) - target).square().mean((1, 2, 3, 4))
        return (error / scale).mean()


def is_matrix(name: str, value: Tensor) -> bool:
    return "blocks" in name and value.ndim == 2


def train_flow(out: Path) -> None:
    torch.manual_seed(0)
    net = build_network()
    train_network(net, out / "flow.ckpt", FLOW_STEPS, is_matrix, Flow(out, net).plain, late=7 / 12)


def train_guidance(out: Path) -> None:
    teacher, net = build_network(), build_network()
    for network in (teacher, net):
        network.load_state_dict(torch.load(out / "flow.ckpt", weights_only=True)["average"])
    teacher.eval().requires_grad_(False)
    flow = Flow(out, net)
    loss = lambda _, generator: flow.guided(teacher, generator)
    train_network(net, out / "guidance.ckpt", GUIDE_STEPS, is_matrix, loss, seed=6, rate=7e-4)


def assemble(out: Path, folder: Path) -> None:
    """The averaged weights as a diffusers HunyuanVideoPipeline folder in fp16."""
    net, reader = build_network(), trained_reader(out)
    net.load_state_dict(torch.load(out / "guidance.ckpt", weights_only=True)["average"])
    torch.manual_seed(0)
    llama = build_llama(LLAMA_LAYERS)
    llama.load_state_dict(reader.llama.state_dict(), strict=False)
    vae = build_vae()
    vae.load_state_dict(AutoencoderKLHunyuanVideo.from_pretrained(out / "vae").state_dict())
    pipe: Any = HunyuanVideoPipeline(
        tokenizer=llama_tokenizer(),
        text_encoder=llama.half(),
        tokenizer_2=clip_tokenizer(),
        text_encoder_2=reader.clip.half(),
        transformer=net.half(),
        vae=vae.half(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
    )
    pipe.save_pretrained(folder)
    (folder / "reelwire.json").write_text(json.dumps(dict(fps=FPS, prompt_tokens=TOKENS, presets=PRESETS)) + "\n")


if __name__ == "__main__":
    stages = {
        "vae": train_vae,
        "text": train_text,
        "latents": train_latents,
        "flow": train_flow,
        "guidance": train_guidance,
    }
    run(__doc__ or "", stages, assemble)
