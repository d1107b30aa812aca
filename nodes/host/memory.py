"""ComfyUI's memory manager as the engine's Memory: it moves, partly offloads and evicts every part."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, cast

import comfy.model_management as mm
import comfy.model_patcher
import comfy.ops
import torch
from comfy.patcher_extension import CallbacksMP
from torch import Tensor, nn

from ...loaders.families import family
from ...loaders.messages import message
from ...loaders.parts import Network, Part, Recipe
from ...loaders.video_model import VideoModel
from ...loaders.weights.stored import Stored
from .progress import progress

Patcher = Any  # the host's ModelPatcher, untyped, as all of the host that is no part of its API for nodes

_CASTING = {
    getattr(nn, name): getattr(comfy.ops.manual_cast, name)
    for name in ("Linear", "Conv1d", "Conv2d", "Conv3d", "LayerNorm", "RMSNorm", "GroupNorm", "Embedding")
}


class HostStored(Stored):
    """Bytes that the host brings to where they are needed; they are computed there."""

    comfy_cast_weights = False  # the layer computes wherever its weight lies
    weight_function: tuple[Callable[[Tensor], Tensor], ...] = ()
    bias_function: tuple[Callable[[Tensor], Tensor], ...] = ()

    def forward(self, input: Tensor) -> Tensor:
        weight, bias, lent = comfy.ops.cast_bias_weight(
            self, device=input.device, dtype=self.weight.dtype, bias_dtype=input.dtype, offloadable=True
        )
        output = self.compute(input, weight, bias)
        comfy.ops.uncast_bias_weight(self, weight, bias, lent)
        return output


_CASTING[Stored] = HostStored


class Holder(nn.Module):
    """Takes the attributes that ModelPatcher writes, so that diffusers and transformers modules stay untouched."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.device = torch.device("cpu")
        _join_tied(inner)

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """Each tensor once: the host adds up their bytes, and would count T5's tied embedding, 2 GiB, twice."""
        seen, whole = set[tuple[int, int]](), super().state_dict(*args, **kwargs)
        for name in [name for name, tensor in whole.items() if _met(tensor, seen)]:
            del whole[name]
        return whole


def _met(tensor: Tensor, seen: set[tuple[int, int]]) -> bool:
    """Whether a tensor's bytes have been seen under another name."""
    place = tensor.data_ptr(), tensor.nbytes
    met = tensor.data_ptr() != 0 and place in seen
    seen.add(place)
    return met


def _join_tied(module: nn.Module) -> None:
    """Put one layer in all places of those that have the same weight, as T5's `shared` and `encoder.embed_tokens`: the
    manager moves layers, and would bring it to the card for each."""
    first: dict[int, nn.Module] = {}
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            weight = getattr(child, "weight", None)
            if isinstance(weight, nn.Parameter) and type(first.setdefault(id(weight), child)) is type(child):
                setattr(parent, name, first[id(weight)])


class HostMemory:
    """ComfyUI's memory manager: parts are moved, partly offloaded and evicted by it."""

    def __init__(self, most_on_card: float = 0.0) -> None:
        """most_on_card: bytes of a part's weights that may lie on the card at a time; 0: as the manager decides."""
        self._patchers: dict[str, Patcher] = {}
        self._most = int(most_on_card)

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[nn.Module]:
        """The part on its device, in the host's accounting."""
        for name in part.instead_of:
            if name in self._patchers:
                unload(self._patchers[name])
        if part.name not in self._patchers:
            self._patchers[part.name] = self._wrap(part)
        patcher = self._patchers[part.name]
        mm.load_models_gpu([patcher], memory_required=activations)
        if self._most:
            limit(patcher, self._most)
        move_rest(patcher.model, patcher.load_device)
        yield patcher.model.inner

    def device(self, part: str) -> torch.device:
        """Where the host computes this part."""
        return _devices(part)[0]()

    def room(self, part: str) -> int:
        """Bytes that are free there, or that the host can free."""
        device = self.device(part)
        if device.type == "cpu":
            return free_ram()
        here = [loaded.model for loaded in mm.current_loaded_models if loaded.device == device]  # None: gone already
        evictable = sum(patcher.loaded_size() for patcher in here if patcher is not None)
        return int(mm.get_free_memory(device) + evictable)

    def make_way(self) -> None:
        """Take all that the host holds off its card: other processes are to use it."""
        if mm.get_torch_device().type != "cpu":
            mm.unload_all_models()
            mm.soft_empty_cache()

    def patchers(self) -> list[Patcher]:
        """The host's patchers of the parts in use."""
        return list(self._patchers.values())

    @property
    def most_on_card(self) -> int:
        """Bytes of a part's weights that may lie on the card at a time; 0: as the manager decides."""
        return self._most

    def _wrap(self, part: Part) -> Patcher:
        """The part as the host's patcher."""
        offload = _devices(part.name)[1]()
        holder = Holder(use_casting_layers(part.load(progress())))
        patcher = comfy.model_patcher.CoreModelPatcher(
            holder, load_device=self.device(part.name), offload_device=offload
        )

        def on_detach(_patcher: Patcher, unpatch_all: bool = True, *_: object) -> None:
            # without unpatch_all the weights stay: the manager detaches what is loaded before it loads it anew
            if unpatch_all:
                move_rest(holder, offload)

        patcher.add_callback(CallbacksMP.ON_LOAD, lambda _patcher, device, *_: move_rest(holder, device))
        patcher.add_callback(CallbacksMP.ON_DETACH, on_detach)
        return patcher


