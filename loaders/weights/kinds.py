"""What a file seems to be, when it is not what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from ..messages import CheckpointError as CheckpointError
from ..messages import message
from .entry import Entry

# keys that only one kind of file has, to say what a file is when it is not what was asked for
_KINDS: dict[str, tuple[str, ...]] = {
    "LTX-Video": ("patchify_proj.weight", "transformer_blocks.0.scale_shift_table"),
    "HunyuanVideo": ("double_blocks.0.img_attn_qkv.weight", "single_transformer_blocks.0.proj_mlp.weight"),
    "Wan": ("blocks.0.self_attn.q.weight", "blocks.0.attn1.norm_added_k.weight", "patch_embedding.weight"),
    "Mochi": ("blocks.0.attn.qkv_x.weight", "t5_y_embedder.to_kv.weight"),
    "CogVideoX": ("patch_embed.text_proj.weight",),
    "Stable Video Diffusion": ("input_blocks.1.0.time_stack.in_layers.0.weight", "down_blocks.0.resnets.0.temporal_res_block.conv1.weight"),
    message("kind_t5"): ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    message("kind_clip"): ("text_model.encoder.layers.0.self_attn.q_proj.weight",),
    message("kind_image_model"): ("input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight", "input_blocks.4.1.proj_in.weight"),
    "Flux": ("double_blocks.0.img_attn.qkv.weight",),
    message("kind_lora"): ("lora_A.weight", "lora_down.weight"),
}  # fmt: skip


def kind_of(entries: Mapping[str, Entry]) -> str:
    """What a file seems to be, in words."""
    for kind, marks in _KINDS.items():
        if any(key.endswith(mark) for mark in marks for key in entries):
            return kind
    return message("kind_unknown")
