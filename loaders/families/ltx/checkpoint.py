"""LTX-Video on disk: diffusers folders, and Lightricks' single files with or without the VAE inside.

Key names of the single files: diffusers, loaders/single_file_utils.py and scripts/convert_ltx_to_diffusers.py; they are
walked by structure here, so that any width and depth fits.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...messages import CheckpointError, message
from ...weights.bundle import Weights
from ...weights.configs import load_config
from ...weights.entry import Entry, strip_prefix
from ...weights.kinds import kind_of
from ...weights.safetensors import read_file, read_folder

VARIANTS = Path(__file__).parent / "variants"
NETWORK, VAE_CLASS = "LTXVideoTransformer3DModel", "AutoencoderKLLTXVideo"
HEADS = 32  # of every published LTX-Video transformer
_TRANSFORMER = {"patchify_proj": "proj_in", "adaln_single": "time_embed", "q_norm": "norm_q", "k_norm": "norm_k"}
_VAE = {
    r"\.res_blocks\.": ".resnets.", r"norm3\.norm\.": "norm3.", r"\.conv_shortcut\.(?!conv)": ".conv_shortcut.conv.",
    r"last_time_embedder": "time_embedder", r"last_scale_shift_table": "scale_shift_table",
    r"^per_channel_statistics\.mean-of-means$": "latents_mean", r"^per_channel_statistics\.std-of-means$": "latents_std",
}  # fmt: skip
_VAE_UNUSED = ("per_channel_statistics.channel", "per_channel_statistics.mean-of-stds")


@dataclass(frozen=True)
class Files:
    """A checkpoint's tensors under diffusers' names, its configs, and what its variant's defaults.json says."""

    variant: str
    transformer: Mapping[str, Entry]
    transformer_config: Mapping[str, Any]
    vae: Mapping[str, Entry]
    vae_config: Mapping[str, Any]
    scheduler_config: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def weights(self) -> tuple[Weights, Weights]:
        """The network and the VAE, by diffusers' classes."""
        network = Weights({**self.transformer_config, "_class_name": NETWORK}, self.transformer)
        return network, Weights({**self.vae_config, "_class_name": VAE_CLASS}, self.vae)

    @property
    def spatial_ratio(self) -> int:
        """Pixels per latent pixel: the patch, times two for each stage that halves the picture."""
        return self.vae_config["patch_size"] * 2 ** _stages(self.vae_config, "spatial")

    @property
    def temporal_ratio(self) -> int:
        return self.vae_config["patch_size_t"] * 2 ** _stages(self.vae_config, "temporal")


def _stages(config: Mapping[str, Any], kind: str) -> int:
    """How many encoder stages compress space or time ("spatial" or "temporal")."""
    types = config.get("downsample_type") or ("conv",) * len(config["spatio_temporal_scaling"])
    return sum(
        used and t in ("conv", "spatiotemporal", kind)
        for used, t in zip(config["spatio_temporal_scaling"], types, strict=True)
    )


def read_ltx(source: Path, vae: Path | None) -> Files:
    """Describe a checkpoint from its headers and configs; raises CheckpointError for anything but LTX-Video."""
    try:
        return _read_folder(source, vae) if source.is_dir() else _read_file(source, vae)
    except KeyError as error:
        raise CheckpointError(
            message("file_lacks", file=source.name, key=error.args[0]), message("download_again")
        ) from error


# ---------------------------------------------------------------- diffusers folders


def _read_folder(folder: Path, vae: Path | None) -> Files:
    index = load_config(folder, "model_index.json")
    if (index.get("transformer") or [None])[-1] != NETWORK:
        rule = message("wrong_folder", folder=folder.name, kind=index.get("_class_name"), title="LTX-Video")
        raise CheckpointError(rule, message("use_its_loader"))
    config = load_config(folder / "transformer")
    vae_entries, vae_config = _read_vae(vae) if vae else (read_folder(folder / "vae"), load_config(folder / "vae"))
    shipped = folder / "reelwire.json"
    if shipped.exists():
        variant, defaults = folder.name, json.loads(shipped.read_text(encoding="utf-8"))
    else:
        variant, defaults = _match(config, vae_config, folder.name)
        conditioned = index.get("_class_name") == "LTXConditionPipeline"
        defaults |= {"conditioned": conditioned, "prompt_tokens": 256 if conditioned else 128}
    scheduler = load_config(folder / "scheduler", "scheduler_config.json")
    if not vae and vae_config.get("_class_name", VAE_CLASS) != VAE_CLASS:
        rule = message("wrong_vae_class", folder=folder.name, kind=vae_config["_class_name"], needed=VAE_CLASS)
        raise CheckpointError(rule, message("download_folder"))
    transformer = read_folder(folder / "transformer")
    return Files(variant, transformer, config, vae_entries, vae_config, scheduler, _tuples(defaults))


