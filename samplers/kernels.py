"""The kernels for attention, and what each needs: a package of some version, a card, numbers of 16 bits, no masks.

Cards and types: the projects' pages, https://github.com/Dao-AILab/flash-attention (README), thu-ml/SageAttention
(sageattention/core.py), facebookresearch/xformers (ops/fmha/common.py), and PyTorch's sdp_utils.cpp. Lowest versions
are diffusers' own.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from packaging.version import Version

from ..loaders.messages import InputError, both, message, sentences, series
from ..loaders.parts import Network
from ..loaders.request import Request
from ..loaders.video_model import VideoModel
from .kitchen import FEWEST, dense_predictions

if TYPE_CHECKING:
    from diffusers.models.attention_processor import AttentionProcessor

ALL_MASKED = "."  # of VideoModel.masked
UNKNOWN = "?"


@dataclass(frozen=True)
class Package:
    """What an option needs beside our own requirements.

    module: as Python imports it; names: as pip knows it, and builds of it under other names; wanted_by: whose lowest
    version it is; floor: that version; source: where such a build comes from.
    """

    module: str
    names: tuple[str, ...]
    wanted_by: str
    floor: Callable[[], str]
    source: str

    @property
    def installed(self) -> str:
        """Its version; empty where it is not there, UNKNOWN where nothing says which one it is."""
        if importlib.util.find_spec(self.module) is None:
            return ""
        for name in self.names:
            with suppress(importlib.metadata.PackageNotFoundError):
                return importlib.metadata.version(name)
        return UNKNOWN

    def lack(self) -> str:
        """What is wrong with what is installed, in words; empty where nothing is."""
        have, want, name = self.installed, self.floor(), self.names[0]
        if not have:
            if not want:
                return message("package_absent", name=name, who=self.wanted_by)
            return message("package_absent_version", name=name, who=self.wanted_by, version=want)
        if want and have != UNKNOWN and Version(have) < Version(want):
            return message("package_old", name=name, version=have, who=self.wanted_by, wanted=want)
        return ""


@cache
def diffusers_floors() -> dict[str, str]:
    """diffusers' lowest versions of other packages by the names of its constants, read without importing it."""
    spec = importlib.util.find_spec("diffusers")
    file = Path(spec.origin or "").parent / "models" / "attention_dispatch.py" if spec else Path()
    text = file.read_text(encoding="utf-8") if file.is_file() else ""
    return dict(re.findall(r'^(_REQUIRED_\w+_VERSION) = "([^"]+)"', text, re.M))


def torch_triton() -> str:
    """The version of triton that the installed PyTorch asks for, to the second number; empty where it asks for none."""
    named = (re.match(r"triton\s*==\s*(\d+\.\d+)", line) for line in importlib.metadata.requires("torch") or ())
    return next((match[1] for match in named if match), "")


FLASH = Package(
    "flash_attn",
    ("flash-attn",),
    "diffusers",
    lambda: diffusers_floors().get("_REQUIRED_FLASH_VERSION", ""),
    message("source_flash"),
)
SAGE = Package(
    "sageattention",
    ("sageattention",),
    "diffusers",
    lambda: diffusers_floors().get("_REQUIRED_SAGE_VERSION", ""),
    message("source_sage"),
)
XFORMERS = Package(
    "xformers",
    ("xformers",),
    "diffusers",
    lambda: diffusers_floors().get("_REQUIRED_XFORMERS_VERSION", ""),
    message("source_xformers"),
)
KITCHEN = Package(
    "comfy_kitchen",
    ("comfy-kitchen",),
    "Reelwire",
    lambda: "0.2.33",
    message("source_kitchen"),
)
CACHE_DIT = Package(
    "cache_dit",
    ("cache-dit",),
    "Reelwire",
    lambda: "1.5",
    message("source_cache_dit"),
)
TRITON = Package(
    "triton",
    ("triton", "triton-windows"),
    "torch.compile",
    torch_triton,
    message("source_triton"),
)


@dataclass(frozen=True)
class Kernel:
    """One way to compute attention.

    backend: its name in diffusers, empty for diffusers' default; calls: the function of its package that computes in
    the place of PyTorch's, a key of kitchen.KITCHENS; package: what brings it; platforms: the kinds of card that it is
    made for, empty for any device; capability: the lowest of NVIDIA's compute capabilities; half: whether it takes
    bfloat16 and float16 alone; masks: whether it takes a mask without writing it out for every pair of tokens.
    """

    backend: str = ""
    package: Package | None = None
    platforms: tuple[str, ...] = ()
    capability: tuple[int, int] = (0, 0)
    half: bool = False
    masks: bool = True
    calls: str = ""

    @property
    def identity(self) -> str:
        """What its numbers come from."""
        return self.calls or self.backend


