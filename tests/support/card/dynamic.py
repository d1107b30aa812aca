"""comfy_aimdo without a CUDA driver, so that ComfyUI's DynamicVRAM runs on the pretend card (`--enable-dynamic-vram`).

comfy_aimdo gives each model a range of addresses (a VBAR); a layer's weights get memory there when the layer runs, and
lose it when memory is short, also when PyTorch itself runs short. The names and what they answer are those of
comfy_aimdo 0.4.11, as far as ComfyUI 0.30 calls them; there are no pinned host buffers (`--disable-pinned-memory`).
"""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass, field
from typing import Any
from weakref import ReferenceType, ref

import torch

_ranges: list[ReferenceType[ModelVBAR]] = []  # the last is the one that was used last
_Reclaim = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64)


@dataclass(eq=False)
class Page:
    """Room for one layer's weights. memory: bytes [size] whose storage is empty while they are not on the card."""

    owner: ReferenceType[ModelVBAR]
    offset: int
    size: int
    memory: torch.Tensor
    pins: int = 0
    version: int = 0  # how often the memory was given: what was written before is gone

    @property
    def resident(self) -> bool:
        return self.memory.untyped_storage().nbytes() > 0

    def fault(self) -> tuple[int, int] | None:
        """Pin it on the card; a signature of its content, or None where it has no room.

        A layer whose weights have no room casts each time.
        """
        owner = self.owner()
        if owner is None or self.offset + self.size > owner.limit:
            return None
        if not self.resident:
            try:
                self.memory.untyped_storage().resize_(self.size)
            except torch.OutOfMemoryError:
                return None
            self.version += 1
        self.pins += 1
        return id(self), self.version

    def evict(self) -> int:
        """Bytes that it gave back."""
        if self.pins or not self.resident:
            return 0
        self.memory.untyped_storage().resize_(0)
        return self.size


@dataclass(eq=False)
class ModelVBAR:
    """A model's range of addresses on the card of this index."""

    max_size: int
    device: int
    offset: int = 0
    limit: int = sys.maxsize  # no page beyond it gets memory
    pages: list[Page] = field(default_factory=list)

    def __post_init__(self) -> None:
        _ranges.append(ref(self, _ranges.remove))

    def prioritize(self, malloc_async_clamp: int | None = None) -> None:
        me = next(entry for entry in _ranges if entry() is self)
        _ranges.remove(me)
        _ranges.append(me)

    def alloc(self, num_bytes: int) -> Page:
        memory = torch.empty(0, dtype=torch.uint8, device=f"npu:{self.device}").resize_(int(num_bytes))
        memory.untyped_storage().resize_(0)
        self.pages.append(Page(ref(self), self.offset, int(num_bytes), memory))
        self.offset += int(num_bytes)
        return self.pages[-1]

    def loaded_size(self) -> int:
        return sum(page.size for page in self.pages if page.resident)

    def free_memory(self, size_bytes: float) -> int:
        """Bytes freed, the last pages first."""
        freed = 0
        for page in reversed(self.pages):
            if freed >= size_bytes:
                break
            freed += page.evict()
        return freed

    def set_watermark_limit(self, size_bytes: float) -> None:
        self.limit = int(size_bytes)


class HostBuffer:
    """Pinned memory, of which there is none."""

    size = 0

    def __init__(self, *_: Any) -> None:
        """Any size is none."""

    def truncate(self, *_: Any, **__: Any) -> None:
        """There is nothing to cut."""


def vbars() -> list[ModelVBAR]:
    """All ranges, the one that may best give its memory away first."""
    return [vbar for entry in list(_ranges) if (vbar := entry()) is not None]


def _analyze(device: int | None = None) -> int:
    """Bytes that could be taken back."""
    return sum(page.size for vbar in vbars() for page in vbar.pages if page.resident and not page.pins)


def _unpin(page: Page | None) -> None:
    if page is not None:
        page.pins -= 1


def _lift_limits() -> None:
    for vbar in vbars():
        vbar.limit = sys.maxsize


@_Reclaim
def _reclaim(index: int, size: int) -> None:
    """The card has no room for `size` bytes: pages go until it has."""
    for vbar in vbars():
        if size > 0 and vbar.device == index:
            size -= vbar.free_memory(size)


def enable() -> None:
    """Puts all this in comfy_aimdo's place; ComfyUI asks it once it is started with `--enable-dynamic-vram`."""
    from comfy_aimdo import control, host_buffer, model_vbar
    from comfy_aimdo import torch as views

    control.init_devices = lambda devices: True
    control.analyze = lambda: None
    for level in ("none", "critical", "error", "warning", "info", "debug", "detail", "verbose", "vverbose"):
        setattr(control, f"set_log_{level}", lambda: None)
    host_buffer.HostBuffer = HostBuffer
    model_vbar.ModelVBAR = ModelVBAR
    model_vbar.vbar_fault, model_vbar.vbar_unpin = Page.fault, _unpin
    model_vbar.vbar_signature_compare = lambda one, other: one is not None and one == other
    model_vbar.vbars_reset_watermark_limits, model_vbar.vbars_analyze = _lift_limits, _analyze
    views.aimdo_to_tensor = lambda page, device: page.memory
    torch.ops.reelwire_card.set_reclaimer(ctypes.cast(_reclaim, ctypes.c_void_p).value)
