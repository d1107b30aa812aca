"""Full-size networks with random weights, the engine alone: time and memory do not depend on the values of weights.

python bench/gpu.py            on a CUDA card; prints a table and writes gpu.json beside this file
python bench/gpu.py --tiny     the same measurements on tiny networks, on any machine

For each network: the time of a step without a cache, the overhead of two caches with nothing skipped, and for each
cache setting the time of denoising, the share of the ideal (all steps over computed steps) that it reaches, and the
peak memory. No plan is calibrated: none goes back. For LTX-Video also the way from embeddings to a finished mp4, and
the parts of it that denoising and decoding take.
"""

from __future__ import annotations

import argparse
import json
import struct
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pack import import_pack
from torch import Tensor

import_pack()
from reelwire.loaders.families import load
from reelwire.loaders.parts import Part, PlainMemory, Recipe
from reelwire.loaders.request import Conditioning, Request
from reelwire.loaders.spec import shipped_config, spec_of
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.caches.policies.corrected import Corrected
from reelwire.samplers.caches.policies.easycache import EasyCache
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policies.plan import Plan
from reelwire.samplers.caches.policies.teacache import TeaCache
from reelwire.samplers.caches.policy import Policy
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan
from reelwire.training import tiny_models

T5 = dict(
    architectures=["T5EncoderModel"],
    d_model=4096,
    d_kv=64,
    d_ff=10240,
    num_layers=1,
    num_heads=64,
    vocab_size=32128,
    feed_forward_proj="gated-gelu",
    is_encoder_decoder=False,
    tie_word_embeddings=False,
)
LLAMA = dict(
    architectures=["LlamaModel"],
    hidden_size=4096,
    intermediate_size=14336,
    num_hidden_layers=1,
    num_attention_heads=32,
    num_key_value_heads=8,
    vocab_size=128320,
)
CLIP = dict(
    architectures=["CLIPTextModel"],
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=1,
    num_attention_heads=12,
)


@dataclass(frozen=True)
class Case:
    """A network: its family and shipped variant, or a tiny model in its place; its request and text encoders."""

    family: str
    variant: str
    tiny: str
    request: Request
    encoders: Mapping[str, Mapping[str, Any]]
    to_file: bool = False  # whether it is followed to a finished mp4


CASES = {
    "LTX-Video 2B distilled": Case(
        "ltx", "0.9.8-2b-distilled", "tiny-ltx-0.9.5", Request(1216, 704, 121), {"text_encoder": T5}, True
    ),
    "LTX-Video 2B": Case("ltx", "0.9.6-2b-dev", "tiny-ltx-0.9.0", Request(768, 512, 121, 30), {"text_encoder": T5}),
    "Wan 2.1 1.3B": Case(
        "wan",
        "2.1-t2v-1.3b",
        "tiny-wan2.1-t2v",
        Request(832, 480, 81, 30),
        {"text_encoder": {**T5, "architectures": ["UMT5EncoderModel"]}},
    ),
    "HunyuanVideo 13B": Case(
        "hunyuan_video",
        "t2v-13b",
        "tiny-hunyuan-t2v",
        Request(960, 544, 65, 20),
        {"text_encoder": LLAMA, "text_encoder_2": CLIP},
    ),
    "CogVideoX 5B": Case("cogvideox", "5b", "tiny-cogvideox-5b", Request(720, 480, 49, 30), {"text_encoder": T5}),
    "Mochi 1 10B": Case("mochi", "1-preview", "tiny-mochi", Request(848, 480, 37, 20), {"text_encoder": T5}),
}
WHOLE: dict[str, Policy] = {"corrected plan 1": Corrected(speed=1.0), "FORA 1": FORA(interval=1)}
CACHES: dict[str, Policy] = {
    **WHOLE,
    **{f"corrected plan {speed:g}": Corrected(speed=speed) for speed in (1.5, 2.0, 3.0)},
    **{f"plan {speed:g}": Plan(speed=speed) for speed in (1.5, 2.0, 3.0)},
    "FORA 2": FORA(interval=2, order=1, warmup=2),
    "TeaCache": TeaCache(threshold=1e9, longest=1),
    "EasyCache": EasyCache(threshold=1e9, longest=1),
}


