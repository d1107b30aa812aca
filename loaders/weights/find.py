"""From the files that people have to a Bundle: one file or folder for the network, others for what it lacks."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ..messages import CheckpointError, both, message
from ..parts import Recipe
from .bundle import FOLDER, Bundle, Weights, files_of, frozen, match, read_bundle, shipped_config
from .configs import load_config
from .encoders import KINDS, read_encoder, width, with_eye
from .entry import Entry, strip_prefix
from .kinds import kind_of
from .safetensors import read_file

Files = Mapping[str, Path]
NETWORK_PREFIXES = ("model.diffusion_model.", "model.model.", "diffusion_model.", "transformer.")
VAE_PREFIXES = ("vae.", "first_stage_model.")
PICTURE_PREFIXES = ("conditioner.embedders.0.open_clip.model.",)
# part -> kind of encoder that a family's networks need beside them
ENCODERS: Mapping[str, Mapping[str, str]] = {
    "wan": {"text_encoder": "umt5", "image_encoder": "vision"}, "hunyuan_video": {"text_encoder": "llama", "text_encoder_2": "clip", "image_encoder": "llava"},
    "cogvideox": {"text_encoder": "t5"}, "mochi": {"text_encoder": "t5"}, "svd": {"image_encoder": "vision"}, "ltx": {"text_encoder": "t5"},
}  # fmt: skip
# families whose picture encoder is for some variants only -> the key of the network's config that says so
_EYES = {"wan": "image_dim", "hunyuan_video": "image_condition_type"}
# key of the network's config -> the encoder whose width it is
_WIDTHS = {"text_dim": "text_encoder", "text_embed_dim": "text_encoder", "caption_channels": "text_encoder", "pooled_projection_dim": "text_encoder_2", "image_dim": "image_encoder"}  # fmt: skip
WORDS = {
    "text_encoder": message("part_text_encoder"),
    "text_encoder_2": message("part_text_encoder_2"),
    "image_encoder": message("part_image_encoder"),
    "vae": message("part_vae"),
}
VAES = {
    "ltx": message("vae_ltx"),
    "wan": message("published_as", files=message("vae_wan_file"), publisher=both("Comfy-Org/Wan_2.1_ComfyUI_repackaged", "Wan_2.2_ComfyUI_Repackaged")),
    "hunyuan_video": message("published_as", files="hunyuan_video_vae_bf16.safetensors (0.5 GB)", publisher="Comfy-Org/HunyuanVideo_repackaged"),
    "cogvideox": message("published_as", files=message("vae_cogvideox_file"), publisher="zai-org/CogVideoX-5b"),
    "mochi": message("vae_mochi"),
    "svd": message("vae_svd"),
}  # fmt: skip


@dataclass(frozen=True)
class Source:
    """One file with a network: what it is, and what else it holds."""

    variant: str
    network: Weights
    inside: Mapping[str, Weights]  # parts beside the network


def read_model(recipe: Recipe, family: str, title: str, kinds: Mapping[str, tuple[str, ...]]) -> Bundle:
    """The checkpoint of a recipe with all its parts; raises CheckpointError for what does not fit together."""
    files, main = recipe.files, next(iter(kinds))
    if files["checkpoint"].is_dir():
        bundle = read_bundle(files["checkpoint"], family, title, kinds)
    else:
        source = read_source(files["checkpoint"], family, title)
        defaults = {k: frozen(v) for k, v in shipped_config(family, source.variant, "defaults").items()}
        scheduler = shipped_config(family, source.variant, "scheduler")
        bundle = Bundle(source.variant, {main: source.network, **source.inside}, scheduler, {}, defaults)
    parts = {part: read_encoder(files[part], kind) for part, kind in ENCODERS[family].items() if _is_file(files, part)}
    if _is_file(files, "vae"):
        parts["vae"] = _scaled(read_vae(files["vae"], family, title), bundle.variant, family)
    bundle = replace(bundle, parts=_with_sight({**bundle.parts, **parts}, family, bundle.parts[main].config))
    for part, kind in ENCODERS[family].items():
        if part not in bundle.parts and _wants(
            family, part, bundle.parts[main].config, bundle.parts.get("text_encoder")
        ):
            raise CheckpointError(
                message("holds_no_part", file=files["checkpoint"].name, part=WORDS[part]),
                message("put_and_choose", advice=KINDS[kind].advice),
            )
    if "vae" not in bundle.parts:
        raise CheckpointError(
            message("holds_no_vae", file=files["checkpoint"].name), message("put_vae_and_choose", vae=VAES[family])
        )
    _check_widths(bundle, main, files)
    for weights in bundle.parts.values():  # a VAE that does not fit is told now, not after an hour of sampling
        weights.check()
    return bundle


def _wants(family: str, part: str, config: Mapping[str, Any], text_encoder: Weights | None = None) -> bool:
    """Whether a network of this config needs the part; a text encoder that sees needs no eye."""
    if part != "image_encoder" or family not in _EYES:
        return True
    seeing = text_encoder is not None and text_encoder.kind.startswith("Llava")
    return bool(config.get(_EYES[family])) and not seeing


def _with_sight(parts: dict[str, Weights], family: str, config: Mapping[str, Any]) -> dict[str, Weights]:
    """The parts, Llava's two halves as the one text encoder that they are."""
    if ENCODERS[family].get("image_encoder") != "llava" or "image_encoder" not in parts:
        return parts
    eye = parts.pop("image_encoder")
    if _wants(family, "image_encoder", config, parts["text_encoder"]):
        parts["text_encoder"] = with_eye(parts["text_encoder"], eye)
    return parts


