"""Tiny real components: the architectures of the real models with a few random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from reelwire.training.tiny_models import LTX_VAES, seeded

ROOT = Path(__file__).parents[3]
BUNDLED = ROOT / "loaders" / "bundled" / "tiny_ltx"


def ltx_vae(release: str) -> Any:
    """A VAE of the release's structure, 32 pixels and 8 frames to a latent, without a trivial weight or statistic."""
    from diffusers import AutoencoderKLLTXVideo

    with seeded():
        vae = AutoencoderKLLTXVideo(
            latent_channels=8, patch_size=4, encoder_causal=True, decoder_causal=False, **LTX_VAES[release]
        ).eval()
        for name, value in vae.named_parameters():
            if name.endswith(("per_channel_scale1", "per_channel_scale2")):
                value.data.normal_(std=0.1)
        vae.latents_mean.normal_(std=0.1)
        vae.latents_std.uniform_(0.5, 1.5)
    return vae.requires_grad_(False)


def ltx_transformer(heads: int = 2, layers: int = 2, captions: int = 32) -> Any:
    from diffusers import LTXVideoTransformer3DModel

    with seeded(1):
        return (
            LTXVideoTransformer3DModel(
                in_channels=8,
                out_channels=8,
                num_attention_heads=heads,
                attention_head_dim=64 // heads if heads > 2 else 16,
                cross_attention_dim=64 if heads > 2 else heads * 16,
                num_layers=layers,
                caption_channels=captions,
            )
            .eval()
            .requires_grad_(False)
        )


def t5(width: int = 32) -> Any:
    from transformers import T5Config, T5EncoderModel

    with seeded(2):
        config = T5Config(
            vocab_size=32128, d_model=width, d_kv=8, d_ff=48, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu"
        )
        return T5EncoderModel(config).eval().requires_grad_(False)


def ltx_folder(folder: Path, release: str = "0.9.5") -> Path:
    """A diffusers folder of the release's pipeline, with the bundled model's tokenizer."""
    from diffusers import FlowMatchEulerDiscreteScheduler, LTXConditionPipeline, LTXPipeline
    from transformers import PreTrainedTokenizerFast

    kind, shifting = (LTXConditionPipeline, False) if release == "0.9.5" else (LTXPipeline, True)
    scheduler = FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=shifting,
        base_shift=0.95,
        max_shift=2.05,
        base_image_seq_len=1024,
        shift_terminal=0.1 if shifting else None,
    )
    tokenizer = PreTrainedTokenizerFast.from_pretrained(BUNDLED / "tokenizer")
    parts = dict(
        scheduler=scheduler, vae=ltx_vae(release), text_encoder=t5(), tokenizer=tokenizer, transformer=ltx_transformer()
    )
    kind(**parts).save_pretrained(folder)
    return folder