KERNELS: Mapping[str, Kernel] = {
    "auto": Kernel(),
    "native": Kernel("native"),
    "native cudnn": Kernel("_native_cudnn", None, ("cuda",), (8, 0), half=True),
    "native efficient": Kernel("_native_efficient", None, ("cuda", "rocm"), (5, 0)),
    "native flash": Kernel("_native_flash", None, ("cuda", "rocm", "cpu"), (8, 0), half=True, masks=False),
    "flash": Kernel("flash", FLASH, ("cuda", "rocm"), (8, 0), half=True, masks=False),
    "sage": Kernel("sage", SAGE, ("cuda",), (8, 0), half=True, masks=False),
    "xformers": Kernel("xformers", XFORMERS, ("cuda", "rocm"), (5, 0), masks=False),
    "kitchen int8": Kernel("native", KITCHEN, ("cuda", "rocm"), (7, 5), half=True, calls="int8_attention"),
    "kitchen sparse": Kernel("native", KITCHEN, ("cuda", "rocm"), (8, 0), half=True, masks=False, calls="sol_attn"),
}
PLATFORMS = {"cuda": message("nvidia_cards"), "rocm": message("amd_cards"), "cpu": message("cpus")}
Obstacle = tuple[str, str]  # (why a kernel cannot compute, what to do about it, empty where nothing can be done)


def platform(device: torch.device) -> str:
    """The kind of a device: "cuda" for NVIDIA's cards, "rocm" for AMD's, else its torch type."""
    return "rocm" if device.type == "cuda" and torch.version.hip else device.type


def obstacle(model: VideoModel, name: str) -> Obstacle | None:
    """Why this model cannot have a kernel on this machine, and what to do; None where it can. Reads no weights."""
    kernel, device = KERNELS[name], model.memory.device("transformer")
    found = (check(kernel, model, device) for check in _CHECKS)
    return next(filter(None, found), None)


def _package(kernel: Kernel, model: VideoModel, device: torch.device) -> Obstacle | None:
    lack = kernel.package.lack() if kernel.package else ""
    return (lack, kernel.package.source) if kernel.package and lack else None


def _card(kernel: Kernel, model: VideoModel, device: torch.device) -> Obstacle | None:
    kind = platform(device)
    rule = unfit(kernel, kind, torch.cuda.get_device_capability(device) if kind == "cuda" else (0, 0))
    return (rule, "") if rule else None


def unfit(kernel: Kernel, kind: str, capability: tuple[int, int]) -> str:
    """Why a kind of card (see `platform`) of this compute capability cannot run a kernel; empty where it can."""
    if kernel.platforms and kind not in kernel.platforms:
        made_for = both(*(PLATFORMS[name] for name in kernel.platforms))
        return message("kernel_made_for", devices=made_for, kind=kind)
    if kind == "cuda" and capability < kernel.capability:
        wanted, had = (".".join(map(str, numbers)) for numbers in (kernel.capability, capability))
        return message("kernel_capability", wanted=wanted, had=had)
    return ""


def _type(kernel: Kernel, model: VideoModel, device: torch.device) -> Obstacle | None:
    if not kernel.half or device.type == "cpu" or model.recipe.dtype in ("bfloat16", "float16"):
        return None
    rule = message("kernel_16_bits", dtype=model.recipe.dtype)
    return rule, message("load_bfloat16")


def _masks(kernel: Kernel, model: VideoModel, device: torch.device) -> Obstacle | None:
    title = model.title
    if kernel.calls == "sol_attn" and model.stacks is None:
        return message("kernel_no_unet", title=title), ""
    if kernel.masks or masked(model) != ALL_MASKED:
        return None
    rule = message("kernel_no_mask", title=title)
    return rule, message("switch_trim_text_on")


def _verdict(kernel: Kernel, model: VideoModel, device: torch.device) -> Obstacle | None:
    """What diffusers itself says: a package may be there and not import, as one built for another PyTorch."""
    if kernel.package is None:
        return None
    if kernel.calls:
        return _kitchen_verdict(kernel, device)
    from diffusers.models import attention_backend

    try:
        with attention_backend(kernel.backend):
            return None
    except (RuntimeError, ValueError) as error:
        have = f"{kernel.package.names[0]} {kernel.package.installed}"
        rule = message("kernel_unusable", package=have, error=error)
        return rule, message("restart_or_source", source=kernel.package.source)