def _scaled(vae: Weights, variant: str, family: str) -> Weights:
    """A VAE with the scale of its latents, which leaves no trace in shapes and is the variant's."""
    if not (FOLDER / family / "variants" / variant).is_dir():
        return vae
    told = shipped_config(family, variant, "vae")
    scale: dict[str, Any] = {key: told[key] for key in ("scaling_factor", "invert_scale_latents") if key in told}
    return Weights({**vae.config, **scale}, vae.entries)


def _is_file(files: Files, part: str) -> bool:
    return part in files and files[part].is_file()


def read_source(file: Path, family: str, title: str) -> Source:
    """What a single file holds, from its header alone."""
    module = import_module(f"..families.{family}.checkpoint", __package__)
    entries, metadata = read_file(file)
    beside = {
        k for k in entries if k.startswith((*VAE_PREFIXES, "conditioner.", "cond_stage_model.", "text_encoders."))
    }
    try:
        own = strip_prefix({k: e for k, e in entries.items() if k not in beside}, *NETWORK_PREFIXES)
        network = module.transformer(own, {**metadata, "file": file.name})
        inside = {"vae": _inside(entries, VAE_PREFIXES, module.vae)}
        if hasattr(module, "image_encoder"):
            inside["image_encoder"] = _inside(entries, PICTURE_PREFIXES, lambda found: module.image_encoder(found, {}))
    except KeyError as error:
        raise CheckpointError(
            message("file_lacks", file=file.name, key=error.args[0]), message("download_again")
        ) from error
    if network is None:
        raise CheckpointError(
            message("wrong_family", file=file.name, kind=kind_of(entries), title=title), message("use_its_loader")
        )
    choose = getattr(module, "variant", None)
    variant = choose(network.config, file.name) if choose else match(family, network.config, file.name)[0]
    return Source(variant, network, {part: weights for part, weights in inside.items() if weights})


def _inside(entries: Mapping[str, Entry], prefixes: tuple[str, ...], read: Any) -> Weights | None:
    found = {k: e for k, e in entries.items() if k.startswith(prefixes)}
    return read(strip_prefix(found, *prefixes)) if found else None


def read_vae(file: Path, family: str, title: str) -> Weights:
    """The VAE of a file, or of an all-in-one file."""
    entries, _ = read_file(file)
    weights = import_module(f"..families.{family}.checkpoint", __package__).vae(strip_prefix(entries, *VAE_PREFIXES))
    if weights is None:
        raise CheckpointError(
            message("wrong_vae", file=file.name, kind=kind_of(entries), title=title),
            message("put_vae", vae=VAES[family]),
        )
    return weights


def _wanted_channels(network: Mapping[str, Any]) -> int:
    return network.get("out_channels") or network["in_channels"]


def _channels(vae: Mapping[str, Any]) -> int:
    return vae.get("z_dim") or vae["latent_channels"]


