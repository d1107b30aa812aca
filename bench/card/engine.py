"""A real card beside what the pack says of it:  python bench/card/engine.py [stored] [fits] [kernels] [peaks]

peaks: networks, text encoders and VAEs of published size with random weights. For each: the memory that the estimate
    counts and that it asks of the manager, the most that PyTorch allocated and reserved beside the weights, seconds of
    a forward and the rate that it reaches by the estimate's own count of operations.
fits: a run's steps and its decode where PyTorch may take no more than what is asked of the manager, beside the weights:
    seconds, or that memory ran out, or that the decode went on in smaller parts.
kernels: a forward by each kernel for attention that this machine has, and with compiled blocks: seconds, and how far
    the prediction is from that of PyTorch's own choice.
stored: one linear layer of Wan 2.1 14B with 32,760 tokens in each format that keeps weights small: seconds, and how
    far the result is from that of the same weights widened to float32.
Rows are added to engine.json beside this file, by the card's name. PYTORCH_CUDA_ALLOC_CONF=backend:cudaMallocAsync has
PyTorch allocate as under ComfyUI on NVIDIA's cards.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))
from pack import import_pack

import_pack()
from reelwire.bench.memory import without_kernels
from reelwire.loaders.devices import free_bytes, with_kernels
from reelwire.loaders.parts import Part
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.format import class_of
from reelwire.loaders.weights.quantised import Quantisation
from reelwire.loaders.weights.stored import Coding, Stored, narrow, unpack, widen
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.estimate.flops import forward_flops
from reelwire.samplers.kernels import KERNELS, obstacle
from reelwire.samplers.room import step_bytes
from reelwire.samplers.speed import Speed
from reelwire.tests.support.engine.fake_peak import (
    Imagined,
    coder_peaks,
    conditioning,
    encoder_peaks,
    fitted,
    step_peak,
)
from reelwire.tests.support.engine.sampling import sample
from reelwire.tests.support.files.published import kind_of, published
from torch import Tensor, nn

GIB = 2**30
# those that differ in kind, at sizes whose forward takes seconds
SIZES: dict[str, dict[str, Any]] = {
    "ltx/0.9.6-2b-dev": {},
    "ltx/0.9.8-13b-dev": {},
    "wan/2.1-t2v-1.3b": {},
    "wan/2.1-vace-1.3b": {},
    "wan/2.2-ti2v-5b": {},
    "wan/2.1-i2v-14b-480p": {},
    "cogvideox/2b": {},
    "cogvideox/5b": {},
    "cogvideox/1.5-5b": {},
    "mochi/1-preview": {},
    "svd/svd-xt": {},
    "hunyuan_video/t2v-13b": {"frames": 61},
    "hunyuan_video/i2v-13b-concat": {"width": 960, "height": 544, "frames": 61},
}
KERNEL_CASES = ("wan/2.1-t2v-1.3b", "ltx/0.9.6-2b-dev", "mochi/1-preview")
LAYER = 13824, 5120  # rows and columns of the first layer of an MLP of Wan 2.1 14B
TOKENS = 32760  # of 832 x 480, 81 frames
Row = dict[str, Any]


class Real(Imagined):
    """A memory whose parts lie on the card, with random numbers.

    reserved: part -> the most that PyTorch reserved beside the weights; spans: start and end of each forward of a
    network; seconds: part -> of its last use.
    """

    def __init__(self, device: str = "cuda", limited: bool = False) -> None:
        """limited: PyTorch may take no more than what is there before a use, and what the use asks for."""
        super().__init__()
        self._limited = limited
        self.reserved: dict[str, int] = {}
        self.spans: list[tuple[Any, Any]] = []
        self.seconds: dict[str, float] = {}
        self._device = torch.device(device)

    @contextmanager
    def use(self, part: Part, activations: int = 0) -> Iterator[Any]:
        self.asked[part.name] = max(self.asked.get(part.name, 0), activations)
        module, network = self.make(part), part.name.startswith(("transformer", "unet"))
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        weights = sum(tensor.nbytes for m in self._parts.values() for tensor in (*m.parameters(), *m.buffers()))
        before = weights if network else torch.cuda.memory_allocated()
        begin = _now()
        with self._limit(torch.cuda.memory_reserved() + activations):
            yield module
        end = _now()
        torch.cuda.synchronize()
        self.seconds[part.name] = begin.elapsed_time(end) / 1000
        self.peaks[part.name] = max(self.peaks.get(part.name, 0), torch.cuda.max_memory_allocated() - before)
        self.reserved[part.name] = max(self.reserved.get(part.name, 0), torch.cuda.max_memory_reserved() - before)

    @contextmanager
    def _limit(self, size: int) -> Iterator[None]:
        whole = torch.cuda.get_device_properties(self._device).total_memory
        torch.cuda.set_per_process_memory_fraction(min(size / whole, 1.0) if self._limited else 1.0)
        try:
            yield
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)

    def make(self, part: Part) -> nn.Module:
        if part.name not in self._parts:
            module = randomised(part, self._device)
            if part.name.startswith(("transformer", "unet")):
                module.register_forward_pre_hook(lambda *_: self.spans.append((_now(), None)))
                module.register_forward_hook(lambda *_: self.spans.append((self.spans.pop()[0], _now())))
            self._parts[part.name] = module
        return self._parts[part.name]

    def device(self, part: str) -> torch.device:
        return self._device

    def room(self, part: str) -> int:
        return min(self._room, free_bytes(self._device))

    def counting(self, detailed: bool = False) -> AbstractContextManager[Any]:
        return torch.no_grad()

    def forward_seconds(self) -> float:
        """Of the last forwards, after those that warmed up."""
        torch.cuda.synchronize()
        times = [begin.elapsed_time(end) / 1000 for begin, end in self.spans]
        return median(times[len(times) // 2 :])


def _now() -> Any:
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def randomised(part: Part, device: torch.device) -> nn.Module:
    """The module of a part with the numbers that its class begins with, in bfloat16, made on the card."""
    import transformers

    config, before = dict(part.config), torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            if "_class_name" in config:
                module = class_of(kind_of(config)).from_config(config)
            else:
                kind = getattr(transformers, kind_of(config))
                module = kind(kind.config_class.from_dict(config))
    finally:
        torch.set_default_dtype(before)
    whole = set(getattr(module, "_keep_in_fp32_modules", None) or ())
    for name, weight in module.named_parameters():
        weight.data = weight.data.to(device, torch.float32 if whole & {*name.split(".")} else torch.bfloat16)
    return module.to(device).eval().requires_grad_(False)


# ---------------------------------------------------------------- memory and time


def peak_rows(variants: list[str], folder: Path) -> Iterator[Row]:
    for variant in variants:
        yield from guarded({"table": "peaks", "variant": variant}, partial(step_row, variant, folder))
        for kind, count in (("encoder", encoder_peaks), ("vae", coder_peaks)):
            key = {"table": "peaks", "variant": variant, "part": kind}
            yield from guarded(key, partial(part_rows, variant, folder, count, kind))


def step_row(variant: str, folder: Path) -> list[Row]:
    memory = Real()
    model = _single(published(variant, folder, memory))
    request = model.complete(fitted(model, **SIZES[variant]))
    counted = step_bytes(model, request)
    peak = step_peak(model, **SIZES[variant])
    name = next(n for n in memory.peaks if n.startswith(("transformer", "unet")))
    seconds = memory.forward_seconds()
    batch = 2 if model.batched_guidance and request.guidance > 1 else 1
    operations = batch * forward_flops(model, request).total
    size = f"{request.width}x{request.height}x{request.frames}"
    return [
        _row("step", size, counted, with_kernels(counted, "cuda"), peak, memory.reserved[name])
        | {"forward_seconds": seconds, "teraflops": operations / seconds / 1e12}
    ]


def _row(what: str, size: str, counted: int, asked: int, allocated: int, reserved: int) -> Row:
    return {
        "what": what,
        "size": size,
        "counted_gib": counted / GIB,
        "asked_gib": asked / GIB,
        "allocated_gib": allocated / GIB,
        "reserved_gib": reserved / GIB,
        "counted_of_allocated": counted / allocated,
        "asked_of_reserved": asked / reserved,
    }


def part_rows(variant: str, folder: Path, count: Callable[..., dict[str, tuple[int, int]]], kind: str) -> list[Row]:
    """Of encoders, each with its longest prompt, or of the ways of a VAE."""
    memory = Real()
    model = published(variant, folder, memory)
    changes = {k: v for k, v in SIZES[variant].items() if k != "frames"} if kind == "vae" else {}
    rows = list[Row]()
    for name, (asked, peak) in count(model, **changes).items():
        counted = without_kernels(asked, "cuda") if kind == "encoder" else asked
        reserved = memory.reserved.get(name if kind == "encoder" else "vae", 0) or peak
        rows.append(_row(name, "", counted, with_kernels(counted, "cuda"), peak, reserved))
    rows[-1]["seconds"] = memory.seconds
    return rows


# ---------------------------------------------------------------- what is asked for, and no more


def fit_rows(variants: list[str], folder: Path) -> Iterator[Row]:
    for variant in variants:
        for what, run in (("step", step_seconds), ("decode", decode_seconds)):
            key = {"table": "fits", "variant": variant, "what": what}
            yield from guarded(key, partial(run, variant, folder))


def step_seconds(variant: str, folder: Path) -> list[Row]:
    memory = Real(limited=True)
    step_peak(_single(published(variant, folder, memory)), **SIZES[variant])
    return [{"forward_seconds": memory.forward_seconds()}]


def decode_seconds(variant: str, folder: Path) -> list[Row]:
    """Of the whole frame, of 17 frames of latents at most."""
    memory = Real(limited=True)
    model, said = published(variant, folder, memory), list[str]()
    request = model.complete(Request(**SIZES[variant]))
    latents = list(model.facts.latent_shape(request.width, request.height, request.frames))
    latents[2] = min(latents[2], 17)
    listener = logging.Handler()
    listener.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(listener)
    with torch.no_grad():
        frames = sum(len(piece) for piece in stream_frames(model, torch.randn(latents, device="cuda")))
    logging.getLogger().removeHandler(listener)
    asked = memory.asked["vae"] / GIB
    return [{"frames": frames, "asked_gib": asked, "seconds": memory.seconds["vae"], "said": said}]


def _single(model: VideoModel) -> VideoModel:
    """With one expert: the other is as large."""
    return replace(model, parts={n: p for n, p in model.parts.items() if n != "transformer_2"})


# ---------------------------------------------------------------- kernels, compiled blocks


def kernel_rows(variants: tuple[str, ...], folder: Path) -> Iterator[Row]:
    for variant in variants:
        yield from guarded({"table": "kernels", "variant": variant}, partial(kernel_row, variant, folder))


def kernel_row(variant: str, folder: Path) -> list[Row]:
    memory = Real()
    model = published(variant, folder, memory)
    ways = {name: Speed(attention=name) for name in KERNELS if not obstacle(model, name)}
    ways["compiled"] = Speed(compile=True)
    rows, reference = list[Row](), None
    for name, speed in ways.items():
        try:
            seconds, result = _timed_run(replace(model, speed=speed), memory)
        except Exception as error:  # noqa: BLE001 (the other ways are measured all the same)
            rows.append({"way": name, "error": f"{type(error).__name__}: {error}"[:300]})
            continue
        reference = result if reference is None else reference
        difference = ((result - reference).norm() / reference.norm()).item()
        rows.append({"way": name, "forward_seconds": seconds, "difference": difference})
    for name in KERNELS:
        if hindrance := obstacle(model, name):
            rows.append({"way": name, "refused": hindrance[0]})
    return rows


def _timed_run(model: VideoModel, memory: Real) -> tuple[float, Tensor]:
    """Seconds of a forward in a run of four steps, and the latents that it makes."""
    request = fitted(model, steps=4)
    memory.spans.clear()
    with torch.no_grad():
        latents = sample(model, conditioning(model, request), replace(request, seed=3))
    return memory.forward_seconds(), latents.float()


# ---------------------------------------------------------------- weights that stay small


def stored_rows() -> Iterator[Row]:
    torch.manual_seed(0)
    weight = torch.randn(LAYER, device="cuda") / LAYER[1] ** 0.5
    x = torch.randn(TOKENS, LAYER[1], device="cuda", dtype=torch.bfloat16)
    plain = nn.Linear(LAYER[1], LAYER[0], bias=False, device="meta")
    yield _layer_row("bfloat16", lambda: x @ weight.bfloat16().T, x.float() @ weight.T)
    for kind in ("F8_E4M3", "int8"):
        tensors = {k: v.cuda() for k, v in narrow(weight.cpu(), kind).items()}
        layer = Stored(plain, tensors, Coding(kind, LAYER)).cuda()
        yield from guarded({"table": "stored", "format": kind}, partial(_stored_rows, kind, layer, x))
    yield from guarded({"table": "stored", "format": "comfy-kitchen"}, lambda: kitchen_rows(weight, plain, x))


def kitchen_rows(weight: Tensor, plain: nn.Linear, x: Tensor) -> list[Row]:
    """The formats that comfy-kitchen computes on this card, against their own widened weights."""
    from comfy_kitchen.tensor import QuantizedTensor

    rows = list[Row]()
    for kind, layout, rotation in (
        ("int8_tensorwise", "TensorWiseINT8Layout", 0),
        ("int8_tensorwise", "TensorWiseINT8Layout", 256),
        ("convrot_w4a4", "TensorCoreConvRotW4A4Layout", 256),
    ):
        more = {"convrot": bool(rotation)} if kind == "int8_tensorwise" else {}
        options = {**more, "convrot_groupsize": rotation or 256, "per_channel": True}
        try:
            small = QuantizedTensor.from_float(weight.bfloat16(), layout, **options)
            tensors = {"weight": small._qdata.view(torch.int8), "scale": small._params.scale.float().flatten()}
            for exact in (True, False):
                layer = Stored(plain, tensors, Coding(kind, LAYER, Quantisation(rotation, exact))).cuda()
                way = "widened" if exact else "by comfy-kitchen"
                rows.append(_stored_row(f"{kind}, rotation {rotation}, {way}", layer, x))
        except Exception as error:  # noqa: BLE001 (the other formats are measured all the same)
            rows.append({"format": f"{kind} {rotation}", "error": f"{type(error).__name__}: {error}"[:400]})
    return rows


def _stored_row(name: str, layer: Stored, x: Tensor) -> Row:
    """Against the layer's own numbers, computed in float32."""
    expected = x.float() @ widen(unpack(layer.weight, layer.places), layer.coding, torch.float32).T
    return _layer_row(name, lambda: layer(x), expected)


