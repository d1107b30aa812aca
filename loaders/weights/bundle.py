"""A checkpoint with all its parts, wherever they came from; here: diffusers folders, sharded or not, with strict keys."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from ..messages import CheckpointError, either, message
from ..parts import Part, Progress
from .configs import load_config
from .entry import Entry
from .modules import build, fitting
from .safetensors import read_folder

FOLDER = Path(__file__).parents[1] / "families"
# names of published files -> names of transformers 5's classes
_RENAMED = {
    "CLIPTextModel": {r"^text_model\.": ""},
    "CLIPVisionModel": {r"^vision_model\.": ""},
    "CLIPVisionModelWithProjection": {},
    "LlamaModel": {r"^model\.": ""},
    "LlavaForConditionalGeneration": {
        r"^language_model\.model\.": "model.language_model.", r"^language_model\.lm_head": "lm_head",
        r"^(vision_tower|multi_modal_projector)\.": r"model.\1.", r"\.vision_tower\.vision_model\.": ".vision_tower.",
    },
}  # fmt: skip
_COPIES = ("encoder.embed_tokens.weight",)  # of T5's shared.weight, and not in every file


@dataclass(frozen=True)
class Weights:
    """One network on disk: its config, which names its class, and its tensors under that class' names."""

    config: Mapping[str, Any]
    entries: Mapping[str, Entry]

    @property
    def kind(self) -> str:
        return self.config.get("_class_name") or next(iter(self.config.get("architectures") or ["unknown"]))

    def build(self, dtype: torch.dtype, small: bool, storage: str, progress: Progress) -> nn.Module:
        """See `checkpoints.build`."""
        return build(self._make, self.entries, dtype, progress, small, storage)

    def part(self, name: str, load: Callable[[Progress], nn.Module], instead_of: tuple[str, ...] = ()) -> Part:
        """What a VideoModel holds of this network."""
        shapes = {key: entry.shape for key, entry in self.entries.items()}
        dtypes = {key: entry.dtype for key, entry in self.entries.items()}
        return Part(name, load, instead_of, shapes, dtypes, self.config)

    def check(self) -> None:
        """Raise CheckpointError unless the config makes a network that every key and shape fits; reads no weights."""
        try:
            fitting(self._make, self.entries)
        except CheckpointError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            name = next((entry.file.parent.name for entry in self.entries.values()), self.kind)
            rule = message("config_unusable", file=name, kind=self.kind, error=error)
            raise CheckpointError(rule, message("download_again")) from error

    def _make(self) -> nn.Module:
        import diffusers
        import transformers

        if "_class_name" in self.config:
            return getattr(diffusers, self.kind).from_config(dict(self.config))
        kind = getattr(transformers, self.kind)
        return kind(kind.config_class.from_dict(dict(self.config)))


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
        module = Weights(part.config, {})._make()
    return module.requires_grad_(False).eval().to_empty(device="meta").type(dtype)


@dataclass(frozen=True)
class Bundle:
    """The parts of one checkpoint, the config of its scheduler, what its pipeline says, and its variant's defaults."""

    variant: str
    parts: Mapping[str, Weights]
    scheduler: Mapping[str, Any]
    pipeline: Mapping[str, Any]
    defaults: Mapping[str, Any]

    def make(self, dtype: torch.dtype, storage: str = "") -> dict[str, Part]:
        """The parts for a VideoModel. While a network works, the encoders and the other expert give their room away."""
        networks = [name for name in self.parts if name.startswith(("transformer", "unet"))]
        large = [*networks, *(name for name in self.parts if name.endswith("encoder") or "encoder_" in name)]
        others = lambda name: tuple(n for n in large if n != name) if name in networks else ()
        small = {*networks, *(name for name in self.parts if name.startswith("text_encoder"))}
        load = lambda name: partial(self.parts[name].build, dtype, name in small, storage if name in networks else "")
        return {name: weights.part(name, load(name), others(name)) for name, weights in self.parts.items()}


