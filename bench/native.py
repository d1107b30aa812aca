"""Reelwire side by side with ComfyUI's own classes: one forward, a whole run, and the decode, as ratios of time.

python bench/native.py [--sections forward run decode trim] [--families wan ...] [--pairs 3]

COMFYUI_DIR names the host. Both sides are in one process and take turns, ours first in every second pair; the figure is
the median of ours / theirs over the pairs, with their range. Networks have few blocks at reduced width and real head
sizes, their weights are random float32, written as a native file and read from it by our own reader. A run is ComfyUI's
sampling (its ModelPatcher, its KSampler) and ours (its memory manager, our sampler), both by euler (CogVideoX: ddim),
with guidance by both branches where the family has it, from text embeddings to latents. Both use PyTorch's attention.
A decode is the host's VAE class in one call, and our streamed one, both to frames in 0..1; HunyuanVideo's reference,
and so ours, decodes frames where tiles of time overlap twice, which the row of one tile does not have. Its network
reads 256 rows of text and a mask, as the reference's does, where the host's nodes give it 40 rows: most of its
forward's difference. "trim" is our run with Speed's trim_text, which leaves them out, against ours without.
Figures are added to native.json beside this file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from pack import import_pack

import_pack()
from reelwire.bench.sides.cases import CASES, TEXT, Case
from reelwire.bench.sides.decodes import DECODES
from reelwire.bench.sides.svd import open_sides as open_svd
from reelwire.loaders.families import load
from reelwire.loaders.parts import Part, PlainMemory, Recipe
from reelwire.loaders.request import Conditioning, Request
from reelwire.loaders.video_model import VideoModel
from reelwire.loaders.weights.bundle import files_of
from reelwire.loaders.weights.safetensors import read_file
from reelwire.samplers.decode import stream_frames
from reelwire.samplers.denoise import sample
from reelwire.samplers.plan import plan
from reelwire.samplers.speed import Speed
from reelwire.tests.support.files.files import plain
from reelwire.tests.support.files.native import randomised
from reelwire.training.tiny_models import make, seeded
from torch import Tensor

OUT = Path(__file__).with_suffix(".json")
STEPS, SCALE = 5, 5.0
FAMILIES = (*CASES, "svd")
Row = dict[str, Any]
Calls = tuple[Callable[[], Tensor], Callable[[], Tensor]]


# ---------------------------------------------------------------- both sides


@dataclass(frozen=True)
class Sides:
    """The same weights on both sides: the host's patcher, and our model whose network was read from the native file."""

    case: Case
    patcher: Any
    model: VideoModel


def start_host() -> None:
    sys.path.insert(0, os.environ["COMFYUI_DIR"])
    from comfy.cli_args import args

    args.cpu, args.use_pytorch_cross_attention = not torch.cuda.is_available(), True


def open_sides(family: str, folder: Path) -> Sides:
    import comfy.model_management as mm
    import comfy.model_patcher
    import comfy.supported_models
    from reelwire.nodes.host.memory import HostMemory

    case, dtype = CASES[family], torch.float32
    config = getattr(comfy.supported_models, case.host)(dict(case.config))
    config.set_inference_dtype(dtype, None)
    with seeded(1):
        native = config.get_model({}, "", mm.unet_offload_device())
        if family == "mochi":  # the host's class takes the published width of this layer alone
            _narrow(native.diffusion_model)
        state = randomised(native.diffusion_model)
    file = folder / f"{family}.safetensors"
    plain(file, state)
    patcher = comfy.model_patcher.CoreModelPatcher(native, mm.get_torch_device(), mm.unet_offload_device())
    files = files_of(make(case.tiny, folder))
    tiny = load(Recipe(family, "", files, "float32"), HostMemory())
    entries, metadata = read_file(file)
    weights = case.reader.transformer(entries, {**metadata, "file": file.name})
    part = Part("transformer", lambda progress: weights.build(dtype, True, "", progress))
    channels = case.latents[0]
    options: dict[str, Any] = dict(channels=channels, text_width=TEXT, mean=(0.0,) * channels, std=(1.0,) * channels)
    options |= {"network": weights.config} if family == "cogvideox" else {}
    model = replace(tiny, facts=replace(tiny.facts, **options), parts={**tiny.parts, "transformer": part})
    return Sides(case, patcher, model)


def _narrow(network: Any) -> None:
    import comfy.ops
    from comfy.ldm.genmo.joint_model.layers import FeedForward

    width = network.hidden_size_x
    for block in network.blocks:
        block.mlp_x = FeedForward(
            width,
            4 * width,
            multiple_of=256,
            ffn_dim_multiplier=None,
            dtype=torch.float32,
            device="cpu",
            operations=comfy.ops.disable_weight_init,
        )


