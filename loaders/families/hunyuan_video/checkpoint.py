"""HunyuanVideo as single files: Tencent's names and ComfyUI's -> diffusers'.

Names of the network: diffusers, loaders/single_file_utils.py; ComfyUI, comfy/supported_models.py. Names of the VAE:
ComfyUI, comfy/diffusers_convert.py and comfy/ldm/modules/diffusionmodules/model.py; Tencent's own VAE has diffusers'
names.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path

from ...messages import CheckpointError, message
from ...parts import Config, ConfigDict
from ...spec import read_spec
from ...weights.entry import Entry, rename
from ...weights.format import CheckpointFormat, Entries, Weights, stated_entries

SPEC = read_spec(Path(__file__).parent)
NETWORK = "HunyuanVideoTransformer3DModel"
MLP = 4  # times the width: the inner layers of every published model

# words with an underscore in the published names, which Kohya's LoRA keys do not tell from dots
UNDERSCORED = (
    "double_blocks",
    "single_blocks",
    "img_attn_qkv",
    "img_attn_proj",
    "txt_attn_qkv",
    "txt_attn_proj",
    "img_mlp",
    "txt_mlp",
    "img_mod",
    "txt_mod",
    "txt_in",
    "img_in",
    "time_in",
    "vector_in",
    "guidance_in",
    "individual_token_refiner",
    "self_attn_qkv",
    "self_attn_proj",
    "adaLN_modulation",
    "input_embedder",
    "t_embedder",
    "c_embedder",
    "in_layer",
    "out_layer",
    "final_layer",
    "linear_1",
    "linear_2",
)

_NAMES = {
    r"\.scale$": ".weight",
    r"^img_in\.": "x_embedder.",
    r"^txt_in\.individual_token_refiner\.blocks\.": "context_embedder.token_refiner.refiner_blocks.",
    r"^txt_in\.input_embedder\.": "context_embedder.proj_in.",
    r"^txt_in\.t_embedder\.": "context_embedder.time_text_embed.timestep_embedder.",
    r"^txt_in\.c_embedder\.": "context_embedder.time_text_embed.text_embedder.",
    r"^time_in\.": "time_text_embed.timestep_embedder.",
    r"^guidance_in\.": "time_text_embed.guidance_embedder.",
    r"^vector_in\.": "time_text_embed.text_embedder.",
    r"_embedder\.(mlp\.0|in_layer)\.": "_embedder.linear_1.",
    r"_embedder\.(mlp\.2|out_layer)\.": "_embedder.linear_2.",
    r"(refiner_blocks\.\d+)\.adaLN_modulation\.1\.": r"\1.norm_out.linear.",
    r"\.self_attn[._]qkv\.": ".attn.qkv.",
    r"\.self_attn[._]proj\.": ".attn.to_out.0.",
    r"^double_blocks\.": "transformer_blocks.",
    r"\.img_mod\.lin(ear)?\.": ".norm1.linear.",
    r"\.txt_mod\.lin(ear)?\.": ".norm1_context.linear.",
    r"\.img_attn[._]qkv\.": ".attn.qkv.",
    r"\.txt_attn[._]qkv\.": ".attn.added_qkv.",
    r"\.img_attn[._]proj\.": ".attn.to_out.0.",
    r"\.txt_attn[._]proj\.": ".attn.to_add_out.",
    r"\.img_attn(_q_norm|\.norm\.query_norm)\.": ".attn.norm_q.",
    r"\.img_attn(_k_norm|\.norm\.key_norm)\.": ".attn.norm_k.",
    r"\.txt_attn(_q_norm|\.norm\.query_norm)\.": ".attn.norm_added_q.",
    r"\.txt_attn(_k_norm|\.norm\.key_norm)\.": ".attn.norm_added_k.",
    r"\.(img_)?mlp\.(fc1|0)\.": ".ff.net.0.proj.",
    r"\.(img_)?mlp\.(fc2|2)\.": ".ff.net.2.",
    r"\.txt_mlp\.(fc1|0)\.": ".ff_context.net.0.proj.",
    r"\.txt_mlp\.(fc2|2)\.": ".ff_context.net.2.",
    r"^single_blocks\.": "single_transformer_blocks.",
    r"\.modulation\.lin(ear)?\.": ".norm.linear.",
    r"\.linear2\.": ".proj_out.",
    r"\.(q_norm|norm\.query_norm)\.": ".attn.norm_q.",
    r"\.(k_norm|norm\.key_norm)\.": ".attn.norm_k.",
    r"^final_layer\.linear\.": "proj_out.",
    r"^final_layer\.adaLN_modulation\.1\.": "norm_out.linear.",
}
# tensors that lie one above the other in the file
_STACKED = {
    ".attn.qkv.": (".attn.to_q.", ".attn.to_k.", ".attn.to_v."),
    ".attn.added_qkv.": (".attn.add_q_proj.", ".attn.add_k_proj.", ".attn.add_v_proj."),
    ".linear1.": (".attn.to_q.", ".attn.to_k.", ".attn.to_v.", ".proj_mlp."),
}
_ORIGINAL = ("txt_in.individual_token_refiner.blocks.0.norm1.weight", "vector_in.in_layer.weight", "img_in.proj.weight")
_DIFFUSERS = (
    "context_embedder.token_refiner.refiner_blocks.0.norm1.weight",
    "time_text_embed.text_embedder.linear_1.weight",
    "single_transformer_blocks.0.proj_mlp.weight",
)


def transformer(entries: Entries, metadata: Mapping[str, str]) -> Weights | None:
    """The network under diffusers' names, if these are its tensors. metadata: the header's, and "file", its name."""
    if {*_DIFFUSERS} <= {*entries}:
        named = dict(entries)
    elif {*_ORIGINAL} <= {*entries} and len(entries["img_in.proj.weight"].shape) == 5:
        named = renamed(entries)
    else:
        return None
    try:
        return Weights(_config(named, metadata), named)
    except KeyError as error:
        raise CheckpointError(
            message("file_incomplete", file=_file(named), key=error.args[0]), message("download_again")
        ) from error


def _file(entries: Entries) -> str:
    return next(iter(entries.values())).file.name


def renamed(entries: Entries) -> dict[str, Entry]:
    """Tencent's names or ComfyUI's -> diffusers'; of a whole network, or of some of its layers."""
    first = entries.get("img_in.proj.weight")
    width = first.shape[0] if first else None
    named: dict[str, Entry] = {}
    for key, entry in entries.items():
        name = rename(key, _NAMES)
        named |= _unstacked(name, entry.swap_halves() if name.startswith("norm_out.") else entry, width)
    return named


