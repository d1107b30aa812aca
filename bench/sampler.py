"""Our sampler against LTXPipeline.__call__ on the bundled model:  python bench/sampler.py [--runs 10 --steps 25]

Both run in one process, in turn, from a prompt to the final latents, text encoding included. Prints the medians and
whether the latents are equal, and writes bench/sampler.json.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median

import torch
from pack import ROOT, import_pack

PROMPT = "a red circle moving right on a black background"


def make_runs(steps: int) -> dict[str, Callable[[int], torch.Tensor]]:
    """What each side does with a seed. Both hold their encoder beside the network, which our memory does not by
    itself."""
    import_pack()
    from diffusers import LTXPipeline
    from reelwire.loaders.families import load
    from reelwire.loaders.parts import PlainMemory, Recipe
    from reelwire.loaders.request import Request
    from reelwire.samplers.denoise import sample
    from reelwire.samplers.plan import plan

    folder = ROOT / "loaders" / "bundled" / "tiny_ltx"
    files = {"checkpoint": folder, "text_encoder": folder / "text_encoder", "tokenizer": folder / "tokenizer"}
    model = load(Recipe("ltx", "", files, "float32"), PlainMemory())
    model = replace(model, parts={name: replace(part, instead_of=()) for name, part in model.parts.items()})
    pipe = LTXPipeline.from_pretrained(folder, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)

    def ours(seed: int) -> torch.Tensor:
        conditioning = model.encode(PROMPT, "")
        return sample(model, conditioning, plan(model, Request(64, 64, 17, steps, 4.0, "euler", seed=seed)))

    def theirs(seed: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        packed = pipe(
            PROMPT,
            "",
            64,
            64,
            17,
            num_inference_steps=steps,
            guidance_scale=4.0,
            generator=generator,
            output_type="latent",
        ).frames
        return pipe._unpack_latents(packed, 5, 8, 8)

    return {"reelwire": ours, "diffusers": theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--steps", type=int, default=25)
    arguments = parser.parse_args()
    runs = make_runs(arguments.steps)
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    worst = 0.0
    for seed in range(-1, arguments.runs):  # the first round warms up
        latents = {}
        for name, run in runs.items():
            begin = time.perf_counter()
            latents[name] = run(max(seed, 0))
            seconds[name] += [time.perf_counter() - begin] if seed >= 0 else []
        worst = max(worst, (latents["reelwire"] - latents["diffusers"]).abs().max().item())
    medians = {name: median(values) for name, values in seconds.items()}
    result = {
        "steps": arguments.steps,
        "runs": arguments.runs,
        "median_seconds": medians,
        "ratio": medians["reelwire"] / medians["diffusers"],
        "largest_difference": worst,
    }
    Path(__file__).with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
