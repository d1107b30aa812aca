"""Stable Video Diffusion as a single file: svd.safetensors and svd_xt.safetensors hold the UNet, the VAE and CLIP's
tower.

Their layout is that of Stability-AI/generative-models (sgm/modules/diffusionmodules/video_model.py,
sgm/modules/autoencoding/temporal_ae.py) and of open_clip. diffusers: scripts/convert_svd_to_diffusers.py. Blocks are
walked by structure here, so that any width and depth fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...parts import Config, ConfigDict
from ...spec import read_spec
from ...weights.encoders import KINDS
from ...weights.entry import IDENTITY, Entry, rename
from ...weights.format import CheckpointFormat, Entries, Weights

SPEC = read_spec(Path(__file__).parent)
HEAD = 64  # channels of a head, in every published UNet
CONDITIONS = 3  # frame rate, motion and noise, each embedded alike
# words of the makers that have underscores of their own, for Kohya's keys
UNDERSCORED = (
    "input_blocks",
    "output_blocks",
    "middle_block",
    "time_stack",
    "time_mixer",
    "transformer_blocks",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "ff_in",
    "proj_in",
    "proj_out",
    "in_layers",
    "out_layers",
    "emb_layers",
    "skip_connection",
    "time_embed",
    "label_emb",
    "time_pos_embed",
)

# ---------------------------------------------------------------- UNet

_UNET = {
    r"^time_embed\.0\.": "time_embedding.linear_1.",
    r"^time_embed\.2\.": "time_embedding.linear_2.",
    r"^label_emb\.0\.0\.": "add_embedding.linear_1.",
    r"^label_emb\.0\.2\.": "add_embedding.linear_2.",
    r"^input_blocks\.0\.0\.": "conv_in.",
    r"^out\.0\.": "conv_norm_out.",
    r"^out\.2\.": "conv_out.",
    r"^middle_block\.0\.": "mid_block.resnets.0.",
    r"^middle_block\.1\.": "mid_block.attentions.0.",
    r"^middle_block\.2\.": "mid_block.resnets.1.",
}
_RESNETS = {
    r"(\.resnets\.\d+)\.time_stack\.": r"\1.temporal_res_block.",
    r"(\.resnets\.\d+)\.(?=(in_layers|emb_layers|out_layers|skip_connection)\.)": r"\1.spatial_res_block.",
    r"\.in_layers\.0\.": ".norm1.",
    r"\.in_layers\.2\.": ".conv1.",
    r"\.emb_layers\.1\.": ".time_emb_proj.",
    r"\.out_layers\.0\.": ".norm2.",
    r"\.out_layers\.3\.": ".conv2.",
    r"\.skip_connection\.": ".conv_shortcut.",
}
_REST = {
    r"(\.attentions\.\d+)\.time_stack\.": r"\1.temporal_transformer_blocks.",
    r"(\.downsamplers\.0)\.op\.": r"\1.conv.",
    r"\.time_pos_embed\.0\.": ".time_pos_embed.linear_1.",
    r"\.time_pos_embed\.2\.": ".time_pos_embed.linear_2.",
}
_PARTS = {
    "in_layers.0": "resnets",
    "norm": "attentions",
    "op": "downsamplers",
    "conv": "upsamplers",
}  # recognised by a key


def transformer(entries: Entries, metadata: Mapping[str, str]) -> Weights | None:
    """The UNet under diffusers' names, if these are its tensors."""
    named = dict(entries)
    if "input_blocks.1.0.time_stack.in_layers.0.weight" in entries:
        named = _renamed(entries, _places(entries))
    if not {"down_blocks.0.resnets.0.temporal_res_block.conv1.weight", "add_embedding.linear_1.weight"} <= named.keys():
        return None
    variant = "svd-xt" if "xt" in re.split(r"[^a-z0-9]+", metadata.get("file", "").lower()) else "svd"
    return Weights(_config(named, variant), named)


def _renamed(entries: Entries, places: Mapping[str, str]) -> dict[str, Entry]:
    place = lambda key: re.sub(r"^(in|out)put_blocks\.\d+\.\d+(?=\.)", lambda m: places.get(m[0], m[0]), key)
    return {rename(place(key), {**_UNET, **_RESNETS, **_REST}): entry for key, entry in entries.items()}


