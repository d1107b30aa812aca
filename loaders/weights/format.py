"""What the files of a family look like: a CheckpointFormat, which each families/<name>/checkpoint.py gives."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from ..messages import CheckpointError, message
from ..parts import Config, ConfigDict, Network, Part, Progress
from ..spec import Spec
from .allowed import Shapes, allowed, kinds, of_class, table
from .allowed.offline import offline
from .configs import Config as NamedConfig
from .configs import stated_config
from .entry import Entry
from .json_files import excerpt
from .modules import build, outline

Entries = Mapping[str, Entry]
# what making a module raises where entries of its config do not fit together
_DISAGREEMENTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
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
    notes: tuple[str, ...] = ()  # on entries of its config that are not used

    @property
    def kind(self) -> str:
        """The name of the class that the config asks for."""
        return class_named(self.config) or "unknown"

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
            network: Network = outline(self.module, self.entries)
            if "_class_name" in self.config and (wrong := table("network").disagreement(dict(network.config))):
                raise ValueError(wrong)
        except CheckpointError:
            raise
        except _DISAGREEMENTS as error:
            reason = error if isinstance(error, ValueError) else message("config_contradicts")
            rule = message("config_unusable", file=self._source(), kind=self.kind, error=reason)
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

        with offline():
            if "_class_name" in self.config:
                module: nn.Module = class_of(self.kind).from_config(dict(self.config))
                return module
            if self.kind not in kinds("encoders"):
                raise CheckpointError(message("config_class", kind=excerpt(self.kind)), message("download_again"))
            kind = getattr(transformers, self.kind)
            return kind(kind.config_class.from_dict(dict(self.config)))


def stated_entries(
    metadata: Mapping[str, str], kind: str, entries: Entries, published: Collection[Config], keys: Collection[str]
) -> ConfigDict:
    """What the header of a single file says of its network, of these keys; raises CheckpointError for a value that
    cannot be.

    metadata: the header's, and "file", its name; published: configs of such networks.
    """
    stated = stated_config(metadata)
    rules, shapes = of_class(class_of(kind), published), Shapes.of({key: entry.shape for key, entry in entries.items()})
    known = {key: value for key, value in stated.items() if key in keys}
    return dict(allowed(known, rules, shapes, metadata.get("file", ""))[0])


def class_named(config: Config) -> str:
    """The name of the class that a config asks for; empty where it names none."""
    named, listed = config.get("_class_name"), config.get("architectures")
    first = named or (next(iter(listed), "") if isinstance(listed, (list, tuple)) else "")
    return first if isinstance(first, str) else ""


def restricted(config: NamedConfig, kind: str, entries: Entries, published: Collection[Config] = ()) -> Weights:
    """A network of an allowed class with what its config may say; raises CheckpointError for a value that cannot be.

    published: configs of such networks, whose words may stand in it too.
    """
    shapes = Shapes.of({key: entry.shape for key, entry in entries.items()})
    if kind in kinds("encoders"):
        said = {key: value for key, value in config.items() if key != "model_type"}  # which the class decides
        clean, notes = allowed(said, table("encoders", kind), shapes, config.name)
        return Weights(clean.having(architectures=[kind]), entries, notes)
    clean, notes = allowed(config, of_class(class_of(kind), published), shapes, config.name)
    return Weights(clean.having(_class_name=kind), entries, notes)


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