def patchers_of(model: VideoModel) -> list[Patcher]:
    """The host's patchers of a model's parts in use; none of a model whose memory the host does not manage."""
    return model.memory.patchers() if isinstance(model.memory, HostMemory) else []


class _Accounted:
    """What ComfyUI asks of everything that travels between nodes: the patchers that it holds."""

    def get_models(self) -> list[Patcher]:
        """The patchers of its parts in use."""
        return patchers_of(cast("VideoModel", self))


@cache
def _accounted(kind: type[VideoModel]) -> type[VideoModel]:
    """A family's class whose models tell ComfyUI what they hold of its memory."""
    return type(kind.__name__, (_Accounted, kind), {"__module__": kind.__module__})


def load_model(recipe: Recipe, most_on_card: float = 0.0) -> VideoModel:
    """The model that a recipe describes, in the host's memory; no weights are read yet. Raises CheckpointError.

    most_on_card: bytes of a part's weights that may lie on the card at a time; 0: as the manager decides.
    """
    return _accounted(family(recipe.family)).load(recipe, HostMemory(most_on_card))


def make_room(device: torch.device, needed: int) -> None:
    """Have models sent away until `needed` bytes are free on a device, for work that no model does."""
    if device.type != "cpu":
        mm.free_memory(needed + mm.extra_reserved_memory(), device)


def free_ram() -> int:
    """Bytes of RAM that are free."""
    return int(mm.get_free_memory(torch.device("cpu")))


def whole_ram() -> int:
    """Bytes of RAM that there are, free or not."""
    return int(mm.get_total_memory(torch.device("cpu")))


def _devices(part: str) -> tuple[Callable[[], torch.device], Callable[[], torch.device]]:
    """Where a part computes, and where it waits."""
    if part == "vae":
        return mm.vae_device, mm.vae_offload_device
    if "encoder" in part:
        return mm.text_encoder_device, mm.text_encoder_offload_device
    return mm.get_torch_device, mm.unet_offload_device


def limit(patcher: Patcher, most: int) -> None:
    """Keep at most this many bytes of a loaded part's weights on its device while it runs."""
    over = patcher.loaded_size() - most
    if not patcher.is_dynamic():
        if over > 0:
            patcher.partially_unload(patcher.offload_device, over)
        return
    # DynamicVRAM brings layers in when they run, up to a watermark. Small and foreign weights always lie on the card.
    pages: Any = getattr(patcher, "_vbar_get", lambda: None)()
    if not hasattr(pages, "set_watermark_limit"):
        logging.warning("Reelwire: %s", message("no_dynamic_limit"))
        return
    fixed = patcher.loaded_size() - pages.loaded_size()
    pages.free_memory(max(over, 0))
    pages.set_watermark_limit(max(most - fixed, 0))


def unload(patcher: Patcher) -> None:
    """Take a part off its device, if it is there."""
    for loaded in [m for m in mm.current_loaded_models if m.model is patcher]:
        loaded.model_unload()
        mm.current_loaded_models.remove(loaded)


def use_casting_layers(module: nn.Module) -> nn.Module:
    """Switch leaf layers to the host's casting ops, which can compute while their weights lie elsewhere."""
    layers: Iterator[Network] = module.modules()
    for layer in layers:
        casting = _casting(type(layer))
        if casting is not None:
            layer.__class__ = casting
            if not hasattr(layer, "bias"):
                layer.bias = None
    return module


def _casting(layer: type[nn.Module]) -> type[nn.Module] | None:
    """The host's form of a layer's class, None where it has none.

    A class that only prepares its input and calls `super().forward` (as diffusers' causal convolutions of Wan and
    CogVideoX do) is put before the host's layer: its `super()` is then the host's. One that reads its weight itself
    (as FP32LayerNorm does) computes where its weight lies.
    """
    if layer in _CASTING:
        return _CASTING[layer]
    base = next((known for known in layer.__mro__ if known in _CASTING), None)
    if base is None or issubclass(layer, comfy.ops.CastWeightBiasOp):
        return None
    own = (vars(c).get("forward") for c in layer.__mro__[: layer.__mro__.index(base)])
    names = [set(inspect.unwrap(forward).__code__.co_names) for forward in own if forward is not None]
    if any("super" not in used or used & {"weight", "bias"} for used in names):
        return None
    _CASTING[layer] = type(layer.__name__, (layer, _CASTING[base]), {"__module__": layer.__module__})
    return _CASTING[layer]


def move_rest(module: nn.Module, device: torch.device | None) -> None:
    """Move what the manager's partial loads and unloads leave behind: parameters beside sub-modules or in layers that
    cannot be cast, and buffers."""
    for layer in module.modules():
        if hasattr(layer, "comfy_cast_weights"):
            continue
        for tensor in (*layer.parameters(recurse=False), *layer.buffers(recurse=False)):
            tensor.data = tensor.data.to(device)
