"""A checkpoint with all its parts, wherever they came from; here: diffusers folders, sharded or not, with strict
keys."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..messages import CheckpointError, either, message
from ..parts import Config, Part
from .configs import load_config
from .entry import rename
from .format import CheckpointFormat, Weights
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
_COPIES = ("encoder.embed_tokens.weight",)  # of T5's shared.weight, and not in every file


class _WithoutInit(TorchFunctionMode):
    """Leaves new weights as they are: on the meta device there is nothing to fill."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


def blank(part: Part, dtype: torch.dtype) -> nn.Module:
    """The module of a part on the meta device: shapes without numbers, all in `dtype`."""
    with torch.device("meta"), _WithoutInit():
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
    """

    variant: str
    parts: Mapping[str, Weights]
    scheduler: Config
    pipeline: Config
    defaults: Config

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
    """What one file or folder holds. parts: the network first; index: model_index.json, None for a single file."""

    path: Path
    parts: Mapping[str, Weights]
    index: Config | None = None

    def bundle(self, parts: Mapping[str, Weights], form: CheckpointFormat) -> Bundle:
        """These parts with the variant that they are, and what is known of it."""
        configs = {part: weights.config for part, weights in parts.items()}
        if self.index is None:
            choose = form.variant or partial(closest_variant, form)
            variant = choose(configs, self.path.name)
            defaults = form.spec.config(variant, "defaults")
            return Bundle(variant, parts, form.spec.config(variant, "scheduler"), {}, _frozen_values(defaults))
        own = self.path / "reelwire.json"
        if own.exists():
            variant, defaults = self.path.name, load_config(self.path, own.name)
        else:
            choose = form.folder_variant or partial(closest_variant, form)
            variant = choose(configs, self.path.name)
            more = form.folder_defaults(self.index) if form.folder_defaults else {}
            defaults = {**form.spec.config(variant, "defaults"), **more}
        scheduler = load_config(self.path / "scheduler", "scheduler_config.json")
        return Bundle(variant, parts, scheduler, self.index, _frozen_values(defaults))


def read_diffusers(folder: Path, form: CheckpointFormat, without: Collection[str] = ()) -> Source:
    """A diffusers folder by its configs and headers, but for the parts that come from elsewhere.

    Raises CheckpointError for anything else than a folder of this family.
    """
    title = form.spec.title
    if not folder.is_dir():
        raise CheckpointError(message("single_file", file=folder.name), message("read_from_folder", title=title))
    index = load_config(folder, "model_index.json")
    classes = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[1]}
    if classes.get(form.network) not in form.classes[form.network]:
        raise CheckpointError(
            message("wrong_folder", folder=folder.name, kind=index.get("_class_name"), title=title),
            message("use_its_loader"),
        )
    parts = {name: read_part(folder / name) for name in form.classes if name in classes and name not in without}
    for name, weights in parts.items():
        if weights.kind not in form.classes[name]:
            needed = either(*form.classes[name])
            rule = message("wrong_part", folder=folder.name, part=name, kind=weights.kind, title=title, needed=needed)
            raise CheckpointError(rule, message("download_folder"))
    return Source(folder, parts, index)


def read_part(folder: Path) -> Weights:
    """One part of a diffusers folder."""
    config = load_config(folder)
    kind = config.get("_class_name") or next(iter(config.get("architectures") or [""]))
    renamed = {rename(key, _RENAMED.get(kind, {})): entry for key, entry in read_folder(folder).items()}
    return Weights(config, {key: entry for key, entry in renamed.items() if key not in _COPIES})


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