def read_bundle(folder: Path, family: str, title: str, kinds: Mapping[str, tuple[str, ...]]) -> Bundle:
    """Describe a diffusers folder from its configs and headers.

    kinds: part -> the classes it may have; the first part must be there. Raises CheckpointError for anything else.
    """
    if not folder.is_dir():
        raise CheckpointError(message("single_file", file=folder.name), message("read_from_folder", title=title))
    index = load_config(folder, "model_index.json")
    main = next(iter(kinds))
    told = {name: value[1] for name, value in index.items() if isinstance(value, list) and value[1]}
    if told.get(main) not in kinds[main]:
        raise CheckpointError(
            message("wrong_folder", folder=folder.name, kind=index.get("_class_name"), title=title),
            message("use_its_loader"),
        )
    parts = {name: read_part(folder / name) for name in kinds if name in told}
    for name, weights in parts.items():
        if weights.kind not in kinds[name]:
            raise CheckpointError(
                message(
                    "wrong_part",
                    folder=folder.name,
                    part=name,
                    kind=weights.kind,
                    title=title,
                    needed=either(*kinds[name]),
                ),
                message("download_folder"),
            )
    shipped = folder / "reelwire.json"
    if shipped.exists():
        variant, defaults = folder.name, json.loads(shipped.read_text(encoding="utf-8"))
    else:
        variant, defaults = match(family, parts[main].config, folder.name)
    scheduler = load_config(folder / "scheduler", "scheduler_config.json")
    return Bundle(variant, parts, scheduler, index, {k: frozen(v) for k, v in defaults.items()})


def read_part(folder: Path) -> Weights:
    """One part of a diffusers folder."""
    config = load_config(folder)
    kind = config.get("_class_name") or next(iter(config.get("architectures") or [""]))
    renamed = {rename(key, _RENAMED.get(kind, {})): entry for key, entry in read_folder(folder).items()}
    return Weights(config, {key: entry for key, entry in renamed.items() if key not in _COPIES})


def rename(key: str, table: Mapping[str, Any]) -> str:
    """A key after all substitutions of a table of patterns, in order."""
    for pattern, replacement in table.items():
        key = re.sub(pattern, replacement, key)
    return key


def shipped_variants(family: str = "*") -> list[Path]:
    """The folders of the shipped variants of a family, or of all."""
    return sorted(FOLDER.glob(f"{family}/variants/*/"))


def shipped_config(family: str, variant: str, name: str) -> dict[str, Any]:
    return json.loads((FOLDER / family / "variants" / variant / f"{name}.json").read_text(encoding="utf-8"))


def match(family: str, config: Mapping[str, Any], name: str) -> tuple[str, dict[str, Any]]:
    """(variant, its defaults): the shipped variant whose network agrees most, then whose words are most in the name."""
    network = "unet" if family == "svd" else "transformer"
    variants = [folder.name for folder in shipped_variants(family)]

    def agreement(variant: str) -> tuple[int, int]:
        shipped = shipped_config(family, variant, network)
        words = sum(word in name.lower() for word in variant.split("-"))
        return sum(frozen(config.get(k)) == frozen(v) for k, v in shipped.items()), words

    best = max(variants, key=agreement)
    return best, shipped_config(family, best, "defaults")


def frozen(value: Any) -> Any:
    return tuple(map(frozen, value)) if isinstance(value, list) else value


def files_of(folder: Path) -> dict[str, Path]:
    """What a Recipe names of a diffusers folder: itself, and the folders of its tokenizers and its image processor."""
    places = {"text_encoder": "text_encoder", "tokenizer": "tokenizer", "tokenizer_2": "tokenizer_2",
              "image_processor": "image_processor", "image_processor_": "feature_extractor"}  # fmt: skip
    found = {name.rstrip("_"): folder / place for name, place in places.items() if (folder / place).is_dir()}
    return {"checkpoint": folder, **found}
