"""What a run needs beside the weights, measured without numbers: networks at their published size on the meta device.

The pack's own code runs (`samplers.denoise.sample`, `VideoModel.encode`, `stream_frames`); a dispatch mode counts the
bytes of all storages that are alive there. Where code reads a number back it is told a plain one, and masks count as
full. Attention is taken for one of the fused kernels, which hold nothing but their result. What a kernel needs inside
itself is not seen.
"""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast
from unittest.mock import patch

import torch
import torch.nn.functional as F
from reelwire.loaders.parts import Part
from reelwire.loaders.request import Conditioning, Control, Keyframe, Request
from reelwire.loaders.vae.tiles import Tiling
from reelwire.loaders.video_model import VideoModel
from reelwire.tests.support.files.published import imagined
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

META = torch.device("meta")
aten = torch.ops.aten


def _storages(nest: Any) -> dict[int, torch.UntypedStorage]:
    tensors = [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor) and leaf.is_meta]
    return {t.untyped_storage()._cdata: t.untyped_storage() for t in tensors}


def _answer(call: Any, args: Any, kwargs: Any) -> Any:
    """What is told where a number would be read back; None for all else."""
    if call is aten._local_scalar_dense.default and args[0].is_meta:
        return True if args[0].dtype == torch.bool else 0.5 if args[0].is_floating_point() else 1
    if call is aten.lt.Scalar and args[0].is_meta and not args[0].ndim:  # nothing is too small: no video has collapsed
        return torch.tensor(False)
    if call is aten.equal.default and (args[0].is_meta or args[1].is_meta):
        return True
    if call is aten._to_copy.default and args[0].is_meta and str(kwargs.get("device")) == "cpu":
        return torch.zeros((), dtype=kwargs.get("dtype") or args[0].dtype).expand(args[0].shape)
    if call is aten.nonzero.default and args[0].is_meta:
        return torch.empty(args[0].numel(), args[0].ndim, dtype=torch.long, device=META)
    return None


