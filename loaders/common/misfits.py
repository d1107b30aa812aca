"""How it is told that a network fails on what it is to compute: no check of a config knows all that its class does."""

from __future__ import annotations

from torch import nn

from ..messages import RefusedError

_LIBRARIES = {"diffusers", "transformers"}
_KINDS = (ArithmeticError, AssertionError, AttributeError, LookupError, TypeError, ValueError)


def is_misfit(error: Exception, network: nn.Module) -> bool:
    """Whether an error comes from the code of a network, where its config, its weights and its inputs do not fit
    together; not one of ours or of a card. Memory that ran out is for the caller to tell first."""
    if isinstance(error, RefusedError) or not (isinstance(error, _KINDS) or type(error) is RuntimeError):
        return False
    module = _raised_by(error)
    own = {type(each).__module__ for each in network.modules()}
    return module in own or module.partition(".")[0] in _LIBRARIES


def _raised_by(error: BaseException) -> str:
    """The module that raised an error; torch is passed over for what has called it."""
    traceback, module = error.__traceback__, ""
    while traceback is not None:
        name = str(traceback.tb_frame.f_globals.get("__name__", ""))
        module, traceback = module if name.partition(".")[0] == "torch" else name, traceback.tb_next
    return module
