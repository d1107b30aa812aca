"""Mochi as single files: Genmo's names, which ComfyUI's files have too -> diffusers'.

Names: diffusers, loaders/single_file_utils.py and scripts/convert_mochi_to_diffusers.py; ComfyUI, comfy/ldm/genmo.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from ...messages import CheckpointError, message
from ...parts import ConfigDict
from ...spec import read_spec
from ...weights.entry import Entry, rename
from ...weights.format import CheckpointFormat, Entries, Weights

SPEC = read_spec(Path(__file__).parent)

# words with an underscore in the published names, which Kohya's LoRA keys do not tell from dots
UNDERSCORED = (
    "x_embedder",
    "t_embedder",
    "t5_y_embedder",
    "t5_yproj",
    "to_kv",
    "to_q",
    "to_out",
    "mod_x",
    "mod_y",
    "qkv_x",
    "qkv_y",
    "proj_x",
    "proj_y",
    "mlp_x",
    "mlp_y",
    "final_layer",
)

_NAMES = {
    r"^x_embedder\.": "patch_embed.",
    r"^t_embedder\.mlp\.0\.": "time_embed.timestep_embedder.linear_1.",
    r"^t_embedder\.mlp\.2\.": "time_embed.timestep_embedder.linear_2.",
    r"^t5_y_embedder\.": "time_embed.pooler.",
    r"^t5_yproj\.": "time_embed.caption_proj.",
    r"^final_layer\.mod\.": "norm_out.linear.",
    r"^final_layer\.linear\.": "proj_out.",
    r"^blocks\.(\d+)\.": r"transformer_blocks.\1.",
    r"\.mod_x\.": ".norm1.linear.",
    r"\.mod_y\.": ".norm1_context.linear.",
    r"\.attn\.([qk])_norm_x\.": r".attn1.norm_\1.",
    r"\.attn\.([qk])_norm_y\.": r".attn1.norm_added_\1.",
    r"\.attn\.proj_x\.": ".attn1.to_out.0.",
    r"\.attn\.proj_y\.": ".attn1.to_add_out.",
    r"\.attn\.qkv_": ".attn1.qkv_",
    r"\.mlp_x\.w1\.": ".ff.net.0.proj.",
    r"\.mlp_x\.w2\.": ".ff.net.2.",
    r"\.mlp_y\.w1\.": ".ff_context.net.0.proj.",
    r"\.mlp_y\.w2\.": ".ff_context.net.2.",
}
# tensors that lie one above the other in the file
_STACKED = {
    ".qkv_x.": (".to_q.", ".to_k.", ".to_v."),
    ".qkv_y.": (".add_q_proj.", ".add_k_proj.", ".add_v_proj."),
    ".qkv.": (".to_q.", ".to_k.", ".to_v."),
}
_SWAPPED = re.compile(r"^norm_out\.linear\.|\.net\.0\.proj\.")  # shift and scale, value and gate: the other way round
_ORIGINAL = ("t5_yproj.weight", "blocks.0.attn.qkv_x.weight", "pos_frequencies")
_DIFFUSERS = ("time_embed.pooler.to_kv.weight", "time_embed.caption_proj.weight", "pos_frequencies")


def transformer(entries: Entries, metadata: Mapping[str, str]) -> Weights | None:
    """The network under diffusers' names, if these are its tensors."""
    if {*_DIFFUSERS} <= {*entries}:
        named = dict(entries)
    elif {*_ORIGINAL} <= {*entries}:
        named = renamed(entries)
    else:
        return None
    return _described(named, _config)


def _described(named: Entries, describe: Callable[[Entries], ConfigDict]) -> Weights:
    try:
        return Weights(describe(named), named)
    except KeyError as error:
        raise CheckpointError(
            message("file_incomplete", file=_file(named), key=error.args[0]), message("download_again")
        ) from error


def _file(entries: Entries) -> str:
    return next(iter(entries.values())).file.name


