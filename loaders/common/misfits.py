"""How it is told that a network fails on what it is to compute: no check of a config knows all that its class does."""

from __future__ import annotations

import re

from torch import nn

from ..messages import RefusedError

_OURS = __name__.rpartition(".loaders.")[0] + "."
_LIBRARIES = ("diffusers.models.", "transformers.models.")
_SHAPES = re.compile("shape|size|channel|dimension|expected weight|broadcast|index|must match", re.IGNORECASE)
_KINDS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def is_misfit(error: Exception, network: nn.Module) -> bool:
    """Whether an error comes from the code of a network, where its config, its weights and its inputs do not fit
    together; not one of ours or of a card. Memory that ran out is for the caller to tell first. Of torch's
    RuntimeError those of shapes alone count: it is what drivers raise, too."""
    text = str(error)
    of_shapes = type(error) is RuntimeError and "device" not in text and _SHAPES.search(text)
    if isinstance(error, RefusedError) or not (isinstance(error, _KINDS) or of_shapes):
        return False
    module = _raised_by(error)
    if module.startswith(_OURS):
        return False
    return module.startswith(_LIBRARIES) or module in {type(each).__module__ for each in network.modules()}


def _raised_by(error: BaseException) -> str:
    """The module that raised an error; torch is passed over for what has called it."""
    traceback, module = error.__traceback__, ""
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", ""))
        module, traceback = module if name.partition(".")[0] == "torch" else name, traceback.tb_next
    return module
