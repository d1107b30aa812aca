"""What a file seems to be, when it is not what was asked for."""

from __future__ import annotations

from collections.abc import Mapping

from ..messages import message
from ..spec import specs
from .entry import Entry

# ends of keys that only one kind of file has, beside those of the families, and what that file is called
_OTHERS: Mapping[str, tuple[str, ...]] = {
    message("kind_t5"): ("encoder.block.0.layer.0.SelfAttention.q.weight",),
    message("kind_clip"): ("text_model.encoder.layers.0.self_attn.q_proj.weight",),
    message("kind_image_model"): (
        "input_blocks.1.1.transformer_blocks.0.attn1.to_q.weight",
        "input_blocks.4.1.proj_in.weight",
    ),
    "Flux": ("double_blocks.0.img_attn.qkv.weight",),
    message("kind_lora"): ("lora_A.weight", "lora_down.weight"),
}


def kind_of(entries: Mapping[str, Entry]) -> str:
    """What a file seems to be, in words."""
    families = {spec.file_title: spec.file_keys for spec in specs()}
    for title, marks in {**families, **_OTHERS}.items():
        if any(key.endswith(marks) for key in entries):
            return title
    return message("kind_unknown")
