"""Tiny checkpoints of every family and task: the real architectures, ratios and channels, a few random weights.

python -m training.tiny_models FOLDER     makes FOLDER/tiny-... as diffusers folders; `run.py tiny` calls it.

They make noise, not pictures; workflows, tests and a first try need no more. The weights follow from each name's seed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING or __package__:
    from . import tiny_text as text
else:  # as a plain script
    sys.path.insert(0, str(Path(__file__).parent))
    import tiny_text as text

CONFIGS = json.loads(Path(__file__).with_name("tiny_configs.json").read_text(encoding="utf-8"))
SPREAD = 0.03  # standard deviation that is added to every weight: none stays at a trivial 0 or 1
Checkpoint = tuple[Any, dict[str, Any]]  # (a diffusers pipeline, what reelwire.json says)


@contextmanager
def seeded(seed: int = 0) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def fresh(module: Any, seed: int = 0) -> Any:
    """The module with every weight off its trivial value."""
    with seeded(seed), torch.no_grad():
        for weight in module.parameters():
            weight.add_(torch.randn(weight.shape) * SPREAD)
    return module.eval().requires_grad_(False)


def new(kind: str, seed: int = 0, **config: Any) -> Any:
    """A diffusers module of this class."""
    import diffusers

    with seeded(seed):
        return fresh(getattr(diffusers, kind)(**config), seed)


def encoder(make: Callable[..., Any], *arguments: Any) -> Any:
    with seeded(2):
        return fresh(make(*arguments), 2)


def defaults(
    fps: float,
    tokens: int,
    frames: int,
    sampler: str,
    guidance: float,
    more: dict[str, Any] | None = None,
    **preset: Any,
) -> dict[str, Any]:
    usual = dict(width=64, height=64, frames=frames, sampler=sampler, steps=4, guidance=guidance, **preset)
    return {"fps": fps, "prompt_tokens": tokens, "presets": {"default": usual}, **(more or {})}


# ---------------------------------------------------------------- Wan


def _wan_transformer(channels: int, seed: int = 0, kind: str = "WanTransformer3DModel", **more: Any) -> Any:
    return new(
        kind,
        seed,
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=channels,
        text_dim=32,
        freq_dim=32,
        ffn_dim=48,
        num_layers=4,
        rope_max_seq_len=64,
        **{"out_channels": 16, **more},
    )


def wan_vae() -> Any:
    return new("AutoencoderKLWan", base_dim=8, dim_mult=[1, 1, 1, 1], num_res_blocks=1)


def wan_vae_22() -> Any:
    """The 16x VAE of TI2V-5B, with means and deviations of 48 channels."""
    mean, std = ([(i * step % 7 - 3) / 10 + base for i in range(48)] for step, base in ((3, 0.0), (5, 1.0)))
    return new(
        "AutoencoderKLWan",
        base_dim=8,
        decoder_base_dim=8,
        z_dim=48,
        dim_mult=[1, 1, 1, 1],
        num_res_blocks=1,
        latents_mean=mean,
        latents_std=std,
        is_residual=True,
        in_channels=12,
        out_channels=12,
        patch_size=2,
        scale_factor_spatial=16,
        scale_factor_temporal=4,
    )


def _wan(
    pipeline: str,
    transformer: Any,
    shift: float = 3.0,
    image: bool = False,
    second: Any = None,
    vae: Any = None,
    guidance: float = 5.0,
    fps: float = 16,
    pipe: dict[str, Any] | None = None,
    **preset: Any,
) -> Checkpoint:
    import diffusers
    import transformers

    tokenizer = text.umt5_tokenizer()
    scheduler = diffusers.UniPCMultistepScheduler(
        prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=shift
    )
    parts = dict(
        tokenizer=tokenizer,
        text_encoder=encoder(text.t5, "UMT5", len(tokenizer)),
        vae=vae or wan_vae(),
        scheduler=scheduler,
        transformer=transformer,
        **(pipe or {}),
    )
    if second is not None:
        parts["transformer_2"] = second
    if image:
        parts |= dict(image_encoder=encoder(text.clip_vision, False), image_processor=transformers.CLIPImageProcessor())
    more = {"boundary": parts.get("boundary_ratio"), "per_token_time": bool(parts.get("expand_timesteps"))}
    return getattr(diffusers, pipeline)(**parts), defaults(fps, 512, 9, "unipc", guidance, more, shift=shift, **preset)


def _wan_vace() -> Checkpoint:
    transformer = _wan_transformer(16, kind="WanVACETransformer3DModel", vace_layers=[0, 2], vace_in_channels=96)
    return _wan("WanVACEPipeline", transformer)


def _wan_experts(pipeline: str, channels: int, boundary: float) -> Checkpoint:
    first, second = _wan_transformer(channels), _wan_transformer(channels, 1)
    return _wan(pipeline, first, 5.0, second=second, pipe={"boundary_ratio": boundary}, guidance=4.0, guidance_2=3.0)


def _wan_ti2v() -> Checkpoint:
    transformer = _wan_transformer(48, out_channels=48)
    return _wan("WanPipeline", transformer, 5.0, vae=wan_vae_22(), fps=24, pipe={"expand_timesteps": True})


# ---------------------------------------------------------------- HunyuanVideo


def hunyuan_vae() -> Any:
    return new("AutoencoderKLHunyuanVideo", block_out_channels=(8, 8, 16, 16), layers_per_block=1, norm_num_groups=4)


def _hunyuan(pipeline: str, image: str | None) -> Checkpoint:
    import diffusers
    import transformers

    transformer = new(
        "HunyuanVideoTransformer3DModel",
        in_channels=33 if image == "latent_concat" else 16,
        out_channels=16,
        num_attention_heads=2,
        attention_head_dim=12,
        num_layers=2,
        num_single_layers=2,
        num_refiner_layers=1,
        guidance_embeds=image != "latent_concat",
        text_embed_dim=32,
        pooled_projection_dim=16,
        rope_axes_dim=(4, 4, 4),
        image_condition_type=image,
    )
    llama, clip = text.llama_tokenizer(), text.clip_tokenizer()
    reader = encoder(text.llava, llama) if image else encoder(transformers.LlamaModel, text.llama_config(llama))
    eye = {"image_processor": transformers.CLIPImageProcessor()} if image else {}
    pipe = getattr(diffusers, pipeline)(
        tokenizer=llama,
        text_encoder=reader,
        tokenizer_2=clip,
        text_encoder_2=encoder(text.clip_text, clip),
        transformer=transformer,
        vae=hunyuan_vae(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=7.0),
        **eye,
    )
    return pipe, defaults(24, 256, 9, "euler", 6.0, shift=7.0)


# ---------------------------------------------------------------- CogVideoX


def cog_vae(scale: float = 0.7, **more: Any) -> Any:
    return new(
        "AutoencoderKLCogVideoX",
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        norm_num_groups=2,
        latent_channels=16,
        scaling_factor=scale,
        **more,
        down_block_types=("CogVideoXDownBlock3D",) * 4,
        up_block_types=("CogVideoXUpBlock3D",) * 4,
    )


def _cog(pipeline: str, sampler: str, channels: int = 16, fps: float = 8, vae: Any = None, **config: Any) -> Checkpoint:
    """2B steps with DDIM and SNR shift 3, 5B and 1.5 with DPM and shift 1, as published."""
    import diffusers

    size = 32 if "patch_size_t" in config else 8  # 1.5 cannot go beyond it
    transformer = new(
        "CogVideoXTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=channels,
        out_channels=16,
        time_embed_dim=32,
        text_embed_dim=32,
        num_layers=4,
        sample_width=size,
        sample_height=size,
        sample_frames=9,
        max_text_seq_length=226,
        **config,
    )
    kind = {"ddim": diffusers.CogVideoXDDIMScheduler, "dpm": diffusers.CogVideoXDPMScheduler}[sampler]
    scheduler = kind(
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        snr_shift_scale=3.0 if sampler == "ddim" else 1.0,
    )
    tokenizer = text.t5_tokenizer()
    pipe = getattr(diffusers, pipeline)(
        tokenizer=tokenizer,
        text_encoder=encoder(text.t5, "T5", len(tokenizer)),
        vae=vae or cog_vae(1.15258426 if sampler == "ddim" else 0.7),
        transformer=transformer,
        scheduler=scheduler,
    )
    return pipe, defaults(fps, 226, 9, sampler, 6.0)


_COG_I2V, _COG_15 = (
    "CogVideoXImageToVideoPipeline",
    dict(patch_size_t=2, patch_bias=False, use_rotary_positional_embeddings=True),
)


def _cog_5b_i2v() -> Checkpoint:
    learned = dict(use_rotary_positional_embeddings=True, use_learned_positional_embeddings=True)
    return _cog(_COG_I2V, "dpm", 32, **learned)


def _cog_15_i2v() -> Checkpoint:
    return _cog(_COG_I2V, "dpm", 32, 16, cog_vae(invert_scale_latents=True), ofs_embed_dim=32, **_COG_15)


# ---------------------------------------------------------------- Mochi


def mochi_vae() -> Any:
    mean, std = [(i % 5 - 2) / 10 for i in range(12)], [0.8 + i % 4 / 10 for i in range(12)]
    return new(
        "AutoencoderKLMochi",
        encoder_block_out_channels=(32,) * 4,
        decoder_block_out_channels=(32,) * 4,
        layers_per_block=(1,) * 5,
        latents_mean=mean,
        latents_std=std,
    )


def _mochi() -> Checkpoint:
    import diffusers

    transformer = new(
        "MochiTransformer3DModel",
        num_attention_heads=2,
        attention_head_dim=16,
        num_layers=4,
        pooled_projection_dim=32,
        text_embed_dim=32,
        time_embed_dim=32,
        max_sequence_length=256,
    )
    tokenizer = text.t5_tokenizer()
    pipe = diffusers.MochiPipeline(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
        vae=mochi_vae(),
        text_encoder=encoder(text.t5, "T5", len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    return pipe, defaults(30, 256, 7, "euler", 4.5)


# ---------------------------------------------------------------- LTX-Video

LTX_VAES = CONFIGS["ltx_vaes"]  # release -> the structure of its VAE


def ltx_vae(release: str) -> Any:
    """A VAE of the release's structure: 32 pixels and 8 frames to a latent, 8 channels."""
    vae = new(
        "AutoencoderKLLTXVideo",
        latent_channels=8,
        patch_size=4,
        encoder_causal=True,
        decoder_causal=False,
        **LTX_VAES[release],
    )
    with seeded(3):
        vae.latents_mean.normal_(std=0.1)
        vae.latents_std.uniform_(0.5, 1.5)
    return vae


