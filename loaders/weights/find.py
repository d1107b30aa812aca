"""From the files that people have to a Bundle: one file or folder for the network, others for what it lacks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from ..messages import CheckpointError, inputs_named, message
from ..parts import Config, Recipe
from ..spec import Spec
from .bundle import Bundle, Source, files_of, read_diffusers
from .configs import load_config
from .encoders import encoders_inside, merge_vision_tower, output_width, projected_width, read_encoder
from .entry import Entry, describing, strip_prefix
from .format import CheckpointFormat, Weights
from .kinds import NETWORK_PREFIXES as NETWORK_PREFIXES
from .kinds import kind_of, relative_of
from .safetensors import read_file
from .shards import is_further_shard

Files = Mapping[str, Path]
VAE_PREFIXES = ("vae.", "first_stage_model.")
IMAGE_ENCODER_PREFIXES = ("conditioner.embedders.0.open_clip.model.",)
_OTHER_PREFIXES = ("conditioner.", "cond_stage_model.", "text_encoders.")
_VAE_SCALES = ("scaling_factor", "invert_scale_latents")  # leave no trace in shapes
# key of the network's config -> the encoder whose width it is
_WIDTHS = {
    "text_dim": "text_encoder",
    "text_embed_dim": "text_encoder",
    "caption_channels": "text_encoder",
    "pooled_projection_dim": "text_encoder_2",
    "image_dim": "image_encoder",
}
_PROJECTIONS = {"cross_attention_dim": "image_encoder"}  # the same, of what its last projection makes
WORDS = {
    "text_encoder": message("part_text_encoder"),
    "text_encoder_2": message("part_text_encoder_2"),
    "image_encoder": message("part_image_encoder"),
    "vae": message("part_vae"),
}


def read_model(recipe: Recipe, form: CheckpointFormat) -> Bundle:
    """The checkpoint of a recipe with all its parts; raises CheckpointError for what does not fit together."""
    files = recipe.files
    checkpoint = files["checkpoint"]
    others = {part: files[part] for part in (*form.spec.encoders, "vae") if part in files}
    elsewhere = {part: file for part, file in others.items() if file.exists() and file != checkpoint / part}
    source = read_diffusers(checkpoint, form, elsewhere) if checkpoint.is_dir() else read_source(checkpoint, form)
    parts = {**source.parts, **{part: _read_part(file, part, form) for part, file in elsewhere.items()}}
    parts = _merged(parts, form)
    _check_complete(parts, checkpoint, form)
    bundle = source.bundle(parts, form)
    if "vae" in elsewhere:
        parts["vae"] = _scaled(parts["vae"], bundle.variant, form.spec)
    _check_widths(parts, form, files)
    for weights in parts.values():  # what does not fit is refused now, not after an hour of sampling
        weights.check()
    return replace(bundle, parts=parts)


def _read_part(file: Path, part: str, form: CheckpointFormat) -> Weights:
    """A part that comes from another file or folder than the network."""
    if part == "vae":
        return read_vae(file, form)
    return read_encoder(file, form.spec.encoders[part], form.spec.encoder_files[part])


def _needed(spec: Spec, part: str, config: Config, text_encoder: Weights | None = None) -> bool:
    """Whether a network of this config needs the part; a text encoder that sees needs no image encoder."""
    if part != "image_encoder" or not spec.image_encoder_key:
        return True
    sees = text_encoder is not None and text_encoder.kind.startswith("Llava")
    return bool(config.get(spec.image_encoder_key)) and not sees


def _merged(parts: dict[str, Weights], form: CheckpointFormat) -> dict[str, Weights]:
    """The parts, Llava's two halves as the one text encoder that they are."""
    if form.spec.encoders.get("image_encoder") != "llava" or not {"image_encoder", "text_encoder"} <= parts.keys():
        return parts
    tower, language = parts["image_encoder"], parts["text_encoder"]
    rest = {part: weights for part, weights in parts.items() if part != "image_encoder"}
    if _needed(form.spec, "image_encoder", parts[form.network].config, language):
        rest["text_encoder"] = merge_vision_tower(language, tower)
    return rest