# ---------------------------------------------------------------- single files


def _read_file(file: Path, vae: Path | None) -> Files:
    entries, metadata = read_file(file)
    inside = {k.removeprefix("vae."): e for k, e in entries.items() if k.startswith("vae.")}
    rest = strip_prefix(
        {k: e for k, e in entries.items() if not k.startswith("vae.")}, "model.diffusion_model.", "model.model."
    )
    network = transformer(rest, metadata)
    if network is None:
        raise CheckpointError(message("wrong_ltx", file=file.name, kind=kind_of(entries)), message("use_its_loader"))
    if not inside and vae is None:
        raise CheckpointError(message("holds_no_vae", file=file.name), message("ltx_vae_remedy"))
    named, config = network.entries, network.config
    vae_entries, vae_config = _read_vae(vae) if vae else _describe_vae(inside, file.name)
    variant, defaults = _match(config, vae_config, file.name)
    return Files(variant, named, config, vae_entries, vae_config, _load(variant, "scheduler"), _tuples(defaults))


# words with an underscore in the published names, which Kohya's LoRA keys do not tell from dots
UNDERSCORED = ("patchify_proj", "adaln_single", "timestep_embedder", "transformer_blocks", "caption_projection", "linear_1", "linear_2", "to_q", "to_k",
               "to_v", "to_out", "q_norm", "k_norm", "proj_out")  # fmt: skip


def renamed(entries: Mapping[str, Entry]) -> dict[str, Entry]:
    """Lightricks' names of the network -> diffusers'."""
    return {_replace(key, _TRANSFORMER): entry for key, entry in entries.items()}