def renamed(entries: Entries, network: Config) -> dict[str, Entry]:
    """Some layers of the makers' UNet, as a LoRA has them, under the names of the whole UNet that has these tensors."""
    places: dict[str, str] = {}
    for side, blocks, first in (("input", "down_blocks", 1), ("output", "up_blocks", 0)):
        number = first
        for level in _numbers(network, rf"{blocks}\.(\d+)\."):
            block = f"{blocks}.{level}"
            for layer in _numbers(network, rf"{block}\.resnets\.(\d+)\."):
                parts = [part for part in ("resnets", "attentions") if _has(network, f"{block}.{part}.{layer}.")]
                places |= {f"{side}_blocks.{number}.{i}": f"{block}.{part}.{layer}" for i, part in enumerate(parts)}
                number += 1
            if _has(network, f"{block}.downsamplers.0."):
                places[f"{side}_blocks.{number}.0"] = f"{block}.downsamplers.0"
                number += 1
            if _has(network, f"{block}.upsamplers.0."):  # it is the last part of the block before
                places[f"{side}_blocks.{number - 1}.{len(parts)}"] = f"{block}.upsamplers.0"
    return _renamed(entries, places)


def _has(tensors: Mapping[str, object], start: str) -> bool:
    return any(name.startswith(start) for name in tensors)


def _places(entries: Entries) -> dict[str, str]:
    """Each part of the input and output blocks -> where diffusers has it. A change of size closes a level."""
    places = {}
    for side, blocks in (("input", "down_blocks"), ("output", "up_blocks")):
        parts = {match[0] for key in entries if (match := re.match(rf"{side}_blocks\.\d+\.\d+(?=\.)", key))}
        level, layer = 0, -1
        for part in sorted(parts, key=lambda part: [int(n) for n in re.findall(r"\d+", part)]):
            kind = next((k for mark, k in _PARTS.items() if f"{part}.{mark}.weight" in entries), "")
            layer += kind == "resnets"
            if kind:  # the first convolution has none
                places[part] = f"{blocks}.{level}.{kind}.{0 if 'samplers' in kind else layer}"
            if "samplers" in kind:
                level += 1
                layer = -1
    return places


def _numbers(named: Mapping[str, object], pattern: str) -> list[int]:
    """The different numbers that a pattern's group has among the keys."""
    return sorted({int(match[1]) for key in named if (match := re.match(pattern, key))})


