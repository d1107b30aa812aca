"""Ways to run the same network faster: compiled blocks, other kernels for attention, no padding. All end with the run."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from ..loaders.video_model import InputError, VideoModel

# what a person chooses -> (diffusers' name, the package that brings it)
BACKENDS: Mapping[str, tuple[str, str]] = {
    "auto": ("", ""), "native": ("native", ""), "native cudnn": ("_native_cudnn", ""), "native efficient": ("_native_efficient", ""),
    "flash": ("flash", "flash_attn"), "sage": ("sage", "sageattention"), "xformers": ("xformers", "xformers"),
}  # fmt: skip
ANYWHERE = ("auto", "native")  # kernels that need no graphics card
INSTALL = {
    "flash_attn": "flash-attn",
    "sageattention": "sageattention",
    "xformers": "xformers",
}  # package -> its name for pip


@dataclass(frozen=True)
class Speed:
    """compile: the repeated blocks are compiled when they first run. attention: a key of BACKENDS. compiler and whole: of
    torch.compile, its backend and whether a block must be one graph. trim_text: the network does not compute the rows behind
    a prompt's end, which its mask hides from the video anyway; rounding differs, measured in tests/test_trim_text.py."""

    compile: bool = False
    attention: str = "auto"
    compiler: str = "inductor"
    whole: bool = False
    trim_text: bool = False


def missing(attention: str) -> str:
    """The package that a kernel for attention lacks, by its name for pip; empty where nothing does."""
    package = BACKENDS[attention][1]
    return INSTALL[package] if package and importlib.util.find_spec(package) is None else ""


def check_speed(model: VideoModel) -> None:
    """Raise InputError for what this model, this machine or the cache cannot have."""
    speed = model.speed
    if speed is None:
        return
    if package := missing(speed.attention):
        raise InputError("attention", speed.attention, f"The package {package} is not installed.", f"Install it into ComfyUI's Python with `pip install {package}`, or choose auto.")  # fmt: skip
    if speed.trim_text and model.family.keeps_padding:
        raise InputError("trim_text", "on", model.family.keeps_padding, "Switch it off.")
    if BACKENDS[speed.attention][0] and not model.family.dispatches:
        raise InputError("attention", speed.attention, f"In diffusers {model.family.title} has PyTorch's own attention alone.", "Choose auto.")  # fmt: skip
    if speed.attention not in ANYWHERE and model.memory.device("transformer").type == "cpu":
        raise InputError("attention", speed.attention, "This kernel computes on a graphics card, the model is on the CPU.", "Choose auto or native.")  # fmt: skip
    if not speed.compile:
        return
    if model.family.stacks is None:
        raise InputError("compile", "on", f"{model.family.title} is a UNet, without blocks that repeat.", "Switch it off.")  # fmt: skip
    if getattr(model.cache, "level", "") == "module":
        raise InputError("compile", "on", "A cache at module granularity reaches into the blocks.", "Set FORA's granularity to stack, or switch compile off.")  # fmt: skip
    if speed.compiler == "inductor" and (lacks := _lacking(model.memory.device("transformer"))):
        raise InputError("compile", "on", f"torch.compile needs {lacks}, which is not there.", "Install it, or switch compile off.")  # fmt: skip


def _lacking(device: torch.device) -> str:
    """What torch.compile's own compiler needs and does not find."""
    if device.type == "cuda":
        return "" if importlib.util.find_spec("triton") else "the package triton (on Windows: triton-windows)"
    return "" if any(map(shutil.which, ("c++", "g++", "clang++", "cl"))) else "a C++ compiler"


@contextmanager
def accelerated(network: Any, model: VideoModel) -> Iterator[None]:
    """The network with its model's Speed for the length of the block."""
    speed = model.speed
    if speed is None:
        yield
        return
    with ExitStack() as stack:
        if name := BACKENDS[speed.attention][0]:
            network.set_attention_backend(name)
            stack.callback(network.reset_attention_backend)
        if speed.trim_text:
            stack.enter_context(model.family.unmasked(network))
        if speed.compile:
            stack.enter_context(_compiled(network, model, speed))
        yield


@contextmanager
def _compiled(network: Any, model: VideoModel, speed: Speed) -> Iterator[None]:
    """Hooks are part of what is compiled for, so that a LoRA that comes or goes is noticed."""
    assert model.family.stacks is not None
    blocks = [block for name in model.family.stacks.of(network) for block in getattr(network, name)]
    with torch._dynamo.config.patch(skip_nnmodule_hook_guards=False, recompile_limit=64):
        for block in blocks:
            block.compile(backend=speed.compiler, fullgraph=speed.whole)
        try:
            yield
        finally:
            for block in blocks:
                block._compiled_call_impl = None