def transformer(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> Weights | None:
    """The network under diffusers' names, if these are its tensors."""
    named = renamed(entries)
    if "transformer_blocks.0.scale_shift_table" not in named or "proj_in.weight" not in named:
        return None
    return Weights({"_class_name": NETWORK, **_transformer_config(named, metadata)}, named)


def vae(entries: Mapping[str, Entry]) -> Weights | None:
    """The VAE under diffusers' names, if these are its tensors."""
    if not {"decoder.conv_in.conv.weight", "decoder.conv_out.conv.weight"} <= {*entries}:
        return None
    if not any(key.startswith("per_channel_statistics.") or key == "latents_mean" for key in entries):
        return None
    named, config = _describe_vae(entries, "")
    return Weights({"_class_name": VAE_CLASS, **config}, named)


def _read_vae(file: Path) -> tuple[dict[str, Entry], dict[str, Any]]:
    return _describe_vae(strip_prefix(read_file(file)[0], "vae."), file.name)


def _describe_vae(entries: Mapping[str, Entry], name: str) -> tuple[dict[str, Entry], dict[str, Any]]:
    renamed = rename_vae(entries, name)
    return renamed, _vae_config(renamed)


def _replace(key: str, table: Mapping[str, str]) -> str:
    for old, new in table.items():
        key = key.replace(old, new)
    return key


def rename_vae(entries: Mapping[str, Entry], name: str) -> dict[str, Entry]:
    """Lightricks' VAE keys -> diffusers'; keys that already are diffusers' pass unchanged."""
    if "decoder.conv_in.conv.weight" not in entries:
        raise CheckpointError(message("wrong_ltx_vae", file=name, kind=kind_of(entries)))
    if "latents_mean" in entries:
        return dict(entries)
    places = {**_encoder_places(entries), **_decoder_places(entries)}
    renamed = {}
    for key, entry in entries.items():
        if key.startswith(_VAE_UNUSED):
            continue
        block = re.match(r"(encoder\.down_blocks|decoder\.up_blocks)\.\d+", key)
        new = places[block[0]] + key[block.end() :] if block else key
        for pattern, replacement in _VAE.items():
            new = re.sub(pattern, replacement, new)
        renamed[new] = entry
    return renamed


def _blocks(entries: Mapping[str, Entry], prefix: str) -> list[tuple[str, str]]:
    """(name, kind) of numbered blocks: "stack" of ResNet blocks, single "resnet", or "scale" for down and up sampling."""
    count = 1 + max(int(k.removeprefix(prefix).split(".")[0]) for k in entries if k.startswith(prefix))
    kind: Callable[[str], str] = lambda block: (
        "stack"
        if any(k.startswith(f"{block}.res_blocks.") for k in entries)
        else "resnet"
        if f"{block}.conv1.conv.weight" in entries
        else "scale"
    )
    return [(f"{prefix}{i}", kind(f"{prefix}{i}")) for i in range(count)]


def _encoder_places(entries: Mapping[str, Entry]) -> dict[str, str]:
    """A stack opens a down block, what follows belongs to it; the last stack is the mid block."""
    blocks, places, number = _blocks(entries, "encoder.down_blocks."), {}, -1
    for name, kind in blocks:
        number += kind == "stack"
        here = f"encoder.down_blocks.{number}"
        places[name] = {"stack": here, "scale": f"{here}.downsamplers.0", "resnet": f"{here}.conv_out"}[kind]
    return places | {blocks[-1][0]: "encoder.mid_block"}


def _decoder_places(entries: Mapping[str, Entry]) -> dict[str, str]:
    """The first stack is the mid block; each further stack closes the up block that the blocks before it began."""
    places, number = {}, -1
    for name, kind in _blocks(entries, "decoder.up_blocks."):
        here = f"decoder.up_blocks.{number}" if number >= 0 else "decoder.mid_block"
        places[name] = {"stack": here, "scale": f"{here}.upsamplers.0", "resnet": f"{here}.conv_in"}[kind]
        number += kind == "stack"
    return places


def _transformer_config(entries: Mapping[str, Entry], metadata: Mapping[str, str]) -> dict[str, Any]:
    """What the shapes tell; only the number of heads leaves no trace in them (file metadata, else 32)."""
    try:
        stated = json.loads(metadata.get("config", "{}")).get("transformer", {})
    except ValueError:
        stated = {}
    width, channels = entries["proj_in.weight"].shape
    heads = stated.get("num_attention_heads", HEADS)
    return _load("0.9.0-2b", "transformer") | dict(
        in_channels=channels, out_channels=entries["proj_out.weight"].shape[0], num_attention_heads=heads,
        attention_head_dim=width // heads, cross_attention_dim=entries["transformer_blocks.0.attn2.to_k.weight"].shape[1],
        num_layers=sum(bool(re.fullmatch(r"transformer_blocks\.\d+\.scale_shift_table", k)) for k in entries),
        caption_channels=entries["caption_projection.linear_1.weight"].shape[1],
    )  # fmt: skip


def _vae_config(entries: Mapping[str, Entry]) -> dict[str, Any]:
    """The release's VAE config with the widths and depths that the shapes tell."""
    if "decoder.time_embedder.timestep_embedder.linear_1.weight" not in entries:
        release = "0.9.0-2b"
    else:
        release = "0.9.5-2b" if "encoder.down_blocks.0.downsamplers.0.conv.conv.weight" in entries else "0.9.1-2b"
    config = _load(release, "vae")
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
    )  # fmt: skip


# ---------------------------------------------------------------- variants


def _load(variant: str, name: str) -> dict[str, Any]:
    return json.loads((VARIANTS / variant / f"{name}.json").read_text(encoding="utf-8"))


def _match(transformer: Mapping[str, Any], vae: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """(variant, its defaults): the shipped variant of this depth, width and VAE whose words occur most in the file's name."""
    size = lambda c: (c["num_layers"], c["num_attention_heads"] * c["attention_head_dim"])
    kind = lambda c: (c["timestep_conditioning"], "LTXVideo095DownBlock3D" in c.get("down_block_types", ()))
    variants = sorted(p.name for p in VARIANTS.iterdir() if p.is_dir())
    same_vae = [v for v in variants if kind(_load(v, "vae")) == kind(vae)]
    same = [v for v in same_vae if size(_load(v, "transformer")) == size(transformer)] or same_vae
    told = lambda v: (
        sum(word in name.lower() for word in v.split("-")) - ("distilled" in v and "distilled" not in name.lower())
    )
    best = max(same, key=told)
    return best, _load(best, "defaults")


def _tuples(defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {k: tuple(v) if isinstance(v, list) else v for k, v in defaults.items()}