def _kitchen_verdict(kernel: Kernel, device: torch.device) -> Obstacle | None:
    """What comfy-kitchen itself says of a card."""
    import comfy_kitchen

    if getattr(comfy_kitchen, f"{kernel.calls}_is_available")(device):
        return None
    return message("kernel_not_on_card", package=f"comfy-kitchen {KITCHEN.installed}", kernel=kernel.calls), ""


_CHECKS: tuple[Callable[[Kernel, VideoModel, torch.device], Obstacle | None], ...] = (
    _package,
    _card,
    _type,
    _masks,
    _verdict,
)


def absent() -> dict[str, str]:
    """Kernel -> what is wrong with its package, for those whose package is missing or too old."""
    lacks = {name: kernel.package.lack() for name, kernel in KERNELS.items() if kernel.package}
    return {name: lack for name, lack in lacks.items() if lack}


def check_offered(name: str) -> None:
    """Raise InputError for a kernel that there is not, or whose package is missing or too old."""
    if name not in KERNELS:
        raise InputError("attention", name, message("no_kernel"), message("use_one_of", names=series(KERNELS)))
    if lack := absent().get(name):
        raise refusal(name, (lack, KERNELS[name].package.source))  # type: ignore[union-attr]


def refusal(name: str, hindrance: Obstacle) -> InputError:
    """The error that names what is in a kernel's way, and how to get it or another one."""
    rule, remedy = hindrance
    return InputError("attention", name, rule, message("or_auto", remedy=remedy) if remedy else message("choose_auto"))


def choice(model: VideoModel) -> tuple[str, str, Obstacle | None]:
    """(the chosen kernel, who chose it, what is in its way): chosen by the Speed node, else the host, else nobody."""
    asked = model.speed.attention if model.speed else "auto"
    if asked != "auto":
        return asked, message("who_speed"), obstacle(model, asked)
    if not model.host_attention:
        return "auto", "", None
    if model.host_attention not in KERNELS:
        return model.host_attention, "ComfyUI", (message("no_kernel_diffusers"), "")
    return model.host_attention, "ComfyUI", obstacle(model, model.host_attention)


def kernel_of(model: VideoModel) -> Kernel:
    """What computes this model's attention: the chosen kernel where nothing is in its way, else diffusers' default."""
    name, _, hindrance = choice(model)
    return KERNELS["auto"] if hindrance else KERNELS[name]


def attention_notes(model: VideoModel, request: Request, predictions: int) -> tuple[str, ...]:
    """Which kernel computes attention, where somebody has chosen one. request: complete."""
    name, who, hindrance = choice(model)
    if not who:
        return ()
    if hindrance:
        return (message("attention_own", who=who, kernel=name, cause=sentences(*hindrance)),)
    if KERNELS[name].calls == "sol_attn":
        return (_sparse_note(model, request, predictions),)
    if not KERNELS[name].masks and masked(model):
        return (message("attention_chosen_masked", kernel=name, who=who),)
    return (message("attention_chosen", kernel=name, who=who),)


def _sparse_note(model: VideoModel, request: Request, predictions: int) -> str:
    """When the sparse kernel computes, or that it never does."""
    name, who, _ = choice(model)
    tokens, dense = model.positions(request), dense_predictions(predictions)
    if tokens < FEWEST or dense >= predictions:
        numbers = dict(tokens=tokens, fewest=FEWEST, dense=dense, count=predictions)
        return message("attention_short", kernel=name, who=who, **numbers)
    return message("attention_sparse", kernel=name, who=who, first=dense + 1, count=predictions)


def masked(model: VideoModel) -> str:
    """A pattern of the names of the attentions that are handed a mask in this model's runs.

    Without the padding (Speed's trim_text) nothing is masked in the blocks of a model that masks all otherwise.
    """
    pattern, stacks = model.masked, model.stacks
    if not (model.trims_text and pattern == ALL_MASKED and stacks):
        return pattern
    return f"^(?!{'|'.join(stacks.lists)})"


def processors(network: Network, pattern: str) -> list[AttentionProcessor]:
    """The processors of the attentions whose names fit a pattern; none where it is empty."""
    named = ((name, getattr(module, "processor", None)) for name, module in network.named_modules())
    return [p for name, p in named if pattern and re.search(pattern, name) and hasattr(p, "_attention_backend")]