# ---------------------------------------------------------------- models without files


def hollow(folder: Path, case: Case) -> Path:
    """A diffusers folder of a shipped variant whose weights are holes in sparse files: its headers are whole."""
    main = shipped_config(case.family, case.variant, "transformer")
    configs = {"transformer": main, "vae": shipped_config(case.family, case.variant, "vae"), **case.encoders}
    index = {"_class_name": f"{spec_of(case.family).pipeline}Pipeline"}
    for part, config in configs.items():
        (folder / part).mkdir(parents=True)
        (folder / part / "config.json").write_text(json.dumps(config))
        kind, shapes = _shapes(config)
        index[part] = ["diffusers", kind]  # type: ignore[assignment]
        spans, at = {}, 0
        for name, shape in shapes.items():
            size = 2 * int(torch.Size(shape).numel())
            spans[name], at = {"dtype": "BF16", "shape": list(shape), "data_offsets": [at, at + size]}, at + size
        header = json.dumps(spans).encode()
        with (folder / part / "model.safetensors").open("wb") as file:
            file.write(struct.pack("<Q", len(header)) + header)
            file.truncate(8 + len(header) + at)
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(
        json.dumps(shipped_config(case.family, case.variant, "scheduler"))
    )
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


def _make(config: Mapping[str, Any]) -> Any:
    import diffusers
    import transformers

    if "_class_name" in config:
        return getattr(diffusers, config["_class_name"]).from_config(dict(config))
    kind = getattr(transformers, config["architectures"][0])
    return kind(kind.config_class.from_dict(dict(config)))


def _shapes(config: Mapping[str, Any]) -> tuple[str, dict[str, tuple[int, ...]]]:
    with torch.device("meta"):
        network = _make(config)
    return type(network).__name__, {name: tuple(value.shape) for name, value in network.state_dict().items()}


def filled(part: Part, config: Mapping[str, Any], device: str) -> Part:
    """The part with small random weights in bfloat16, made on the card."""

    def make(progress: Any) -> Any:
        before = torch.get_default_dtype()
        torch.set_default_dtype(torch.bfloat16)
        try:
            with torch.device(device):
                network = _make(config)
        finally:
            torch.set_default_dtype(before)
        return network.eval().requires_grad_(False)

    return replace(part, load=make)


def opened(case: Case, tiny: bool, folder: Path, device: str) -> tuple[VideoModel, Conditioning, Request]:
    if tiny:
        tiny_models.make(case.tiny, folder)
        model = load(Recipe(case.family, "", files_of(folder / case.tiny), "float32"), PlainMemory(device))
        return model, model.encode("a red circle", ""), Request(steps=12)
    files = files_of(hollow(folder / case.variant, case))
    model = load(Recipe(case.family, case.variant, files, "bfloat16"), PlainMemory(device))
    configs = {name: shipped_config(case.family, case.variant, name) for name in ("transformer", "vae")}
    model = replace(model, parts={**model.parts, **{n: filled(model.parts[n], c, device) for n, c in configs.items()}})
    length, width = model.facts.prompt_tokens, model.facts.text_width
    read: dict[str, Tensor] = {
        "text": torch.randn(1, length, width),
        "mask": torch.ones(1, length, dtype=torch.long),
        "pooled": torch.randn(1, 768),
    }
    return model, Conditioning(case.family, width, {"cond": read, "uncond": read}), case.request