def _check_widths(bundle: Bundle, main: str, files: Files) -> None:
    """Text encoders and the VAE must be as wide as the network expects."""
    config, name = bundle.parts[main].config, files["checkpoint"].name
    for key, part in _WIDTHS.items():
        if config.get(key) and part in bundle.parts and width(bundle.parts[part]) != config[key]:
            told = files[part].name if part in files else message("its_part", part=WORDS[part])
            raise CheckpointError(
                message(
                    "wrong_width",
                    file=told,
                    width=width(bundle.parts[part]),
                    checkpoint=name,
                    part=WORDS[part],
                    wanted=config[key],
                ),
                message("choose_trained_encoder"),
            )
    if "vae" in bundle.parts and _wanted_channels(config) != (channels := _channels(bundle.parts["vae"].config)):
        told = files["vae"].name if "vae" in files else message("its_part", part=WORDS["vae"])
        raise CheckpointError(
            message("wrong_channels", file=told, channels=channels, checkpoint=name, wanted=_wanted_channels(config)),
            message("choose_its_vae"),
        )


# ---------------------------------------------------------------- what is missing


def complete(family: str, title: str, chosen: Files, offered: Mapping[str, Files], tokenizers: Files) -> dict[str, Path]:  # fmt: skip
    """The files of a Recipe: the chosen ones, and for each part that is missing the only one of the offered that fits.

    chosen: "checkpoint" and whatever else a person chose; offered: part -> what lies in its folder, by the name that is
    shown; tokenizers: kind of encoder -> its tokenizer's folder. Raises CheckpointError where none or several fit.
    """
    source = chosen["checkpoint"]
    files = {**(files_of(source) if source.is_dir() else {}), **chosen}
    if source.is_dir():
        config = _network_config(source)
        for part, kind in ENCODERS[family].items():
            seeing = kind == "llava" and files.get("text_encoder", source).is_dir()
            if not (source / part).is_dir() and part not in files and _wants(family, part, config) and not seeing:
                with suppress(CheckpointError):  # the folder's own reader knows better what is wrong with it
                    files[part] = find_encoder(part, kind, 0, source, offered.get(part, {}))
            if part.startswith("text_encoder"):
                files.setdefault(
                    "tokenizer" + part.removeprefix("text_encoder"), tokenizers.get(kind, files.get(part, source))
                )
        return files
    read = read_source(source, family, title)
    try:
        return files | _beside(read, family, source, files, offered, tokenizers)
    except CheckpointError:
        read.network.check()  # that the file is damaged goes before what is missing beside it
        raise


def _beside(read: Source, family: str, source: Path, chosen: Files, offered: Mapping[str, Files], tokenizers: Files) -> dict[str, Path]:  # fmt: skip
    """The encoders, tokenizers and the VAE that a single file lacks."""
    config, files = read.network.config, {**chosen}
    for part, kind in ENCODERS[family].items():
        if part in read.inside or not _wants(family, part, config):
            continue
        if part not in files:
            wanted = next((config[key] for key, at in _WIDTHS.items() if at == part and config.get(key)), 0)
            files[part] = find_encoder(part, kind, wanted, source, offered.get(part, {}))
        if part.startswith("text_encoder"):
            files["tokenizer" + part.removeprefix("text_encoder")] = tokenizers.get(kind, files[part])
    if "vae" not in read.inside and "vae" not in files:
        found = {n: f for n, f in offered.get("vae", {}).items() if _fits_vae(f, family, _wanted_channels(config))}
        files["vae"] = _only("vae", source, found, message("into_vae", vae=VAES[family]))
    return files


def _network_config(folder: Path) -> Mapping[str, Any]:
    """The config of a diffusers folder's network; empty where it is damaged, which the folder's reader tells."""
    with suppress(CheckpointError):
        return load_config(folder / ("transformer" if (folder / "transformer").is_dir() else "unet"))
    return {}


def find_encoder(part: str, kind: str, wanted: int, source: Path, offered: Files) -> Path:
    """The only offered file that is an encoder of this kind and width (0: of any)."""
    return _only(part, source, {n: f for n, f in offered.items() if _fits(f, kind, wanted)}, KINDS[kind].advice)


def _only(part: str, source: Path, found: Files, advice: str) -> Path:
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise CheckpointError(
            message("several_fit", part=part, files=", ".join(found), checkpoint=source.name), message("choose_one")
        )
    raise CheckpointError(
        message("none_fits", file=source.name, part=WORDS[part]), message("put_or_choose", advice=advice, part=part)
    )


def _fits(file: Path, kind: str, wanted: int) -> bool:
    """Whether a file is an encoder of this kind and width; a damaged one is not."""
    try:
        return wanted in (0, width(read_encoder(file, kind)))
    except (CheckpointError, OSError):
        return False


def _fits_vae(file: Path, family: str, channels: int) -> bool:
    try:
        return _channels(read_vae(file, family, "").config) == channels
    except (CheckpointError, OSError, KeyError):
        return False
