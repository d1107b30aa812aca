"""What is measured: the pack's part against the plain library's, on small trained models."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from reelwire.loaders.families import load
from reelwire.loaders.parts import PlainMemory, Recipe
from reelwire.loaders.request import Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.samplers.caches.policies.corrected import Corrected
from reelwire.samplers.caches.policies.fora import FORA
from reelwire.samplers.caches.policy import FEWEST, Policy
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan
from reelwire.training.tiny_models import quiet

from ..pack import ROOT
from .check import Cost, Measure, seconds

FOLDERS = {"ltx": ROOT / "loaders" / "bundled" / "tiny_ltx", "wan": ROOT / "bench" / "tiny_wan"}
KINDS = {
    "ltx": ("LTXVideoTransformer3DModel", "AutoencoderKLLTXVideo"),
    "wan": ("WanTransformer3DModel", "AutoencoderKLWan"),
}
PROMPT = "a red circle moving right on a black background"
STEPS, LATENTS = 8, (5, 16, 16)
SIZE = 24  # blocks of the network whose file is read, about 60 MB


@cache
def model(family: str) -> VideoModel:
    """A small trained model."""
    return load(Recipe(family, "", files_of(FOLDERS[family]), "float32"), PlainMemory())


@cache
def native(family: str, part: str) -> Any:
    """The same network or VAE, as diffusers reads it."""
    import diffusers

    kind = KINDS[family][part == "vae"]
    return getattr(diffusers, kind).from_pretrained(FOLDERS[family] / part).eval().requires_grad_(False)


# ---------------------------------------------------------------- forward, sampling, decode


def forward(family: str) -> Measure:
    """One pass of the network that our loader builds, against diffusers'."""
    inputs = _forward_inputs(family)

    def run(network: Any) -> None:
        with torch.no_grad():
            network(**inputs, return_dict=False)

    def ours() -> None:
        with model(family).use("transformer") as network:
            run(network)

    return Measure(seconds(ours), seconds(lambda: run(native(family, "transformer"))))


def _forward_inputs(family: str) -> dict[str, Any]:
    """What the network is called with in one step."""
    described = model(family)
    request = described.complete(Request())
    meta = described.forward_inputs(request, native(family, "transformer").config)
    generator = torch.Generator().manual_seed(0)
    draw = lambda t: torch.rand(t.shape, generator=generator).to(t.dtype) if t.is_meta else t
    return {name: draw(value) if isinstance(value, torch.Tensor) else value for name, value in meta.items()}


def cache_overhead(family: str, cache: Policy) -> Measure:
    """Sampling with a cache that skips nothing, against sampling without one; of as many steps as a cache needs."""
    plain = model(family)
    cached = replace(plain, cache=cache)
    conditioning = plain.encode(PROMPT, "")
    run = lambda m: sample(m, conditioning, plan(m, Request(seed=1, steps=FEWEST)))
    return Measure(seconds(lambda: run(cached)), seconds(lambda: run(plain)))