# ---------------------------------------------------------------- measuring


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def timed(
    model: VideoModel, conditioning: Conditioning, request: Request, policy: Policy | None, device: str
) -> dict[str, float]:
    """Median seconds of a step after the first, seconds of them all, computed share, and peak memory in GB."""
    stamps, runs = list[float](), list[Any]()

    def on_step(done: int, total: int, run: Any) -> None:
        wait(device)
        stamps.append(time.perf_counter())
        runs[:] = [run]

    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    cached = replace(model, cache=policy)
    sample(cached, conditioning, plan(cached, replace(request, seed=1)), on_step)
    steps = [b - a for a, b in pairwise(stamps)]
    entries = runs[0].cache.entries if runs[0].cache else []
    share = sum(e.computed for e in entries) / len(entries) if entries else 1.0
    peak = torch.cuda.max_memory_allocated() / 2**30 if device == "cuda" else 0.0
    return {"step": median(steps), "all": sum(steps), "computed": share, "peak_gb": peak}


def measure(case: Case, tiny: bool, folder: Path, device: str, rounds: int) -> Iterator[tuple[str, dict[str, float]]]:
    model, conditioning, request = opened(case, tiny, folder, device)
    timed(model, conditioning, request, None, device)  # warms up
    if case.to_file:
        yield "to a finished mp4", to_file(model, conditioning, request, folder, device)
    if model.complete(request).steps < 10:
        return  # caches pass through
    every: dict[str, list[dict[str, float]]] = {name: [] for name in ("no cache", *CACHES)}
    for _ in range(rounds):
        for name, rows in every.items():
            rows.append(timed(model, conditioning, request, CACHES.get(name), device))
    middle = {name: sorted(rows, key=lambda r: r["all"])[len(rows) // 2] for name, rows in every.items()}
    whole = middle["no cache"]
    for name, row in middle.items():
        faster = whole["all"] / row["all"]
        yield name, {**row, "faster": faster, "of_ideal": faster * row["computed"]}
    yield "nothing skipped", {name: middle[name]["all"] / whole["all"] - 1 for name in WHOLE}


def to_file(
    model: VideoModel, conditioning: Conditioning, request: Request, folder: Path, device: str
) -> dict[str, float]:
    """Seconds from embeddings to a finished mp4; decoding and encoding go hand in hand."""
    begin = time.perf_counter()
    latents = sample(model, conditioning, plan(model, replace(request, seed=1)))
    wait(device)
    sampled = time.perf_counter()
    frames = sum(len(piece) for piece in _written(stream_frames(model, latents), folder / "made.mp4", model.facts.fps))
    end = time.perf_counter()
    return {"seconds": end - begin, "denoise": sampled - begin, "decode_and_write": end - sampled, "frames": frames}


def _written(pieces: Iterator[Tensor], file: Path, fps: float) -> Iterator[Tensor]:
    import av

    with av.open(str(file), "w") as container:
        stream: Any = None
        for piece in pieces:
            if stream is None:
                stream = container.add_stream("libx264", rate=round(fps))
                stream.height, stream.width = piece.shape[1:3]
                stream.pix_fmt = "yuv420p"
            for frame in (piece * 255).round().to(torch.uint8).cpu().numpy():
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            yield piece
        container.mux(stream.encode())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tiny", action="store_true", help="tiny networks, on any machine")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--networks", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=None)
    arguments = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and not arguments.tiny:
        sys.exit("There is no CUDA card here, and full-size networks are too slow without one. Use --tiny.")
    torch.set_grad_enabled(False)
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
        "tiny": arguments.tiny,
    }
    for name, case in ((name, CASES[name]) for name in arguments.networks):
        result[name] = {}
        with tempfile.TemporaryDirectory() as folder:
            for what, row in measure(case, arguments.tiny, Path(folder), device, arguments.rounds):
                result[name][what] = row
                print(f"{name:<24} {what:<24} " + "  ".join(f"{k} {v:.4g}" for k, v in row.items()), flush=True)
    out = arguments.out or (None if arguments.tiny else Path(__file__).with_suffix(".json"))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
