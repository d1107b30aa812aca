"""A custom node pack for tests: `/reelwire_card` shows and sets the state of a running ComfyUI's card."""

from __future__ import annotations

import ctypes
import gc
import linecache
import sys
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Any

import comfy.model_management as mm
import torch
from aiohttp import web
from server import PromptServer

NODE_CLASS_MAPPINGS: dict[str, Any] = {}
_answered: list[int] = []  # what the pack's memory said of the room that it has, in order
_ordered: list[int] = []  # what it says next instead
_collect = gc.collect


def _orders(index: int) -> dict[str, Any]:
    return {
        "set_cap": lambda size: torch.npu.set_cap(size, index),
        "fail_after": lambda allocations: torch.npu.fail_after(allocations, index),
        "reset_peak": lambda _: torch.npu.begin_peak(index),
        "collect": lambda _: _collect_all(),
        "collector": _set_collector,
        "freeze": lambda _: _freeze(),
        "forget": lambda _: _forget(),
        "unload": _unload,
        "rooms": _order_rooms,
    }


def _collect_all() -> None:
    """Garbage goes, and pages that the allocator of C keeps though nothing lies in them (65 of 790 MB after 100 runs
    short of memory), so that what is counted then is in use."""
    _collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def _freeze() -> None:
    """What is there by now stays, and no collection looks at it again: the host's modules, before any model."""
    _collect()
    gc.freeze()


def _forget() -> None:
    """The last tokenizers, which are kept for the next prompt: 25 MB of the tiny models', or less. And the lines of all
    source files that a traceback has led through, which Python keeps."""
    linecache.clearcache()
    for name, module in [*sys.modules.items()]:
        if name.endswith("loaders.common.tokenizers"):
            module._folder_tokenizer.cache_clear()
            module._embedded_tokenizer.cache_clear()


def _set_collector(on: bool) -> None:
    """Whether garbage is collected but by our orders; the host's worker collects it too, after each prompt or so."""
    (gc.enable if on else gc.disable)()
    gc.collect = _collect if on else lambda *_: 0


def _unload(share: float) -> None:
    """That share of what each part has on the card goes, as when another needs the room."""
    with torch.inference_mode():
        for part in _parts():
            part.partially_unload(part.offload_device, part.loaded_size() * share)


def _order_rooms(rooms: list[int]) -> None:
    """From now on the pack is told of these rooms; when they are used up, of the true ones. The record begins anew."""
    memory = next(module for name, module in sys.modules.items() if name.endswith("reelwire.nodes.host")).HostMemory
    if memory.room.__name__ != "_room":
        true = memory.room

        def _room(self: Any, part: str) -> int:
            _answered.append(_ordered.pop(0) if _ordered else true(self, part))
            return _answered[-1]

        memory.room = _room
    _answered.clear()
    _ordered[:] = rooms


def _state(index: int) -> dict[str, Any]:
    """The state of a card, in bytes.

    loaded: [class, bytes on the card, bytes in all] of each part that the manager knows; pages: how much of that
    DynamicVRAM brought in when a layer ran, and may take away (layers of 16 KB and less always lie there).
    """
    parts = _parts()
    return {
        "device": str(mm.get_torch_device()),
        "dynamic": mm.comfy.memory_management.aimdo_enabled,
        "allocated": torch.npu.memory_allocated(index),
        "peak": torch.npu.whole_peak(index),
        "cap": torch.npu.mem_get_info(index)[1],
        "allocations": torch.npu.allocations(index),
        "refusals": torch.npu.refusals(index),
        "rooms": [*_answered],
        "loaded": [[type(_inner(p)).__name__, int(p.loaded_size()), int(p.model_size())] for p in parts],
        "pages": [int(_pages(p)) for p in parts],
    }


def _tensors() -> Iterator[torch.Tensor]:
    """All of this process, that garbage holds too: a look at each of its objects."""
    return (thing for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


# what takes a second or more to find out is told where it is asked for
_COUNTED: dict[str, Callable[[], Any]] = {
    "weights": lambda: sum(isinstance(tensor, torch.nn.Parameter) for tensor in _tensors()),
    "tensors": lambda: sorted(f"{tuple(t.shape)} {t.dtype}" for t in _tensors() if t.device.type == "npu")[:50],
}


def _pages(patcher: Any) -> int:
    vbar = patcher._vbar_get() if patcher.is_dynamic() else None
    return patcher.loaded_size() if vbar is None else vbar.loaded_size()


def _parts() -> list[Any]:
    """The patchers that the manager knows; the host's worker may drop one at any moment."""
    return [part for loaded in [*mm.current_loaded_models] if (part := loaded.model) is not None]


def _inner(patcher: Any) -> Any:
    return getattr(patcher.model, "inner", patcher.model)


@PromptServer.instance.routes.post("/reelwire_card/{index}")
async def state(request: web.Request) -> web.Response:
    """The body: a JSON object of orders, which are done in their order before the state is told; names of _COUNTED are
    told beside it."""
    index, orders = int(request.match_info["index"]), await request.json()
    asked = [name for name in orders if name in _COUNTED]
    for name, value in orders.items():
        if name not in _COUNTED:
            _orders(index)[name](value)
    return web.json_response(_state(index) | {name: _COUNTED[name]() for name in asked})


@PromptServer.instance.routes.get("/reelwire_kept")
async def kept(request: web.Request) -> web.Response:
    """What the pack's modules keep: see tests/soak/kept.py."""
    root = next(name for name in sys.modules if name.endswith("reelwire.nodes.host")).removesuffix(".nodes.host")
    return web.json_response(import_module(f"{root}.tests.soak.kept").kept(root))
