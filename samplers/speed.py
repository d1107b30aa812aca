"""How the same network runs faster: compiled blocks, kernels for attention, no padding. All of it ends with the run."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..loaders.messages import InputError, Origin, message
from ..loaders.parts import Args, Argument, Kwargs, Network
from ..loaders.video_model import VideoModel
from .kernels import TRITON, Kernel, choice, kernel_of, masked, processors, refusal
from .kitchen import KITCHENS, Attention, Kitchen

OLDEST_TRITON_CARD = (7, 0)  # torch/_inductor/exc.py, GPUTooOldForTriton


@dataclass(frozen=True)
class Speed:
    """What makes a network faster.

    compile: the repeated blocks are compiled when they first run.
    attention: a key of KERNELS.
    compiler, whole: of torch.compile, its backend and whether a block must be one graph.
    trim_text: the network does not compute the rows behind a prompt's end, which its mask hides from the video anyway;
    rounding differs, measured in tests/samplers/test_trim_text.py.
    """

    compile: bool = False
    attention: str = "auto"
    compiler: str = "inductor"
    whole: bool = False
    trim_text: bool = field(default=False, repr=False)  # not in the words that unfinished renders keep
    node: Origin | None = field(default=None, compare=False, repr=False)


def check_speed(model: VideoModel) -> None:
    """Raise InputError for what this model, this machine or the cache cannot have."""
    speed = model.speed
    if speed is None:
        return
    name, _, hindrance = choice(model)
    if hindrance and name == speed.attention:
        raise refusal(name, hindrance)
    if speed.trim_text and model.keeps_padding:
        raise InputError("trim_text", message("on"), model.keeps_padding, message("switch_off"))
    if not speed.compile:
        return
    if model.stacks is None:
        raise InputError("compile", message("on"), message("unet_no_blocks", title=model.title), message("switch_off"))
    if model.cache is not None and not model.cache.mechanism.compilable:
        raise InputError("compile", message("on"), message("module_cache_compile"), message("set_stack"))
    if speed.compiler == "inductor" and (lacks := _lacking(model.memory.device("transformer"))):
        raise InputError("compile", message("on"), *lacks)


def _lacking(device: torch.device) -> tuple[str, str] | None:
    """(what torch.compile's own compiler needs and does not find, what to do)."""
    if device.type != "cuda":
        has_compiler = any(map(shutil.which, ("c++", "g++", "clang++", "cl")))
        return None if has_compiler else (message("needs_compiler"), message("install_compiler"))
    if lack := TRITON.lack():
        return lack, message("or_compile_off", source=TRITON.source)
    if not torch.version.hip and torch.cuda.get_device_capability(device) < OLDEST_TRITON_CARD:
        return message("needs_capability_7"), message("compile_off")
    return None


@contextmanager
def accelerated(network: Network, model: VideoModel) -> Iterator[Callable[[int, int], None]]:
    """The network with its model's Speed and kernel for the length of the block; yields what is to be told of each
    prediction, its number and how many there are."""
    kernel = kernel_of(model)
    kitchen = KITCHENS[kernel.calls](model) if kernel.calls else Kitchen(_dispatched, lambda number, count: None)
    with ExitStack() as stack:
        if kernel.backend:
            stack.enter_context(_dispatching(network, kernel, masked(model)))
            redirected = _Redirected(kitchen.attention, takes_masks=bool(kernel.calls))
            stack.enter_context(nullcontext() if model.dispatches and not kernel.calls else redirected)
        if model.trims_text:
            stack.enter_context(model.unmasked(network))
        if model.speed is not None and model.speed.compile:
            stack.enter_context(_compiled(network, model, model.speed))
        yield kitchen.begin


@contextmanager
def _dispatching(network: Network, kernel: Kernel, pattern: str) -> Iterator[None]:
    """diffusers' dispatcher set to a kernel; where a mask is handed to one that takes none, to PyTorch's own.

    Not by ModelMixin.set_attention_backend: it sets all models, and its reset does not set them back.
    """
    from diffusers.models import AttentionBackendName, attention_backend

    masked_ones = [] if kernel.masks else processors(network, pattern)
    with attention_backend(kernel.backend):
        for processor in masked_ones:
            processor._attention_backend = AttentionBackendName.NATIVE
        try:
            yield
        finally:
            for processor in masked_ones:
                processor._attention_backend = None


_PARAMETERS = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")  # of PyTorch's attention, in order


class _Redirected(TorchFunctionMode):
    """PyTorch's attention goes elsewhere: to diffusers' dispatcher where the layers of a network do not ask it, which
    is asked for none with a mask; or to a kernel of another package."""

    def __init__(self, attention: Attention, takes_masks: bool) -> None:
        super().__init__()
        self._attention, self._takes_masks = attention, takes_masks

    def __torch_function__(
        self, function: Callable[..., Argument], types: object, args: Args = (), kwargs: Kwargs | None = None
    ) -> Argument:
        if function is F.scaled_dot_product_attention:
            options = dict(zip(_PARAMETERS, args, strict=False)) | (kwargs or {})
            if self._takes_masks or options.get("attn_mask") is None:
                return self._attention(**options)
        return function(*args, **(kwargs or {}))


def _dispatched(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, **options: object
) -> Tensor:
    """torch.nn.functional.scaled_dot_product_attention of [B, H, N, D], by diffusers' dispatcher of [B, N, H, D]."""
    from diffusers.models.attention_dispatch import dispatch_attention_fn

    query, key, value = (x.transpose(1, 2) for x in (query, key, value))
    return dispatch_attention_fn(query, key, value, **options).transpose(1, 2)


@contextmanager
def _compiled(network: Network, model: VideoModel, speed: Speed) -> Iterator[None]:
    """Hooks are part of what is compiled for, so that a LoRA that comes or goes is noticed."""
    assert model.stacks is not None
    blocks = [block for name in model.stacks.of(network) for block in getattr(network, name)]
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False, recompile_limit=64):
        for block in blocks:
            block.compile(backend=speed.compiler, fullgraph=speed.whole)
        try:
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None
