"""What the files of a family look like: a CheckpointFormat, which each families/<name>/checkpoint.py gives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..messages import CheckpointError, message
from ..parts import Config, Part, Progress
from ..spec import Spec
from .entry import Entry
from .modules import build, fitting

Entries = Mapping[str, Entry]
_OWN: dict[str, Callable[[], type[nn.Module]]] = {}  # name of a class that diffusers lacks -> imports it


def add_class(name: str, load: Callable[[], type[nn.Module]]) -> None:
    """Let configs name a network of our own as they name diffusers'. load: imports it."""
    _OWN[name] = load


def class_of(name: str) -> Any:
    """The class that a config's `_class_name` means: diffusers', or one of `add_class`."""
    import diffusers

    return _OWN[name]() if name in _OWN else getattr(diffusers, name)


@dataclass(frozen=True)
class Weights:
    """One network on disk: its config, which names its class, and its tensors under that class' names."""

    config: Config
    entries: Entries

    @property
    def kind(self) -> str:
        """The name of the class that the config asks for."""
        return self.config.get("_class_name") or next(iter(self.config.get("architectures") or ["unknown"]))

    def build(self, dtype: torch.dtype, small: bool, storage: str, progress: Progress) -> nn.Module:
        """See `modules.build`."""
        return build(self.module, self.entries, dtype, progress, small, storage)

    def part(self, name: str, load: Callable[[Progress], nn.Module], instead_of: tuple[str, ...] = ()) -> Part:
        """What a VideoModel holds of this network."""
        shapes = {key: entry.shape for key, entry in self.entries.items()}
        dtypes = {key: entry.dtype for key, entry in self.entries.items()}
        return Part(name, load, instead_of, shapes, dtypes, self.config)

    def check(self) -> None:
        """Raise CheckpointError unless the config makes a network that every key and shape fits; reads no weights."""
        try:
            fitting(self.module, self.entries)
        except CheckpointError:
            raise
        except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
            rule = message("config_unusable", file=self._source(), kind=self.kind, error=error)
            raise CheckpointError(rule, message("download_again")) from error

    def _source(self) -> str:
        """The folder that the config lies in, or the file whose shapes tell it."""
        file = next((entry.file for entry in self.entries.values()), None)
        if file is None:
            return self.kind
        return file.parent.name if (file.parent / "config.json").exists() else file.name

    def module(self) -> nn.Module:
        """A new module of the config's class, with no weights of these in it."""
        import transformers

        if "_class_name" in self.config:
            module: nn.Module = class_of(self.kind).from_config(dict(self.config))
            return module
        kind = getattr(transformers, self.kind)
        return kind(kind.config_class.from_dict(dict(self.config)))


@dataclass(frozen=True)
class CheckpointFormat:
    """What a family's files look like.

    spec: the family's spec.json.
    classes: part -> the names of the classes that it may have; the first part is the network.
    transformer: (tensors of a file, its metadata with its name as "file") -> the network under diffusers' names; None
        for tensors of something else.
    vae: tensors -> the VAE under diffusers' names; None for tensors of something else.
    rename: (some of the network's tensors, all of its tensors' shapes) -> the same under diffusers' names; for LoRAs.
    underscored: words with an underscore in the makers' names, which Kohya's LoRA keys do not tell from dots.
    image_encoder: tensors -> an image encoder that lies in the same file as the network; None: no file holds one.
    variant: (part -> its config, name of the file) -> the published variant; None: the shipped one that agrees most.
    folder_variant: the same for a diffusers folder.
    folder_defaults: model_index.json -> what it says over the variant's defaults.
    """

    spec: Spec
    classes: Mapping[str, tuple[str, ...]]
    transformer: Callable[[Entries, Mapping[str, str]], Weights | None]
    vae: Callable[[Entries], Weights | None]
    rename: Callable[[Entries, Mapping[str, tuple[int, ...]]], dict[str, Entry]]
    underscored: tuple[str, ...]
    image_encoder: Callable[[Entries], Weights | None] | None = None
    variant: Callable[[Mapping[str, Config], str], str] | None = None
    folder_variant: Callable[[Mapping[str, Config], str], str] | None = None
    folder_defaults: Callable[[Config], Config] | None = None

    @property
    def network(self) -> str:
        """The name of the part that is the network."""
        return next(iter(self.classes))