def sampling() -> Measure:
    """From a prompt to latents, against diffusers' own pipeline."""
    from diffusers import LTXPipeline
    from diffusers import logging as notes

    quiet()
    notes.disable_progress_bar()
    pipe = LTXPipeline.from_pretrained(FOLDERS["ltx"], dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    ours = model("ltx")
    request = Request(64, 64, 17, STEPS, 4.0, "euler", seed=1)
    options: dict[str, Any] = dict(num_inference_steps=STEPS, guidance_scale=4.0, output_type="latent")
    theirs = lambda: pipe(PROMPT, "", 64, 64, 17, generator=torch.Generator().manual_seed(1), **options)
    return Measure(seconds(lambda: sample(ours, ours.encode(PROMPT, ""), plan(ours, request))), seconds(theirs))


def decode(family: str) -> Measure:
    """The streamed VAE, against diffusers' `decode` of all frames at once."""
    described = model(family)
    channels = described.facts.channels
    latents = torch.randn(1, channels, *LATENTS, generator=torch.Generator().manual_seed(0))

    def ours() -> None:
        for _ in stream_frames(described, latents):
            pass

    def theirs() -> None:
        vae = native(family, "vae")
        more = (torch.tensor([0.05]),) if vae.config.get("timestep_conditioning") else ()
        with torch.no_grad():
            vae.decode(latents, *more, return_dict=False)

    return Measure(seconds(ours), seconds(theirs), 5)


# ---------------------------------------------------------------- processes of their own


def _child(code: str, *arguments: str) -> float:
    """The number that a program prints last."""
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return float(done.stdout.split()[-1])


_BEGIN = "import sys, time; begin = time.process_time(); import torch; "
_END = "; print(time.process_time() - begin)"
_PACK = "from bench.pack import import_pack; import_pack(); import reelwire.loaders.families.ltx, "
_PACK += "reelwire.samplers.denoise, reelwire.samplers.decode, reelwire.samplers.long.render"


def imports() -> Measure:
    """Importing torch and the engine, against torch and diffusers' pipelines."""
    theirs = _BEGIN + "from diffusers import LTXPipeline" + _END
    return Measure(lambda: _child(_BEGIN + _PACK + _END), lambda: _child(theirs), 3)


_LOAD = """
import re, sys
from pathlib import Path
from bench.pack import import_pack
import_pack()
import torch, diffusers
from reelwire.loaders.weights.bundle import read_part
peak = lambda: int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
small, part = (read_part(Path(folder), ("WanTransformer3DModel",), ValueError) for folder in sys.argv[1:])
small.build(torch.float32, True, "", lambda *_: None)
part.check()
Path("/proc/self/clear_refs").write_text("5")
before = peak()
network = part.build(torch.float32, True, "", lambda *_: None)
print(peak() - before)
"""


def load_peak() -> Measure:
    """The memory that reading a network takes at its peak, against the size of its file. A small one is read before,
    so that no pages of libraries are counted, which come when their code is first run."""
    folder = tempfile.TemporaryDirectory(prefix="reelwire_baseline_")  # which goes with the measure
    _large(Path(folder.name))
    size, small = sum(f.stat().st_size for f in Path(folder.name).glob("*.safetensors")), FOLDERS["wan"] / "transformer"
    return Measure(lambda: _child(_LOAD, str(small), folder.name), lambda: float(size), 3)


def _large(folder: Path) -> None:
    """A network that is larger than what reading takes beside it."""
    import diffusers

    config = {**json.loads((FOLDERS["wan"] / "transformer" / "config.json").read_text()), "num_layers": SIZE}
    config |= {"num_attention_heads": 4, "attention_head_dim": 64, "ffn_dim": 1024}
    diffusers.WanTransformer3DModel.from_config(config).save_pretrained(folder)


def all_measures() -> Mapping[str, Any]:
    """Name -> what makes the measure: only what is asked for is made."""
    return {
        "forward ltx": lambda: forward("ltx"),
        "forward wan": lambda: forward("wan"),
        "sampling ltx": sampling,
        "decode ltx": lambda: decode("ltx"),
        "decode wan": lambda: decode("wan"),
        "cache overhead ltx": lambda: cache_overhead("ltx", FORA(interval=1)),
        "cache overhead wan": lambda: cache_overhead("wan", FORA(interval=1)),
        "corrector overhead ltx": lambda: cache_overhead("ltx", Corrected(speed=1.0)),
        "corrector overhead wan": lambda: cache_overhead("wan", Corrected(speed=1.0)),
        "import": imports,
        "load peak": load_peak,
    }


def costs(names: list[str]) -> dict[str, Measure]:
    """The measures of these names."""
    made = all_measures()
    return {name: made[name]() for name in names}


__all__ = ["Cost", "all_measures", "costs"]