def text_of(case: Case, branch: str) -> tuple[Tensor, Tensor]:
    """Embeddings [1, rows, TEXT] and their mask, as many rows as are real being ones."""
    with seeded(len(branch)):
        text = torch.randn(1, max(case.rows, case.padded), TEXT) * 0.1
    mask = torch.arange(text.shape[1])[None] < case.real
    return text, mask


# ---------------------------------------------------------------- forward


def forward(sides: Sides) -> Calls:
    """(ours, theirs): one forward of one branch, with weights that are where they compute."""
    import comfy.model_management as mm

    case = sides.case
    mm.load_models_gpu([sides.patcher])
    device, network = sides.patcher.load_device, sides.patcher.model.diffusion_model
    with seeded(3):
        x = torch.randn(1, *case.latents).to(device)
    text, mask = (value.to(device) for value in text_of(case, "cond"))
    time = torch.tensor([case.time], device=device)
    run = _prepared(sides)

    def ours() -> Tensor:
        with torch.no_grad(), sides.model.use("transformer") as mine:
            return _unpacked(sides, run.predict(mine, _packed(sides, x), 0, "cond"))

    def theirs() -> Tensor:
        with torch.no_grad():
            return network(x, time, **_given(sides, text, mask))

    return ours, theirs


class PreparedError(Exception):
    """Ends a run that is only to be prepared."""


def _prepared(sides: Sides) -> Any:
    runs: list[Any] = []

    def stop(run: Any) -> None:
        runs.append(run)
        raise PreparedError

    with suppress(PreparedError):
        our_run(sides, wrap=stop)
    return runs[0]


def _packed(sides: Sides, x: Tensor) -> Tensor:
    if sides.model.name == "ltx":
        return x.flatten(2).mT.contiguous().float()
    return x.movedim(1, 2) if sides.model.name == "cogvideox" else x.float()


def _unpacked(sides: Sides, latents: Tensor) -> Tensor:
    if sides.model.name == "ltx":
        return latents.mT.reshape(1, *sides.case.latents)
    return latents.movedim(1, 2) if sides.model.name == "cogvideox" else latents


def _given(sides: Sides, text: Tensor, mask: Tensor) -> Mapping[str, Any]:
    """What the host's network is given beside latents and time, as its BaseModel gives it."""
    family, case = sides.model.name, sides.case
    context = text[:, : case.rows]
    more: dict[str, Mapping[str, Any]] = {
        "hunyuan_video": dict(y=torch.zeros(1, 768).to(text), guidance=torch.tensor([6.0]).to(text)),
        "ltx": dict(attention_mask=mask[:, : case.rows].long(), frame_rate=25),
        "mochi": dict(attention_mask=mask, num_tokens=case.real),
    }
    return {"context": context, **more.get(family, {})}


# ---------------------------------------------------------------- run


def our_run(sides: Sides, **more: Any) -> Tensor:
    case, model = sides.case, sides.model
    branches = {}
    for branch in ("cond", "uncond"):
        text, mask = text_of(case, branch)
        branches[branch] = {"text": text, "mask": mask, "pooled": torch.zeros(1, 768)}
    conditioning = Conditioning(model.name, TEXT, branches)
    _, _, height, width = (side * case.size for side in case.latents)
    scale = SCALE if case.guided else 6.0
    sampler = {"cogvideox": "ddim"}.get(model.name, "euler")
    request = Request(width, height, case.frames, STEPS, scale, sampler, seed=1)
    return sample(model, conditioning, plan(model, request), **more)


def their_run(sides: Sides) -> Tensor:
    import comfy.sample

    case, device = sides.case, torch.device("cpu")
    with seeded(1):
        noise = torch.randn(1, *case.latents)
    sampler, schedule = {"cogvideox": ("ddim", "ddim_uniform")}.get(sides.model.name, ("euler", "simple"))
    conds = []
    for branch in ("cond", "uncond"):
        text, mask = text_of(case, branch)
        extras: dict[str, Any] = {"pooled_output": torch.zeros(1, 768)}
        if sides.model.name in ("ltx", "mochi"):
            extras["attention_mask"] = mask[:, : case.rows].long()
        conds.append([[text[:, : case.rows], extras]])
    return comfy.sample.sample(
        sides.patcher,
        noise,
        STEPS,
        SCALE if case.guided else 1.0,
        sampler,
        schedule,
        *conds,
        torch.zeros_like(noise, device=device),
        disable_pbar=True,
        seed=1,
    )


# ---------------------------------------------------------------- decode


