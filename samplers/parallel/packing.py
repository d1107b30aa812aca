"""Things as bytes between two processes that know the pack by different names: ComfyUI names it by its path."""

from __future__ import annotations

import io
import pickle  # nosec B403
from importlib import import_module

from ...loaders.parts import Argument

ROOT = __name__.rpartition(".samplers.")[0]


def packed(thing: object) -> bytes:
    """A thing, and the name of the pack here."""
    return pickle.dumps((ROOT, pickle.dumps(thing, pickle.HIGHEST_PROTOCOL)))


def unpacked(content: bytes) -> Argument:
    """The thing, with the pack's classes as they are named here."""
    root, inner = pickle.loads(content)  # noqa: S301 (of a process of ours, over Ray)  # nosec B301
    return _Unpickler(inner, root).load()


class _Unpickler(pickle.Unpickler):
    """Finds classes of the pack under its name here."""

    def __init__(self, content: bytes, root: str) -> None:
        super().__init__(io.BytesIO(content))
        self._root = root

    def find_class(self, module: str, name: str) -> Argument:
        if module == self._root or module.startswith(f"{self._root}."):
            module = ROOT + module[len(self._root) :]
        return super().find_class(module, name)


def answer(function: str, content: bytes) -> bytes:
    """In a worker: what one of the functions that a module of the pack offers, "module:function", says to packed
    arguments."""
    module, _, name = function.partition(":")
    return packed(import_module(f"{ROOT}.{module}").OFFERED[name](*unpacked(content)))
