"""What a policy looks at before it decides, taken from a forward pass that has only just begun."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from ...loaders.parts import Args, Kwargs

Join = Callable[[Tensor], Tensor]  # a tensor with rows for the tokens of this process -> with those of all
# (outputs of the network's embedder of time, first block, its arguments, join) -> signal
Signal = Callable[[list[Tensor], nn.Module, Args, Kwargs, Join], "Tensor | None"]


class _StopError(Exception):
    """Stops a block at its first attention."""


def _modulated(embeddings: list[Tensor], block: nn.Module, args: Args, kwargs: Kwargs, join: Join) -> Tensor | None:
    """The hidden states that the block hands its first attention, modulated by the time: TeaCache's signal."""
    attention = block.get_submodule("attn1" if hasattr(block, "attn1") else "attn")
    inputs: list[Tensor] = []

    def stop(module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        inputs.append(kwargs["hidden_states"] if "hidden_states" in kwargs else args[0])
        raise _StopError

    handle = attention.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        block.forward(*args, **kwargs)  # not the compiled call: the hook stays out of its graph
    except _StopError:
        return join(inputs[0])
    finally:
        handle.remove()
    return None


def _time(embeddings: list[Tensor], block: nn.Module, args: Args, kwargs: Kwargs, join: Join) -> Tensor:
    """The embedding of time that the block is called with."""
    return _mean_over_tokens(join(kwargs["temb"]))


def _embedder(embeddings: list[Tensor], block: nn.Module, args: Args, kwargs: Kwargs, join: Join) -> Tensor:
    """The embedding of time before it is projected for the blocks, `e` of Wan's code."""
    return _mean_over_tokens(join(embeddings[0]))


def _embedded(embeddings: list[Tensor], block: nn.Module, args: Args, kwargs: Kwargs, join: Join) -> Tensor:
    """The embedding of time as it is projected for the blocks, `e0` of Wan's code."""
    return _mean_over_tokens(join(embeddings[1]))


def _mean_over_tokens(embedding: Tensor) -> Tensor:
    """An embedding [B, C], or the mean of one [B, N, C] where each token has its own."""
    return embedding.mean(1) if embedding.ndim == 3 else embedding


SIGNALS: dict[str, Signal] = {"modulated": _modulated, "time": _time, "embedder": _embedder, "embedded": _embedded}
EMBEDDER = "condition_embedder"  # the module whose outputs the last two take
EMBEDDER_SIGNALS = ("embedder", "embedded")