def _ltx(pipeline: str, release: str, conditioned: bool) -> Checkpoint:
    import diffusers

    transformer = new(
        "LTXVideoTransformer3DModel",
        in_channels=8,
        out_channels=8,
        num_attention_heads=2,
        attention_head_dim=16,
        cross_attention_dim=32,
        num_layers=4,
        caption_channels=32,
    )
    tokenizer = text.t5_tokenizer()
    pipe = getattr(diffusers, pipeline)(
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**({} if conditioned else CONFIGS["ltx_shifting"])),
        vae=ltx_vae(release),
        text_encoder=encoder(text.t5, "T5", len(tokenizer)),
        tokenizer=tokenizer,
        transformer=transformer,
    )
    more = {"conditioned": conditioned, "distilled_timesteps": []}
    return pipe, defaults(25, 256 if conditioned else 128, 9, "euler", 3.0, more)


def _ltx_upsampler() -> Checkpoint:
    import diffusers
    from diffusers.pipelines.ltx.modeling_latent_upsampler import LTXLatentUpsamplerModel

    with seeded():
        model = fresh(LTXLatentUpsamplerModel(in_channels=8, mid_channels=32, num_blocks_per_stage=1, dims=3))
    return diffusers.LTXLatentUpsamplePipeline(vae=ltx_vae("0.9.5"), latent_upsampler=model), {}