def _unstacked(name: str, entry: Entry, width: int | None) -> dict[str, Entry]:
    """One tensor, or those that it consists of: each of `width` rows, and what remains."""
    stack = next((mark for mark in _STACKED if mark in name), None)
    if stack is None:
        return {name: entry}
    names, rows = [name.replace(stack, part) for part in _STACKED[stack]], entry.shape[0]
    width = width or rows // (3 + MLP * (len(names) - 3))
    sizes = [width] * 3 + [rows - 3 * width] * (len(names) - 3)
    return dict(zip(names, entry.split(*sizes), strict=True)) if sum(sizes) == rows else {name: entry}


def _config(named: Entries, metadata: Mapping[str, str]) -> ConfigDict:
    """What the shapes tell, over what the header states, over what is published."""
    config = _shapes(named)
    shipped = SPEC.config(_variant(config, named, metadata.get("file", "")), "transformer")
    stated = stated_entries(metadata, NETWORK, named, [shipped], shipped.keys() - {"_class_name"})
    config = shipped | stated | config
    if sum(config["rope_axes_dim"]) != config["attention_head_dim"]:
        raise CheckpointError(
            message("hunyuan_heads", file=_file(named), channels=config["attention_head_dim"]),
            message("use_folder_of_model"),
        )
    return config


def _shapes(named: Entries) -> ConfigDict:
    """All sizes of the network."""
    width, channels, patch_t, patch, _ = named["x_embedder.proj.weight"].shape
    head = named["transformer_blocks.0.attn.norm_q.weight"].shape[0]
    count = lambda blocks, end: sum(bool(re.fullmatch(rf"{blocks}\.\d+\.{end}\.weight", key)) for key in named)
    return dict(
        in_channels=channels,
        out_channels=named["proj_out.weight"].shape[0] // (patch_t * patch**2),
        num_attention_heads=width // head,
        attention_head_dim=head,
        patch_size=patch,
        patch_size_t=patch_t,
        num_layers=count("transformer_blocks", r"norm1\.linear"),
        num_single_layers=count("single_transformer_blocks", "proj_mlp"),
        num_refiner_layers=count(r"context_embedder\.token_refiner\.refiner_blocks", "norm1"),
        mlp_ratio=named["transformer_blocks.0.ff.net.0.proj.weight"].shape[0] / width,
        guidance_embeds="time_text_embed.guidance_embedder.linear_1.weight" in named,
        text_embed_dim=named["context_embedder.proj_in.weight"].shape[1],
        pooled_projection_dim=named["time_text_embed.text_embedder.linear_1.weight"].shape[1],
    )


def _variant(config: Config, named: Entries, file: str) -> str:
    """The published variant: an image in channels of its own, or in place of the first frame, or none."""
    channels, latent = config["in_channels"], config["out_channels"]
    if channels == latent:
        return "i2v-13b-replace" if re.search(r"i2v|image[-_ ]?to[-_ ]?video", file.lower()) else "t2v-13b"
    if channels == 2 * latent + 1:
        return "i2v-13b-concat"
    raise CheckpointError(
        message("hunyuan_channels", file=_file(named), channels=channels),
        message("hunyuan_channels_remedy", latent=latent, image=2 * latent + 1),
    )