class Live(TorchDispatchMode):
    """Counts the bytes of all storages that are alive on the meta device; what is copied away is not counted.

    at: what is alive at the peak, as (size, how many), when `detailed`.
    """

    def __init__(self, detailed: bool = False) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.at: Counter[Any] = Counter()
        self._seen = dict[int, Any]()
        self._detailed = detailed

    def __torch_dispatch__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        answer = _answer(call, args, kwargs)
        result = call(*args, **kwargs) if answer is None else answer
        known = _storages((args, kwargs))  # a view of a weight is no new storage
        for key, storage in _storages(result).items():
            if key not in known:
                self._count(storage, call)
        return result

    def _count(self, storage: torch.UntypedStorage, call: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._seen:
            return
        self._seen[key] = (size, str(call)) if self._detailed else size
        self.now += size
        if self.now > self.peak:
            self.peak = self.now
            if self._detailed:
                self.at = Counter(self._seen.values())
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._seen.pop(key)
        self.now -= size

    def restart(self) -> None:
        """The peak from here on."""
        self.peak = self.now


class Fused(TorchFunctionMode):
    """Attention as the fused kernels do it, which hold nothing but their result."""

    def __torch_function__(self, call: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if call is F.scaled_dot_product_attention:
            return torch.empty_like(args[0] if args else (kwargs or {})["query"])
        name = getattr(call, "__name__", "")
        if name == "tolist" and args[0].is_meta:  # of levels of noise, from much to none; of answers, all no
            count, kind = args[0].numel(), args[0].dtype
            falling = torch.linspace(1, 0, count) if kind.is_floating_point else torch.arange(count).flip(0)
            return (falling * (kind != torch.bool)).to(kind).reshape(args[0].shape).tolist()
        if name == "__float__" and args[0].is_meta:  # inside a constructor, where modes of dispatch are off
            return 0.5
        return call(*args, **(kwargs or {}))


class Imagined:
    """A memory whose parts lie on the meta device.

    asked: part -> the most bytes that a use has asked for
    peaks: part -> what was alive then at most beside the weights (of an encoder or a VAE: beside all before, too)
    at: part -> what that was, where it is counted in detail
    """

    def __init__(self, dtype: str = "bfloat16", room: int = sys.maxsize) -> None:
        self.asked: dict[str, int] = {}
        self.peaks: dict[str, int] = {}
        self.at: dict[str, Counter[Any]] = {}
        self._dtype, self._room, self._parts = getattr(torch, dtype), room, dict[str, nn.Module]()

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[Any]:
        self.asked[part.name] = max(self.asked.get(part.name, 0), activations)
        module, live = self.make(part), _LIVE[-1]
        live.restart()
        before = 0 if part.name.startswith(("transformer", "unet")) else live.now
        yield module
        if live.peak - before > self.peaks.get(part.name, 0):
            self.peaks[part.name], self.at[part.name] = live.peak - before, live.at

    def make(self, part: Part) -> nn.Module:
        """A part; to be called before anything is counted."""
        if part.name not in self._parts:
            self._parts[part.name] = typed(part, self._dtype)
        return self._parts[part.name]

    def device(self, part: str) -> torch.device:
        return META

    def room(self, part: str) -> int:
        return self._room

    def limit(self, room: int) -> None:
        """Say how much room there is from now on."""
        self._room = room

    def counting(self, detailed: bool = False) -> AbstractContextManager[Any]:
        """Counts for the length of the block."""
        return counted(detailed)


_LIVE: list[Live] = []


@contextmanager
def counted(detailed: bool = False) -> Iterator[Live]:
    """Counts for the length of the block."""
    autocast = torch.autocast
    with Live(detailed) as live, Fused(), torch.no_grad():
        _LIVE.append(live)
        imagined: Any = lambda kind, *more, **named: nullcontext() if kind == "meta" else autocast(kind, *more, **named)
        torch.autocast = imagined  # type: ignore[misc]
        try:
            yield live
        finally:
            torch.autocast = autocast  # type: ignore[misc]
            _LIVE.pop()


def typed(part: Part, dtype: torch.dtype) -> nn.Module:
    """The module of a part as `checkpoints.build` would type it, on the meta device."""
    module = imagined(part.config)
    whole = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, weight in module.named_parameters():
        weight.data = torch.empty(
            weight.shape, dtype=torch.float32 if whole & {*name.split(".")} else dtype, device=META
        )
    return module


def conditioning(model: VideoModel, request: Request) -> Conditioning:
    """Prompts of the family's form, as long as they can be."""
    facts, length = model.facts, model.facts.prompt_tokens
    text = torch.zeros(1, length, facts.text_width)
    read: dict[str, Tensor] = {"text": text, "mask": torch.ones(1, length, dtype=torch.bool)}
    picture = None
    if model.name == "svd":
        read = {}
    if model.name == "hunyuan_video":
        image = getattr(facts, "image", "")
        more = {"latent_concat": 288, "token_replace": 144}.get(image, 0)  # of the 576 tokens of a picture
        read = {
            "text": torch.zeros(1, length + more, facts.text_width),
            "mask": torch.ones(1, length + more, dtype=torch.long),
            "pooled": torch.zeros(1, 768),
        }
        picture = request.keyframes[0].images if image else None
    return Conditioning(model.name, facts.text_width, {"cond": read, "uncond": read}, (), picture)


def fitted(model: VideoModel, pictured: bool = False, **changes: Any) -> Request:
    """The request of a variant's default preset with these changes, and with the pictures or the control that it needs.

    pictured: with a first frame too where the model needs none.
    """
    wanted = model.complete(Request(**changes))
    frame = torch.zeros(1, wanted.height, wanted.width, 3)
    places = (model.facts.pictures or ((),))[-1]
    if pictured:
        places = places or ("first",)
    keyframes = tuple(Keyframe(frame, 0 if place == "first" else wanted.frames - 1) for place in places)
    control = None
    if model.controlled():
        control = Control(torch.zeros(wanted.frames, wanted.height, wanted.width, 3))
    return Request(**{**changes, "keyframes": keyframes, "control": control})


def step_peak(model: VideoModel, steps: int = 2, detailed: bool = False, **changes: Any) -> int:
    """Two steps of a request through the pack's own sampler: the most that is alive beside the weights, in bytes."""
    from reelwire.tests.support.engine.sampling import sample

    own = model.complete(Request()).sampler == "distilled"  # which takes all of its steps
    memory, request = _memory(model, "text"), fitted(model, steps=0 if own else steps, **changes)
    with memory.counting(detailed):
        sample(model, conditioning(model, request), request)
    return max(peak for name, peak in memory.peaks.items() if name.startswith(("transformer", "unet")))


def encoder_peaks(model: VideoModel, detailed: bool = False) -> dict[str, tuple[int, int]]:
    """Encoder -> (bytes that it asked for, the most that was alive) where a prompt, or the picture, is encoded."""
    memory, request = _memory(model, "nothing"), model.complete(fitted(model, "image_encoder" in model.parts))
    with memory.counting(detailed), _expanding():
        prompts = model.encode("a red cat", "", request.keyframes)
        del prompts
        if "image_encoder" in model.parts:
            _look(model, request)
    return {name: (memory.asked[name], peak) for name, peak in memory.peaks.items() if "encoder" in name}


@contextmanager
def _expanding() -> Iterator[None]:
    """Where Llava puts the picture's tokens depends on numbers, which are not there; how many they are does not."""
    from diffusers.pipelines.hunyuan_video import pipeline_hunyuan_video_image2video as pipeline
    from transformers.models.llava.modeling_llava import LlavaModel

    def expanded(ids: Tensor, mask: Tensor, most: int, token: int, count: int, *_: int) -> dict[str, Tensor]:
        names = ("input_ids", "attention_mask", "position_ids")
        return {name: torch.empty(1, most + count - 1, dtype=torch.long, device=META) for name in names}

    def places(model: Any, input_ids: Tensor, inputs_embeds: Tensor, image_features: Tensor) -> Tensor:
        return torch.empty(*inputs_embeds.shape[:2], 1, dtype=torch.bool, device=META)

    with (
        patch.object(pipeline, "_expand_input_ids_with_image_tokens", expanded),
        patch.object(LlavaModel, "get_placeholder_mask", places),
    ):
        yield


def _look(model: VideoModel, request: Request) -> None:
    """The picture's way through its encoder, as the families' runs begin."""
    from reelwire.loaders.common.images import cover
    from reelwire.loaders.families.svd import encode_image
    from reelwire.loaders.families.wan.denoiser import encode_image as encode_images

    images = [cover(k.images, request.width, request.height) for k in request.keyframes]
    if model.name == "wan":
        encode_images(cast(Any, model), images)
    else:
        encode_image(model, images[0])


def coder_peaks(
    model: VideoModel, tiling: Tiling | None = None, frames: int = 0, **changes: Any
) -> dict[str, tuple[int, int]]:
    """What the VAE does -> (bytes that are counted with, the most that was alive), for a clip of the default size.

    It does "encode", "encode at once" where it can, and "decode". frames: of the clip (0: as long as shows all).
    """
    from reelwire.samplers.decode import stream_frames

    memory, facts = _memory(model, "text"), model.facts
    request = model.complete(Request(**changes))
    latents = facts.latent_shape(request.width, request.height, frames or _enough(model, request))
    clip, tiling = (
        torch.zeros(()).expand(facts.frames(latents[2]) + facts.discarded_frames, request.height, request.width, 3),
        tiling or Tiling(),
    )
    peaks, size = dict[str, tuple[int, int]](), latents[3:]
    needed = {"encode": model.vae_bytes(tiling, *size, len(clip)), "decode": model.vae_bytes(tiling, *size)}
    memory.peaks.clear()
    with memory.counting():
        for way in ("still", "encode", *(["encode at once"] if model.streamed_encode_differs else [])):
            memory.limit(int(1.3 * needed[way]) if way in needed else sys.maxsize)  # where there is room, at once
            frames_in = clip[:1] if way == "still" else clip
            asked = needed.get(way) or model.encoding(request.width, request.height, len(frames_in))
            with model.use("vae", asked) as vae:
                model.encode_video(vae, frames_in)
            peaks[way] = asked, memory.peaks.pop("vae")
        for piece in stream_frames(model, torch.zeros(latents, device=memory.device("vae")), tiling=tiling):
            del piece
        peaks["decode"] = needed["decode"], memory.peaks.pop("vae")
    return peaks


def _enough(model: VideoModel, request: Request) -> int:
    """Frames after which a streamed VAE's memory grows no more."""
    facts = model.facts
    return max(facts.frame_counts) if facts.frame_counts else 8 * facts.temporal_ratio + 1


def _memory(model: VideoModel, left_out: str) -> Imagined:
    """The model's memory with all parts made but those of this name."""
    memory = model.memory
    assert isinstance(memory, Imagined)
    for name, part in model.parts.items():
        if not name.startswith(left_out):
            memory.make(part)
    return memory