def renamed(entries: Entries, layers: int = 0) -> dict[str, Entry]:
    """Genmo's names -> diffusers'. The last block makes no text, so its layer of modulations has another name.

    layers: blocks of the network; 0: all of them are in `entries`.
    """
    last = f"transformer_blocks.{(layers or _layers(entries, 'blocks')) - 1}.norm1_context.linear"
    named: dict[str, Entry] = {}
    for key, entry in entries.items():
        name = rename(key, _NAMES).replace(f"{last}.", f"{last}_1.")
        named |= _unstacked(name, entry.swap_halves() if _SWAPPED.search(name) else entry)
    return named


def _layers(entries: Iterable[str], blocks: str) -> int:
    return len({match[1] for key in entries if (match := re.match(rf"{blocks}\.(\d+)\.", key))})


def _unstacked(name: str, entry: Entry) -> dict[str, Entry]:
    """One tensor, or those that it consists of."""
    stack = next((mark for mark in _STACKED if mark in name), None)
    if stack is None:
        return {name: entry}
    return dict(zip([name.replace(stack, part) for part in _STACKED[stack]], entry.chunk(3), strict=True))


def _config(named: Entries) -> ConfigDict:
    """The published config with the sizes that the shapes tell."""
    _, channels, patch, _ = named["patch_embed.proj.weight"].shape
    _, heads, half = named["pos_frequencies"].shape
    captions, text = named["time_embed.caption_proj.weight"].shape
    return SPEC.config("1-preview", "transformer") | dict(
        patch_size=patch,
        num_attention_heads=heads,
        attention_head_dim=2 * half,
        in_channels=channels,
        num_layers=_layers(named, "transformer_blocks"),
        pooled_projection_dim=captions,
        text_embed_dim=text,
        time_embed_dim=named["time_embed.timestep_embedder.linear_1.weight"].shape[1],
    )


# ---------------------------------------------------------------- VAE

_VAE = {
    r"^decoder\.blocks\.0\.0\.": "decoder.conv_in.",
    r"^encoder\.layers\.0\.": "encoder.proj_in.",
    r"^encoder\.output_norm\.": "encoder.norm_out.norm_layer.",
    r"\.output_proj\.": ".proj_out.",
}
# inside a residual block; {} is its number
_RESIDUAL = {
    "stack.0": "resnets.{}.norm1.norm_layer",
    "stack.2": "resnets.{}.conv1.conv",
    "stack.3": "resnets.{}.norm2.norm_layer",
    "stack.5": "resnets.{}.conv2.conv",
    "attn_block.norm": "norms.{}.norm_layer",
    "attn_block.attn.qkv": "attentions.{}.qkv",
    "attn_block.attn.out": "attentions.{}.to_out.0",
}
_IN_RESIDUAL = re.compile(
    r"(encoder\.layers\.\d+(?:\.layers\.\d+)?|decoder\.blocks\.\d+(?:\.blocks)?\.\d+)\."
    rf"({'|'.join(map(re.escape, _RESIDUAL))})\.(weight|bias)"
)
_CHANGES_SIZE = re.compile(r"(encoder\.layers|decoder\.blocks)\.(\d+)\.(layers\.0|proj)\.(weight|bias)")
# files that hold one half under bare names: a key -> which half
_BARE = {"blocks.0.1.stack.0.weight": "decoder.", "layers.1.stack.0.weight": "encoder."}
_HALVES = {"encoder.": "encoder", "decoder.": "decoder"}


def vae(entries: Entries) -> Weights | None:
    """The VAE under diffusers' names, if these are its tensors; raises CheckpointError for one half of it."""
    half = next((prefix for key, prefix in _BARE.items() if key in entries), "")
    entries = {half + key: entry for key, entry in entries.items()}
    if any(f"{prefix}{key}" in entries for key, prefix in _BARE.items()):
        named = _renamed_vae(entries)
    elif any(f"{prefix}block_in.resnets.0.norm1.norm_layer.weight" in entries for prefix in _HALVES):
        named = dict(entries)
    else:
        return None
    there = [name for prefix, name in _HALVES.items() if any(key.startswith(prefix) for key in named)]
    if len(there) == 1:
        raise CheckpointError(message("mochi_half_vae", file=_file(named), half=there[0]), message("mochi_vae_remedy"))
    return _described(named, _vae_config)


