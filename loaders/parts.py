"""The networks of a model, read from disk when they are first used, and who decides where their weights lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import nn

from .devices import free_bytes
from .messages import InputError as InputError

if TYPE_CHECKING:
    from pathlib import Path


Progress = Callable[[int, int], None]  # (done, in all)
Network = Any  # a module of diffusers or transformers, whose attributes are untyped
Tokenizer = Any  # of transformers or tokenizers, or `SentencePieceTokenizer`
ImageProcessor = Any  # of transformers
Config = Mapping[str, Any]  # the values of a config.json
ConfigDict = dict[str, Any]
Inputs = dict[str, Any]  # of a network's forward, by their names
Argument = Any  # of a call that is only passed on, or what it returns
Args = tuple[Argument, ...]
Kwargs = dict[str, Argument]
JsonObject = dict[str, Any]  # as a file has it: nobody has checked what its values are


@dataclass(frozen=True)
class Recipe:
    """All that another process needs to build the same model; picklable. A model's own `recipe` says what it was loaded
    from; its `whole_recipe()` says also what nodes have set on it since."""

    family: str
    variant: str
    files: Mapping[str, Path]  # part name -> file or folder
    dtype: str  # a torch dtype's name, as "bfloat16"
    storage: str = ""  # how the networks' weights are held: "fp8", "int8", or as in their files
    options: Mapping[str, Argument] = field(default_factory=dict)  # fields of the model that nodes have set
    presets: Mapping[str, Config] = field(default_factory=dict)  # instead of the variant's own
    most_on_card: float = 0.0  # bytes of a part's weights that may lie on the card at a time; 0: as its memory decides


@dataclass(frozen=True)
class Part:
    """One network of a model: read from disk when it is first used, kept by the Memory that used it.

    instead_of: names of parts that give their room away while this one is used. config: of its class, as on disk.
    """

    name: str
    load: Callable[[Progress], nn.Module] = field(repr=False)
    instead_of: tuple[str, ...] = ()
    tensors: Mapping[str, tuple[int, ...]] = field(default_factory=dict, repr=False)  # names and shapes of its weights
    dtypes: Mapping[str, str] = field(default_factory=dict, repr=False)  # names of its weights -> types in the file
    config: Config = field(default_factory=dict, repr=False)


class Memory(Protocol):
    """Who decides where a part's weights lie; ComfyUI's own manager inside the host."""

    def use(self, part: Part, activations: int = 0) -> AbstractContextManager[Network]:
        """The part, ready to run on `device`; `activations` is the room in bytes that the run needs beside it."""

    def device(self, part: str) -> torch.device:
        """Where the part of this name computes."""

    def room(self, part: str) -> int:
        """Bytes that a run of this part may take there, weights included."""


class PlainMemory:
    """Keeps every part on one device; for use outside the host."""

    def __init__(self, device: str = "cpu") -> None:
        self._device = torch.device(device)
        self._modules: dict[str, nn.Module] = {}

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[nn.Module]:
        for name in part.instead_of:
            self._modules.pop(name, None)
        if part.name not in self._modules:
            self._modules[part.name] = part.load(lambda done, total: None).to(self._device)
        yield self._modules[part.name]

    def device(self, part: str) -> torch.device:
        return self._device

    def room(self, part: str) -> int:
        return free_bytes(self._device)
