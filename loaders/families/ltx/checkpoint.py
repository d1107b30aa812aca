"""LTX-Video as single files: Lightricks', with or without the VAE inside.

Key names: diffusers, loaders/single_file_utils.py and scripts/convert_ltx_to_diffusers.py; they are walked by structure
here, so that any width and depth fits.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from ...parts import ConfigDict
from ...spec import read_spec
from ...weights.entry import Entry, rename
from ...weights.format import CheckpointFormat, Config, Entries, Weights, stated_entries

SPEC = read_spec(Path(__file__).parent)
NETWORK, VAE_CLASS = "LTXVideoTransformer3DModel", "AutoencoderKLLTXVideo"
HEADS = 32  # of every published LTX-Video transformer
_TRANSFORMER = {"patchify_proj": "proj_in", "adaln_single": "time_embed", "q_norm": "norm_q", "k_norm": "norm_k"}
_VAE = {
    r"\.res_blocks\.": ".resnets.",
    r"norm3\.norm\.": "norm3.",
    r"\.conv_shortcut\.(?!conv)": ".conv_shortcut.conv.",
    r"last_time_embedder": "time_embedder",
    r"last_scale_shift_table": "scale_shift_table",
    r"^per_channel_statistics\.mean-of-means$": "latents_mean",
    r"^per_channel_statistics\.std-of-means$": "latents_std",
}
_VAE_UNUSED = ("per_channel_statistics.channel", "per_channel_statistics.mean-of-stds")

# words with an underscore in the published names, which Kohya's LoRA keys do not tell from dots
UNDERSCORED = (
    "patchify_proj",
    "adaln_single",
    "timestep_embedder",
    "transformer_blocks",
    "caption_projection",
    "linear_1",
    "linear_2",
    "to_q",
    "to_k",
    "to_v",
    "to_out",
    "q_norm",
    "k_norm",
    "proj_out",
)


def renamed(entries: Entries) -> dict[str, Entry]:
    """Lightricks' names of the network -> diffusers'."""
    return {rename(key, _TRANSFORMER): entry for key, entry in entries.items()}


def transformer(entries: Entries, metadata: Mapping[str, str]) -> Weights | None:
    """The network under diffusers' names, if these are its tensors."""
    named = renamed(entries)
    if "transformer_blocks.0.scale_shift_table" not in named or "proj_in.weight" not in named:
        return None
    return Weights(_transformer_config(named, metadata), named)


def vae(entries: Entries) -> Weights | None:
    """The VAE under diffusers' names, if these are its tensors."""
    if "decoder.conv_in.conv.weight" not in entries:
        return None
    if not any(key.startswith("per_channel_statistics.") or key == "latents_mean" for key in entries):
        return None
    named = rename_vae(entries)
    return Weights(_vae_config(named), named)


def rename_vae(entries: Entries) -> dict[str, Entry]:
    """Lightricks' VAE keys -> diffusers'; keys that already are diffusers' pass unchanged."""
    if "latents_mean" in entries:
        return dict(entries)
    places = {**_encoder_places(entries), **_decoder_places(entries)}
    named = {}
    for key, entry in entries.items():
        if key.startswith(_VAE_UNUSED):
            continue
        block = re.match(r"(encoder\.down_blocks|decoder\.up_blocks)\.\d+", key)
        place = places[block[0]] + key[block.end() :] if block else key
        named[rename(place, _VAE)] = entry
    return named


def _blocks(entries: Entries, prefix: str) -> list[tuple[str, str]]:
    """(name, kind) of numbered blocks: "stack" of ResNet blocks, single "resnet", or "scale" for down and up
    sampling."""
    count = 1 + max(int(k.removeprefix(prefix).split(".")[0]) for k in entries if k.startswith(prefix))
    return [(f"{prefix}{i}", _block_kind(entries, f"{prefix}{i}")) for i in range(count)]


def _block_kind(entries: Entries, block: str) -> str:
    if any(key.startswith(f"{block}.res_blocks.") for key in entries):
        return "stack"
    return "resnet" if f"{block}.conv1.conv.weight" in entries else "scale"


def _encoder_places(entries: Entries) -> dict[str, str]:
    """A stack opens a down block, what follows belongs to it; the last stack is the mid block."""
    blocks = _blocks(entries, "encoder.down_blocks.")
    places = {}
    number = -1
    for name, kind in blocks:
        number += kind == "stack"
        here = f"encoder.down_blocks.{number}"
        places[name] = {"stack": here, "scale": f"{here}.downsamplers.0", "resnet": f"{here}.conv_out"}[kind]
    return places | {blocks[-1][0]: "encoder.mid_block"}