# ---------------------------------------------------------------- VAE

_VAE = {
    r"^encoder\.down\.(\d+)\.block\.": r"encoder.down_blocks.\1.resnets.",
    r"^decoder\.up\.(\d+)\.block\.": r"decoder.up_blocks.\1.resnets.",
    r"^encoder\.down\.(\d+)\.downsample\.": r"encoder.down_blocks.\1.downsamplers.0.",
    r"^decoder\.up\.(\d+)\.upsample\.": r"decoder.up_blocks.\1.upsamplers.0.",
    r"\.mid\.block_1\.": ".mid_block.resnets.0.",
    r"\.mid\.block_2\.": ".mid_block.resnets.1.",
    r"\.mid\.attn_1\.norm\.": ".mid_block.attentions.0.group_norm.",
    r"\.mid\.attn_1\.proj_out\.": ".mid_block.attentions.0.to_out.0.",
    r"\.mid\.attn_1\.([qkv])\.": r".mid_block.attentions.0.to_\1.",
    r"\.nin_shortcut\.": ".conv_shortcut.",
    r"\.norm_out\.": ".conv_norm_out.",
}
_VAE_KEYS = ("decoder.conv_in.conv.weight", "encoder.conv_in.conv.weight", "post_quant_conv.weight")


def vae(entries: Entries) -> Weights | None:
    """The VAE under diffusers' names, if these are its tensors."""
    if not {*_VAE_KEYS} <= {*entries} or len(entries["post_quant_conv.weight"].shape) != 5:
        return None
    if "decoder.mid.attn_1.q.weight" in entries:
        named = _renamed_vae(entries)
    elif "decoder.mid_block.attentions.0.to_q.weight" in entries:
        named = {key: _linear(key, entry) for key, entry in entries.items()}
    else:
        return None
    try:
        return Weights(_vae_config(named), named)
    except KeyError as error:
        raise CheckpointError(
            message("file_incomplete", file=_file(named), key=error.args[0]), message("download_again")
        ) from error


def _renamed_vae(entries: Entries) -> dict[str, Entry]:
    """ComfyUI's names -> diffusers', which counts the decoder's blocks from the smallest image on."""
    matches = (re.match(r"decoder\.up\.(\d+)\.", key) for key in entries)
    last = max((int(match[1]) for match in matches if match), default=0)
    named = {}
    for key, entry in entries.items():
        turned = re.sub(r"^(decoder\.up\.)(\d+)\.", lambda match: f"{match[1]}{last - int(match[2])}.", key)
        name = rename(turned, _VAE)
        named[name] = _linear(name, entry)
    return named


def _linear(name: str, entry: Entry) -> Entry:
    """Convolutions of 1x1x1 are linear layers in diffusers' attention."""
    small = ".attentions." in name and len(entry.shape) == 5 and math.prod(entry.shape[2:]) == 1
    return entry.reshape(*entry.shape[:2]) if small else entry


def _vae_config(named: Entries) -> ConfigDict:
    """The published config with the widths and depths that the shapes tell."""
    config = SPEC.config("t2v-13b", "vae")
    count = lambda pattern: sum(bool(re.fullmatch(pattern, key)) for key in named)
    stages = range(count(r"encoder\.down_blocks\.\d+\.resnets\.0\.conv1\.conv\.weight"))
    return config | dict(
        in_channels=named["encoder.conv_in.conv.weight"].shape[1],
        out_channels=named["decoder.conv_out.conv.weight"].shape[0],
        latent_channels=named["post_quant_conv.weight"].shape[0],
        down_block_types=config["down_block_types"][:1] * len(stages),
        up_block_types=config["up_block_types"][:1] * len(stages),
        block_out_channels=[named[f"encoder.down_blocks.{i}.resnets.0.conv1.conv.weight"].shape[0] for i in stages],
        layers_per_block=count(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.conv\.weight"),
        spatial_compression_ratio=2 ** count(r"encoder\.down_blocks\.\d+\.downsamplers\.0\.conv\.conv\.weight"),
    )


FORMAT = CheckpointFormat(
    spec=SPEC,
    classes={
        "transformer": (NETWORK,),
        "vae": ("AutoencoderKLHunyuanVideo",),
        "text_encoder": ("LlamaModel", "LlavaForConditionalGeneration"),
        "text_encoder_2": ("CLIPTextModel",),
    },
    transformer=transformer,
    vae=vae,
    rename=lambda entries, network: renamed(entries),
    underscored=UNDERSCORED,
)
