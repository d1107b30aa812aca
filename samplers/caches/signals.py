"""What a policy looks at before it decides, taken from a forward that has only just begun."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

Signal = Callable[[Any, nn.Module, tuple[Any, ...], dict[str, Any]], "Tensor | None"]


class _SeenError(Exception):
    """Stops a block at its first attention."""


def _modulated(caught: Any, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """What the block hands its first attention: the hidden states, modulated by the time. TeaCache's signal."""
    attention = block.get_submodule("attn1" if hasattr(block, "attn1") else "attn")
    found: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        raise _SeenError

    handle = attention.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        block.forward(*args, **kwargs)  # not the compiled call: the hook stays out of its graph
    except _SeenError:
        return found[0]
    finally:
        handle.remove()
    return None


def _time(caught: Any, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The embedding of time that the block is given; the mean over tokens where each has its own."""
    found: Tensor = kwargs["temb"]
    return found.mean(1) if found.ndim == 3 else found


def _embedder(caught: Any, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The embedding of time before it is projected for the blocks, `e` of Wan's code; the mean where tokens differ."""
    found: Tensor = caught[0]
    return found.mean(1) if found.ndim == 3 else found


def _embedded(caught: Any, block: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """The embedding of time as it is projected for the blocks, `e0` of Wan's code."""
    return caught[1].mean(1) if caught[1].ndim == 3 else caught[1]


SIGNALS: dict[str, Signal] = {"modulated": _modulated, "time": _time, "embedder": _embedder, "embedded": _embedded}
EMBEDDER = "condition_embedder"  # the module whose outputs the last two take
CAUGHT = ("embedder", "embedded")