def _check_complete(parts: Mapping[str, Weights], checkpoint: Path, form: CheckpointFormat) -> None:
    """Raise CheckpointError for an encoder or a VAE that is missing."""
    for part in form.spec.encoders:
        config = parts[form.network].config
        if part not in parts and _needed(form.spec, part, config, parts.get("text_encoder")):
            rule = message("holds_no_part", file=checkpoint.name, part=WORDS[part])
            raise CheckpointError(rule, message("put_and_choose", advice=form.spec.encoder_files[part]))
    if "vae" not in parts:
        remedy = message("put_vae_and_choose", vae=form.spec.vae)
        raise CheckpointError(message("holds_no_vae", file=checkpoint.name), remedy)


def _scaled(vae: Weights, variant: str, spec: Spec) -> Weights:
    """A VAE with the scale of its latents, which is the variant's."""
    if variant not in spec.variants():
        return vae
    config = spec.config(variant, "vae")
    return replace(vae, config={**vae.config, **{key: config[key] for key in _VAE_SCALES if key in config}})


def read_source(file: Path, form: CheckpointFormat) -> Source:
    """What a single file holds, from its header alone."""
    entries, metadata = read_file(file)
    others = (*VAE_PREFIXES, *_OTHER_PREFIXES)
    with describing(file, form.spec.title):
        own = strip_prefix({k: e for k, e in entries.items() if not k.startswith(others)}, *NETWORK_PREFIXES)
        if relative := relative_of(own):
            raise CheckpointError(message("is_relative", file=file.name, title=relative.title), relative.remedy)
        network = form.transformer(own, {**metadata, "file": file.name})
        inside = {"vae": _inside(entries, VAE_PREFIXES, form.vae)}
        if form.image_encoder is not None:
            inside["image_encoder"] = _inside(entries, IMAGE_ENCODER_PREFIXES, form.image_encoder)
        inside |= encoders_inside(file, entries, {k: v for k, v in form.spec.encoders.items() if k not in inside})
    if network is None:
        raise _no_network(file, own, form.spec)
    return Source(file, {form.network: network, **{part: weights for part, weights in inside.items() if weights}})


def _no_network(file: Path, entries: Mapping[str, Entry], spec: Spec) -> CheckpointError:
    """Why a file holds no network of this family."""
    kind = kind_of(entries)
    if getattr(kind, "key", "") == "kind_unknown" and entries:
        names = ", ".join(sorted(entries)[:3]) + (", ..." if len(entries) > 3 else "")
        rule = message("unknown_file", file=file.name, count=len(entries), names=names)
        return CheckpointError(rule, message("choose_model_of", title=spec.title))
    if kind == spec.file_title:
        return CheckpointError(message("holds_part", file=file.name, title=kind), message("download_again"))
    rule = message("wrong_family", file=file.name, kind=kind, title=spec.title)
    return CheckpointError(rule, message("use_its_loader"))


def _inside(
    entries: Mapping[str, Entry], prefixes: tuple[str, ...], read: Callable[[Mapping[str, Entry]], Weights | None]
) -> Weights | None:
    """What `read` makes of the tensors under a prefix; None where there are none."""
    inside = {k: e for k, e in entries.items() if k.startswith(prefixes)}
    return read(strip_prefix(inside, *prefixes)) if inside else None


def read_vae(file: Path, form: CheckpointFormat) -> Weights:
    """The VAE of a file, or of an all-in-one file."""
    entries, _ = read_file(file)
    with describing(file, form.spec.title):
        weights = form.vae(strip_prefix(entries, *VAE_PREFIXES))
        if weights is None:
            rule = message("wrong_vae", file=file.name, kind=kind_of(entries), title=form.spec.title)
            raise CheckpointError(rule, message("put_vae", vae=form.spec.vae))
    return weights