def decode(name: str, folder: Path) -> Calls:
    """(ours, theirs): the frames of one clip, ours streamed into a tensor, theirs as the host's class gives them."""
    case = DECODES[name]
    with seeded(1):
        native = case.make().eval().requires_grad_(False)
        state, z = randomised(native), torch.randn(1, *case.latents)
    native, z = native.to(case.dtype), z.to(case.dtype)
    file = folder / f"{name}.safetensors"
    plain(file, state)
    weights = case.reader.vae(read_file(file)[0])
    tiny = load(Recipe(case.family, "", files_of(make(case.tiny, folder)), str(case.dtype)[6:]), PlainMemory())
    part = Part("vae", lambda progress: weights.build(case.dtype, False, "", progress))
    facts = replace(tiny.facts, channels=case.latents[0], mean=(), std=())
    model = replace(tiny, facts=facts, parts={**tiny.parts, "vae": part})

    def theirs() -> Tensor:
        with torch.no_grad():
            return case.call(native, z).float().add_(1.0).div_(2.0).clamp_(0.0, 1.0)  # as the host's VAE node does

    return (lambda: torch.cat(list(stream_frames(model, z)))), theirs


# ---------------------------------------------------------------- measuring


def compare(ours: Callable[[], Tensor], theirs: Callable[[], Tensor], pairs: int, warm: bool = False) -> Row:
    """Seconds of both, and the median of their ratios with its range. warm: both have been called before.

    On a CPU they are the process's own, of all its threads, so that what else the machine does counts little.
    """
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
    if not warm:
        ours(), theirs()
    for number in range(pairs):
        for name, call in [("ours", ours), ("theirs", theirs)][:: 1 if number % 2 else -1]:
            begin = clock()
            call()
            seconds[name].append(clock() - begin)
    ratios = [mine / other for mine, other in zip(seconds["ours"], seconds["theirs"], strict=True)]
    return {
        "ratio": median(ratios),
        "range": [min(ratios), max(ratios)],
        "pairs": pairs,
        **{name: median(each) for name, each in seconds.items()},
    }


def measure_forward(family: str, folder: Path, pairs: int) -> Row:
    ours, theirs = open_svd(folder, STEPS, SCALE).forward() if family == "svd" else forward(open_sides(family, folder))
    mine, other = ours().float(), theirs().float() * (-1 if family == "mochi" else 1)
    return {
        **compare(ours, theirs, pairs, warm=True),
        "difference": float((mine - other).pow(2).mean().sqrt() / other.std()),
    }


def measure_run(family: str, folder: Path, pairs: int) -> Row:
    if family == "svd":
        svd = open_svd(folder, STEPS, SCALE)
        return {**compare(svd.ours, svd.theirs, pairs), "steps": STEPS}
    sides = open_sides(family, folder)
    return {**compare(partial(our_run, sides), partial(their_run, sides), pairs), "steps": STEPS}


def measure_trim(family: str, folder: Path, pairs: int) -> Row:
    """Ours with Speed's trim_text against ours without."""
    sides = open_sides(family, folder)
    trimmed = replace(sides, model=replace(sides.model, speed=Speed(trim_text=True)))
    mine, other = our_run(trimmed), our_run(sides)
    row = compare(partial(our_run, trimmed), partial(our_run, sides), pairs, warm=True)
    return {**row, "difference": float((mine - other).pow(2).mean().sqrt() / other.std()), "steps": STEPS}


def measure_decode(name: str, folder: Path, pairs: int) -> Row:
    return compare(*decode(name, folder), pairs)


SECTIONS: Mapping[str, tuple[Callable[[str, Path, int], Row], Mapping[str, Any]]] = {
    "forward": (measure_forward, dict.fromkeys(FAMILIES)),
    "run": (measure_run, dict.fromkeys(FAMILIES)),
    "decode": (measure_decode, DECODES),
    "trim": (measure_trim, {name: case for name, case in CASES.items() if case.padded}),
}


def _line(row: Row) -> str:
    """One measurement, for the terminal."""
    low, high = row["range"]
    difference = f"  difference {row['difference']:.1e}" if "difference" in row else ""
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})  ours {row['ours']:.2f} s{difference}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS))
    parser.add_argument("--families", nargs="+", choices=FAMILIES, default=list(FAMILIES))
    parser.add_argument("--pairs", type=int, default=3)
    options = parser.parse_args()
    start_host()
    table = json.loads(OUT.read_text()) if OUT.exists() else {}
    with tempfile.TemporaryDirectory() as folder:
        for section in options.sections:
            call, there = SECTIONS[section]
            for family in (name for name in there if name.split(",")[0] in options.families):
                row = table.setdefault(section, {})[family] = call(family, Path(folder), options.pairs)
                print(f"{section:<8} {family:<26} {_line(row)}", flush=True)
                OUT.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