def _decoder_places(entries: Entries) -> dict[str, str]:
    """The first stack is the mid block; each further stack closes the up block that the blocks before it began."""
    places = {}
    number = -1
    for name, kind in _blocks(entries, "decoder.up_blocks."):
        here = f"decoder.up_blocks.{number}" if number >= 0 else "decoder.mid_block"
        places[name] = {"stack": here, "scale": f"{here}.upsamplers.0", "resnet": f"{here}.conv_in"}[kind]
        number += kind == "stack"
    return places


def _transformer_config(entries: Entries, metadata: Mapping[str, str]) -> ConfigDict:
    """The config that the shapes tell; only the number of heads leaves no trace in them (file metadata, else 32)."""
    stated = stated_entries(metadata, NETWORK, entries, [], ["num_attention_heads"])
    width, channels = entries["proj_in.weight"].shape
    heads = stated.get("num_attention_heads", HEADS)
    return SPEC.config("0.9.0-2b", "transformer") | dict(
        in_channels=channels,
        out_channels=entries["proj_out.weight"].shape[0],
        num_attention_heads=heads,
        attention_head_dim=width // heads,
        cross_attention_dim=entries["transformer_blocks.0.attn2.to_k.weight"].shape[1],
        num_layers=sum(bool(re.fullmatch(r"transformer_blocks\.\d+\.scale_shift_table", k)) for k in entries),
        caption_channels=entries["caption_projection.linear_1.weight"].shape[1],
    )


def _release(entries: Entries) -> str:
    """The variant whose VAE has these tensors."""
    if "decoder.time_embedder.timestep_embedder.linear_1.weight" not in entries:
        return "0.9.0-2b"
    return "0.9.5-2b" if "encoder.down_blocks.0.downsamplers.0.conv.conv.weight" in entries else "0.9.1-2b"


def _vae_config(entries: Entries) -> ConfigDict:
    """The release's VAE config with the widths and depths that the shapes tell."""
    config = SPEC.config(_release(entries), "vae")
    depth = lambda block: sum(bool(re.fullmatch(rf"{block}\.resnets\.\d+\.conv1\.conv\.weight", k)) for k in entries)
    width = lambda block: entries[f"{block}.resnets.0.conv1.conv.weight"].shape[1]
    downs = [f"encoder.down_blocks.{i}" for i in range(len(config["spatio_temporal_scaling"]))]
    ups = [f"decoder.up_blocks.{i}" for i in range(len(config["decoder_spatio_temporal_scaling"]))]
    widths = [width(b) for b in downs] + [width("encoder.mid_block")]
    factors = list(reversed(config["upsample_factor"]))
    return config | dict(
        latent_channels=entries["decoder.conv_in.conv.weight"].shape[1],
        block_out_channels=widths[: len(config["block_out_channels"])],
        decoder_block_out_channels=[width(b) * f for b, f in reversed(list(zip(ups, factors, strict=True)))],
        layers_per_block=[depth(b) for b in [*downs, "encoder.mid_block"]],
        decoder_layers_per_block=[depth(b) for b in reversed(["decoder.mid_block", *ups])],
    )


# ---------------------------------------------------------------- variants


def _variant(configs: Mapping[str, Config], name: str) -> str:
    """The shipped variant of this depth, width and VAE whose words occur most in the file's name."""
    size = lambda c: (c["num_layers"], c["num_attention_heads"] * c["attention_head_dim"])
    kind = lambda c: (c["timestep_conditioning"], "LTXVideo095DownBlock3D" in c.get("down_block_types", ()))
    name = name.lower()
    same_vae = [v for v in SPEC.variants() if kind(SPEC.config(v, "vae")) == kind(configs["vae"])]
    same = [v for v in same_vae if size(SPEC.config(v, "transformer")) == size(configs["transformer"])]

    def agreement(variant: str) -> int:
        words = sum(word in name for word in variant.split("-"))
        return words - ("distilled" in variant and "distilled" not in name)

    return max(same or same_vae or SPEC.variants(), key=agreement)


def _folder_defaults(index: Config) -> ConfigDict:
    """What the pipeline of a diffusers folder reads, which the variant does not tell."""
    conditioned = index.get("_class_name") == "LTXConditionPipeline"
    return {"conditioned": conditioned, "prompt_tokens": 256 if conditioned else 128}


FORMAT = CheckpointFormat(
    spec=SPEC,
    classes={"transformer": (NETWORK,), "vae": (VAE_CLASS,), "text_encoder": ("T5EncoderModel",)},
    transformer=transformer,
    vae=vae,
    rename=lambda entries, network: renamed(entries),
    underscored=UNDERSCORED,
    variant=_variant,
    folder_variant=_variant,
    folder_defaults=_folder_defaults,
)