def _renamed_vae(entries: Entries) -> dict[str, Entry]:
    """Genmo's names -> diffusers', by structure."""
    downs = sorted({int(match[1]) for key in entries if (match := re.match(r"encoder\.layers\.(\d+)\.layers\.", key))})
    between = range(downs[0], downs[-1] + 1) if downs else range(0)
    named: dict[str, Entry] = {}
    for key, entry in entries.items():
        named |= _unstacked(_vae_name(key, between), entry)
    return named


def _vae_name(key: str, downs: range) -> str:
    """downs: the encoder's layers that make the image smaller."""
    if match := _IN_RESIDUAL.fullmatch(key):
        block, number = _place(match[1], downs)
        return f"{block}.{_RESIDUAL[match[2]].format(number)}.{match[3]}"
    if match := _CHANGES_SIZE.fullmatch(key):
        if match[3] == "proj":
            return f"decoder.up_blocks.{int(match[2]) - 1}.proj.{match[4]}"
        return f"encoder.down_blocks.{int(match[2]) - downs.start}.conv_in.conv.{match[4]}"
    return rename(key, _VAE)


def _place(residual: str, downs: range) -> tuple[str, int]:
    """(block, number in it) of a residual block."""
    side, _, first, *inner = residual.split(".")
    number = int(first)
    if side == "encoder":
        if inner:
            return f"encoder.down_blocks.{number - downs.start}", int(inner[1]) - 1
        return ("encoder.block_in", number - 1) if number < downs.start else ("encoder.block_out", number - downs.stop)
    if inner[0] == "blocks":
        return f"decoder.up_blocks.{number - 1}", int(inner[1])
    return ("decoder.block_out", int(inner[0])) if number else ("decoder.block_in", int(inner[0]) - 1)


def _vae_config(named: Entries) -> ConfigDict:
    """The published config with the sizes that the shapes tell."""
    stages = range(_layers(named, r"encoder\.down_blocks"))
    kernels = [named[f"encoder.down_blocks.{i}.conv_in.conv.weight"].shape for i in stages]
    width = lambda block: named[f"{block}.resnets.0.conv1.conv.weight"].shape[1]
    blocks = ["encoder.block_in", *(f"encoder.down_blocks.{i}" for i in stages), "encoder.block_out"]
    first, channels = named["encoder.proj_in.weight"].shape
    return SPEC.config("1-preview", "vae") | dict(
        in_channels=channels,
        out_channels=named["decoder.proj_out.weight"].shape[0],
        latent_channels=named["decoder.conv_in.weight"].shape[1],
        encoder_block_out_channels=[first, *(kernel[0] for kernel in kernels)],
        decoder_block_out_channels=[
            width("decoder.block_out"),
            *(width(f"decoder.up_blocks.{i}") for i in reversed(stages)),
        ],
        layers_per_block=[_layers(named, rf"{re.escape(block)}\.resnets") for block in blocks],
        temporal_expansions=[kernel[2] for kernel in kernels],
        spatial_expansions=[kernel[3] for kernel in kernels],
        add_attention_block=[f"{block}.attentions.0.to_q.weight" in named for block in blocks],
    )


FORMAT = CheckpointFormat(
    spec=SPEC,
    classes={
        "transformer": ("MochiTransformer3DModel",),
        "vae": ("AutoencoderKLMochi",),
        "text_encoder": ("T5EncoderModel",),
    },
    transformer=transformer,
    vae=vae,
    rename=lambda entries, network: renamed(entries, _layers(network, "transformer_blocks")),
    underscored=UNDERSCORED,
)
