"""LoRA files in three key forms."""

from __future__ import annotations

from pathlib import Path

import torch
from reelwire.loaders.parts import Part
from reelwire.loaders.video_model import VideoModel
from reelwire.training.tiny_models import seeded
from safetensors.torch import save_file
from torch import Tensor

RANK, ALPHA = 3, 6.0
# as Stability AI names them in a UNet of two levels, one layer and one attention each way
SVD = {
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q": "input_blocks.1.1.transformer_blocks.0.attn1.to_q",
    "down_blocks.0.resnets.0.spatial_res_block.conv1": "input_blocks.1.0.in_layers.2",
    "down_blocks.0.resnets.0.temporal_res_block.conv2": "input_blocks.1.0.time_stack.out_layers.3",
    "down_blocks.0.downsamplers.0.conv": "input_blocks.2.0.op",
    "up_blocks.0.upsamplers.0.conv": "output_blocks.1.1.conv",
    "up_blocks.1.attentions.1.proj_in": "output_blocks.3.1.proj_in",
    "mid_block.attentions.0.temporal_transformer_blocks.0.ff_in.net.2": "middle_block.1.time_stack.0.ff_in.net.2",
}
# family -> (tiny model, layers of its network as diffusers names them, the makers' names of the same)
LAYERS: dict[str, tuple[str, dict[str, str]]] = {
    "wan": (
        "tiny-wan2.1-t2v",
        {
            "blocks.0.attn1.to_q": "blocks.0.self_attn.q",
            "blocks.1.attn2.to_out.0": "blocks.1.cross_attn.o",
            "blocks.2.ffn.net.0.proj": "blocks.2.ffn.0",
            "condition_embedder.text_embedder.linear_1": "text_embedding.0",
            "condition_embedder.time_proj": "time_projection.1",
        },
    ),
    "hunyuan_video": (
        "tiny-hunyuan-t2v",
        {
            "transformer_blocks.0.attn.to_out.0": "double_blocks.0.img_attn_proj",
            "transformer_blocks.1.ff_context.net.2": "double_blocks.1.txt_mlp.fc2",
            "single_transformer_blocks.1.proj_out": "single_blocks.1.linear2",
            "transformer_blocks.0.norm1.linear": "double_blocks.0.img_mod.linear",
        },
    ),
    "cogvideox": (
        "tiny-cogvideox-2b",
        {
            "transformer_blocks.0.attn1.to_q": "blocks.0.q",
            "transformer_blocks.1.attn1.to_out.0": "blocks.1.attn_out",
            "transformer_blocks.2.ff.net.0.proj": "blocks.2.ff_proj",
        },
    ),
    "mochi": (
        "tiny-mochi",
        {
            "transformer_blocks.0.attn1.to_out.0": "blocks.0.attn.proj_x",
            "transformer_blocks.1.ff.net.2": "blocks.1.mlp_x.w2",
            "transformer_blocks.0.norm1.linear": "blocks.0.mod_x",
        },
    ),
    "ltx": (
        "tiny-ltx-0.9.0",
        {
            "transformer_blocks.0.attn1.to_q": "transformer_blocks.0.attn1.to_q",
            "transformer_blocks.1.ff.net.0.proj": "transformer_blocks.1.ff.net.0.proj",
            "proj_in": "patchify_proj",
            "time_embed.linear": "adaln_single.linear",
        },
    ),
    "svd": ("tiny-svd", SVD),
}


def network_of(model: VideoModel) -> Part:
    return next(part for name, part in model.parts.items() if name in ("transformer", "unet"))


def matrices(model: VideoModel, layers: dict[str, str]) -> dict[str, tuple[Tensor, Tensor]]:
    shapes = network_of(model).tensors
    with seeded(5):
        return {
            name: (
                torch.randn(RANK, *shapes[f"{name}.weight"][1:]) * 0.2,
                torch.randn(shapes[f"{name}.weight"][0], RANK) * 0.2,
            )
            for name in layers
        }


def write(file: Path, form: str, made: dict[str, tuple[Tensor, Tensor]], layers: dict[str, str]) -> None:
    keys: dict[str, Tensor] = {}
    for name, (down, up) in made.items():
        up = up.reshape(*up.shape, *[1] * (down.ndim - 2))
        if form == "diffusers":
            keys |= {
                f"transformer.{name}.lora_A.weight": down,
                f"transformer.{name}.lora_B.weight": up * (ALPHA / RANK),
            }
        elif form == "comfyui":
            keys |= {
                f"diffusion_model.{layers[name]}.lora_down.weight": down,
                f"diffusion_model.{layers[name]}.lora_up.weight": up,
                f"diffusion_model.{layers[name]}.alpha": torch.tensor(ALPHA),
            }
        else:
            flat = layers[name].replace(".", "_")
            keys |= {
                f"lora_unet_{flat}.lora_down.weight": down,
                f"lora_unet_{flat}.lora_up.weight": up,
                f"lora_unet_{flat}.alpha": torch.tensor(ALPHA),
            }
    save_file({k: v.contiguous() for k, v in keys.items()}, file)