def _stored_rows(name: str, layer: Stored, x: Tensor) -> list[Row]:
    return [_stored_row(name, layer, x)]


def _layer_row(name: str, call: Callable[[], Tensor], expected: Tensor) -> Row:
    with torch.no_grad():
        result = call()
        times = []
        for _ in range(12):
            begin, _result, end = _now(), call(), _now()
            torch.cuda.synchronize()
            times.append(begin.elapsed_time(end))
    difference = ((result.float() - expected).norm() / expected.norm()).item()
    return {"table": "stored", "format": name, "milliseconds": median(times), "difference": difference}


# ---------------------------------------------------------------- all of it


def guarded(key: Row, make: Callable[[], list[Row]]) -> Iterator[Row]:
    """Rows, or what went wrong: the others are measured all the same."""
    try:
        for row in make():
            yield key | row
    except Exception as error:  # noqa: BLE001 (the other rows are measured all the same)
        traceback.print_exc()
        yield key | {"error": f"{type(error).__name__}: {error}"[:500]}
    gc.collect()
    torch.cuda.empty_cache()


def write(file: Path, known: dict[str, list[Row]]) -> None:
    """Rows by the card's name, one on a line, numbers with four digits that count."""
    cards = []
    for card, rows in known.items():
        lines = ",\n".join("  " + json.dumps({k: _short(v) for k, v in row.items()}) for row in rows)
        cards.append(f"{json.dumps(card)}: [\n{lines}\n]")
    file.write_text("{" + ",\n".join(cards) + "}\n", encoding="utf-8")


def _short(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _short(each) for name, each in value.items()}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", default=["stored", "fits", "kernels", "peaks"])
    parser.add_argument("--variants", nargs="*", default=list(SIZES))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("There is no CUDA card here.")
    card = torch.cuda.get_device_name()
    known = json.loads(arguments.out.read_text(encoding="utf-8")) if arguments.out.exists() else {}
    rows = known.setdefault(card, [])
    with tempfile.TemporaryDirectory() as folder:
        tables = {
            "peaks": lambda: peak_rows(arguments.variants, Path(folder)),
            "fits": lambda: fit_rows(arguments.variants, Path(folder)),
            "kernels": lambda: kernel_rows(KERNEL_CASES, Path(folder)),
            "stored": stored_rows,
        }
        for name in arguments.tables:
            for row in tables[name]():
                print("  ".join(f"{k} {v:.4g}" if isinstance(v, float) else str(v) for k, v in row.items()), flush=True)
                rows.append({"torch": torch.__version__, "allocator": torch.cuda.get_allocator_backend(), **row})
                write(arguments.out, known)


if __name__ == "__main__":
    main()
