"""Stable Video Diffusion as a single file: svd.safetensors and svd_xt.safetensors hold the UNet, the VAE and CLIP's tower.

Their layout is that of Stability-AI/generative-models (sgm/modules/diffusionmodules/video_model.py,
sgm/modules/autoencoding/temporal_ae.py) and of open_clip; diffusers: scripts/convert_svd_to_diffusers.py. Blocks are
walked by structure here, so that any width and depth fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .bundle import Weights, rename, shipped_config
from .checkpoints import Entry
from .encoders import KINDS

HEAD = 64  # channels of a head, in every published UNet
CONDITIONS = 3  # frame rate, motion and noise, each embedded alike
Entries = Mapping[str, Entry]

# ---------------------------------------------------------------- UNet

_UNET = {
    r"^time_embed\.0\.": "time_embedding.linear_1.", r"^time_embed\.2\.": "time_embedding.linear_2.",
    r"^label_emb\.0\.0\.": "add_embedding.linear_1.", r"^label_emb\.0\.2\.": "add_embedding.linear_2.",
    r"^input_blocks\.0\.0\.": "conv_in.", r"^out\.0\.": "conv_norm_out.", r"^out\.2\.": "conv_out.",
    r"^middle_block\.0\.": "mid_block.resnets.0.", r"^middle_block\.1\.": "mid_block.attentions.0.",
    r"^middle_block\.2\.": "mid_block.resnets.1.",
}  # fmt: skip
_RESNETS = {
    r"(\.resnets\.\d+)\.time_stack\.": r"\1.temporal_res_block.",
    r"(\.resnets\.\d+)\.(?=(in_layers|emb_layers|out_layers|skip_connection)\.)": r"\1.spatial_res_block.",
    r"\.in_layers\.0\.": ".norm1.", r"\.in_layers\.2\.": ".conv1.", r"\.emb_layers\.1\.": ".time_emb_proj.",
    r"\.out_layers\.0\.": ".norm2.", r"\.out_layers\.3\.": ".conv2.", r"\.skip_connection\.": ".conv_shortcut.",
}  # fmt: skip
_REST = {
    r"(\.attentions\.\d+)\.time_stack\.": r"\1.temporal_transformer_blocks.", r"(\.downsamplers\.0)\.op\.": r"\1.conv.",
    r"\.time_pos_embed\.0\.": ".time_pos_embed.linear_1.", r"\.time_pos_embed\.2\.": ".time_pos_embed.linear_2.",
}  # fmt: skip


def transformer(entries: Entries, metadata: Mapping[str, str]) -> Weights | None:
    """The UNet under diffusers' names, if these are its tensors."""
    named = dict(entries)
    if "input_blocks.1.0.time_stack.in_layers.0.weight" in entries:
        places = _places(entries)
        place = lambda key: re.sub(r"^(in|out)put_blocks\.\d+\.\d+(?=\.)", lambda m: places.get(m[0], m[0]), key)
        named = {rename(place(key), {**_UNET, **_RESNETS, **_REST}): entry for key, entry in entries.items()}
    if "down_blocks.0.resnets.0.temporal_res_block.conv1.weight" not in named or "add_embedding.linear_1.weight" not in named:  # fmt: skip
        return None
    variant = "svd-xt" if "xt" in re.split(r"[^a-z0-9]+", metadata.get("file", "").lower()) else "svd"
    return Weights(_config(named, variant), named)


def _places(entries: Entries) -> dict[str, str]:
    """Each part of the input and output blocks -> where diffusers has it. A change of size closes a level."""
    found = {part[0]: key[part.end() :] for key in entries if (part := re.match(r"(in|out)put_blocks\.\d+\.\d+", key))}
    places, level, layer = {}, {"in": 0, "out": 0}, {"in": 0, "out": 0}
    for name in sorted(found, key=lambda name: [int(n) for n in re.findall(r"\d+", name)]):
        way, number, part = *re.findall(r"^in|^out|\d+", name), ""
        part = _part(name, found[name])
        if name == "input_blocks.0.0":
            continue
        level, layer, places = level, layer, places
    return places
