"""CogVideoX as single files: in diffusers' own names, as Kijai/CogVideoX-comfy has them, or in ComfyUI's
(comfy/ldm/cogvideo/model.py). Variants: diffusers, scripts/convert_cogvideox_to_diffusers.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...messages import CheckpointError, message
from ...parts import ConfigDict
from ...spec import read_spec
from ...weights.entry import Entry, rename
from ...weights.format import CheckpointFormat, Entries, Weights

SPEC = read_spec(Path(__file__).parent)
HEAD = 64  # channels of a head, in every published model
LAYERS_2B = 30  # 5B has 42; 2B has as many heads as layers, 5B has 48
PATCH_15 = 2  # pixels and frames of a patch of CogVideoX 1.5, where they leave no trace in shapes
_NATIVE = {
    r"^blocks\.": "transformer_blocks.",
    r"^(time|ofs)_embedding_linear_": r"\1_embedding.linear_",
    r"^(transformer_blocks\.\d+)\.([qkv])\.": r"\1.attn1.to_\2.",
    r"^(transformer_blocks\.\d+)\.norm_([qk])\.": r"\1.attn1.norm_\2.",
    r"^(transformer_blocks\.\d+)\.attn_out\.": r"\1.attn1.to_out.0.",
    r"^(transformer_blocks\.\d+)\.ff_proj\.": r"\1.ff.net.0.proj.",
    r"^(transformer_blocks\.\d+)\.ff_out\.": r"\1.ff.net.2.",
}
_MARKS = ("patch_embed.text_proj.weight", "patch_embed.proj.weight", "transformer_blocks.0.attn1.to_q.weight")

# words with an underscore in ComfyUI's names, which Kohya's LoRA keys do not tell from dots
UNDERSCORED = (
    "patch_embed",
    "text_proj",
    "time_embedding_linear_1",
    "time_embedding_linear_2",
    "attn_out",
    "ff_proj",
    "ff_out",
    "norm_q",
    "norm_k",
    "norm_out",
    "norm_final",
    "proj_out",
)


def renamed(entries: Entries) -> dict[str, Entry]:
    """ComfyUI's names -> diffusers'."""
    return {rename(key, _NATIVE): entry for key, entry in entries.items()}


def transformer(entries: Entries, metadata: Mapping[str, str]) -> Weights | None:
    """The network under diffusers' names, if these are its tensors."""
    named = renamed(entries)
    if not {*_MARKS} <= named.keys():
        return None
    return Weights(_config(named, metadata.get("file", "")), named)


def _config(named: Entries, name: str) -> ConfigDict:
    """What the shapes tell; the sizes that positions were made for are the variant's."""
    width, taken, *kernel = named["patch_embed.proj.weight"].shape
    patch, frames = (kernel[0], None) if kernel else (PATCH_15, PATCH_15)
    volume = patch * patch * (frames or 1)
    channels, out = taken // (1 if kernel else volume), named["proj_out.weight"].shape[0] // volume
    if channels not in (out, 2 * out) or (channels > out and width == LAYERS_2B * HEAD):
        raise CheckpointError(
            message("cogvideox_unknown", file=name, heads=width // HEAD, channels=channels), message("use_one_of_these")
        )
    ofs = named.get("ofs_embedding.linear_1.weight")
    layers = len({match[0] for key in named if (match := re.match(r"transformer_blocks\.\d+\.", key))})
    learned = "patch_embed.pos_embedding" in named
    variant = _variant(name.lower(), bool(frames), channels > out, learned, layers)
    return SPEC.config(variant, "transformer") | dict(
        num_attention_heads=max(width // HEAD, 1),
        attention_head_dim=min(HEAD, width),
        in_channels=channels,
        out_channels=out,
        num_layers=layers,
        patch_size=patch,
        patch_size_t=frames,
        patch_bias=bool(kernel) and "patch_embed.proj.bias" in named,
        time_embed_dim=named["time_embedding.linear_1.weight"].shape[0],
        ofs_embed_dim=ofs and ofs.shape[1],
        text_embed_dim=named["patch_embed.text_proj.weight"].shape[1],
        use_learned_positional_embeddings=learned,
    )


def _variant(name: str, newer: bool, pictured: bool, learned: bool, layers: int) -> str:
    """Which published variant this is. A model for images learned its positions, Fun-Control's positions are
    computed."""
    if newer:
        return "1.5-5b-i2v" if pictured else "1.5-5b"
    if pictured:
        return "fun-1.1-5b-control" if "control" in name or not learned else "5b-i2v"
    return "2b" if layers <= LAYERS_2B else "5b"


def vae(entries: Entries) -> Weights | None:
    """The VAE, whose names are diffusers' in every file, if these are its tensors. Its scale is the variant's: here
    5B's."""
    if not {"encoder.conv_in.conv.weight", "decoder.mid_block.resnets.0.norm1.norm_layer.weight"} <= {*entries}:
        return None
    widths = {
        int(match[1]): entry.shape[0]
        for key, entry in entries.items()
        if (match := re.fullmatch(r"encoder\.down_blocks\.(\d+)\.resnets\.0\.conv1\.conv\.weight", key))
    }
    depth = sum(bool(re.fullmatch(r"encoder\.down_blocks\.0\.resnets\.\d+\.conv1\.conv\.weight", k)) for k in entries)
    config = SPEC.config("5b", "vae") | dict(
        in_channels=entries["encoder.conv_in.conv.weight"].shape[1],
        out_channels=entries["decoder.conv_out.conv.weight"].shape[0],
        latent_channels=entries["decoder.conv_in.conv.weight"].shape[1],
        block_out_channels=[widths[i] for i in sorted(widths)],
        layers_per_block=depth,
        down_block_types=["CogVideoXDownBlock3D"] * len(widths),
        up_block_types=["CogVideoXUpBlock3D"] * len(widths),
    )
    return Weights(config, dict(entries))


FORMAT = CheckpointFormat(
    spec=SPEC,
    classes={
        "transformer": ("CogVideoXTransformer3DModel",),
        "vae": ("AutoencoderKLCogVideoX",),
        "text_encoder": ("T5EncoderModel",),
    },
    transformer=transformer,
    vae=vae,
    rename=lambda entries, network: renamed(entries),
    underscored=UNDERSCORED,
)
