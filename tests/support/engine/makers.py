"""Lightricks' own program, the package ltx-video, with tiny models of the real architecture."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from reelwire.loaders.families.ltx import LTX
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.engine.components import BUNDLED, seeded, t5
from reelwire.tests.support.files.native_ltx import COMMON, VAES
from safetensors.torch import save_file
from torch import Tensor

CHANNELS, CAPTIONS, HEADS, HEAD = 8, 32, 2, 16
LAYERS = {"2b": 20, "13b": 40}  # as many as the published lists of blocks name
SHIFTED = {"_class_name": "RectifiedFlowScheduler", "shifting": "SD3", "target_shift_terminal": 0.1}
LINEAR = {"_class_name": "RectifiedFlowScheduler", "sampler": "LinearQuadratic"}

STRATEGIES = {
    "attention_values": "AttentionValues",
    "attention_skip": "AttentionSkip",
    "transformer_block": "TransformerBlock",
}


@dataclass
class Makers:
    """Both sides on the same weights. pipeline: a LTXVideoPipeline; model: ours, read from the file that it is."""

    pipeline: Any
    model: VideoModel

    def reference(self, text: Mapping[str, Mapping[str, Tensor]], seed: int, **inputs: Any) -> Tensor:
        """Final latents of the package's pipeline. All its noise is drawn from one stream, as ours is."""
        from ltx_video.utils.skip_layer_strategy import SkipLayerStrategy

        with seeded(seed):
            latents: Tensor = self.pipeline(
                prompt_embeds=text["cond"]["text"],
                prompt_attention_mask=text["cond"]["mask"],
                negative_prompt=None,
                negative_prompt_embeds=text["uncond"]["text"],
                negative_prompt_attention_mask=text["uncond"]["mask"],
                skip_layer_strategy=SkipLayerStrategy[STRATEGIES[inputs.pop("stg_mode")]],
                generator=torch.default_generator,
                output_type="latent",
                is_video=True,
                vae_per_channel_normalize=True,
                **inputs,
            ).images
        return latents


def transformer_config(layers: int, causal: bool) -> dict[str, Any]:
    """As the package's own tests have it, with few channels."""
    return {
        "_class_name": "Transformer3DModel",
        "activation_fn": "gelu-approximate",
        "attention_bias": True,
        "attention_head_dim": HEAD,
        "caption_channels": CAPTIONS,
        "cross_attention_dim": HEADS * HEAD,
        "in_channels": CHANNELS,
        "out_channels": CHANNELS,
        "norm_elementwise_affine": False,
        "norm_eps": 1e-06,
        "num_attention_heads": HEADS,
        "num_layers": layers,
        "qk_norm": "rms_norm",
        "standardization_norm": "rms_norm",
        "positional_embedding_type": "rope",
        "positional_embedding_theta": 10000.0,
        "positional_embedding_max_pos": [20, 2048, 2048],
        "timestep_scale_multiplier": 1000,
        "causal_temporal_positioning": causal,
    }


def make(folder: Path, name: str, release: str) -> Makers:
    """Both sides of a checkpoint of this name. release: of the VAE, a key of VAES."""
    from ltx_video.models.autoencoders.causal_video_autoencoder import CausalVideoAutoencoder
    from ltx_video.models.transformers.symmetric_patchifier import SymmetricPatchifier
    from ltx_video.models.transformers.transformer3d import Transformer3DModel
    from ltx_video.pipelines.pipeline_ltx_video import LTXVideoPipeline
    from ltx_video.schedulers.rf import RectifiedFlowScheduler

    late = release == "0.9.5"
    config = transformer_config(LAYERS["13b" if "13b" in name else "2b"], late)
    with seeded(1):
        transformer = Transformer3DModel.from_config(config).eval().requires_grad_(False)
        vae_config: Any = COMMON | VAES[release] | {"use_quant_conv": False}
        vae = CausalVideoAutoencoder.from_config(vae_config)
        for value in transformer.parameters():
            value.normal_(std=0.15)
        vae.eval().requires_grad_(False).register_buffer("mean_of_means", torch.randn(CHANNELS) * 0.1)
        vae.register_buffer("std_of_means", torch.rand(CHANNELS) + 0.5)
    weights = {f"model.diffusion_model.{key}": value for key, value in transformer.state_dict().items()}
    statistics = {"mean_of_means": "mean-of-means", "std_of_means": "std-of-means"}
    for key, value in vae.state_dict().items():
        weights[f"vae.per_channel_statistics.{statistics[key]}" if key in statistics else f"vae.{key}"] = value
    file = folder / f"{name}.safetensors"
    save_file(
        {key: value.clone() for key, value in weights.items()}, file, {"config": json.dumps({"transformer": config})}
    )
    prompts = ("image_caption_model", "image_caption_processor", "llm_model", "llm_tokenizer")
    pipeline = LTXVideoPipeline(
        tokenizer=None,
        text_encoder=None,
        vae=vae,
        transformer=transformer,
        scheduler=RectifiedFlowScheduler.from_config(LINEAR if late else SHIFTED),
        patchifier=SymmetricPatchifier(1),
        **{f"prompt_enhancer_{part}": None for part in prompts},
    )
    pipeline.set_progress_bar_config(disable=True)
    return Makers(pipeline, open_file(folder, file))


def open_file(folder: Path, file: Path) -> VideoModel:
    """Our model of a single file, with a tiny T5."""
    text = folder / "t5xxl.safetensors"
    if not text.exists():
        save_file({k: v.clone() for k, v in t5(CAPTIONS).state_dict().items()}, text)
    files = {"checkpoint": file, "text_encoder": text, "tokenizer": BUNDLED / "tokenizer"}
    return LTX.load(Recipe("ltx", "", files, "float32"), PlainMemory())


def inference() -> ModuleType:
    """Their program itself, `ltx_video.inference`. It imports imageio, which writes the files that no test asks for."""
    with pytest.MonkeyPatch.context() as patch:
        if find_spec("imageio") is None:
            patch.setitem(sys.modules, "imageio", ModuleType("imageio"))
        return import_module("ltx_video.inference")