def _network_channels(network: Config) -> int:
    """Channels of the latents that a network of this config makes."""
    return network.get("out_channels") or network["in_channels"]


def _vae_channels(vae: Config) -> int:
    return vae.get("z_dim") or vae["latent_channels"]


def _check_widths(parts: Mapping[str, Weights], form: CheckpointFormat, files: Files) -> None:
    """Raise CheckpointError unless text encoders and the VAE are as wide as the network expects."""
    config, checkpoint = parts[form.network].config, files["checkpoint"].name
    for key, part in {**_WIDTHS, **_PROJECTIONS}.items():
        if not config.get(key) or part not in parts:
            continue
        width = (projected_width if key in _PROJECTIONS else output_width)(parts[part])
        if width not in (0, config[key]):
            rule = message(
                "wrong_width",
                file=_named(files, part),
                width=width,
                checkpoint=checkpoint,
                part=WORDS[part],
                wanted=config[key],
            )
            raise CheckpointError(rule, message("choose_trained_encoder"))
    wanted, channels = _network_channels(config), _vae_channels(parts["vae"].config)
    if wanted != channels:
        file = _named(files, "vae")
        rule = message("wrong_channels", file=file, channels=channels, checkpoint=checkpoint, wanted=wanted)
        raise CheckpointError(rule, message("choose_its_vae"))


def _named(files: Files, part: str) -> str:
    """The file of a part, or that it is the checkpoint's own."""
    return files[part].name if part in files else message("its_part", part=WORDS[part])


# ---------------------------------------------------------------- what is missing


def complete(form: CheckpointFormat, chosen: Files, offered: Mapping[str, Files], tokenizers: Files) -> dict[str, Path]:
    """The files of a Recipe: the chosen ones, and for each part that is missing the only one of the offered that fits.

    chosen: "checkpoint" and whatever else a person chose; offered: part -> what lies in its folder, by the name that is
    shown; tokenizers: kind of encoder -> its tokenizer's folder. Raises CheckpointError where none or several fit.
    """
    checkpoint = chosen["checkpoint"]
    with describing(checkpoint, form.spec.title):
        if checkpoint.is_dir():
            return _complete_folder(form.spec, {**files_of(checkpoint), **chosen}, offered, tokenizers)
        source = read_source(checkpoint, form)
        try:
            return _complete_file(form, source, dict(chosen), offered, tokenizers)
        except CheckpointError:
            source.parts[form.network].check()  # that the file is damaged goes before what is missing beside it
            raise


def _complete_folder(
    spec: Spec, files: dict[str, Path], offered: Mapping[str, Files], tokenizers: Files
) -> dict[str, Path]:
    """The encoders and tokenizers that a diffusers folder lacks."""
    folder = files["checkpoint"]
    config = _network_config(folder)
    for part, kind in spec.encoders.items():
        sees = kind == "llava" and files.get("text_encoder", folder).is_dir()
        if not (folder / part).is_dir() and part not in files and _needed(spec, part, config) and not sees:
            with suppress(CheckpointError):  # the folder's own reader knows better what is wrong with it
                files[part] = find_encoder(spec, part, 0, folder, offered.get(part, {}))
        if part.startswith("text_encoder"):
            tokenizer = tokenizers.get(kind, files.get(part, folder))
            files.setdefault("tokenizer" + part.removeprefix("text_encoder"), tokenizer)
    return files