# ---------------------------------------------------------------- Stable Video Diffusion


def svd_vae() -> Any:
    return new(
        "AutoencoderKLTemporalDecoder",
        block_out_channels=[32] * 4,
        down_block_types=["DownEncoderBlock2D"] * 4,
        latent_channels=4,
    )


def _svd(frames: int, counts: list[int]) -> Checkpoint:
    import diffusers
    import transformers

    unet = new(
        "UNetSpatioTemporalConditionModel",
        block_out_channels=(32, 64),
        num_attention_heads=(2, 4),
        cross_attention_dim=32,
        layers_per_block=1,
        sample_size=8,
        addition_time_embed_dim=32,
        projection_class_embeddings_input_dim=96,
        down_block_types=("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        up_block_types=("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal"),
    )
    scheduler = diffusers.EulerDiscreteScheduler(**CONFIGS["svd_scheduler"])
    pipe = diffusers.StableVideoDiffusionPipeline(
        vae=svd_vae(),
        image_encoder=encoder(text.clip_vision, True),
        unet=unet,
        scheduler=scheduler,
        feature_extractor=transformers.CLIPImageProcessor(),
    )
    return pipe, defaults(7, 0, frames, "euler", 3.0, {"frame_counts": counts})


# ---------------------------------------------------------------- all of them

MODELS: dict[str, Callable[[], Checkpoint]] = {
    "tiny-hunyuan-t2v": lambda: _hunyuan("HunyuanVideoPipeline", None),
    "tiny-hunyuan-i2v-concat": lambda: _hunyuan("HunyuanVideoImageToVideoPipeline", "latent_concat"),
    "tiny-hunyuan-i2v-replace": lambda: _hunyuan("HunyuanVideoImageToVideoPipeline", "token_replace"),
    "tiny-wan2.1-t2v": lambda: _wan("WanPipeline", _wan_transformer(16)),
    "tiny-wan2.1-i2v": lambda: _wan("WanImageToVideoPipeline", _wan_transformer(36, image_dim=32), image=True),
    "tiny-wan2.1-flf2v": lambda: _wan(
        "WanImageToVideoPipeline", _wan_transformer(36, image_dim=32, pos_embed_seq_len=2 * 50), image=True
    ),
    "tiny-wan2.1-vace": _wan_vace,
    "tiny-wan2.1-fun-control": lambda: _wan(
        "WanImageToVideoPipeline", _wan_transformer(48, image_dim=32), image=True, guidance=6.0
    ),
    "tiny-wan2.2-t2v-a14b": lambda: _wan_experts("WanPipeline", 16, 0.875),
    "tiny-wan2.2-i2v-a14b": lambda: _wan_experts("WanImageToVideoPipeline", 36, 0.9),
    "tiny-wan2.2-ti2v-5b": _wan_ti2v,
    "tiny-cogvideox-2b": lambda: _cog("CogVideoXPipeline", "ddim"),
    "tiny-cogvideox-5b": lambda: _cog("CogVideoXPipeline", "dpm", use_rotary_positional_embeddings=True),
    "tiny-cogvideox-5b-i2v": _cog_5b_i2v,
    "tiny-cogvideox1.5-5b": lambda: _cog("CogVideoXPipeline", "dpm", fps=16, **_COG_15),
    "tiny-cogvideox1.5-5b-i2v": _cog_15_i2v,
    "tiny-cogvideox-fun-control": lambda: _cog("CogVideoXFunControlPipeline", "ddim", 32),
    "tiny-mochi": _mochi,
    "tiny-ltx-0.9.0": lambda: _ltx("LTXPipeline", "0.9.0", False),
    "tiny-ltx-0.9.5": lambda: _ltx("LTXConditionPipeline", "0.9.5", True),
    "tiny-ltx-upsampler": _ltx_upsampler,
    "tiny-svd": lambda: _svd(14, [14]),
    "tiny-svd-xt": lambda: _svd(25, [14, 25]),
}


def build(name: str) -> Checkpoint:
    """The model called `name` in memory: diffusers' own pipeline, and its defaults."""
    with seeded(zlib.crc32(name.encode())):
        return MODELS[name]()


def make(name: str, folder: Path) -> Path:
    """Write the model called `name` as a diffusers folder inside `folder`; under its name only when it is whole."""
    target, part = folder / name, folder / f".{name}.part"
    if target.exists():
        return target
    shutil.rmtree(part, ignore_errors=True)
    pipe, description = build(name)
    quiet()
    pipe.save_pretrained(part)
    if description:
        (part / "reelwire.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    part.rename(target)
    return target


def quiet() -> None:
    """No bars and warnings of the libraries between our own lines."""
    import diffusers
    import transformers

    diffusers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="models/diffusers of a ComfyUI")
    parser.add_argument("names", nargs="*", default=list(MODELS), help="which ones; all if none is named")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    for name in options.names:
        there = (options.folder / name).exists()
        size = sum(file.stat().st_size for file in make(name, options.folder).rglob("*"))
        print(f"  {name:<28} {size / 1e6:5.1f} MB{'  (was there)' if there else ''}", flush=True)


if __name__ == "__main__":
    main()