def _config(named: Entries, variant: str) -> ConfigDict:
    """What the shapes tell; heads leave no trace in them."""
    resnet = "resnets.0.spatial_res_block.conv1.weight"
    levels = [f"down_blocks.{i}" for i in _numbers(named, r"down_blocks\.(\d+)\.")]
    widths = [named[f"{level}.{resnet}"].shape[0] for level in levels]
    depths = [len(_numbers(named, rf"{re.escape(level)}\.resnets\.(\d+)\.")) for level in levels]
    crossed = [f"{level}.attentions.0.norm.weight" in named for level in levels]
    embedded = named["add_embedding.linear_1.weight"].shape[1]
    middle = "mid_block.attentions.0.transformer_blocks"
    return SPEC.config(variant, "unet") | dict(
        in_channels=named["conv_in.weight"].shape[1],
        out_channels=named["conv_out.weight"].shape[0],
        block_out_channels=widths,
        layers_per_block=depths if len({*depths}) > 1 else depths[0],
        num_attention_heads=[max(width // HEAD, 1) for width in widths],
        down_block_types=[
            "CrossAttnDownBlockSpatioTemporal" if cross else "DownBlockSpatioTemporal" for cross in crossed
        ],
        up_block_types=[
            "CrossAttnUpBlockSpatioTemporal" if cross else "UpBlockSpatioTemporal" for cross in reversed(crossed)
        ],
        cross_attention_dim=named[f"{middle}.0.attn2.to_k.weight"].shape[1],
        transformer_layers_per_block=len(_numbers(named, rf"{re.escape(middle)}\.(\d+)\.")),
        projection_class_embeddings_input_dim=embedded,
        addition_time_embed_dim=embedded // CONDITIONS,
    )


# ---------------------------------------------------------------- VAE

_VAE = {
    r"^encoder\.down\.(\d+)\.block\.": r"encoder.down_blocks.\1.resnets.",
    r"^decoder\.up\.(\d+)\.block\.": r"decoder.up_blocks.\1.resnets.",
    r"^encoder\.down\.(\d+)\.downsample\.": r"encoder.down_blocks.\1.downsamplers.0.",
    r"^decoder\.up\.(\d+)\.upsample\.": r"decoder.up_blocks.\1.upsamplers.0.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.": ".mid_block.attentions.0.",
    r"(\.attentions\.0)\.norm\.": r"\1.group_norm.",
    r"(\.attentions\.0)\.([qkv])\.": r"\1.to_\2.",
    r"(\.attentions\.0)\.proj_out\.": r"\1.to_out.0.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.norm_out\.": ".conv_norm_out.",
    r"\.conv_out\.time_mix_conv\.": ".time_conv_out.",
    r"^(decoder\..*\.resnets\.\d+)\.(?=(norm|conv))": r"\1.spatial_res_block.",
    r"(\.resnets\.\d+)\.mix_factor$": r"\1.time_mixer.mix_factor",
    **_RESNETS,
}


def vae(entries: Entries) -> Weights | None:
    """The VAE under diffusers' names, if these are its tensors and its decoder knows time."""
    named = dict(entries)
    if "decoder.mid.block_1.time_stack.in_layers.0.weight" in entries:
        last = max(_numbers(entries, r"decoder\.up\.(\d+)\."))
        from_below = lambda match: str(last - int(match[0]))
        upwards = lambda key: re.sub(r"(?<=^decoder\.up\.)\d+", from_below, key)
        named = {rename(upwards(key), _VAE): entry for key, entry in entries.items()}
        named = {key: _flat(entry) if ".attentions." in key else entry for key, entry in named.items()}
    if "decoder.mid_block.resnets.0.temporal_res_block.conv1.weight" not in named:
        return None
    if "quant_conv.weight" not in named:
        named |= _identity(named["encoder.conv_out.weight"])
    return Weights(_vae_config(named), named)


def _flat(entry: Entry) -> Entry:
    """A convolution of one pixel as the linear layer that it is."""
    return entry.reshape(*entry.shape[:2]) if len(entry.shape) == 4 else entry


def _identity(last: Entry) -> dict[str, Entry]:
    """What diffusers has behind the encoder, and files of Stability AI have not: a convolution that changes nothing."""
    channels = last.shape[0]
    weight = Entry(last.file, "", (channels, channels, 1, 1), IDENTITY)
    return {"quant_conv.weight": weight, "quant_conv.bias": weight.reshape(channels)}


def _vae_config(named: Entries) -> ConfigDict:
    levels = [f"encoder.down_blocks.{i}" for i in _numbers(named, r"encoder\.down_blocks\.(\d+)\.")]
    return SPEC.config("svd", "vae") | dict(
        in_channels=named["encoder.conv_in.weight"].shape[1],
        out_channels=named["decoder.conv_out.weight"].shape[0],
        down_block_types=["DownEncoderBlock2D"] * len(levels),
        latent_channels=named["decoder.conv_in.weight"].shape[1],
        block_out_channels=[named[f"{level}.resnets.0.conv1.weight"].shape[0] for level in levels],
        layers_per_block=len(_numbers(named, r"encoder\.down_blocks\.0\.resnets\.(\d+)\.")),
    )


# ---------------------------------------------------------------- CLIP's vision tower

_TOWER = {
    r"^visual\.transformer\.resblocks\.": "vision_model.encoder.layers.",
    r"^visual\.proj$": "visual_projection.weight",
    r"^visual\.class_embedding$": "vision_model.embeddings.class_embedding",
    r"^visual\.conv1\.": "vision_model.embeddings.patch_embedding.",
    r"^visual\.positional_embedding$": "vision_model.embeddings.position_embedding.weight",
    r"^visual\.ln_pre\.": "vision_model.pre_layrnorm.",
    r"^visual\.ln_post\.": "vision_model.post_layernorm.",
    r"\.ln_(\d)\.": r".layer_norm\1.",
    r"\.mlp\.c_fc\.": ".mlp.fc1.",
    r"\.mlp\.c_proj\.": ".mlp.fc2.",
    r"\.attn\.out_proj\.": ".self_attn.out_proj.",
}
_LAST = "visual_projection.weight"


def image_encoder(entries: Entries) -> Weights | None:
    """CLIP's vision tower under transformers' names, from open_clip's or its own, if these are its tensors."""
    vision = KINDS["vision"]
    named = dict(entries)
    if "visual.transformer.resblocks.0.attn.in_proj_weight" in entries:
        named = _tower({key: entry for key, entry in entries.items() if key.startswith("visual.")})
    named = {key: entry for key, entry in named.items() if not re.search(vision.unused, key)}
    if vision.mark not in named or _LAST not in named:
        return None
    return Weights({"architectures": [vision.architecture], **vision.config(named)}, named)


def _tower(entries: Entries) -> dict[str, Entry]:
    """open_clip's tower: queries, keys and values lie in one tensor, and the last projection is transposed."""
    named: dict[str, Entry] = {}
    for key, entry in entries.items():
        name, joined, kind = rename(key, _TOWER).partition(".attn.in_proj_")
        parts = [f"{name}.self_attn.{part}_proj.{kind}" for part in "qkv"] if joined else [name]
        named |= dict(zip(parts, entry.chunk(3) if joined else [entry], strict=True))
    if _LAST in named:
        named[_LAST] = named[_LAST].transpose()
    return named


FORMAT = CheckpointFormat(
    spec=SPEC,
    classes={
        "unet": ("UNetSpatioTemporalConditionModel",),
        "vae": ("AutoencoderKLTemporalDecoder",),
        "image_encoder": ("CLIPVisionModelWithProjection",),
    },
    transformer=transformer,
    vae=vae,
    image_encoder=image_encoder,
    rename=renamed,
    underscored=UNDERSCORED,
)