def _complete_file(
    form: CheckpointFormat, source: Source, files: dict[str, Path], offered: Mapping[str, Files], tokenizers: Files
) -> dict[str, Path]:
    """The encoders, tokenizers and the VAE that a single file lacks."""
    config = source.parts[form.network].config
    for part, kind in form.spec.encoders.items():
        if not _needed(form.spec, part, config) or (part.startswith("image") and part in source.parts):
            continue
        if part not in files and part in source.parts:
            files["tokenizer" + part.removeprefix("text_encoder")] = tokenizers.get(kind, source.path)
            continue
        if part not in files:
            wanted = next((config[key] for key, at in _WIDTHS.items() if at == part and config.get(key)), 0)
            files[part] = find_encoder(form.spec, part, wanted, source.path, offered.get(part, {}))
        if part.startswith("text_encoder"):
            files["tokenizer" + part.removeprefix("text_encoder")] = tokenizers.get(kind, files[part])
    if "vae" not in source.parts and "vae" not in files:
        channels = _network_channels(config)
        fitting = {name: file for name, file in offered.get("vae", {}).items() if _fits_vae(file, form, channels)}
        fitting = dict(_whole(fitting, lambda file: read_vae(file, form)))
        files["vae"] = _only("vae", source.path, fitting, message("into_vae", vae=form.spec.vae))
    return files


def _network_config(folder: Path) -> Config:
    """The config of a diffusers folder's network; empty where it is damaged, which the folder's reader tells."""
    with suppress(CheckpointError):
        return load_config(folder / ("transformer" if (folder / "transformer").is_dir() else "unet"))
    return {}


def find_encoder(spec: Spec, part: str, wanted: int, source: Path, offered: Files) -> Path:
    """The only offered file that is the encoder of this part, of this width (0: of any)."""
    fitting = {name: file for name, file in offered.items() if _fits(file, spec.encoders[part], wanted)}
    whole = _whole(fitting, lambda file: read_encoder(file, spec.encoders[part]))
    return _only(part, source, whole, spec.encoder_files[part])


def _whole(fitting: Files, read: Callable[[Path], Weights]) -> Files:
    """Of several files that could be meant, those whose every tensor fits; what is wrong with the only one is said when
    it is read."""
    if len(fitting) < 2:
        return fitting
    return {name: file for name, file in fitting.items() if _is_whole(file, read)}


def _is_whole(file: Path, read: Callable[[Path], Weights]) -> bool:
    """Whether every tensor of a file fits; one that is damaged is named in the log."""
    try:
        read(file).check()
    except CheckpointError as error:
        _log_damaged(file, error)
        return False
    return True


def _only(part: str, source: Path, fitting: Files, advice: str) -> Path:
    """The only file that fits; raises CheckpointError for none and for several."""
    if len(fitting) == 1:
        return next(iter(fitting.values()))
    if fitting:
        rule = message("several_fit", part=inputs_named(part), files=", ".join(fitting), checkpoint=source.name)
        raise CheckpointError(rule, message("choose_one"))
    remedy = message("put_or_choose", advice=advice, part=inputs_named(part))
    raise CheckpointError(message("none_fits", file=source.name, part=WORDS[part]), remedy)


# what is said of a file that is no other model's, but damaged
_DAMAGED = {
    "damaged_size",
    "file_lacks",
    "file_large",
    "file_short",
    "file_strange",
    "file_unreadable",
    "gguf_damaged",
    "header_damaged",
    "header_gaps",
    "header_sizes",
    "json_file",
    "no_plain_file",
}


def _log_damaged(file: Path, error: CheckpointError) -> None:
    """Say in the log that a file was passed over because it is damaged; of other models' files there is nothing to
    say."""
    if getattr(error.rule, "key", "") in _DAMAGED:
        logging.warning("Reelwire: %s", message("passed_over", file=file.name, error=error.rule))


def _fits(file: Path, kind: str, wanted: int) -> bool:
    """Whether a file is an encoder of this kind and width; a damaged one is not, and of several shards the first
    stands for all."""
    if is_further_shard(file):
        return False
    try:
        with describing(file, kind):
            return wanted in (0, output_width(read_encoder(file, kind)))
    except CheckpointError as error:
        _log_damaged(file, error)
        return False


def _fits_vae(file: Path, form: CheckpointFormat, channels: int) -> bool:
    if is_further_shard(file):
        return False
    try:
        with describing(file, form.spec.title):
            return _vae_channels(read_vae(file, form).config) == channels
    except CheckpointError as error:
        _log_damaged(file, error)
        return False
