"""A checkpoint with all its parts, wherever they came from; here: diffusers folders, sharded or not, with strict
keys."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..messages import CheckpointError, either, message
from ..parts import Config, Part
from .allowed import Shapes, allowed, table, wrong_entry
from .configs import load_config
from .entry import rename
from .format import CheckpointFormat, Weights, class_named, restricted
from .modules import without_init
from .safetensors import read_folder

# names of published files -> names of transformers 5's classes
_RENAMED = {
    "CLIPTextModel": {r"^text_model\.": ""},
    "CLIPVisionModel": {r"^vision_model\.": ""},
    "CLIPVisionModelWithProjection": {},
    "LlamaModel": {r"^model\.": ""},
    "LlavaForConditionalGeneration": {
        r"^language_model\.model\.": "model.language_model.",
        r"^language_model\.lm_head": "lm_head",
        r"^(vision_tower|multi_modal_projector)\.": r"model.\1.",
        r"\.vision_tower\.vision_model\.": ".vision_tower.",
    },
}
_SHIFTING = "use_dynamic_shifting"
_PRESET = ("width", "height", "frames", "sampler", "steps", "guidance")  # what the preset "default" must say
_COPIES = ("encoder.embed_tokens.weight",)  # of T5's shared.weight, and not in every file


def blank(part: Part, dtype: torch.dtype) -> nn.Module:
    """The module of a part on the meta device: shapes without numbers, all in `dtype`."""
    with torch.device("meta"), without_init():
        module = Weights(part.config, {}).module()
    return module.requires_grad_(False).eval().to_empty(device="meta").type(dtype)


@dataclass(frozen=True)
class Bundle:
    """The parts of one checkpoint, and what is to be known of them.

    variant: the published one, or the folder's name where the folder brings its own defaults.
    parts: name -> weights, the network first.
    scheduler: the config of its scheduler.
    pipeline: model_index.json of a folder; empty for single files.
    defaults: of the variant, or of the folder's reelwire.json.
    config_notes: on entries of the last three that are not used.
    """

    variant: str
    parts: Mapping[str, Weights]
    scheduler: Config
    pipeline: Config
    defaults: Config
    config_notes: tuple[str, ...] = ()

    @property
    def notes(self) -> tuple[str, ...]:
        """On entries of its configs that are not used."""
        parts = tuple(note for weights in self.parts.values() for note in weights.notes)
        return (*parts, *self.config_notes)

    def make(self, dtype: torch.dtype, storage: str = "") -> dict[str, Part]:
        """The parts for a VideoModel. While a network works, the encoders and the other expert give their room away."""
        networks = [name for name in self.parts if name.startswith(("transformer", "unet"))]
        large = [*networks, *(name for name in self.parts if name.endswith("encoder") or "encoder_" in name)]
        others = lambda name: tuple(n for n in large if n != name) if name in networks else ()
        small = {*networks, *(name for name in self.parts if name.startswith("text_encoder"))}
        load = lambda name: partial(self.parts[name].build, dtype, name in small, storage if name in networks else "")
        return {name: weights.part(name, load(name), others(name)) for name, weights in self.parts.items()}


@dataclass(frozen=True)
class Source:
    """What one file or folder holds.

    parts: the network first.
    index: model_index.json; None for a single file.
    notes: on what it says and nobody reads.
    """

    path: Path
    parts: Mapping[str, Weights]
    index: Config | None = None
    notes: tuple[str, ...] = ()

    def bundle(self, parts: Mapping[str, Weights], form: CheckpointFormat) -> Bundle:
        """These parts with the variant that they are, and what is known of it."""
        configs = {part: weights.config for part, weights in parts.items()}
        if self.index is None:
            choose = form.variant or partial(closest_variant, form)
            variant = choose(configs, self.path.name)
            published = form.spec.config(variant, "defaults")
            return Bundle(variant, parts, form.spec.config(variant, "scheduler"), {}, _frozen_values(published))
        defaults: Config
        own, notes = self.path / "reelwire.json", self.notes
        if own.exists():
            variant = self.path.name
            defaults, more_notes = _read_defaults(self.path, form, self.parts[form.network])
            notes += more_notes
        else:
            choose = form.folder_variant or partial(closest_variant, form)
            variant = choose(configs, self.path.name)
            more = form.folder_defaults(self.index) if form.folder_defaults else {}
            defaults = {**form.spec.config(variant, "defaults"), **more}
        scheduler, more_notes = _read_scheduler(self.path, form)
        return Bundle(variant, parts, scheduler, self.index, _frozen_values(defaults), (*notes, *more_notes))


def _read_scheduler(folder: Path, form: CheckpointFormat) -> tuple[Config, tuple[str, ...]]:
    """The scheduler's config of a folder, and notes on what nobody reads. Only pipelines that know a clip's shift of
    noise can have it shifted by its size. diffusers itself writes an infinity, for DPM-Solver."""
    file = load_config(folder / "scheduler", "scheduler_config.json", infinite=True)
    scheduler, notes = allowed(file, table("scheduler"), Shapes(), file.name)
    published = (form.spec.config(variant, "scheduler") for variant in form.spec.variants())
    if scheduler.get(_SHIFTING) and not any(config.get(_SHIFTING) for config in published):
        raise wrong_entry(file.name, _SHIFTING, True, message("config_false", title=form.spec.title))
    return scheduler, notes


def _read_defaults(folder: Path, form: CheckpointFormat, network: Weights) -> tuple[Config, tuple[str, ...]]:
    """The reelwire.json of a folder, and notes on what nobody reads: the same as the variants of its family have."""
    file, rules = load_config(folder, "reelwire.json"), table("defaults", "defaults")
    shipped = [form.spec.config(variant, "defaults").keys() for variant in form.spec.variants()]
    known = {*rules.entries} & {"rgb", *(key for keys in shipped for key in keys)}
    entries = {key: rule for key, rule in rules.entries.items() if key in known}
    needed = tuple(sorted(set.intersection(*map(set, shipped))))
    shapes = Shapes.of({key: entry.shape for key, entry in network.entries.items()})
    defaults, notes = allowed(file, replace(rules, entries=entries, needed=needed), shapes, file.name)
    usual = defaults["presets"].get("default", {})
    if lacking := [name for name in _PRESET if name not in usual]:
        rule = message("config_lacks", key=f"presets.default.{lacking[0]}")
        raise CheckpointError(message("config_disagrees", file=file.name, rule=rule), message("download_again"))
    return defaults, notes


def read_diffusers(folder: Path, form: CheckpointFormat, without: Collection[str] = ()) -> Source:
    """A diffusers folder by its configs and headers, but for the parts that come from elsewhere.

    Raises CheckpointError for anything else than a folder of this family.
    """
    title = form.spec.title
    if not folder.is_dir():
        raise CheckpointError(message("single_file", file=folder.name), message("read_from_folder", title=title))
    index, classes, notes = _read_index(folder)
    if classes.get(form.network) not in form.classes[form.network]:
        raise CheckpointError(
            message("wrong_folder", folder=folder.name, kind=index.get("_class_name"), title=title),
            message("use_its_loader"),
        )
    parts = {
        name: read_part(
            folder / name, form.classes[name], partial(_wrong_part, folder, name, form), _published(form, name)
        )
        for name in form.classes
        if name in classes and name not in without
    }
    return Source(folder, parts, index, notes)


def _wrong_part(folder: Path, name: str, form: CheckpointFormat, kind: str) -> CheckpointError:
    needed, title = either(*form.classes[name]), form.spec.title
    rule = message("wrong_part", folder=folder.name, part=name, kind=kind, title=title, needed=needed)
    return CheckpointError(rule, message("download_folder"))


def _published(form: CheckpointFormat, part: str) -> list[Config]:
    """The configs of a part that the family ships."""
    if part not in (form.network, "transformer_2", "vae"):
        return []
    name = "vae" if part == "vae" else form.network
    return [form.spec.config(variant, name) for variant in form.spec.variants()]


def _read_index(folder: Path) -> tuple[Config, dict[str, str], tuple[str, ...]]:
    """What a model_index.json says of the pipeline, the class of each part that it names, and notes on what nobody
    reads."""
    index = load_config(folder, "model_index.json")
    parts = {name: value for name, value in index.items() if isinstance(value, list)}
    for name, value in parts.items():
        if len(value) != 2 or not all(item is None or isinstance(item, str) for item in value):
            raise wrong_entry(index.name, name, value, message("config_part"))
    rest = {name: value for name, value in index.items() if name not in parts and value is not None}
    pipeline, notes = allowed(rest, table("pipeline"), Shapes(), index.name)
    return pipeline, {name: value[1] for name, value in parts.items() if value[1]}, notes


def read_part(
    folder: Path,
    kinds: Collection[str],
    refuse: Callable[[str], CheckpointError],
    published: Collection[Config] = (),
) -> Weights:
    """One part of a diffusers folder, of one of these classes; raises what `refuse` makes of the name of another.

    published: configs of such parts, whose words may stand in its own.
    """
    config = load_config(folder)
    kind = class_named(config)
    if kind not in kinds:
        raise refuse(kind)
    renamed = {rename(key, _RENAMED.get(kind, {})): entry for key, entry in read_folder(folder).items()}
    entries = {key: entry for key, entry in renamed.items() if key not in _COPIES}
    return restricted(config, kind, entries, published)


def read_preprocessor(folder: Path) -> Config:
    """What a folder says of the pictures that CLIP sees: what its image processor is made with."""
    file = load_config(folder, "preprocessor_config.json")
    return allowed(file, table("preprocessor", "CLIPImageProcessor"), Shapes(), file.name)[0]


def closest_variant(form: CheckpointFormat, configs: Mapping[str, Config], name: str) -> str:
    """The shipped variant whose network agrees most, then whose words are most in the name."""
    config = configs[form.network]

    def agreement(variant: str) -> tuple[int, int]:
        shipped = form.spec.config(variant, form.network)
        words = sum(word in name.lower() for word in variant.split("-"))
        return sum(frozen(config.get(k)) == frozen(v) for k, v in shipped.items()), words

    return max(form.spec.variants(), key=agreement)


def frozen(value: Any) -> Any:
    """A value of a JSON file with tuples in place of its lists."""
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def _frozen_values(entries: Config) -> dict[str, Any]:
    return {key: frozen(value) for key, value in entries.items()}


def files_of(folder: Path) -> dict[str, Path]:
    """What a Recipe names of a diffusers folder: itself, and the folders of its tokenizers and its image processor."""
    places = {
        "text_encoder": ("text_encoder",),
        "tokenizer": ("tokenizer",),
        "tokenizer_2": ("tokenizer_2",),
        "image_processor": ("feature_extractor", "image_processor"),
    }
    files = {"checkpoint": folder}
    for name, folders in places.items():
        for place in folders:
            if (folder / place).is_dir():
                files[name] = folder / place
                break
    return files
